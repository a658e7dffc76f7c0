import cv2
import numpy as np
import pytest
import torch

from hiervl.data.loading import augmentation

FACTORS = (0.5, 0.83, 1.0, 1.5)


@pytest.fixture(scope="module")
def picture():
    """Smooth regions of all hues and greys, with noise."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (6, 8, 3)).astype(np.uint8)
    noise = rng.integers(-20, 21, (60, 80, 3))
    return np.clip(augmentation.resize_image(coarse, (60, 80)) + noise, 0, 255).astype(np.uint8)


def largest_difference(image, tensor):
    return np.abs(image.astype(int) - tensor.permute(1, 2, 0).numpy().astype(int)).max()


class TestGeometry:
    def test_maps_are_resized_about_the_pixels_centers(self):
        # Mirroring and resizing commute only then. 101 to 36 has no ties between two neighbours.
        values = np.arange(101 * 101, dtype=np.int32).reshape(101, 101)
        resized = augmentation.resize_map(values, (36, 36))
        assert (augmentation.resize_map(values[::-1, ::-1].copy(), (36, 36)) == resized[::-1, ::-1]).all()

    def test_long_side_is_uniform_in_the_range(self):
        rng = np.random.default_rng(0)
        sizes = np.array([augmentation.random_scale_size(rng, 30, 60, (0.5, 2.0)) for _ in range(4000)])
        assert sizes[:, 1].min() == 30 and sizes[:, 1].max() == 120
        assert abs(sizes[:, 1].mean() - 75) < 2
        assert (np.abs(sizes[:, 0] - sizes[:, 1] / 2) <= 0.5).all()

    def test_crops_reach_every_corner(self):
        rng = np.random.default_rng(0)
        offsets = {augmentation.random_offset(rng, 12, 8, 10) for _ in range(200)}
        assert offsets == {(top, 0) for top in range(3)}

    def test_padding_is_at_the_right_and_the_bottom(self):
        padded = augmentation.crop_and_pad(np.ones((2, 3), dtype=np.uint8), (0, 0), 4, fill=255)
        assert padded.tolist() == [[1, 1, 1, 255], [1, 1, 1, 255], [255] * 4, [255] * 4]

    @pytest.mark.parametrize("flipped", [False, True])
    @pytest.mark.parametrize("size, offset, columns", [((10, 30), (0, 12), 16), ((30, 10), (20, 0), 10)])
    def test_valid_is_true_outside_padding(self, flipped, size, offset, columns):
        """Padding at the bottom, which a flip leaves in its place, and at the right too, which it moves to the left."""
        view = augmentation.WeakView(size=size, offset=offset, crop_size=16, flipped=flipped)
        values = view.map(np.zeros((20, 60), dtype=np.uint8), fill=255)
        assert (view.valid() == (values == 0)).all()
        assert view.valid().sum() == 10 * columns
        assert view.valid()[0].tolist() == [True] * 16 if columns == 16 else view.valid()[0, 0] != flipped
        image = view.image(np.full((20, 60, 3), 9, np.uint8))
        assert (image.all(-1) == view.valid()).all()

    def test_flips_mirror_left_and_right(self):
        view = augmentation.WeakView(size=(2, 3), offset=(0, 1), crop_size=2, flipped=True)
        assert view.map(np.array([[1, 2, 3], [4, 5, 6]], np.uint8), fill=255).tolist() == [[3, 2], [6, 5]]

    def test_images_shrink_to_the_mean_of_the_area(self):
        image = np.random.default_rng(0).integers(0, 256, (12, 18, 3)).astype(np.uint8)
        expected = image.reshape(4, 3, 6, 3, 3).mean((1, 3))
        assert np.abs(augmentation.resize_image(image, (4, 6)) - expected).max() <= 0.5

    def test_images_grow_about_the_centers_of_pixels(self):
        """As PyTorch's bilinear interpolation; one side may shrink meanwhile."""
        image = np.random.default_rng(0).integers(0, 256, (6, 9, 3)).astype(np.uint8)
        planes = torch.from_numpy(image).permute(2, 0, 1)[None].float()
        for size in ((12, 18), (7, 20), (5, 30)):
            expected = torch.nn.functional.interpolate(planes, size=size, mode="bilinear", align_corners=False)
            assert np.abs(augmentation.resize_image(image, size) - expected[0].permute(1, 2, 0).numpy()).max() < 1.1

    def test_maps_take_the_nearest_pixel(self):
        values = np.random.default_rng(0).integers(0, 1000, (6, 9)).astype(np.int32)
        for size in ((12, 18), (4, 4), (7, 20)):
            expected = torch.nn.functional.interpolate(torch.from_numpy(values)[None, None].float(), size=size,
                                                       mode="nearest-exact")  # fmt: skip
            assert (augmentation.resize_map(values, size) == expected[0, 0].numpy()).all()

    def test_short_side_sets_the_shorter_side_and_keeps_the_aspect(self):
        assert augmentation.short_side_size(200, 100, 50) == (100, 50)
        assert augmentation.short_side_size(200, 100, 0) == (200, 100)


class TestColor:
    """Against torchvision's functions on uint8 tensors, which truncate where ours round."""

    @pytest.fixture(autouse=True)
    def torchvision(self):
        self.functional = pytest.importorskip("torchvision.transforms.functional")

    @pytest.mark.parametrize(
        "name, factors, tolerance",
        [
            ("brightness", FACTORS, 1),
            ("contrast", FACTORS, 1),
            ("saturation", FACTORS, 2),
            ("hue", (-0.25, -0.1, 0.0, 0.2, 0.5), 1),
        ],
    )
    def test_adjustments_equal_torchvision(self, picture, name, factors, tolerance):
        tensor = torch.from_numpy(picture).permute(2, 0, 1)
        for factor in factors:
            expected = getattr(self.functional, f"adjust_{name}")(tensor, factor)
            assert largest_difference(getattr(augmentation, f"adjust_{name}")(picture, factor), expected) <= tolerance

    def test_grayscale_equals_torchvision(self, picture):
        expected = self.functional.rgb_to_grayscale(torch.from_numpy(picture).permute(2, 0, 1), 3)
        assert largest_difference(augmentation.to_grayscale(picture), expected) <= 1

    def test_blur_equals_torchvision(self, picture):
        expected = self.functional.gaussian_blur(torch.from_numpy(picture).permute(2, 0, 1), 13, 2.0)
        assert largest_difference(augmentation.gaussian_blur(picture, 2.0), expected) <= 2


class TestJitter:
    def test_factors_cover_their_range(self):
        gray = np.full((2, 2, 3), 100, dtype=np.uint8)
        rng = np.random.default_rng(0)
        values = [augmentation.color_jitter(gray, rng, (0.5, 0, 0, 0))[0, 0, 0] for _ in range(500)]
        assert 50 <= min(values) <= 53 and 147 <= max(values) <= 150

    def test_jitter_uses_every_order(self, picture, monkeypatch):
        orders = set()
        for name in ("brightness", "contrast", "saturation", "hue"):
            monkeypatch.setattr(
                augmentation, f"adjust_{name}", lambda image, amount, name=name: order.append(name) or image
            )
        rng = np.random.default_rng(0)
        for _ in range(300):
            order = []
            augmentation.color_jitter(picture, rng, (0.5, 0.5, 0.5, 0.25))
            orders.add(tuple(order))
        assert len(orders) == 24

    def test_strong_view_leaves_its_input_and_obeys_probabilities(self, picture):
        original = picture.copy()
        off = augmentation.StrongParameters(jitter_probability=0, grayscale_probability=0, blur_probability=0)
        assert (augmentation.strong_view(picture, np.random.default_rng(0), off) == original).all()
        gray = augmentation.StrongParameters(grayscale_probability=1)
        view = augmentation.strong_view(picture[:, ::-1], np.random.default_rng(0), gray)
        assert (view[..., 0] == view[..., 1]).all() and (view[..., 0] == view[..., 2]).all()
        assert (picture == original).all()


class TestCutMix:
    def test_boxes_lie_inside_the_crop_with_areas_and_aspects_in_range(self):
        rng = np.random.default_rng(0)
        boxes = np.array([augmentation.cutmix_box(rng, 100, 1.0) for _ in range(2000)])
        width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
        assert boxes.min() >= 0 and boxes.max() <= 100
        # Sides are cut to whole pixels, so areas and aspects reach a little beyond their ranges.
        assert 0.016 * 100**2 <= (width * height).min() and (width * height).max() <= 0.4 * 100**2
        assert 0.27 <= (height / width).min() and (height / width).max() <= 3.7

    def test_areas_aspects_and_places_are_uniform(self):
        """Areas and aspects (height / width) are uniform, but for the boxes that do not fit: shares by integration."""
        size, (low, high), (flat, tall) = 1000, (0.02, 0.4), (0.3, 1 / 0.3)
        area, aspect = np.meshgrid(
            low + (high - low) * (np.arange(400) + 0.5) / 400, flat + (tall - flat) * (np.arange(400) + 0.5) / 400
        )
        width, height = np.sqrt(area / aspect), np.sqrt(area * aspect)
        fits = (1 - width).clip(0) * (1 - height).clip(0)
        fits = fits / fits.sum(0)  # the aspect and the place are drawn anew, the area is not
        rng = np.random.default_rng(0)
        boxes = np.array([augmentation.cutmix_box(rng, size, 1.0) for _ in range(4000)]) / size
        found_width, found_height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
        areas = found_width * found_height
        for share in (0.1, 0.2, 0.3):  # 4000 draws: ± 4 standard deviations
            assert abs((areas < share).mean() - (share - low) / (high - low)) < 4 * 0.5 / 4000**0.5
        for bound in (0.5, 1.0, 2.0):
            expected = (fits * (aspect > bound)).sum(0).mean()
            assert abs((found_height / found_width > bound).mean() - expected) < 4 * 0.5 / 4000**0.5
        # Places are uniform: the centre of the box is the crop's on average, and boxes reach all four sides.
        centers = np.stack((boxes[:, 0] + boxes[:, 2], boxes[:, 1] + boxes[:, 3])) / 2
        assert np.abs(centers.mean(1) - 0.5).max() < 4 * centers.std() / 4000**0.5
        assert boxes[:, :2].min() == 0 and boxes[:, 2:].max() == 1

    def test_boxes_are_drawn_with_their_probability(self):
        rng = np.random.default_rng(0)
        boxes = [augmentation.cutmix_box(rng, 100, 0.5) for _ in range(1000)]
        assert 440 < boxes.count((0, 0, 0, 0)) < 560
        assert augmentation.cutmix_box(rng, 100, 0.0) == (0, 0, 0, 0)


def test_hue_turns_either_way_by_any_amount():
    """Against the hue taken modulo the circle by hand, over all of OpenCV's ways to compute it."""
    image = np.random.default_rng(0).integers(0, 256, (64, 67, 3), np.uint8)
    hsv = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)
    for turn in np.linspace(-0.5, 0.5, 21):
        turned = hsv.copy()
        turned[..., 0] = (turned[..., 0].astype(np.float64) + turn * 360) % 360
        expected = 255 * cv2.cvtColor(turned, cv2.COLOR_HSV2RGB)
        assert np.abs(augmentation.adjust_hue(image, turn) - expected).max() < 0.51


def test_images_of_other_proportions_are_averaged_when_they_lose_pixels():
    """From 200 to 120 pixels, though 15² are more than 200: each is the mean of the area that it covers. A larger size
    interpolates. The size that is there changes nothing."""
    columns = np.arange(20, dtype=np.uint8) * 12
    image = np.broadcast_to(columns[None, :, None], (10, 20, 3)).copy()
    small = augmentation.resize_image(image, (8, 15))
    # Output column 0 covers 4/3 columns of the source: 0 and a third of 12.
    assert small[0, 0].tolist() == [round(12 / 3 / (4 / 3))] * 3
    assert small[0, 1].tolist() == [round((12 * 2 / 3 + 24 * 2 / 3) / (4 / 3))] * 3
    assert augmentation.resize_image(image, (10, 20)) is image
    large = augmentation.resize_image(image, (10, 40))
    assert large[0, 1].tolist() == [3] * 3  # a quarter of the way from 0 to 12
