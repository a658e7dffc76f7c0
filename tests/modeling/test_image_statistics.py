"""Mean and deviation of the pixels, against the published numbers."""

import pytest

from hiervl.modeling.image_statistics import image_statistics
from hiervl.utils.errors import UserError

OPENAI = [122.771, 116.746, 104.094], [68.501, 66.632, 70.323]
IMAGENET = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


@pytest.mark.parametrize(
    "overrides, mean, std",
    [
        (("MODEL.CLIP.NAME", "ViT-B-16", "MODEL.CLIP.PRETRAINED", "openai"), *OPENAI),
        (("MODEL.CLIP.NAME", "ViT-B-16", "MODEL.CLIP.PRETRAINED", "a/file.pt"), *OPENAI),
        (("MODEL.CLIP.NAME", "ViT-B-16-SigLIP", "MODEL.CLIP.PRETRAINED", "webli"), [127.5] * 3, [127.5] * 3),
        (("MODEL.ENCODER.NAME", "resnet50"), *IMAGENET),
        (("MODEL.ENCODER.NAME", "not_of_timm"), *IMAGENET),
        (("MODEL.ENCODER.NAME", "vit_base_patch16_siglip_224"), [127.5] * 3, [127.5] * 3),
        (("MODEL.PIXEL_MEAN", [1.0, 2.0, 3.0], "MODEL.PIXEL_STD", [4.0, 5.0, 6.0]), [1, 2, 3], [4, 5, 6]),
    ],
)
def test_statistics_are_those_that_the_encoder_was_trained_with(make_cfg, overrides, mean, std):
    found = image_statistics(make_cfg("MODEL.PIXEL_MEAN", [], "MODEL.PIXEL_STD", [], *overrides))
    assert found.mean == pytest.approx(mean, abs=2e-3) and found.std == pytest.approx(std, abs=2e-3)


@pytest.mark.parametrize(
    "mean, std", [([1.0] * 3, []), ([], [1.0] * 3), ([1.0] * 2, [1.0] * 2), ([1.0] * 3, [0.0] * 3)]
)
def test_half_of_the_statistics_is_refused(make_cfg, mean, std):
    with pytest.raises(UserError, match="need three values each"):
        image_statistics(make_cfg("MODEL.PIXEL_MEAN", mean, "MODEL.PIXEL_STD", std))
