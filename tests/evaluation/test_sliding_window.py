import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from hiervl.evaluation import SlidingWindowSegmenter, label_maps, resizing, sliding_window_positions
from hiervl.evaluation.sliding_window import averaged_strips, cut, normalize_over_classes, plan_windows


class PixelwiseModel(nn.Module):
    """Class scores that depend on the pixel's colour alone: red, green, blue and a constant, unnormalised."""

    class_names = ("red", "green", "blue", "none")

    def __init__(self):
        super().__init__()
        self.batch_sizes = []
        self.window_sizes = []
        self.eval()

    def semantic_maps(self, images):
        self.batch_sizes.append(len(images))
        self.window_sizes.append(tuple(images.shape[-2:]))
        constant = torch.full_like(images[:, :1], 50, dtype=torch.float32)
        return torch.cat([images.float(), constant], dim=1)


class WindowCounter(nn.Module):
    """Numbers its windows 0, 1, 2 …; window n votes for class n."""

    def __init__(self, windows):
        super().__init__()
        self.windows = windows
        self.class_names = [f"window {n}" for n in range(windows)]
        self.seen = 0
        self.eval()

    def semantic_maps(self, images):
        maps = torch.zeros(len(images), self.windows, *images.shape[-2:])
        for class_map in maps:
            class_map[self.seen] = 3.0
            self.seen += 1
        return maps


class PlaceModel(PixelwiseModel):
    """Class scores that depend on the pixel and on its place in the window."""

    class_names = tuple("abcde")

    def semantic_maps(self, images):
        super().semantic_maps(images)
        height, width = images.shape[-2:]
        down = torch.linspace(0.5, 2, height)[:, None]
        across = torch.linspace(3, 0.1, width)
        red, green, blue = images.float().unbind(1)
        return torch.stack([red * down, green * across, blue, red + green * down, 0 * red + 40 * across], dim=1)


def mean_map(model, image, crop_size, overlap=0.5, **options):
    """The whole mean of :func:`averaged_strips`, as the segmenter asks for it."""
    size = tuple(image.shape[-2:])
    whole = None
    for top, left, class_map in averaged_strips(
        lambda window: cut(image, window),
        size,
        plan_windows(size, crop_size, overlap),
        lambda pixels, _: normalize_over_classes(model.semantic_maps(pixels)),
        **options,
    ):
        if whole is None:
            whole = torch.full((len(class_map), *(options.get("out_size") or size)), float("nan"))
        place = whole[:, top : top + class_map.shape[1], left : left + class_map.shape[2]]
        assert place.isnan().all()  # no pixel comes twice
        place.copy_(class_map)
    return whole


def mean_map_in_one_piece(model, image, crop_size, out_size):
    """The same by a whole accumulator and ``F.interpolate``."""
    total = weight = 0
    for top, left, height, width, _, _ in plan_windows(tuple(image.shape[-2:]), crop_size):
        part = normalize_over_classes(model.semantic_maps(image[None, :, top : top + height, left : left + width]))[0]
        beside = (left, image.shape[2] - left - width, top, image.shape[1] - top - height)
        total = total + F.pad(part, beside)
        weight = weight + F.pad(torch.ones(height, width), beside)
    return F.interpolate((total / weight)[None], out_size, mode="bilinear", align_corners=False)[0]


def random_image(height, width):
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(
    "length, window, overlap, expected",
    [
        (8, 8, 0.5, [0]),
        (5, 8, 0.5, [0]),
        (16, 8, 0.5, [0, 4, 8]),
        (9, 8, 0.5, [0, 1]),
        (13, 8, 0.5, [0, 4, 5]),
        (16, 8, 0.0, [0, 8]),
        (17, 8, 0.0, [0, 8, 9]),
        (10, 8, 0.75, [0, 2]),
        (3, 1, 0.9, [0, 1, 2]),  # a stride below one pixel is one pixel
    ],
)
def test_positions(length, window, overlap, expected):
    assert sliding_window_positions(length, window, overlap) == expected


def test_positions_cover_every_pixel_and_stay_inside():
    for length in range(1, 40):
        for window in range(1, 20):
            for overlap in (0.0, 0.3, 0.5, 0.9):
                positions = sliding_window_positions(length, window, overlap)
                covered = {pixel for first in positions for pixel in range(first, first + window)}
                assert set(range(length)) <= covered
                assert positions == sorted(set(positions))
                assert window >= length or positions[-1] + window == length


@pytest.mark.parametrize("length, window, overlap", [(0, 8, 0.5), (8, 0, 0.5), (8, 4, 1.0), (8, 4, -0.1)])
def test_positions_refuse_what_cannot_cover(length, window, overlap):
    with pytest.raises(ValueError):
        sliding_window_positions(length, window, overlap)


def test_windows_have_at_least_one_pixel():
    assert len(plan_windows((2, 3), 1)) == 6
    assert plan_windows((1, 40), 16, scales=(0.3,))[0].seen_size == (1, 12)
    with pytest.raises(ValueError, match="must be positive"):
        SlidingWindowSegmenter(PixelwiseModel(), crop_size=0)
    with pytest.raises(ValueError, match="must be positive"):
        SlidingWindowSegmenter(PixelwiseModel(), crop_size=1, window_batch=0)


def test_windows_side_by_side_are_seen_once():
    """Also in columns of one window, and where nothing of the rows above is left in the accumulator."""
    image, model = random_image(16, 24), PixelwiseModel()
    found = mean_map(model, image, 8, overlap=0.0, window_batch=1, max_width=8)
    torch.testing.assert_close(found, normalize_over_classes(model.semantic_maps(image[None]))[0])
    assert model.window_sizes == [(8, 8)] * 6 + [(16, 24)]


def test_as_many_windows_and_columns_as_the_budget_holds(monkeypatch):
    """Class maps of 10 classes as float32; a window that is shown larger takes what it is shown in."""
    asked = []
    monkeypatch.setattr(label_maps, "averaged_strips", lambda *_, **options: asked.append(options) or [])
    for scale, side in ((1.0, 8), (0.5, 16), (2.0, 4)):
        seen = max(side, 8)
        monkeypatch.setattr(label_maps, "CLASS_MAP_BYTES", 3 * (4 * 10 * seen * seen))
        for window_batch in (2, 4):
            windows = plan_windows((64, 64), 8, scales=(scale,))
            list(label_maps.label_strips(None, (64, 64), windows, None, 10, window_batch=window_batch))
            assert asked[-1]["window_batch"] == min(window_batch, 3)
            assert asked[-1]["max_width"] == 3 * seen * seen // side


@pytest.mark.parametrize("num_classes, expected", [(256, np.uint8), (257, np.int32)])
def test_numbers_of_classes_fit_their_type(num_classes, expected):
    assert label_maps.label_type(num_classes) is expected


@pytest.mark.parametrize("height, width", [(16, 16), (33, 47), (50, 16), (7, 40), (9, 5), (1, 1)])
@pytest.mark.parametrize("window_batch", [1, 4, 100])
def test_pixelwise_model_gives_the_whole_image_result(height, width, window_batch):
    image = random_image(height, width)
    model = PixelwiseModel()
    whole = normalize_over_classes(model.semantic_maps(image[None]))[0]
    torch.testing.assert_close(mean_map(model, image, 16, window_batch=window_batch), whole)

    segmenter = SlidingWindowSegmenter(model, crop_size=16, overlap=0.5, window_batch=window_batch)
    (output,) = segmenter([{"image": image, "height": height, "width": width}])
    assert (output["labels"].dtype, output["confidence"].dtype) == (np.uint8, np.float32)
    np.testing.assert_array_equal(output["labels"], whole.argmax(0))
    np.testing.assert_allclose(output["confidence"], whole.max(0).values, rtol=1e-5)


@pytest.mark.parametrize("out_size", [(41, 93), (33, 47), (70, 31), (5, 200), (132, 188)])
@pytest.mark.parametrize("budget", [1, 20_000, 2**30])
def test_strips_columns_and_pieces_change_nothing(monkeypatch, out_size, budget):
    monkeypatch.setattr(label_maps, "CLASS_MAP_BYTES", budget)
    monkeypatch.setattr(resizing, "PIECE_BYTES", budget)
    image, model = random_image(33, 47), PlaceModel()
    expected = mean_map_in_one_piece(model, image, 8, out_size)
    (output,) = SlidingWindowSegmenter(model, 8)([{"image": image, "height": out_size[0], "width": out_size[1]}])
    np.testing.assert_array_equal(output["labels"], expected.argmax(0))
    np.testing.assert_allclose(output["confidence"], expected.max(0).values, rtol=1e-5)
    inputs = [{"image": image, "height": out_size[0], "width": out_size[1]}]
    (output,) = SlidingWindowSegmenter(model, 8, class_maps=True)(inputs)
    torch.testing.assert_close(output["sem_seg"], expected, rtol=1e-5, atol=1e-6)
    for max_width in (5, 16, None):
        resized = mean_map(model, image, 8, max_width=max_width, out_size=out_size)
        torch.testing.assert_close(resized, expected, rtol=1e-5, atol=1e-6)


def test_windows_are_the_crop_or_the_image_whichever_is_smaller_per_axis():
    model = PixelwiseModel()
    segmenter = SlidingWindowSegmenter(model, crop_size=16, window_batch=2)
    (output,) = segmenter([{"image": random_image(10, 40)}])  # lefts 0, 8, 16, 24
    assert output["labels"].shape == (10, 40)
    assert set(model.window_sizes) == {(10, 16)}
    assert model.batch_sizes == [2, 2]


def test_an_image_smaller_than_the_crop_is_one_window():
    model = PixelwiseModel()
    SlidingWindowSegmenter(model, crop_size=64)([{"image": random_image(10, 40)}])
    assert model.window_sizes == [(10, 40)]


def test_windows_have_equal_weight():
    # Width 6, windows of 4 at 0 and 2: columns 0, 1 belong to the first, 2, 3 to both, 4, 5 to the second.
    class_map = mean_map(WindowCounter(2), random_image(4, 6), 4)
    first_class = torch.tensor([1, 1, 0.5, 0.5, 0, 0]).expand(4, 6)
    torch.testing.assert_close(class_map, torch.stack([first_class, 1 - first_class]))


def test_each_window_is_normalized_before_averaging():
    class Louder(WindowCounter):
        def semantic_maps(self, images):
            maps = super().semantic_maps(images)
            return maps * torch.tensor([1.0, 1000.0]).view(2, 1, 1, 1)

    (output,) = SlidingWindowSegmenter(Louder(2), crop_size=4, window_batch=2)([{"image": random_image(4, 6)}])
    assert output["confidence"][0, 2] == 0.5


def test_result_has_the_original_size():
    segmenter = SlidingWindowSegmenter(PixelwiseModel(), crop_size=16)
    outputs = segmenter(
        [
            {"image": random_image(20, 30), "height": 41, "width": 59},
            {"image": random_image(16, 16), "height": 5, "width": 7},
        ]
    )
    assert [output["labels"].shape for output in outputs] == [(41, 59), (5, 7)]


def test_resizing_is_bilinear():
    # A row of two pixels with red shares 1 and 0: doubled, the samples lie at -1/4, 1/4, 3/4, 5/4.
    class Red(PixelwiseModel):
        def semantic_maps(self, images):
            return torch.stack([images[:, 0], 255 - images[:, 0]], dim=1)

    image = torch.zeros(3, 1, 2, dtype=torch.uint8)
    image[0, 0, 0] = 255
    torch.testing.assert_close(mean_map(Red(), image, 8, out_size=(1, 4))[0], torch.tensor([[1, 0.75, 0.25, 0]]))


def test_pixels_without_any_score_are_uniform():
    torch.testing.assert_close(normalize_over_classes(torch.zeros(1, 4, 2, 2)), torch.full((1, 4, 2, 2), 0.25))
    assert (normalize_over_classes(torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)) >= 0).all()


def test_records_no_gradients_and_changes_no_mode():
    class Learned(PixelwiseModel):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))
            self.eval()

        def semantic_maps(self, images):
            self.maps = super().semantic_maps(images) * self.weight
            return self.maps

    model = Learned()
    SlidingWindowSegmenter(model, crop_size=16)([{"image": random_image(8, 8)}])
    assert not model.maps.requires_grad
    assert not model.training
    assert torch.is_grad_enabled()


def test_refuses_a_model_in_training_mode():
    model = PixelwiseModel().train()
    with pytest.raises(RuntimeError, match="training mode"):
        SlidingWindowSegmenter(model, crop_size=16)([{"image": random_image(8, 8)}])


@pytest.mark.parametrize("training", [True, False])
def test_inference_on_dataset_leaves_the_model_in_its_mode(training):
    from detectron2.evaluation import inference_on_dataset

    model = PixelwiseModel().train(training)
    loader = [[{"image": random_image(8, 8)}]]
    inference_on_dataset(SlidingWindowSegmenter(model, crop_size=16), loader, None)
    assert model.training == training


def test_names_a_map_of_the_wrong_size():
    class Strided(PixelwiseModel):
        def semantic_maps(self, images):
            return super().semantic_maps(images)[..., ::4, ::4]

    with pytest.raises(ValueError, match="semantic_maps returned"):
        SlidingWindowSegmenter(Strided(), crop_size=16)([{"image": random_image(8, 8)}])


def test_blended_windows_count_less_towards_their_edges():
    # Width 6, windows of 4 at 0 and 2: in columns 2 and 3 the first window is 2 and 1 from its edge, the second 1, 2.
    strips = averaged_strips(
        lambda window: cut(random_image(4, 6), window),
        (4, 6),
        plan_windows((4, 6), 4),
        lambda pixels, windows: WindowCounter(2).semantic_maps(pixels) / 3,
        blend=True,
    )
    ((top, left, class_map),) = strips
    first_class = torch.tensor([1, 1, 2 / 3, 1 / 3, 0, 0]).expand(4, 6)
    assert (top, left) == (0, 0)
    torch.testing.assert_close(class_map[0], first_class)


def test_windows_at_a_scale_cover_the_image_in_its_own_pixels():
    half = plan_windows((20, 50), 16, overlap=0.5, scales=(0.5,))
    assert [(w.left, w.width, w.height, w.seen_size) for w in half] == [(0, 32, 20, (10, 16)), (16, 32, 20, (10, 16)),
                                                                       (18, 32, 20, (10, 16))]  # fmt: skip
    both = plan_windows((20, 50), 16, scales=(1.0, 0.5))
    assert {w.view for w in both} == {0, 1}
    assert [w.top for w in both] == sorted(w.top for w in both)


@pytest.mark.parametrize("max_width", [None, 7, 16])
def test_strips_of_several_scales_are_the_mean(max_width):
    image = torch.full((3, 33, 47), 100, dtype=torch.uint8)
    image[0, :, 30:] = 200
    strips = averaged_strips(
        lambda window: cut(image, window),
        (33, 47),
        plan_windows((33, 47), 8, scales=(1.0, 0.5, 2.0)),
        lambda pixels, windows: normalize_over_classes(pixels),
        window_batch=3,
        blend=True,
        max_width=max_width,
    )
    result = torch.full((3, 33, 47), float("nan"))
    for top, left, class_map in strips:
        place = result[:, top : top + class_map.shape[1], left : left + class_map.shape[2]]
        assert place.isnan().all()
        place.copy_(class_map)
    expected = normalize_over_classes(image[None])[0]
    away = torch.arange(47).sub(30).abs() > 4  # resizing blurs the border between the colours
    torch.testing.assert_close(result[:, :, away], expected[:, :, away])
    torch.testing.assert_close(result.sum(0), torch.ones(33, 47))


@pytest.mark.parametrize("scale", [0.5, 0.7, 2.0])
def test_a_window_at_a_scale_is_shown_and_answered_about_the_centers_of_pixels(resize_by_opencv, scale):
    """Its pixels as Pillow resizes them, which widens its filter in shrinking; its class map as OpenCV does."""
    image, shown, answers = random_image(12, 16), [], []

    def predict(pixels, windows):
        shown.append(pixels)
        answers.append(normalize_over_classes(torch.rand(1, 3, *pixels.shape[2:])))
        return answers[-1]

    (window,) = plan_windows((12, 16), 64, scales=(scale,))
    ((_, _, class_map),) = averaged_strips(lambda w: cut(image, w), (12, 16), [window], predict)
    height, width = window.seen_size
    assert (height, width) == (round(12 * scale), round(16 * scale)) == tuple(shown[0].shape[2:])
    by_pillow = [
        np.asarray(Image.fromarray(plane.numpy().astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR))
        for plane in image
    ]
    np.testing.assert_allclose(shown[0][0], np.stack(by_pillow), atol=1e-2)
    torch.testing.assert_close(class_map, resize_by_opencv(answers[0][0], (12, 16)), atol=1e-5, rtol=1e-5)


def test_memory_follows_neither_the_image_nor_the_classes():
    """By the largest tensors: class maps of one window, and an accumulator of two windows' width."""
    sizes = []

    class Watched(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                sizes.append(result.numel())
            return result

    class Many(PixelwiseModel):
        class_names = range(200)

        def semantic_maps(self, images):
            return images[:, :1].float().expand(-1, 200, -1, -1) + torch.arange(200).view(-1, 1, 1)

    with pytest.MonkeyPatch.context() as patch, Watched():
        patch.setattr(label_maps, "CLASS_MAP_BYTES", 1)
        patch.setattr(resizing, "PIECE_BYTES", 1)
        inputs = {"image": random_image(64, 64), "height": 100, "width": 110}
        (output,) = SlidingWindowSegmenter(Many(), crop_size=16, window_batch=4)([inputs])
    assert output["labels"].shape == (100, 110)
    assert max(sizes) <= 200 * 16 * 34  # of the whole image they would be of 200 · 100 · 110
