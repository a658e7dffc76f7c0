"""Unlabelled images pull about as strongly as labelled ones, in every config that is shipped."""

import statistics
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from hiervl.config.keys import set_value
from hiervl.engine.presets import CPU_NETWORK, CPU_TRAINING
from hiervl.engine.run_config import load_config
from hiervl.semi_supervised.step import SemiSupervisedStep

ROOT = Path(__file__).resolve().parents[2]
SIZE = 64
NAMES = ["background", "cat", "red bus", "tree", "potted plant", "sky"]


def settings(path, deltas=(), choices=()):
    """What the balance depends on: losses, weights, numbers of layers, levels and classes."""
    cfg = load_config(str(path), [], deltas)
    cfg.defrost()
    for key, value, *_ in choices:
        set_value(cfg, key, value)
    names = list(cfg.MODEL.CLASS_NAMES)
    parts = (cfg.LOSS, cfg.SEMI, cfg.MODEL.HSQG, cfg.MODEL.QUERY_DECODER, cfg.MODEL.META_ARCHITECTURE)
    dataset = str(cfg.DATASETS.TRAIN).split("_train")[0]
    return cfg, names, "\n".join(map(str, (*parts, dataset)))


def distinct_configs():
    """One of each kind: the splits of a benchmark differ in nothing that matters here."""
    shipped = [(path, ()) for path in sorted((ROOT / "configs").glob("*.yaml")) if not path.name.startswith("Base-")]
    baselines = ("unimatch", "unimatch_class_thresholds", "fixmatch", "per_pixel", "semivl")
    for name in baselines:
        shipped.append((ROOT / "configs" / "pascal_92.yaml", (str(ROOT / "configs" / "baselines" / f"{name}.yaml"),)))
        shipped.append((ROOT / "configs" / "quickstart.yaml", (str(ROOT / "configs" / "baselines" / f"{name}.yaml"),)))
    found = {}
    for path, deltas in shipped:
        found.setdefault(settings(path, deltas)[-1], (path, deltas))
    return [
        pytest.param(path, deltas, (), id="+".join([path.stem, *(Path(delta).stem for delta in deltas)]))
        for path, deltas in found.values()
    ]


OWN_FOLDERS_ON_A_CPU = pytest.param(
    ROOT / "configs" / "custom.yaml", (), (*CPU_NETWORK, *CPU_TRAINING), id="CPU preset"
)


def random_batch(num_classes: int) -> dict:
    """Smooth noise with blocky labels of four classes; nothing padded, everything CutMixed in the first view."""
    generator = torch.Generator().manual_seed(0)

    def image():
        coarse = torch.rand(1, 3, 8, 8, generator=generator)
        return 255 * torch.nn.functional.interpolate(coarse, size=(SIZE, SIZE), mode="bilinear")[0]

    labeled, unlabeled = [], []
    for _ in range(2):
        classes = torch.randperm(num_classes, generator=generator)[:4]
        blocks = classes[torch.randint(0, len(classes), (4, 4), generator=generator)]
        sem_seg = blocks.repeat_interleave(SIZE // 4, 0).repeat_interleave(SIZE // 4, 1)
        labeled.append({"image": image(), "sem_seg": sem_seg, "valid": torch.ones(SIZE, SIZE, dtype=torch.bool)})
        weak = image()
        unlabeled.append(
            {
                "image_weak": weak,
                "valid": torch.ones(SIZE, SIZE, dtype=torch.bool),
                "image_strong1": 0.8 * weak,
                "image_strong2": (1.1 * weak).clamp(max=255),
                "cutmix_box1": torch.tensor([8, 8, 40, 40]),
                "cutmix_box2": torch.tensor([0, 0, 0, 0]),
            }
        )
    return {"labeled": labeled, "unlabeled": unlabeled}


@pytest.mark.parametrize("path, deltas, choices", [*distinct_configs(), OWN_FOLDERS_ON_A_CPU])
def test_gradients_of_unlabeled_images_have_the_size_of_labeled_ones(path, deltas, choices, clip_file):
    """The ratio is between ¼ and 2, with every pixel kept, in a small network of the config's layers. It is the median
    over the parameters, because AdamW scales each on its own, and the learnable prompts have most of the whole norm."""
    cfg, names, _ = settings(path, deltas, choices)
    small = {
        "MODEL.DEVICE": "cpu", "MODEL.CLIP.NAME": clip_file, "MODEL.CLIP.PRETRAINED": "",
        "MODEL.CLIP.BLOCKS": [0, 1, 2, 3], "MODEL.CLIP.VISUAL_PROMPTS": 2,
        "MODEL.PIXEL_DECODER.DIM": 32, "MODEL.PIXEL_DECODER.HEADS": 4, "MODEL.PIXEL_DECODER.FEEDFORWARD": 32,
        "MODEL.QUERY_DECODER.HEADS": 4, "MODEL.QUERY_DECODER.FEEDFORWARD": 32, "LOSS.NUM_POINTS": 256,
        "SEMI.CONFIDENCE": 0.0, "SEMI.THRESHOLD": "fixed", "SEMI.BURN_IN": 0,
    }  # fmt: skip
    cfg.merge_from_list([item for pair in small.items() for item in pair])
    if not names and not len(cfg.DATASETS.TRAIN):
        cfg.MODEL.CLASS_NAMES = NAMES
    torch.manual_seed(0)
    student = build_model(cfg).train()
    step = SemiSupervisedStep.from_config(cfg, student).train()
    trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
    gradients, before = [], [torch.zeros_like(parameter) for parameter in trained]
    for part in step.parts(random_batch(len(student.class_names))):
        sum(part.values()).backward()
        after = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in trained]
        gradients.append([(new - old).norm().item() for new, old in zip(after, before)])
        before = after
    ratio = statistics.median(unlabeled / labeled for labeled, unlabeled in zip(*gradients) if labeled)
    assert 0.25 < ratio < 2, ratio
