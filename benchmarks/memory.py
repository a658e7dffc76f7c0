"""GPU memory of training in the paper's setting: ViT-B/16, 8 labelled + 8 unlabelled images of 512² and 801².

    python -m benchmarks.memory [--crops 512 801] [--pairs 8] [--config configs/pascal_92.yaml] [--with DELTA …]

On a GPU: the peak of three iterations, with nothing and everything in ``MODEL.RECOMPUTE``.
Without one nothing of the kind can be measured; then the step runs on tensors that have a CUDA device, a type and a
shape, but no values (``fake_cuda.py``), under CUDA's rules of mixed precision, and what autograd keeps for the
backward pass is counted, with all classes active. CLIP's weights are random, and so are the images. Results are written
to ``results/memory_{cuda|estimate}.json``.
"""

import argparse
import contextlib
import itertools
import json
import multiprocessing
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hiervl.data.classes.definitions import read_classes
from hiervl.engine.loop import OptimizationLoop
from hiervl.engine.run_config import load_config, prepare_config
from hiervl.engine.solver import build_optimizer
from hiervl.modeling import build_network
from hiervl.semi_supervised.step import SemiSupervisedStep
from hiervl.utils.recompute import RECOMPUTABLE

from .timing import RESULTS, commit, machine

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
ITERATIONS = 3
LAYERS = {"backbone": 12, "pixel_decoder": 6, "query_decoder": 9}  # of the paper's setting, and of encoders of its size
PARTS = ("text_encoder", "backbone", "pixel_decoder", "query_decoder", "criterion")
MATCHED = 10  # objects of an image, in an estimate
ADAM_STATES = 2  # numbers per trained weight
GIB = 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    on_gpu = torch.cuda.is_available()
    parser.add_argument("--crops", type=int, nargs="+", default=[512, 801])
    parser.add_argument("--pairs", type=int, default=8, help="labelled, and as many unlabelled, images an iteration")
    parser.add_argument("--config", default=str(CONFIGS / "pascal_92.yaml"), help="of one of the paper's datasets")
    parser.add_argument(
        "--with", dest="deltas", nargs="+", default=[], help="deltas, such as configs/encoders/dinov2_b.yaml"
    )
    parser.add_argument("--recompute", choices=("no", "yes", "both"), default="both", help="what is measured")
    args = parser.parse_args()
    device = torch.device("cuda" if on_gpu else "cpu")
    measured = commit()
    if not on_gpu:
        print("No CUDA device: what follows is an estimate from the tensors that autograd would keep there.")
    found: list[dict[str, object]] = []
    settings = {"no": (False,), "yes": (True,), "both": (False, True)}[args.recompute]
    for crop, recompute in itertools.product(args.crops, settings):
        row = {"crop": crop, "pairs": args.pairs, "recompute": recompute}
        with multiprocessing.get_context("spawn").Pool(1) as pool:  # a process of its own, which gives all memory back
            measure = peak if on_gpu else estimate
            row.update(pool.apply(measure, ((args.config, *args.deltas), crop, args.pairs, recompute)))
        if recompute and not on_gpu and len(settings) == 2:
            row["layer_gib"] = largest_layer(found[-1]["kept_gib"])
        print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
        found.append(row)
    path = RESULTS / f"memory_{'cuda' if on_gpu else 'estimate'}.json"
    content = json.loads(path.read_text()) if path.exists() else {}
    content["+".join(Path(file).stem for file in (args.config, *args.deltas))] = {
        "machine": machine(device),
        "commit": measured,
        "rows": found,
    }
    path.write_text(json.dumps(content, indent=2) + "\n")


def build(configs: Sequence[str], device: str, recompute: bool):
    """The step and the optimiser of a config and its deltas; without the files of its dataset, with random weights."""
    config, *deltas = configs
    classes = read_classes(str(CONFIGS / "classes" / f"{Path(config).stem.split('_')[0]}.yaml"))
    options = ["MODEL.DEVICE", device, "MODEL.CLIP.PRETRAINED", "", "MODEL.CLASS_NAMES", str([c.name for c in classes])]
    options += ["MODEL.ENCODER.PRETRAINED", ""]
    options += ["MODEL.RECOMPUTE", str(list(RECOMPUTABLE) if recompute else [])]
    cfg = prepare_config(load_config(config, options, deltas), training=False)
    student = build_network(cfg)
    step = SemiSupervisedStep.from_config(cfg, student).to(device).train()
    return step, build_optimizer(cfg, student)


def peak(configs: Sequence[str], crop: int, pairs: int, recompute: bool) -> dict[str, float]:
    """GiB that PyTorch's allocator has handed out, and taken from the GPU, at most."""
    torch.manual_seed(0)
    step, optimizer = build(configs, "cuda", recompute)
    loop = OptimizationLoop(step, optimizer, amp=True)
    torch.cuda.reset_peak_memory_stats()
    for _ in range(ITERATIONS):
        loop.accumulate([batch_of(crop, pairs)])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step.update_teacher()
    allocated, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    return {"allocated_gib": round(allocated / GIB, 2), "reserved_gib": round(reserved / GIB, 2)}


def estimate(configs: Sequence[str], crop: int, pairs: int, recompute: bool) -> dict[str, object]:
    """GiB of weights and their like; of what autograd keeps for the labelled and for the unlabelled images, of which
    one is there at a time; and of the most that is there at once."""
    torch.manual_seed(0)
    step, _ = build(configs, "cpu", recompute)
    fixed = weight_bytes(step)
    kept: list[dict[str, int]] = []
    with on_fake_cuda(step), torch.autocast("cuda", dtype=torch.bfloat16), SavedTensors(step) as saved:
        for _ in step.parts(batch_of(crop, pairs)):
            kept.append(dict(saved.bytes))
            saved.bytes.clear()
    most = max(sum(part.values()) for part in kept)
    return {
        "fixed_gib": round(fixed / GIB, 2),
        "kept_gib": [{name: round(count / GIB, 2) for name, count in part.items()} for part in kept],
        "estimated_gib": round((fixed + most) / GIB, 1),
    }


def largest_layer(kept_gib: list[dict[str, float]]) -> float:
    """GiB that the largest layer keeps, which are there on top while it is computed again, from what its part keeps
    without recomputing; rather too many, since a part is more than its layers."""
    return round(max(part[name] / count for part in kept_gib for name, count in LAYERS.items() if name in part), 1)


@contextlib.contextmanager
def on_fake_cuda(step: SemiSupervisedStep) -> Iterator[None]:
    """The step with tensors of CUDA without values, all classes active, and attention that keeps what the fused
    operations of CUDA keep."""
    import pytest

    from benchmarks import fake_cuda
    from hiervl.losses import assignment
    from hiervl.modeling import deformable_attention

    generator = step.student.query_generator
    patch = pytest.MonkeyPatch()
    patch.setattr(type(generator), "_order", _every_class)
    # So many rows are found to have a target: the text queries of a batch.
    patch.setattr(fake_cuda, "FOUND", 8 * generator.num_levels * len(step.student.class_names))
    patch.setattr(assignment, "_matched_queries", _last_queries)
    patch.setattr(torch.nn.functional, "scaled_dot_product_attention", _attention)
    patch.setattr(deformable_attention, "deformable_attention", _deformable_attention)
    try:
        with fake_cuda.fake_cuda(patch) as mode:
            fake_cuda.move_to_cuda(step, mode)
            yield
    finally:
        patch.undo()


def _every_class(generator, active: Tensor) -> Tensor:
    return torch.arange(active.shape[1], device=active.device).expand_as(active)


def _last_queries(pred_logits: list[Tensor], pred_masks, is_free: Tensor, targets: list, *_) -> list:
    """The same instance queries of every image as matched, since without values there is nothing to match."""
    images = np.repeat(np.arange(len(targets)), MATCHED)
    rows = np.tile(np.arange(is_free.shape[1] - MATCHED, is_free.shape[1]), len(targets))
    return [(images, rows, np.zeros_like(rows))] * len(pred_logits)


class _Keeping(torch.autograd.Function):
    """Something of the size of ``out`` whose backward pass would need ``tensors`` and, if so said, the result.

    Without values there is no backward pass.
    """

    @staticmethod
    def forward(ctx, out: Tensor, keeps_result: bool, *tensors: Tensor) -> Tensor:
        result = torch.empty_like(out)
        ctx.save_for_backward(*tensors, *([result] if keeps_result else []))
        return result


def _attention(query: Tensor, key: Tensor, value: Tensor, attn_mask=None, *_, **__) -> Tensor:
    """Memory-efficient attention: it keeps its inputs, the bias in their type, the result, and a number per query."""
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else query.dtype
    query, key, value = (x.to(dtype) for x in (query, key, value))
    kept = [query, key, value, query.new_empty(query.shape[:-1], dtype=torch.float32)]
    if attn_mask is not None:
        kept.append(attn_mask.expand(*query.shape[:2], -1, -1).new_empty(attn_mask.shape, dtype=dtype))
    return _Keeping.apply(query.new_empty(*query.shape[:-1], value.shape[-1]), True, *kept)


def _deformable_attention(value: Tensor, shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """The fused kernel: it keeps its inputs."""
    out = value.new_empty(value.shape[0], locations.shape[1], value.shape[2] * value.shape[3])
    return _Keeping.apply(out, False, value, locations.float(), weights.float())


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
        self.bytes: dict[str, int] = defaultdict(int)
        self._part = "other"
        weights = [t.untyped_storage() for t in [*step.parameters(), *step.buffers()]]
        self._seen = {storage._cdata: storage for storage in weights}  # held, or their numbers could be used again
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
        if storage._cdata not in self._seen:
            self._seen[storage._cdata] = storage
            self.bytes[self._part] += storage.nbytes()
        return tensor


def batch_of(crop: int, pairs: int) -> dict[str, list[dict]]:
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
