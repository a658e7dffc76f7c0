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
    from hiervl.config.defaults import get_hiervl_cfg

    cfg = get_hiervl_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.DATASETS.TRAIN = ("camvid_train_12",)
    cfg.DATASETS.UNLABELED = ("camvid_train_12_unlabeled",)
    cfg.INPUT.CROP_SIZE = 64
    cfg.SOLVER.IMS_PER_BATCH = 4
    cfg.SOLVER.UNLABELED_PER_BATCH = 2
    cfg.DATALOADER.NUM_WORKERS = 0
    return cfg


def write_lists(root, folder: str, lines, counts) -> None:
    """The published lists: of every count, the first so many lines."""
    for subset, count in counts.items():
        (root / "splits" / folder / subset).mkdir(parents=True)
        (root / "splits" / folder / subset / "labeled.txt").write_text("\n".join(lines[:count]))


def write_standins(root, folder: str, images, labels, num_classes: int, ignored: bool, instances=()) -> None:
    """A few small pictures under all the names of a dataset: links, because there are thousands of names."""
    rng = np.random.default_rng(num_classes)
    kinds = [kind for kind in (images, labels, instances) if kind]
    originals = []
    for number in range(4):
        label = np.kron(rng.integers(0, num_classes, (6, 8)), np.ones((8, 8))).astype(np.uint8)
        if ignored:
            label[:8, :8] = 255
        image = np.stack((label, 255 - label, label // 2), -1)
        maps = (image, label, np.kron(np.arange(48).reshape(6, 8), np.ones((8, 8))).astype(np.uint8))
        originals.append([root / folder / f"{number}.{kind}{path[0][-4:]}" for kind, path in enumerate(kinds)])
        (root / folder).mkdir(exist_ok=True)
        for values, path in zip(maps, originals[-1]):
            Image.fromarray(values).save(path)
    for number, paths in enumerate(zip(*kinds)):
        for path, original in zip(paths, originals[number % len(originals)]):
            path = root / folder / path
            if not path.parent.is_dir():
                path.parent.mkdir(parents=True)
            path.hardlink_to(original)


@pytest.fixture(scope="session")
def benchmark_root(tmp_path_factory):
    """A root with stand-ins of the four benchmarks as their scripts leave them, with as many images as are labelled
    in the largest subset and 8 more, and with lists like the published ones."""
    root = tmp_path_factory.mktemp("benchmarks")

    train = [f"2007_{number:06d}" for number in range(1464 + 8)]
    val = [f"2008_{number:06d}" for number in range(2)]
    kinds = ("JPEGImages/{}.jpg", "SegmentationClassAug/{}.png")
    files = ([kind.format(name) for name in train + val] for kind in kinds)
    write_standins(root, "VOC2012", *files, num_classes=21, ignored=True)
    lists = root / "VOC2012" / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "trainaug.txt").write_text("\n".join(train) + "\n")
    (lists / "val.txt").write_text("\n".join(val) + "\n")
    lines = [f"JPEGImages/{name}.jpg SegmentationClass/{name}.png" for name in train]
    write_lists(root, "pascal", lines, {str(count): count for count in (92, 183, 366, 732, 1464)})

    names = [f"train2017/{number:012d}" for number in range(3697 + 8)] + ["val2017/1", "val2017/2"]
    kinds = ("{}.jpg", "semantic/{}.png", "instances/{}.png")
    images, labels, instances = ([kind.format(name) for name in names] for kind in kinds)
    write_standins(root, "coco", images, labels, num_classes=81, ignored=False, instances=instances)
    lines = [f"{name}.jpg masks/{name.split('/')[1]}.png" for name in names[:3697]]
    write_lists(root, "coco", lines, {"1_512": 232, "1_256": 463, "1_128": 925, "1_64": 1849, "1_32": 3697})

    names = [f"training/ADE_train_{number:08d}" for number in range(2526 + 8)] + ["validation/ADE_val_1"]
    files = ([kind.format(name) for name in names] for kind in ("images/{}.jpg", "annotations_detectron2/{}.png"))
    write_standins(root, "ADEChallengeData2016", *files, num_classes=150, ignored=True)
    lines = [f"images/{name}.jpg annotations/{name}.png" for name in names[:2526]]
    write_lists(root, "ade", lines, {"1_128": 158, "1_64": 316, "1_32": 632, "1_16": 1263, "1_8": 2526})

    names = [f"train/{('jena', 'ulm')[number % 2]}/town_{number:06d}_000019" for number in range(1488 + 8)]
    names += ["val/lindau/lindau_000000_000019"]
    kinds = ("leftImg8bit/{}_leftImg8bit.png", "gtFine/{}_gtFine_labelTrainIds.png")
    files = ([kind.format(name) for name in names] for kind in kinds)
    write_standins(root, "cityscapes", *files, num_classes=19, ignored=True)
    lines = [" ".join(kind.format(name) for kind in kinds) for name in names[:1488]]
    write_lists(root, "cityscapes", lines, {"1_30": 100, "1_16": 186, "1_8": 372, "1_4": 744, "1_2": 1488})
    return root


@pytest.fixture
def benchmarks(benchmark_root, monkeypatch):
    """That root, in force."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(benchmark_root))
    return benchmark_root
