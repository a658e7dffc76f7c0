"""One image in, one prediction out, whatever the image comes as."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from hiervl.data.classes.definitions import ClassDefinition
from hiervl.evaluation import label_maps
from hiervl.inference.predictor import HierVLPredictor, pixels_of
from hiervl.modeling.hiervl import InstancePredictions
from hiervl.utils.errors import UserError

CLASSES = [ClassDefinition(name, (name,), (0, 0, 0), name == "wall") for name in ("wall", "ball", "cube")]


class ColorNetwork(nn.Module):
    """Red is class 0, green 1, blue 2; one instance query follows green, one blue."""

    device = torch.device("cpu")

    def __init__(self, num_queries=2):
        super().__init__()
        self.has_instance_queries = num_queries > 0
        self.sizes = []

    def semantic_maps_and_instances(self, images):
        self.sizes.append(tuple(images.shape))
        masks = torch.where(images[:, 1:] > 127, 20.0, -20.0)
        logits = torch.tensor([[0.0, 20, 0, 0], [0, 0, 20.0, 0]]).expand(len(images), -1, -1)
        return images.float(), InstancePredictions(logits, masks, images.shape[2:])

    def semantic_maps(self, images):
        return self.semantic_maps_and_instances(images)[0]


def colors(height, width):
    """A red image with a green and a blue rectangle."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = 255
    image[2:8, 3:20] = (0, 255, 0)
    image[6:12, 15:30] = (0, 0, 255)
    return image


def simple(num_queries=2, **options):
    return HierVLPredictor(ColorNetwork(num_queries), CLASSES, **{"crop_size": 16, "overlap": 0.25, **options})


@pytest.mark.parametrize("flip", [False, True])
def test_windows_are_put_together(flip):
    image = colors(20, 40)
    prediction = simple(flip=flip)(image)
    np.testing.assert_array_equal(prediction.semantic, image.argmax(2))
    assert prediction.semantic.dtype == np.uint8
    np.testing.assert_allclose(prediction.confidence, 1, atol=1e-5)
    assert prediction.classes == tuple(CLASSES)


def test_objects_across_windows_are_one_instance_and_one_segment():
    prediction = simple()(colors(20, 40))
    found = {instance.label: instance for instance in prediction.instances}
    assert len(prediction.instances) == 2
    assert found[1].box == (2, 3, 8, 20) and found[2].box == (6, 15, 12, 30)
    assert found[1].area == 6 * 17 - 2 * 5  # where the blue one covers it
    ids, segments = prediction.panoptic
    areas = sorted((s.label, s.is_thing, int((ids == s.id).sum())) for s in segments)
    assert areas == [(0, False, 618), (1, True, 92), (2, True, 90)]


def test_without_instance_queries_connected_regions_are_the_instances():
    prediction = simple(num_queries=0)(colors(20, 40))
    assert sorted((i.label, i.area) for i in prediction.instances) == [(1, 92), (2, 90)]
    assert sorted(s.label for s in prediction.panoptic.segments) == [0, 1, 2]


def test_things_are_chosen_by_name():
    prediction = simple(things=["cube"])(colors(20, 40))
    assert [instance.label for instance in prediction.instances] == [2]
    with pytest.raises(UserError, match="no class 'sphere'"):
        simple(things=["sphere"])


def test_results_that_are_not_asked_for_are_left_out():
    prediction = simple()(colors(20, 40), instances=False, panoptic=False)
    assert prediction.instances is None and prediction.panoptic is None


def test_scales_and_the_short_side_decide_what_the_network_sees():
    predictor = simple(scales=(1.0, 2.0), short_side=10)  # half size, then its own
    prediction = predictor(colors(20, 40))
    assert {size[2:] for size in predictor.network.sizes} == {(10, 16), (16, 16)}
    assert (prediction.semantic == colors(20, 40).argmax(2)).mean() > 0.95  # borders blur


@pytest.mark.parametrize(
    "options", [{"overlap": 1.0}, {"window_batch": 0}, {"scales": ()}, {"scales": (0.0,)}, {"min_score": 3}]
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(UserError):
        simple(**options)


def test_all_kinds_of_images_are_the_same_pixels(tmp_path):
    image = colors(20, 40)
    expected = torch.from_numpy(image).permute(2, 0, 1)
    Image.fromarray(image).save(tmp_path / "a.png")
    transparent = np.concatenate([image, np.full((20, 40, 1), 7, np.uint8)], 2)
    for same in (
        image,
        transparent,
        image / 255.0,
        Image.fromarray(image),
        Image.fromarray(transparent),
        expected,
        expected / 255.0,
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
    ):
        assert torch.equal(pixels_of(same), expected)
    gray = image[..., 0]
    for same in (gray, gray[..., None], Image.fromarray(gray), torch.from_numpy(gray)[None]):
        assert torch.equal(pixels_of(same), torch.from_numpy(gray).expand(3, -1, -1))


def test_a_photo_is_turned_as_its_camera_says():
    image = Image.fromarray(colors(20, 40))
    exif = image.getexif()
    exif[0x0112] = 6  # turn by 90° clockwise to see it upright
    image.info["exif"] = exif.tobytes()
    turned = pixels_of(image)
    assert turned.shape == (3, 40, 20)
    np.testing.assert_array_equal(turned.permute(1, 2, 0).numpy(), np.rot90(colors(20, 40), -1))


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((4, 4, 2), np.uint8), np.zeros((4, 4), np.int64), np.full((4, 4), 200.0), np.zeros((0, 4, 3), np.uint8),
     torch.zeros(4, 4, 3), [1, 2]],
)  # fmt: skip
def test_arrays_that_are_not_images_are_refused(wrong):
    with pytest.raises(ValueError):
        pixels_of(wrong)


def test_strips_cover_an_image_that_is_read_by_windows(monkeypatch):
    image = colors(50, 90)
    monkeypatch.setattr(label_maps, "CLASS_MAP_BYTES", 1)  # columns of two windows
    read = []

    def read_window(window):
        read.append(window)
        return image[window.top : window.top + window.height, window.left : window.left + window.width]

    labels = np.full((50, 90), 255, np.uint8)
    strips = list(simple().strips(read_window, (50, 90)))
    for strip in strips:
        place = (
            slice(strip.top, strip.top + strip.labels.shape[0]),
            slice(strip.left, strip.left + strip.labels.shape[1]),
        )
        assert (labels[place] == 255).all()  # no pixel comes twice
        labels[place] = strip.labels
    np.testing.assert_array_equal(labels, image.argmax(2))
    assert max(strip.labels.shape[1] for strip in strips) == 32
    assert all(window.height <= 16 and window.width <= 16 for window in read)


@torch.no_grad()
def test_from_a_checkpoint(predictor):
    predict = predictor(min_score=0.0)
    image = np.random.default_rng(0).integers(0, 256, (40, 70, 3), dtype=np.uint8)
    prediction = predict(image)
    assert predict.crop_size == 32 and predict.window_batch == 3
    assert prediction.semantic.shape == prediction.confidence.shape == (40, 70)
    assert 1 / 6 <= prediction.confidence.min() and prediction.confidence.max() <= 1
    assert prediction.instances and all(0 <= instance.score <= 1 for instance in prediction.instances)
    assert all(instance.label != 0 for instance in prediction.instances)  # background


def test_other_classes_than_those_of_the_training(predictor):
    lamp = ClassDefinition("lamp", ("lamp", "a street light"), (1, 2, 3))
    sky = ClassDefinition("sky", ("sky",), (4, 5, 6))
    predict = predictor(classes=[lamp, sky])
    prediction = predict(np.zeros((32, 32, 3), np.uint8))
    assert prediction.classes == (lamp, sky)
    assert set(np.unique(prediction.semantic)) <= {0, 1}
