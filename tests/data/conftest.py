"""A small folder in CamVid's layout, made up."""

import numpy as np
import pytest
from PIL import Image

import hiervl  # noqa: F401  applies what Detectron2 needs

COLOR_STEP = 20  # grey level of class c is COLOR_STEP * (c + 1), so that 0 is padding alone
IMAGE_SIZE = (60, 80)


def block_label(rng: np.random.Generator, num_classes: int = 11) -> np.ndarray:
    """Blocks of 20×20 pixels of random classes."""
    rows, columns = IMAGE_SIZE[0] // 20, IMAGE_SIZE[1] // 20
    return np.kron(rng.integers(0, num_classes, (rows, columns)), np.ones((20, 20))).astype(np.uint8)


def write_pair(folder, split: str, stem: str, label: np.ndarray) -> None:
    """An image whose grey level tells the class, and its label."""
    for kind in ("images", "labels"):
        (folder / kind / split).mkdir(parents=True, exist_ok=True)
    image = np.repeat((COLOR_STEP * (label + 1))[:, :, None], 3, axis=2).astype(np.uint8)
    Image.fromarray(image).save(folder / "images" / split / f"{stem}.png")
    Image.fromarray(label).save(folder / "labels" / split / f"{stem}.png")


@pytest.fixture
def camvid(tmp_path, monkeypatch):
    """The folder of a CamVid of 20 training and 3 validation images, under the root that is in force."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "camvid"
    for split, count in (("train", 20), ("val", 3)):
        for number in range(count):
            write_pair(folder, split, f"{number:03d}", block_label(rng))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return folder


@pytest.fixture
def cfg():
    """A configuration for that folder."""
    import hiervl.data  # noqa: F401  registers the datasets
    from hiervl.config import get_hiervl_cfg

    cfg = get_hiervl_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.DATASETS.TRAIN = ("camvid_train_12",)
    cfg.DATASETS.UNLABELED = ("camvid_train_12_unlabeled",)
    cfg.INPUT.CROP_SIZE = 64
    cfg.SOLVER.IMS_PER_BATCH = 4
    cfg.SOLVER.UNLABELED_PER_BATCH = 2
    cfg.DATALOADER.NUM_WORKERS = 0
    return cfg
