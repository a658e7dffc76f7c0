"""GPU memory of training in the paper's setting: ViT-B/16, 8 labelled + 8 unlabelled images of 512² and 801².

    python -m benchmarks.memory [--crops 512 801] [--pairs 8]

On a GPU: the peak of three iterations, with ``RECOMPUTE`` of tower, pixel decoder and query decoder off and on.
Without one nothing of the kind can be measured; then the tensors that autograd keeps for the backward pass are counted
on the CPU, in mixed precision: of one and of two pairs of a labelled and an unlabelled image, whose difference is what
a pair needs, and the rest is there once. The memory of 8 + 8 is estimated from both. CLIP's weights are random, and so
are the images. Results are written to ``results/memory_{cuda|estimate}.json``.
"""

import argparse
import itertools
import json
import multiprocessing
from collections import defaultdict
from pathlib import Path
from typing import Dict, List

import torch
from torch import Tensor

from hiervl.run_config import load_config, prepare_config
from hiervl.semi_supervised.solver import build_optimizer
from hiervl.semi_supervised.step import SemiSupervisedStep

from .timing import RESULTS, commit, machine

CONFIG = str(Path(__file__).resolve().parents[1] / "configs" / "pascal_92.yaml")
ITERATIONS = 3
LARGEST_KEPT = 512  # without a GPU, two pairs of larger crops would exceed many a machine's memory unless recomputed
SWITCHES = tuple(f"MODEL.{part}.RECOMPUTE" for part in ("CLIP", "PIXEL_DECODER", "QUERY_DECODER"))
PARTS = ("text_encoder", "backbone", "pixel_decoder", "query_decoder", "criterion")
ADAM_STATES = 2  # numbers per trained weight
GIB = 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    on_gpu = torch.cuda.is_available()
    parser.add_argument("--crops", type=int, nargs="+", default=[512, 801])
    parser.add_argument("--pairs", type=int, default=8, help="labelled, and as many unlabelled, images an iteration")
    args = parser.parse_args()
    device = torch.device("cuda" if on_gpu else "cpu")
    measured = commit()
    if not on_gpu:
        print("No CUDA device: what follows is an estimate from the tensors that autograd keeps, counted on the CPU.")
    found = []
    for crop, recompute in itertools.product(args.crops, (False, True)):
        if crop > LARGEST_KEPT and not recompute and not on_gpu:
            continue
        row = {"crop": crop, "pairs": args.pairs, "recompute": recompute}
        with multiprocessing.get_context("spawn").Pool(1) as pool:  # a process of its own, which gives all memory back
            row.update(pool.apply(peak if on_gpu else estimate, (device, crop, args.pairs, recompute)))
        print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
        found.append(row)
    path = RESULTS / f"memory_{'cuda' if on_gpu else 'estimate'}.json"
    content = {"machine": machine(device), "commit": measured, "config": Path(CONFIG).name, "rows": found}
    path.write_text(json.dumps(content, indent=2) + "\n")


def build(device: torch.device, recompute: bool):
    """The step and the optimiser of the paper's setting."""
    from detectron2.modeling import build_model  # after hiervl, which mends what it needs

    options = ["MODEL.DEVICE", device.type, "MODEL.CLIP.PRETRAINED", ""]
    options += [value for key in SWITCHES for value in (key, str(recompute))]
    cfg = prepare_config(load_config(CONFIG, options), training=False)  # without the files of the dataset
    student = build_model(cfg)
    step = SemiSupervisedStep.from_config(cfg, student).to(device).train()
    return step, build_optimizer(cfg, student)


def peak(device: torch.device, crop: int, pairs: int, recompute: bool) -> Dict[str, float]:
    """GiB that PyTorch's allocator has handed out, and taken from the GPU, at most."""
    torch.manual_seed(0)
    step, optimizer = build(device, recompute)
    torch.cuda.reset_peak_memory_stats()
    for _ in range(ITERATIONS):
        with torch.autocast("cuda", dtype=torch.bfloat16):
            losses = step(batch_of(crop, pairs))
        sum(losses.values()).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step.update_teacher()
    allocated, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    return {"allocated_gib": round(allocated / GIB, 2), "reserved_gib": round(reserved / GIB, 2)}


def estimate(device: torch.device, crop: int, pairs: int, recompute: bool) -> Dict[str, object]:
    """GiB of weights and their like, of what autograd keeps once and for a pair of images, and of all for all pairs."""
    torch.manual_seed(0)
    step, _ = build(device, recompute)
    one, two = kept(step, crop, 1), kept(step, crop, 2)
    of_pair = {name: two[name] - one[name] for name in two}
    pair = sum(of_pair.values())
    once = sum(one.values()) - pair
    fixed = weight_bytes(step)
    return {
        "fixed_gib": round(fixed / GIB, 2),
        "once_gib": round(once / GIB, 2),
        "pair_gib": round(pair / GIB, 2),
        "pair_by_part_gib": {name: round(count / GIB, 2) for name, count in of_pair.items()},
        "estimated_gib": round((fixed + once + pairs * pair) / GIB, 1),
    }


def kept(step: SemiSupervisedStep, crop: int, pairs: int) -> Dict[str, int]:
    """Bytes that autograd keeps for the backward pass, by part."""
    with torch.autocast("cpu", dtype=torch.bfloat16), SavedTensors(step) as saved:
        losses = step(batch_of(crop, pairs))
    total = sum(losses.values())  # holds what is counted
    assert torch.isfinite(total)
    return saved.bytes


def weight_bytes(step: SemiSupervisedStep) -> int:
    """Weights of all networks of a step, and gradients and the optimiser's states of those that are trained."""
    tensors = {t.data_ptr(): t for t in [*step.parameters(), *step.buffers(), *step.teacher.network.parameters()]}
    trained = sum(t.numel() * t.element_size() for t in step.student.parameters() if t.requires_grad)
    return sum(t.numel() * t.element_size() for t in tensors.values()) + (1 + ADAM_STATES) * trained


class SavedTensors:
    """Counts the bytes that autograd keeps for the backward pass, by the part of the network that keeps them.

    A tensor that several operations keep counts once, and parameters do not count.
    """

    def __init__(self, step: SemiSupervisedStep):
        self.bytes: Dict[str, int] = defaultdict(int)
        self._part = "other"
        self._seen = {t.untyped_storage().data_ptr() for t in [*step.parameters(), *step.buffers()]}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)
        self._handles = []
        for name in PARTS:
            module = getattr(step.student, name)
            self._handles.append(module.register_forward_pre_hook(lambda *_, name=name: self._enter(name)))
            self._handles.append(module.register_forward_hook(lambda *_: self._enter("other")))

    def __enter__(self) -> "SavedTensors":
        self._hooks.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self._hooks.__exit__(*error)
        for handle in self._handles:
            handle.remove()

    def _enter(self, part: str) -> None:
        self._part = part

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self.bytes[self._part] += storage.nbytes()
        return tensor


def batch_of(crop: int, pairs: int) -> Dict[str, List[dict]]:
    """Random images; the labels are two classes and a few ignored pixels."""
    label = torch.zeros(crop, crop, dtype=torch.int64)
    label[crop // 4 : crop // 2, : crop // 2] = 1
    label[crop // 2 :, crop // 3 :] = 7
    label[:4] = 255

    def image() -> Tensor:
        return torch.randint(0, 256, (3, crop, crop), dtype=torch.uint8)

    unlabeled = {
        "valid": torch.ones(crop, crop, dtype=torch.bool),
        "cutmix_box1": torch.tensor([0, 0, crop // 3, crop // 3]),
        "cutmix_box2": torch.tensor([crop // 2, 0, crop, crop // 3]),
    }
    views = ("image_weak", "image_strong1", "image_strong2")
    return {
        "labeled": [{"image": image(), "sem_seg": label} for _ in range(pairs)],
        "unlabeled": [{**unlabeled, **{view: image() for view in views}} for _ in range(pairs)],
    }


if __name__ == "__main__":
    main()
