import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from hiervl.config.defaults import get_hiervl_cfg
from hiervl.data.loading.augmentation import StrongParameters
from hiervl.data.loading.mappers import LabeledMapper, TestMapper, UnlabeledMapper
from hiervl.data.registered.datasets import load_dataset
from hiervl.utils.errors import UserError

GEOMETRY = {"crop_size": 64, "short_side": 0, "scale": (0.5, 2.0), "flip_probability": 0.5}
COLOR_STEP = 20  # class c has the grey level COLOR_STEP * (c + 1), see conftest.py
COLORLESS = StrongParameters(jitter_probability=0, grayscale_probability=0, blur_probability=0)


@pytest.fixture
def labeled_mapper():
    return LabeledMapper(**GEOMETRY, num_classes=11)


def away_from_borders(label: np.ndarray) -> np.ndarray:
    """Pixels whose 7×7 neighbours are inside and of the same class; there resizing mixes no colours."""
    kernel = np.ones((7, 7), dtype=np.uint8)
    same = np.zeros(label.shape, dtype=bool)
    same[3:-3, 3:-3] = (cv2.erode(label, kernel) == cv2.dilate(label, kernel))[3:-3, 3:-3]
    return same


def test_image_and_label_stay_together_and_padding_is_ignored(camvid, labeled_mapper):
    entries = load_dataset("camvid_train")
    compared = padded = 0
    for seed in range(60):
        sample = labeled_mapper(entries[seed % 20], np.random.default_rng(seed))
        image, label = sample["image"].numpy(), sample["sem_seg"].numpy()
        assert sample["image"].dtype == torch.uint8 and image.shape == (3, 64, 64)
        assert sample["sem_seg"].dtype == torch.int64 and label.shape == (64, 64)
        padding = label == 255
        assert (sample["valid"].numpy() == ~padding).all()
        assert (image[:, padding] == 0).all() and (image[:, ~padding] >= COLOR_STEP).all()
        inner = away_from_borders(label.astype(np.uint8)) & ~padding
        assert (image[:, inner] == COLOR_STEP * (label[inner] + 1)).all()
        compared, padded = compared + inner.sum(), padded + padding.sum()
    assert compared > 60 * 500 and padded > 60 * 100


def test_unlabeled_views_share_the_labeled_geometry(camvid, labeled_mapper):
    mapper = UnlabeledMapper(**GEOMETRY, strong=COLORLESS, cutmix_probability=1.0)
    padded = 0
    for seed, entry in enumerate(load_dataset("camvid_train")[:20]):
        sample = mapper(entry, np.random.default_rng(seed))
        twin = labeled_mapper(entry, np.random.default_rng(seed))
        for name in ("image_weak", "image_strong1", "image_strong2"):
            assert (sample[name] == twin["image"]).all()
        assert sample["valid"].dtype == torch.bool and (sample["valid"] == (twin["sem_seg"] != 255)).all()
        padded += (~sample["valid"]).sum()
        x0, y0, x1, y1 = sample["cutmix_box1"].tolist()
        assert 0 <= x0 < x1 <= 64 and 0 <= y0 < y1 <= 64
        assert sample["cutmix_box1"].tolist() != sample["cutmix_box2"].tolist()
    assert padded > 20 * 100


def test_strong_views_differ(camvid):
    mapper = UnlabeledMapper(**GEOMETRY, strong=StrongParameters(jitter_probability=1), cutmix_probability=0.0)
    sample = mapper(load_dataset("camvid_train_12_unlabeled")[0], np.random.default_rng(0))
    assert (sample["image_strong1"] != sample["image_strong2"]).any()
    assert (sample["image_strong1"] != sample["image_weak"]).any()
    assert sample["cutmix_box1"].tolist() == [0, 0, 0, 0]


def test_instances_move_with_the_label(camvid, tmp_path):
    mapper = LabeledMapper(**{**GEOMETRY, "scale": (0.6, 0.6)}, num_classes=11)
    entry = dict(load_dataset("camvid_train")[0])
    label = np.array(Image.open(entry["sem_seg_file_name"]))
    Image.fromarray(label + 1).save(tmp_path / "instances.png")
    entry["instance_file_name"] = str(tmp_path / "instances.png")
    sample = mapper(entry, np.random.default_rng(3))
    padding = sample["sem_seg"] == 255
    assert padding.any() and (sample["instance_ids"][padding] == 0).all()
    assert (sample["instance_ids"][~padding] == sample["sem_seg"][~padding] + 1).all()


def test_test_mapper_resizes_the_image_and_tells_the_original_size(camvid):
    sample = TestMapper(short_side=30)(load_dataset("camvid_val")[1])
    assert sample["image"].shape == (3, 30, 40) and (sample["height"], sample["width"]) == (60, 80)
    assert sample["image_id"] == "001" and sample["sem_seg_file_name"].endswith("001.png")
    unlabeled = TestMapper()(load_dataset("camvid_train_12_unlabeled")[0])
    assert unlabeled["image"].shape == (3, 60, 80) and "sem_seg_file_name" not in unlabeled


def test_any_number_can_stand_for_ignored_pixels(camvid):
    """65535, as more than 255 classes need it, though the files hold 255 in bytes; but never that of a class."""
    cfg = get_hiervl_cfg()
    cfg.INPUT.CROP_SIZE, cfg.INPUT.SCALE = 64, (0.5, 0.5)
    entry = dict(load_dataset("camvid_train")[0])
    expected = LabeledMapper.from_config(cfg, 11, 255)(entry, np.random.default_rng(0))["sem_seg"]
    cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = 65535
    found = LabeledMapper.from_config(cfg, 11, 255)(entry, np.random.default_rng(0))["sem_seg"]
    assert (expected == 255).any() and torch.equal(found, expected.masked_fill(expected == 255, 65535))
    for ignore_label, value in ((255, 65535), (65535, 255)):
        cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = value
        with pytest.raises(UserError, match="is 255, the number of one of the 256 classes"):
            LabeledMapper.from_config(cfg, 256, ignore_label)
