"""The same label map in every form that users have."""

import numpy as np
import pytest
from PIL import Image

from hiervl.data.classes.class_maps import read_class_map
from hiervl.data.folders.facts import MaskFacts
from hiervl.data.folders.formats.arrays import read_array
from hiervl.data.folders.formats.per_class import read_binary
from hiervl.data.folders.masks import COLOR, INDEX, RIMS, MaskFolder, RawMask, has_rims
from hiervl.data.loading.readers import read_stored
from hiervl.utils.errors import UserError

LABELS = np.array([[0, 0, 1], [2, 1, 255]], dtype=np.uint8)
COLORS = {0: (10, 0, 0), 1: (0, 20, 0), 2: (0, 0, 30), 255: (9, 9, 9)}
CLASSES = (
    "classes:\n  - {name: ground, background: true, color: [10, 0, 0]}\n  - {name: cap, color: [0, 20, 0]}\n"
    "  - {name: stem, color: [0, 0, 30]}\n  - {name: void, ignore: true, label: 255, color: [9, 9, 9]}\n"
)


@pytest.fixture
def class_map(tmp_path):
    (tmp_path / "classes.yaml").write_text(CLASSES)
    return read_class_map(tmp_path / "classes.yaml")


def rgb(labels=LABELS):
    return np.array([[COLORS[value] for value in row] for row in labels.tolist()], dtype=np.uint8)


def palette_image(order=(0, 1, 2, 255)):
    """A palette file in which ``order[i]`` is the class of index i."""
    indices = np.vectorize({value: index for index, value in enumerate(order)}.get)(LABELS).astype(np.uint8)
    image = Image.fromarray(indices, mode="P")
    image.putpalette([channel for value in order for channel in COLORS[value]])
    return image


IMAGES = {
    "index": (lambda: Image.fromarray(LABELS), "auto", INDEX),
    "16 bit index": (lambda: Image.fromarray(LABELS.astype(np.uint16)), "auto", INDEX),
    "rgb": (lambda: Image.fromarray(rgb()), "auto", COLOR),
    "rgba": (lambda: Image.fromarray(np.dstack([rgb(), np.full(LABELS.shape, 128, np.uint8)])), "auto", COLOR),
    "palette that is shuffled": (lambda: palette_image((2, 255, 0, 1)), "color", COLOR),
    "index saved as grey rgb": (lambda: Image.fromarray(np.repeat(LABELS[:, :, None], 3, axis=2)), "index", INDEX),
}


@pytest.mark.parametrize("name", IMAGES)
def test_forms_of_one_label_map(tmp_path, class_map, name):
    make, values, form = IMAGES[name]
    (tmp_path / "masks").mkdir()
    make().save(tmp_path / "masks" / "a.png")
    masks = MaskFolder(tmp_path / "masks", class_map, values)
    assert masks.raw("a").form == form
    labels, instances = masks.labels("a", (2, 3))
    assert labels.dtype == np.uint8 and labels.tolist() == LABELS.tolist() and instances is None


def test_palette_indices_count_by_default(tmp_path, class_map):
    (tmp_path / "masks").mkdir()
    palette_image((0, 1, 2, 255)).save(tmp_path / "masks" / "a.png")
    masks = MaskFolder(tmp_path / "masks", class_map)
    raw = masks.raw("a")
    assert raw.form == INDEX and raw.codes.tolist() == [[0, 0, 1], [2, 1, 3]]
    assert raw.palette[1] == (0, 20, 0)
    with pytest.raises(UserError, match="a.png holds the value 3, which .*classes.yaml does not name"):
        masks.labels("a", (2, 3))


def test_a_label_map_is_used_as_it_is(tmp_path, class_map):
    (tmp_path / "masks").mkdir()
    Image.fromarray(LABELS).save(tmp_path / "masks" / "a.png")
    Image.fromarray(rgb()).save(tmp_path / "masks" / "b.png")
    masks = MaskFolder(tmp_path / "masks", class_map)
    assert masks.as_it_is("a") and not masks.as_it_is("b")
    assert not MaskFolder(tmp_path / "masks", class_map, "color").as_it_is("a")
    (tmp_path / "classes.yaml").write_text(CLASSES.replace("{name: cap,", "{name: cap, label: 5,"))
    assert not MaskFolder(tmp_path / "masks", read_class_map(tmp_path / "classes.yaml")).as_it_is("a")


def test_wrong_masks_are_user_errors(tmp_path, class_map):
    (tmp_path / "masks").mkdir()
    Image.fromarray(rgb()).save(tmp_path / "masks" / "a.png")
    with pytest.raises(UserError, match="a.png is 3×2 pixels, but its image is 2×3"):
        MaskFolder(tmp_path / "masks", class_map).labels("a", (3, 2))
    with pytest.raises(UserError, match="MASK_VALUES is 'index'"):
        MaskFolder(tmp_path / "masks", class_map, "index").raw("a")


@pytest.mark.parametrize("suffix", [".tif", ".gif"])
def test_masks_of_several_pages_are_refused(tmp_path, class_map, suffix):
    """Pages that repeat the first, and a TIFF's smaller copies of it, are harmless."""
    (tmp_path / "masks").mkdir()
    path = tmp_path / "masks" / f"a{suffix}"
    first, second = (Image.fromarray(np.kron([row], np.ones((9, 9))).astype(np.uint8)) for row in ([0, 1], [1, 0]))
    first.save(path, save_all=True, append_images=[second, second.rotate(180)])
    source = MaskFolder(tmp_path / "masks", class_map)
    for read in (source.raw, lambda key: read_stored(str(source.keys[key])), lambda key: read_binary(source.keys[key])):
        with pytest.raises(
            UserError, match=rf"a{suffix} holds \d pages, of which only the first .*: save one mask per"
        ):
            read("a")
    first.save(path, save_all=True, append_images=[first, second.resize((9, 9))] if suffix == ".tif" else [first])
    assert np.array_equal(source.raw("a").codes, np.array(first))


# ---------------------------------------------------------------------------- arrays with a map per class

BLOCK = np.ones((5, 5), dtype=int)
OBJECTS = np.kron([[[0, 0, 1], [0, 1, 0]], [[0, 0, 0], [1, 1, 0]]], BLOCK)  # cap and stem, which share a block
GROUND = np.kron([[[1, 1, 0], [0, 0, 1]]], BLOCK)
ALL, BARE = np.concatenate([GROUND, OBJECTS]), np.concatenate([0 * GROUND, OBJECTS])
EXPECTED = [[0, 0, 1], [2, 2, 0]]
THREE = CLASSES[: CLASSES.index("  - {name: void")]


def stack_in(folder, classes, name, save):
    (folder / "classes.yaml").write_text(classes)
    (folder / "masks").mkdir()
    save(folder / "masks" / name)
    return MaskFolder(folder / "masks", read_class_map(folder / "classes.yaml"))


@pytest.mark.parametrize(
    "classes, stack, expected",
    [
        (THREE, OBJECTS, EXPECTED),  # without the background; the last class counts
        (THREE, OBJECTS.transpose(1, 2, 0).astype(bool), EXPECTED),
        (THREE, ALL.astype(float), EXPECTED),
        (THREE.replace(" background: true,", ""), BARE, [[255, 255, 1], [2, 2, 255]]),
        (THREE, BARE, "75 pixels are in none of them, not even in that of 'ground'"),
        (THREE, ALL * 255, "may be colours or a mask per class"),
        (CLASSES, OBJECTS, "an array of 2×10×15 with the values 0 and 1, which is no .* has 4 entries"),
        (THREE, OBJECTS[:, :, :2], "whose first or last axis may be the classes"),
        (THREE, OBJECTS + ALL[:2], "of 2×10×15 with values from 0 to 2: if that is a channel per class"),
    ],
)
def test_an_array_with_a_map_per_class(tmp_path, classes, stack, expected):
    masks = stack_in(tmp_path, classes, "a.npy", lambda path: np.save(path, stack))
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            masks.labels("a", (10, 15))
    else:
        assert np.array_equal(masks.labels("a", (10, 15))[0], np.kron(expected, BLOCK))


def test_a_stack_in_a_matlab_file(tmp_path):
    from scipy.io import savemat

    masks = stack_in(tmp_path, THREE, "a.mat", lambda path: savemat(path, {"masks": OBJECTS.transpose(1, 2, 0)}))
    assert np.array_equal(masks.labels("a", (10, 15))[0], np.kron(EXPECTED, BLOCK))


@pytest.mark.parametrize("classes", [(0, 1, 2), (0, 4, 9)])
def test_masks_that_were_resized_smoothly_are_known_by_their_rims(classes):
    """Between 0 and 2 lies a rim of 1. Classes inside each other and masks resized by nearest neighbour have none."""
    low, middle, high = classes
    mask = np.full((120, 160), low, dtype=np.uint8)
    mask[20:60, 20:70] = high
    mask[70:100, 30:60] = middle
    mask[15:100, 90:150] = middle  # around the next one
    mask[25:90, 100:140] = high
    assert not has_rims(mask)
    assert not has_rims(np.array(Image.fromarray(mask).resize((90, 70), Image.Resampling.NEAREST)))
    assert not has_rims(mask[:1, :1])
    smooth = np.array(Image.fromarray(mask).resize((90, 70), Image.Resampling.BILINEAR))
    assert has_rims(smooth) and has_rims(smooth.T)
    facts = MaskFacts.of(RawMask(INDEX, smooth))
    assert facts.remarks == {RIMS: 1} and not MaskFacts.of(RawMask(INDEX, mask)).remarks
    assert not MaskFacts.of(RawMask(COLOR, smooth.astype(np.int32))).remarks


def test_python_objects_beside_a_map_are_passed_over_and_alone_are_refused(tmp_path):
    about = np.array({"camera": "left"}, dtype=object)
    np.savez(tmp_path / "both.npz", about=about, labels=LABELS)
    assert read_array(tmp_path / "both.npz").tolist() == LABELS.tolist()
    np.savez(tmp_path / "alone.npz", about=about)
    np.save(tmp_path / "alone.npy", about, allow_pickle=True)
    for name in ("alone.npz", "alone.npy"):
        with pytest.raises(UserError, match=f"{name} holds Python objects, .*: save the mask alone"):
            read_array(tmp_path / name)
