"""Facts read from a mask are kept until the file or its meaning changes."""

import numpy as np
import pytest

from hiervl.data.checking.check import check
from hiervl.data.checking.image_facts import ImageFacts, read_image_facts
from hiervl.data.folders.facts import FactsStore, MaskFacts
from hiervl.data.folders.masks import COLOR, RawMask
from hiervl.data.loading import readers
from hiervl.utils.errors import UserError


def test_counts_by_hand():
    codes = np.array([[7, 7, 0], [0, 0, 7]])
    assert RawMask(COLOR, codes).counts() == {0: 3, 7: 3}
    assert RawMask(COLOR, np.zeros((0, 4), dtype=np.int32)).counts() == {}
    noise = np.random.default_rng(0).integers(0, 9, (30, 40))
    assert RawMask(COLOR, noise).counts() == {code: int((noise == code).sum()) for code in range(9)}


def test_facts_survive_being_written():
    raw = RawMask(COLOR, np.array([[1, 70000]]), {1: (1, 2, 3)}, {"cup": 2}, {"lines have no area": 1})
    facts = MaskFacts.of(raw)
    assert MaskFacts.from_json(facts.to_json()) == facts
    assert facts.shape == (1, 2) and facts.counts() == {1: 1, 70000: 1}


@pytest.fixture
def opened(monkeypatch):
    """Names of the files that are decoded."""
    names = []
    decode = readers.decode_image

    def spy(data, name, **options):
        names.append(name.rpartition("/")[2])
        return decode(data, name, **options)

    monkeypatch.setattr(readers, "decode_image", spy)
    return names


def test_every_file_is_read_once_and_then_remembered(own, opened):
    report = check(own.layout())
    assert sorted(opened) == sorted([*(f"{n:02d}.png" for n in range(10)) , *(f"{n:02d}.png" for n in range(10)),
                                     *(f"u{n}.png" for n in range(4))])  # fmt: skip
    opened.clear()
    again = check(own.layout())
    assert opened == []
    assert again.findings == report.findings and again.images.keys() == report.images.keys()
    own.mask("labelled/masks/03.png", own.labels((0, 9)))
    assert "the value 9" in check(own.layout()).findings[0].sentence and set(opened) == {"03.png"}
    opened.clear()
    (own.root / "classes.yaml").write_text(own.classes + "  - {name: nine, label: 9}\n")  # another meaning
    assert not [finding for finding in check(own.layout()).findings if finding.level == "error"]


def test_a_store_that_cannot_be_used_is_done_without(own, tmp_path):
    (tmp_path / "file").write_text("no folder")
    paths = [str(own.root / "unlabelled/u0.png"), str(own.root / "unlabelled/none.png")]
    for store in (FactsStore(None), FactsStore(tmp_path / "file")):
        image, missing = read_image_facts(paths, store)
        assert isinstance(image, ImageFacts) and image.size == (64, 64) and isinstance(missing, UserError)
    broken = FactsStore(tmp_path / "broken")
    broken.put({"a": "1"})
    broken.path.write_bytes(b"\x00" * 5000)
    assert broken.get(["a"]) == {}
    broken.put({"a": "2"})
    assert broken.get(["a", "b"]) == {"a": "2"}


def test_an_overview_of_a_large_jpeg_has_its_size_and_notices_a_truncated_file(tmp_path):
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 3)).astype(np.uint8)
    Image.fromarray(pixels).resize((1600, 1200)).save(tmp_path / "a.jpg", exif=exif)
    size, image = readers.read_overview(str(tmp_path / "a.jpg"))
    assert size == (1600, 1200) and image.shape == (200, 150, 3)
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="a.jpg cannot be read"):
        readers.read_overview(str(tmp_path / "a.jpg"))
