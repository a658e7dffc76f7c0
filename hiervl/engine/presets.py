"""Settings that follow from the data and the machine, each with its reason (``SOLVER.PRESET``).

A preset sets what the user left open. Keys from the YAML and the command line keep their values, and later choices
follow from them.
"""

import contextlib
import itertools
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.utils import comm

from hiervl.config.keys import get_value, keys_of_user, set_value
from hiervl.data.checking.image_facts import ImageFacts, read_image_facts
from hiervl.data.checking.light import in_unseen_light
from hiervl.data.folders.facts import FactsStore
from hiervl.data.folders.files import image_size
from hiervl.data.folders.layout import FolderLayout
from hiervl.data.loading.loaders import load_labeled, load_unlabeled
from hiervl.modeling.encoder_size import VIT_B16, EncoderSize, encoder_size
from hiervl.utils.errors import UserError
from hiervl.utils.parallel import evenly_spread

AUTO, GPU_24GB, CPU, NONE = "auto", "24gb", "cpu", "none"
PRESETS = (AUTO, GPU_24GB, CPU, NONE)
MAX_READ = 500  # how many images are measured, evenly spread over the data

LARGEST_CROP, SMALLEST_CROP = 512, 64  # in multiples of what the encoder pads images to: its coarsest map's stride
LARGEST_SHORT_SIDE = 1024  # a crop of 512 still sees a quarter of a 4:3 photograph's area
CPU_CROP, CPU_SHORT_SIDE = 160, 180  # as in camvid_46_cpu.yaml

BATCH = 8  # labelled and unlabelled images per iteration in the paper, for which BASE_LR was chosen
CPU_BATCH = 4
RATE = 1e-4
CPU_RATE = 4e-3  # the small decoder's, as in camvid_46_cpu.yaml
PASSES = 80  # over the labelled or the unlabelled images, whichever are more; the paper's epochs on Pascal VOC
FEWEST_ITERATIONS, MOST_ITERATIONS = 4000, 40000
CPU_ITERATIONS = 1000
COLOR_TRANSFER = 0.7  # as in camvid_12_cpu.yaml
EVALUATIONS = 10

# Memory of one training process with CLIP ViT-B/16 and mixed precision. It is an estimate, not a measurement on a GPU:
# the tensors that autograd would keep were counted (benchmarks/memory.py: 1.6 GiB of weights and the like; 3.0 a pair,
# of which 1.2 are the encoder's; 4.7 and 1.6 if several processes keep the graphs of labelled and unlabelled images at
# once). The rest is a margin for what was not counted. For other encoders it is scaled, see estimated_memory.
GIB_FIXED = 4.0  # weights, gradients, the optimiser's and the teacher's copies, CUDA itself
GIB_PER_PAIR = 0.5  # and, in proportion to the crop's area,


class PairMemory(NamedTuple):
    """GiB of a pair of images at the largest crop."""

    encoder: float
    rest: float  # decoders and losses, which work on the encoder's maps


IN_ONE_PROCESS, IN_PARALLEL = PairMemory(1.3, 2.0), PairMemory(1.85, 3.55)
USABLE_MEMORY = 0.85

CPU_ENCODER = (  # as in camvid_46_cpu.yaml
    ("MODEL.CLIP.NAME", "imagenet-lite", "a small encoder for photographs, shipped with HierVL: no download"),
    ("MODEL.CLIP.PRETRAINED", "imagenet-lite", "its weights"),
    ("MODEL.CLIP.TRAINABLE", "all", "convolutions are trained as a whole"),
    ("MODEL.CLIP.FROZEN_STAGES", 2, "the first ones know edges and textures already"),
    ("SOLVER.BACKBONE_MULTIPLIER", 1.0, "it is small, and there are few iterations"),
)
CPU_NETWORK = (  # as small as in camvid_46_cpu.yaml
    ("MODEL.PIXEL_DECODER.DIM", 64),
    ("MODEL.PIXEL_DECODER.LAYERS", 2),
    ("MODEL.PIXEL_DECODER.HEADS", 4),
    ("MODEL.PIXEL_DECODER.FEEDFORWARD", 128),
    ("MODEL.QUERY_DECODER.LAYERS", 2),
    ("MODEL.QUERY_DECODER.HEADS", 4),
    ("MODEL.QUERY_DECODER.FEEDFORWARD", 128),
    ("MODEL.QUERY_DECODER.INSTANCE_QUERIES", 16),
    ("LOSS.NUM_POINTS", 1024),
)
CHEAP = "saves time, gained nothing measurable"
CPU_TRAINING: tuple[tuple[str, Any, str], ...] = (  # camvid_46_cpu.yaml's
    ("MODEL.HSQG.LEVELS", 1, "one text query a class, for the CPU"),
    ("INPUT.SCALE", (0.8, 1.5), "smaller scales would fill the small crops with padding"),
    ("LOSS.PIXEL", 5.0, "pixels are the quickest to learn from: there are few iterations"),
    ("LOSS.PIXEL_BALANCE", 0.5, "rare classes count more"),
    ("LOSS.ENTROPY", 0.0, CHEAP),
    ("LOSS.MASKED_CONSISTENCY", 0.0, CHEAP),
    ("LOSS.PIXEL_TEXT", 0.0, CHEAP),
    ("SEMI.EMA_DECAY", 0.99, "the teacher follows faster: there are few iterations"),
    ("SEMI.SUPERVISED_SHARE", 0.6, "true labels count a little more than pseudo-labels"),
    ("SEMI.STRONG_VIEWS", 1, "one instead of two saves time"),
    ("SEMI.STRONG_WEIGHT", 0.5, "as much as two views would have together"),
    ("SEMI.CLASS_MIX", 1.0, "classes of labelled images, with their true labels, go onto unlabelled ones"),
    ("SEMI.PERTURBATION_WEIGHT", 0.0, "saves a pass of the decoders"),
    ("SEMI.THRESHOLD", "class", "a fixed threshold would keep very little: the teacher is rarely confident"),
    ("SEMI.CONFIDENCE", 0.95, "of the class that the teacher is surest of; lower for the others"),
)


@dataclass(frozen=True)
class Facts:
    """The facts that the choices are based on.

    Attributes:
        sizes: (n, 2) heights and widths of images, in pixels.
        labeled, unlabeled: numbers of training images.
        memory: GiB of one GPU; None: training runs on the CPU.
        memory_source: where that number comes from, for the message.
        processes: number of processes that share a batch.
        unseen_light: share of the unlabelled images that are far darker or brighter than every labelled one.
    """

    sizes: np.ndarray
    labeled: int
    unlabeled: int
    memory: float | None
    memory_source: str = ""
    processes: int = 1
    unseen_light: float = 0.0


class Choice(NamedTuple):
    """A value that was chosen, or a value of the user that was kept."""

    key: str
    value: Any
    reason: str


def apply_preset(cfg: CfgNode, layout: FolderLayout | None = None, show: bool = True) -> list[Choice]:
    """Set ``cfg`` as ``SOLVER.PRESET`` says, print every choice, and set the preset to "none", because it is applied.

    Args:
        layout: of the user's own dataset, if there is one; else the datasets of ``DATASETS`` are used.
        show: print the choices.

    Raises:
        UserError: there is no such preset, or the data cannot be read.
    """
    preset = cfg.SOLVER.PRESET or (AUTO if layout is not None else NONE)
    if preset not in PRESETS:
        raise UserError(f"SOLVER.PRESET is one of {', '.join(PRESETS)}, not '{preset}'.")
    choices: list[Choice] = []
    if preset != NONE:
        choices = choose(cfg, _facts(cfg, preset, layout))
        if show and comm.is_main_process():
            print(format_choices(choices), flush=True)
    cfg.SOLVER.PRESET = NONE
    return choices


def format_choices(choices: Sequence[Choice]) -> str:
    """The choices as a table."""
    width = max((len(f"{choice.key} {choice.value}") for choice in choices), default=0)
    lines = [f"  {f'{choice.key} {choice.value}':<{width}}  {choice.reason}" for choice in choices]
    head = "Settings chosen for you (SOLVER.PRESET); write a key into your YAML or after the command to change it:"
    return "\n".join([head, *lines])


def choose(cfg: CfgNode, facts: Facts) -> list[Choice]:
    """Make the choices in ``cfg``. Each depends on the ones before and on what the user set."""
    chooser = _Chooser(cfg)
    if facts.memory is None:
        if cfg.MODEL.DEVICE.startswith("cuda"):
            chooser.set("MODEL.DEVICE", "cpu", "the preset is for the CPU")
        if not any(chooser.is_kept(key) for key in ("MODEL.CLIP.NAME", "MODEL.CLIP.PRETRAINED")):
            for key, value, reason in CPU_ENCODER:
                chooser.set(key, value, reason)
        for key, value in CPU_NETWORK:
            chooser.set(key, value, "a small decoder, for the CPU")
        for key, value, reason in CPU_TRAINING:
            chooser.set(key, value, reason)
        if facts.unseen_light and cfg.SEMI.ENABLED:
            share = (
                f"{100 * facts.unseen_light:.0f} % of the unlabelled images are in a light that no labelled one shows"
            )
            chooser.set("SEMI.COLOR_TRANSFER", COLOR_TRANSFER, share)
            chooser.set("SEMI.COLOR_AGREEMENT", True, "there the teacher is often wrong and sure: it looks twice")
        chooser.set("SOLVER.AMP.ENABLED", False, "mixed precision saves nothing on most CPUs")
    else:
        chooser.set("SOLVER.AMP.ENABLED", True, f"mixed precision ({cfg.SOLVER.AMP.DTYPE}) halves the activations")
    encoder = encoder_size(cfg)
    _choose_size(chooser, facts, encoder)
    _choose_batch(chooser, facts, encoder)
    _choose_length(chooser, facts)
    workers = min(4, max(0, (os.cpu_count() or 1) - 1))
    chooser.set("DATALOADER.NUM_WORKERS", workers, f"this machine has {os.cpu_count()} cores")
    return chooser.choices


class _Chooser:
    """Sets keys that the user left open, and records the choices."""

    def __init__(self, cfg: CfgNode):
        self.cfg = cfg
        self.kept = keys_of_user(cfg)
        self.choices: list[Choice] = []

    def set(self, key: str, value: Any, reason: str) -> Any:
        """Set ``key`` unless the user set it. Returns the final value."""
        if key in self.kept:
            reason = "yours"
        else:
            set_value(self.cfg, key, type(get_value(self.cfg, key))(value))
        self.choices.append(Choice(key, get_value(self.cfg, key), reason))
        return self.choices[-1].value

    def is_kept(self, key: str) -> bool:
        return key in self.kept


def _choose_size(chooser: _Chooser, facts: Facts, encoder: EncoderSize) -> None:
    """INPUT.SHORT_SIDE and INPUT.CROP_SIZE from the images' shorter sides."""
    median = int(np.median(facts.sizes.min(axis=1)))
    on_cpu = facts.memory is None
    limit = CPU_SHORT_SIDE if on_cpu else LARGEST_SHORT_SIDE
    if median > 1.25 * limit:
        reason = f"the images' median shorter side is {median} px: " + (
            "smaller ones save the CPU time" if on_cpu else "at full size a crop would show too little of an image"
        )
        short_side = chooser.set("INPUT.SHORT_SIDE", limit, reason)
    else:
        short_side = chooser.set("INPUT.SHORT_SIDE", 0, f"the images' median shorter side, {median} px, is left")
    side = short_side or median
    unit, largest = encoder.unit, CPU_CROP if on_cpu else LARGEST_CROP
    crop = max(math.ceil(SMALLEST_CROP / unit), min(largest, side) // unit) * unit
    why = f"the shorter side ({side} px) in multiples of {unit}, at most {largest}"
    if facts.memory is not None:
        crop, why = _crop_that_fits(crop, why, facts.memory, facts, encoder)
    chooser.set("INPUT.CROP_SIZE", crop, why)


def _crop_that_fits(crop: int, why: str, memory: float, facts: Facts, encoder: EncoderSize) -> tuple[int, str]:
    """Choose a smaller crop if not even one pair of images would fit."""
    smallest = math.ceil(SMALLEST_CROP / encoder.unit) * encoder.unit
    while crop > smallest and estimated_memory(crop, 1, facts.processes, encoder) > USABLE_MEMORY * memory:
        crop -= encoder.unit
        why = f"the largest with which one pair of images fits into {memory:.0f} GiB ({facts.memory_source})"
    return crop, why


def estimated_memory(crop: int, pairs: int, processes: int = 1, encoder: EncoderSize = VIT_B16) -> float:
    """GiB of a process that holds ``pairs`` labelled and as many unlabelled images at once; see GIB_FIXED.

    What was counted of ViT-B/16 is scaled: the encoder's part with the numbers that its layers give, the decoders' and
    losses' part with the positions of its maps, both for the size that the crop is padded to.
    """
    counted = IN_ONE_PROCESS if processes == 1 else IN_PARALLEL
    at_largest = counted.encoder * encoder.activations + counted.rest * encoder.positions
    padded = math.ceil(crop / encoder.unit) * encoder.unit
    of_pair = GIB_PER_PAIR + at_largest * (padded / LARGEST_CROP) ** 2
    return fixed_memory(encoder) + pairs * of_pair


def fixed_memory(encoder: EncoderSize = VIT_B16) -> float:
    """GiB that do not depend on the images."""
    return GIB_FIXED + encoder.weight_gib - VIT_B16.weight_gib


def _choose_batch(chooser: _Chooser, facts: Facts, encoder: EncoderSize) -> None:
    """Batch sizes, accumulation and learning rate."""
    on_cpu = facts.memory is None
    batch = CPU_BATCH if on_cpu else BATCH
    batch = math.ceil(batch / facts.processes) * facts.processes
    reason = "few, for the CPU" if on_cpu else "as in the paper"
    labeled = chooser.set("SOLVER.IMS_PER_BATCH", batch, f"labelled images an iteration: {reason}")
    unlabeled = 0
    if facts.unlabeled:
        unlabeled = chooser.set("SOLVER.UNLABELED_PER_BATCH", labeled, "as many as labelled ones")
    largest = max(labeled, unlabeled)
    parts = 1
    reason = "on the CPU memory is no limit"
    if facts.memory is not None:
        crop = chooser.cfg.INPUT.CROP_SIZE
        fixed = fixed_memory(encoder)
        per_pair = estimated_memory(crop, 1, facts.processes, encoder) - fixed
        fits = math.floor((USABLE_MEMORY * facts.memory - fixed) / per_pair)
        parts = _parts(labeled, unlabeled, facts.processes, max(1, fits))
        micro = -(-largest // (parts * facts.processes))
        reason = (
            f"{micro} pairs at once need about {estimated_memory(crop, micro, facts.processes, encoder):.0f} GiB (an "
            f"estimate) of {facts.memory:.0f} ({facts.memory_source})"
        )
    chooser.set("SOLVER.ACCUMULATION", parts, reason)
    base = CPU_RATE if on_cpu else RATE
    rate = float(f"{base * math.sqrt(labeled / BATCH):.3g}")
    chooser.set(
        "SOLVER.BASE_LR",
        rate,
        f"{base:g} at {BATCH} images, scaled with the square root of the batch, as usual for Adam",
    )


def _parts(labeled: int, unlabeled: int, processes: int, fits: int) -> int:
    """The least number of micro-batches that divides both batches and gives each process at most ``fits`` pairs at
    once."""
    common = math.gcd(labeled, unlabeled) // processes or 1
    divisors = [parts for parts in range(1, common + 1) if common % parts == 0]
    fitting = [parts for parts in divisors if max(labeled, unlabeled) <= fits * parts * processes]
    return min(fitting, default=divisors[-1])


def _choose_length(chooser: _Chooser, facts: Facts) -> None:
    """Iterations, and how often the network is evaluated and saved."""
    if chooser.is_kept("SOLVER.EPOCHS") and chooser.cfg.SOLVER.EPOCHS:
        return
    cfg = chooser.cfg
    if facts.memory is None:
        iterations, reason = CPU_ITERATIONS, "few, since a CPU is slow; more is better"
    else:
        images, per_batch = facts.labeled, cfg.SOLVER.IMS_PER_BATCH
        if facts.unlabeled > images and cfg.SOLVER.UNLABELED_PER_BATCH:
            images, per_batch = facts.unlabeled, cfg.SOLVER.UNLABELED_PER_BATCH
        passes = PASSES * math.ceil(images / max(per_batch, 1))
        iterations = min(MOST_ITERATIONS, max(FEWEST_ITERATIONS, passes))
        reason = f"{PASSES} passes over {images} images, but from {FEWEST_ITERATIONS} to {MOST_ITERATIONS}"
    iterations = chooser.set("SOLVER.MAX_ITER", iterations, reason)
    if facts.memory is None and cfg.SEMI.ENABLED:
        late = "half of them: what the teacher gets wrong earlier, it would teach the student"
        chooser.set("SEMI.BURN_IN", iterations // 2, late)
    elif cfg.SEMI.ENABLED and cfg.SEMI.BURN_IN > iterations // 4:
        chooser.set("SEMI.BURN_IN", iterations // 4, "a quarter of the iterations")
    period = max(1, iterations // EVALUATIONS)
    chooser.set("TEST.EVAL_PERIOD", period, f"{EVALUATIONS} times in all")
    chooser.set("SOLVER.CHECKPOINT_PERIOD", period, "with every evaluation")


# ---------------------------------------------------------------------------- facts


def _facts(cfg: CfgNode, preset: str, layout: FolderLayout | None) -> Facts:
    if layout is not None:
        labeled = [str(sample.image) for sample in layout.division["train"].values()]
        unlabeled = layout.unlabeled if cfg.SEMI.ENABLED else []
    else:
        labeled = [entry["file_name"] for entry in load_labeled(cfg)]
        unlabeled = [entry["file_name"] for entry in load_unlabeled(cfg)] if cfg.DATASETS.UNLABELED else []
    memory, source = machine_memory(cfg.MODEL.DEVICE, preset)
    sizes = read_sizes(labeled, unlabeled)
    chooses_colors = memory is None and cfg.SEMI.ENABLED and len(unlabeled) > 0
    light = unseen_light(labeled, unlabeled, layout) if chooses_colors else 0.0
    return Facts(sizes, len(labeled), len(unlabeled), memory, source, comm.get_world_size(), light)


def unseen_light(labeled: Sequence[str], unlabeled: Sequence[str], layout: FolderLayout | None = None) -> float:
    """Share of the unlabelled images that are far darker or brighter than every labelled one; 0 if they are few. At
    most ``MAX_READ`` of each are looked at. Files that cannot be read are left out."""
    store, bands = (layout.store, layout.bands) if layout is not None else (FactsStore(None), None)

    def facts_of(files: Sequence[str]) -> dict[str, ImageFacts]:
        some = evenly_spread(files, MAX_READ)
        read = zip(some, read_image_facts(some, store, bands))
        return {file: facts for file, facts in read if isinstance(facts, ImageFacts)}

    looked_at = facts_of(unlabeled)
    outside = in_unseen_light(list(facts_of(labeled).values()), looked_at)
    return sum(map(len, outside.values())) / max(1, len(looked_at))


def read_sizes(
    labeled: Sequence[str],
    unlabeled: Sequence[str] = (),
    limit: int = MAX_READ,
    size_of: Callable[[str], tuple[int, int]] = image_size,
) -> np.ndarray:
    """(n, 2) heights and widths of at most ``limit`` files, evenly spread. Unlabelled files that cannot be read are
    left out, as in the loader.

    Raises:
        UserError: a labelled file cannot be read.
    """
    step = max(1, math.ceil((len(labeled) + len(unlabeled)) / limit))
    sizes = [size_of(file) for file in itertools.islice(labeled, None, None, step)]
    for file in itertools.islice(unlabeled, -len(labeled) % step, None, step):
        with contextlib.suppress(UserError):
            sizes.append(size_of(file))
    return np.array(sizes)


def machine_memory(device: str, preset: str) -> tuple[float | None, str]:
    """GiB of the GPU that training would use, and where the number comes from; None: the CPU."""
    if preset == GPU_24GB:
        return 24.0, "the preset"
    if preset == CPU or not device.startswith("cuda"):
        return None, ""
    properties = torch.cuda.get_device_properties(device)
    return properties.total_memory / 2**30, properties.name
