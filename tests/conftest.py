"""A small HierVL around a small random CLIP, for tests of every part."""

import json
import os
import sys
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

if not torch.cuda.is_available():  # read when Triton is imported
    os.environ.setdefault("TRITON_INTERPRET", "1")

sys.path.insert(0, str(Path(__file__).parent))  # for the modules that test files share

import hiervl  # noqa: E402, F401  applies what Detectron2 needs, before any test imports it

CLIP_CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "patch_size": 8, "layers": 4, "width": 64, "head_width": 16},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
CLASS_NAMES = ["background", "cat", "red bus", "tree", "potted plant", "sky"]


@pytest.fixture(autouse=True)
def same_environment():
    """A test may set variables of the environment, as a user does before a training; the next one does not see them."""
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture(scope="session")
def clip_file(tmp_path_factory) -> str:
    """An open_clip model config of a CLIP that fits in a test."""
    path = tmp_path_factory.mktemp("clip") / "hiervl_test_clip.json"
    path.write_text(json.dumps(CLIP_CONFIG))
    return str(path)


@pytest.fixture
def clip(clip_file):
    """That CLIP with random weights, and its tokenizer: what ``load_clip`` returns."""
    from hiervl.modeling.clip import load_clip

    torch.manual_seed(0)
    return load_clip(clip_file, "")


@pytest.fixture(scope="session")
def resize_by_opencv():
    """→ function that resizes maps (…, H, W) to a size as OpenCV does, about the centres of pixels: what PyTorch's
    ``interpolate`` has to agree with, by an implementation that knows nothing of ``align_corners``."""

    def resize(maps, size, interpolation=cv2.INTER_LINEAR):
        planes = maps.detach().reshape(-1, *maps.shape[-2:]).double().numpy()
        resized = np.stack([cv2.resize(plane, tuple(size)[::-1], interpolation=interpolation) for plane in planes])
        return torch.from_numpy(resized).to(maps.dtype).view(*maps.shape[:-2], *size)

    return resize


@pytest.fixture
def photo(tmp_path):
    """A small PNG file of noise."""
    path = tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def make_cfg(clip_file):
    """→ function from ``KEY, VALUE, …`` to the config of a small HierVL."""

    from hiervl.config.defaults import get_hiervl_cfg

    def make(*overrides):
        cfg = get_hiervl_cfg()
        settings = {
            "MODEL.DEVICE": "cpu",
            "MODEL.CLASS_NAMES": CLASS_NAMES,
            "MODEL.CLIP.NAME": clip_file,
            "MODEL.CLIP.PRETRAINED": "",
            "MODEL.CLIP.BLOCKS": [0, 1, 2, 3],
            "MODEL.CLIP.VISUAL_PROMPTS": 2,
            "MODEL.TEXT.PROMPTS": 4,
            "MODEL.TEXT.PROMPT_INIT": "a photo of a",
            "MODEL.HSQG.LEVELS": 2,
            "MODEL.PIXEL_DECODER.DIM": 32,
            "MODEL.PIXEL_DECODER.LAYERS": 2,
            "MODEL.PIXEL_DECODER.HEADS": 4,
            "MODEL.PIXEL_DECODER.FEEDFORWARD": 32,
            "MODEL.QUERY_DECODER.LAYERS": 3,
            "MODEL.QUERY_DECODER.HEADS": 4,
            "MODEL.QUERY_DECODER.FEEDFORWARD": 32,
            "MODEL.QUERY_DECODER.INSTANCE_QUERIES": 8,
            "LOSS.NUM_POINTS": 64,
        }
        cfg.merge_from_list([item for pair in settings.items() for item in pair])
        cfg.merge_from_list(list(overrides))
        return cfg

    return make


@pytest.fixture
def make_network(make_cfg):
    """→ function from config overrides to a seeded network whose parts all matter.

    CMSAM starts with scales of 0, all offsets of the deformable attention with the same directions and the gate far
    from the similarities of a random CLIP; here they are moved to where a fault would show.
    """

    from detectron2.modeling import build_model

    import hiervl.modeling  # noqa: F401  fills Detectron2's registries

    def make(*overrides, trained: bool = True):
        torch.manual_seed(0)
        network = build_model(make_cfg(*overrides))
        if trained:
            with torch.no_grad():
                for name, parameter in network.named_parameters():
                    if name.endswith(("scale", "sampling_offsets.weight", "attention_weights.weight")):
                        parameter.add_(0.3 * torch.randn_like(parameter))
                if network.gate is not None:
                    text = network.eval().encode_text()
                    images = network.normalize(list(255 * torch.rand(8, 3, 64, 64)))
                    pooled = network.backbone(images)["pooled_embedding"]
                    network.gate.fit_gate(text.class_similarity(pooled))
            network.train()
        return network

    return make


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A CamVid of 24 + 3 tiny images, and a tiny CLIP beside it."""
    root = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 3)):
        for kind in ("images", "labels"):
            (root / "camvid" / kind / split).mkdir(parents=True)
        for index in range(count):
            labels = np.repeat(np.repeat(rng.integers(0, 11, (4, 5)), 8, 0), 8, 1).astype(np.uint8)
            image = np.stack((labels * 20, 255 - labels * 20, labels * 7), -1).astype(np.uint8)
            Image.fromarray(image).save(root / "camvid" / "images" / split / f"{index:03d}.png")
            Image.fromarray(labels).save(root / "camvid" / "labels" / split / f"{index:03d}.png")
    clip = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 4, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    (root / "tiny_clip.json").write_text(json.dumps(clip))
    return root


@pytest.fixture(scope="session")
def options():
    """→ function from world, output folder and ``KEY, VALUE, …`` to the command line of a tiny network on it."""

    def make(world, output, *extra: str):
        fixed = {
            "MODEL.DEVICE": "cpu",
            "MODEL.CLIP.NAME": str(world / "tiny_clip.json"),
            "MODEL.CLIP.PRETRAINED": "",
            "MODEL.CLIP.BLOCKS": "[0, 1, 2, 3]",
            "MODEL.PIXEL_DECODER.DIM": "16",
            "MODEL.PIXEL_DECODER.HEADS": "2",
            "MODEL.PIXEL_DECODER.LAYERS": "1",
            "MODEL.PIXEL_DECODER.FEEDFORWARD": "16",
            "MODEL.QUERY_DECODER.LAYERS": "2",
            "MODEL.QUERY_DECODER.HEADS": "2",
            "MODEL.QUERY_DECODER.FEEDFORWARD": "16",
            "MODEL.QUERY_DECODER.INSTANCE_QUERIES": "4",
            "LOSS.NUM_POINTS": "64",
            "DATASETS.TRAIN": "('camvid_train_12',)",
            "DATASETS.UNLABELED": "('camvid_train_12_unlabeled',)",
            "DATASETS.TEST": "('camvid_val',)",
            "INPUT.CROP_SIZE": "32",
            "SOLVER.IMS_PER_BATCH": "2",
            "SOLVER.UNLABELED_PER_BATCH": "2",
            "SOLVER.MAX_ITER": "4",
            "SOLVER.BASE_LR": "0.001",
            "DATALOADER.NUM_WORKERS": "0",
            "OUTPUT_DIR": str(output),
        }
        return [word for pair in fixed.items() for word in pair] + list(extra)

    return make


class OwnDataset:
    """A small dataset in plain folders, made up, which tests spoil."""

    classes = (
        "classes:\n  - {name: background, background: true, color: [0, 0, 0]}\n"
        "  - {name: cap, color: [200, 0, 0]}\n  - {name: stem, color: [0, 0, 200]}\n"
    )

    def __init__(self, root):
        self.root = root
        self.rng = np.random.default_rng(0)
        (root / "classes.yaml").write_text(self.classes)
        for number in range(10):
            self.image(f"labelled/images/{number:02d}.png")
            self.mask(f"labelled/masks/{number:02d}.png", self.labels())
        for number in range(4):
            self.image(f"unlabelled/u{number}.png")

    def image(self, name, size=(64, 64)):
        """Random clouds, so that no two images look alike."""
        blocks = self.rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)
        return self.save(name, np.array(Image.fromarray(blocks).resize(size[::-1], Image.Resampling.BICUBIC)))

    def labels(self, values=(0, 1, 2), size=(64, 64)):
        """A label map in which every value has a stripe."""
        stripes = np.array(values, dtype=np.uint8)[np.arange(size[1]) * len(values) // size[1]]
        return np.repeat(stripes[None], size[0], axis=0)

    def mask(self, name, labels):
        return self.save(name, labels)

    def masks(self, make):
        """Rewrite every mask as ``make(label map)``."""
        for path in sorted((self.root / "labelled/masks").iterdir()):
            self.save(path.relative_to(self.root), make(np.array(Image.open(path))))

    def save(self, name, array):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)
        return path

    def config(self, dataset="", rest=""):
        """Write own.yaml; ``dataset`` are further lines of its section DATASET."""
        lines = [
            "DATASET:",
            "  NAME: own",
            "  LABELED: {IMAGES: labelled/images, MASKS: labelled/masks}" * (not dataset.startswith("LABELED:")),
            "  UNLABELED: unlabelled" * ("UNLABELED:" not in dataset),
            "  CLASSES: classes.yaml",
            f"  CACHE: {self.root / 'cache'}",
            *(f"  {line}" for line in dataset.splitlines()),
            rest,
        ]
        path = self.root / "own.yaml"
        path.write_text("\n".join(line for line in lines if line.strip()) + "\n")
        return str(path)

    def layout(self, dataset=""):
        from hiervl.engine.run_config import load_config, require_own_dataset

        return require_own_dataset(load_config(self.config(dataset)))


@pytest.fixture
def own(tmp_path):
    """A sound dataset of 10 labelled and 4 unlabelled images of 64×64, three classes."""
    return OwnDataset(tmp_path)


@pytest.fixture
def save_run(tmp_path, make_network, make_cfg):
    """→ function from config overrides to a network and the folder of its run, as training leaves it."""
    from hiervl.engine.checkpoint import SegmentationCheckpointer
    from hiervl.engine.trainer import SemiSupervisedTrainer

    def save(*overrides):
        overrides = ("INPUT.CROP_SIZE", 32, "TEST.WINDOW_BATCH", 3, "TEST.NETWORK", "student", *overrides)
        cfg = make_cfg(*overrides)
        network = make_network(*overrides).eval()
        folder = tmp_path / "run"
        folder.mkdir()
        extra = SemiSupervisedTrainer.checkpoint_extra(cfg, network.class_names)
        SegmentationCheckpointer(network, str(folder), extra=extra).save("model_final")
        return network, folder

    return save
