"""Rows of ``speed.py`` that have no counterpart: text embeddings, a training iteration, sliding windows."""

import contextlib
import resource
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn

from hiervl.data.loading.loaders import build_semi_supervised_loader
from hiervl.engine.loop import AMP_TYPES
from hiervl.engine.run_config import load_config, prepare_config
from hiervl.engine.solver import build_optimizer
from hiervl.evaluation import SlidingWindowSegmenter
from hiervl.modeling import build_network
from hiervl.modeling.clip import load_clip
from hiervl.modeling.text_encoder import PromptedTextEncoder
from hiervl.semi_supervised.step import SemiSupervisedStep

from .matrix_peak import matrix_peak, operations
from .timing import Measurement, interleaved, synchronize

QUICKSTART = str(Path(__file__).resolve().parents[1] / "configs" / "quickstart.yaml")


def text(device: torch.device, args) -> list[Measurement]:
    """Embeddings of the classes by the text encoder of ViT-B/16: in training with gradients, in evaluation kept.

    The other candidate of the training lines encodes whole sequences of 77 tokens, the fixed prompts each time. On a
    CPU the encoder has 2 of its 12 blocks, and more than 21 classes are only measured in evaluation. The first call
    there is no median.
    """
    clip, tokens = load_clip("ViT-B-16-quickgelu", "")
    del clip.visual
    cut = ""
    if device.type == "cpu":
        clip.transformer.resblocks = clip.transformer.resblocks[:2]
        cut = "2 of 12 blocks"
    found = []
    for classes in (21, 81, 150, 1000):
        names = [[f"thing {index}"] for index in range(classes)]
        encoder = PromptedTextEncoder(clip, tokens, names).to(device)
        whole = PromptedTextEncoder(clip, tokens, names).to(device)
        _fill_up(whole)
        if classes <= 21 or device.type == "cuda":
            candidates = {"ours": _text_step(encoder), "77 tokens": _text_step(whole, keeps_fixed=False)}
            seconds = interleaved(candidates, device, args.repeats, warmup=1)
            found.append(Measurement(f"text, {classes} classes, training", seconds, "77 tokens", cut))
        encoder.eval()
        begin = time.perf_counter()
        encoder()
        synchronize(device)
        note = f"{cut} the first call: {time.perf_counter() - begin:.2f} s".strip()
        seconds = interleaved({"ours": lambda _, encoder=encoder: encoder()}, device, args.repeats)
        found.append(Measurement(f"text, {classes} classes, evaluation", seconds, None, note))
    return found


def _text_step(encoder: PromptedTextEncoder, keeps_fixed: bool = True) -> Callable[[int], None]:
    def call(index: int) -> None:
        if not keeps_fixed:
            encoder._fixed_cache = None
        encoder.train()().text_embeddings.square().sum().backward()

    return call


def _fill_up(encoder: PromptedTextEncoder) -> None:
    """Sequences of CLIP's full length, as its own ``encode_text`` takes them."""
    for name in ("prompted_ids", "fixed_ids"):
        ids = getattr(encoder, name)
        setattr(encoder, name, nn.functional.pad(ids, (0, encoder.tower.context_length - ids.shape[1])))


def iteration(device: torch.device, args) -> list[Measurement]:
    """One training iteration of a config, how its time divides into parts, and the share of the device's matrix peak
    that it reaches, in the number type that the config computes in."""
    overrides = ["MODEL.DEVICE", device.type, "OUTPUT_DIR", "output/speed"]
    cfg = prepare_config(load_config(args.config or QUICKSTART, overrides))
    student = build_network(cfg)
    step = SemiSupervisedStep.from_config(cfg, student).to(device).train()
    optimizer = build_optimizer(cfg, student)
    batches = iter(build_semi_supervised_loader(cfg))
    clock = _Parts(device)
    clock.measure(step.teacher.network, "semantic_maps", "teacher")
    clock.measure(student, "segment", "student, forward")
    clock.measure(student, "encode_text", "text")
    clock.measure(student.criterion, "forward", "matching and losses")
    if step.frozen_clip is not None:
        clock.measure(step.frozen_clip, "embed", "frozen CLIP")
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    dtype = AMP_TYPES[cfg.SOLVER.AMP.DTYPE] if cfg.SOLVER.AMP.ENABLED else torch.float32

    def gradients(batch: dict) -> None:
        parts = step.parts(batch)
        while True:
            with torch.autocast(device.type, dtype=dtype, enabled=cfg.SOLVER.AMP.ENABLED):
                losses = next(parts, None)
            if losses is None:
                break
            with clock.part("backward"):
                sum(losses.values()).backward()

    for index in range(2 + args.repeats):
        clock.start(keep=index >= 2)
        with clock.part("data"):
            batch = next(batches)
        gradients(batch)
        with clock.part("optimiser"):
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        with clock.part("moving average"):
            step.update_teacher()
        step.iteration += 1
        clock.stop()
    total = clock.median("whole")
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 1024 * peak_of_process()
    images = sum(len(items) for items in batch.values())
    note = f"{images / total:.1f} images/s, peak {peak / 2**20:.0f} MiB, {Path(args.config or QUICKSTART).name}"
    rate = operations(lambda: gradients(batch)) / total
    possible = matrix_peak(device, dtype, args.repeats)
    type_name = str(dtype).removeprefix("torch.")
    note += f", {100 * rate / possible:.0f} % of {possible / 1e9:.0f} GFLOP/s (matrix product, {type_name})"
    found = [Measurement("iteration", {"ours": total}, None, note)]
    for name in clock.names():
        seconds = clock.median(name)
        found.append(Measurement(f"iteration: {name}", {"ours": seconds}, None, f"{100 * seconds / total:.0f} %"))
    return found


class _Parts:
    """Seconds of named parts, round by round; what no part covers is "the rest"."""

    def __init__(self, device: torch.device):
        self.device = device
        self.rounds: list[dict[str, float]] = []

    def measure(self, owner: nn.Module, method: str, name: str) -> None:
        """Count every call of the method."""
        original = getattr(owner, method)

        def timed(*args, **kwargs):
            with self.part(name):
                return original(*args, **kwargs)

        setattr(owner, method, timed)

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        if self.inside:  # a part of another part, which counts as a whole
            yield
            return
        self.inside = True
        synchronize(self.device)
        begin = time.perf_counter()
        yield
        synchronize(self.device)
        self.now[name] += time.perf_counter() - begin
        self.inside = False

    def start(self, keep: bool) -> None:
        self.now, self.keep, self.inside = defaultdict(float), keep, False
        self.begin = time.perf_counter()

    def stop(self) -> None:
        synchronize(self.device)
        self.now["whole"] = time.perf_counter() - self.begin
        self.now["the rest"] = self.now["whole"] - sum(s for name, s in self.now.items() if name != "whole")
        if self.keep:
            self.rounds.append(dict(self.now))

    def names(self) -> list[str]:
        return [name for name in self.rounds[-1] if name != "whole"]

    def median(self, name: str) -> float:
        return statistics.median(part[name] for part in self.rounds)


def sliding_window(device: torch.device, args) -> list[Measurement]:
    """Evaluation of images of several sizes by the quickstart's network, each size in a process of its own for its
    peak; the median of 3 images. Windows are of 512² on a GPU, of 64² on a CPU."""
    sides = (512, 1024, 2048, 4096) if device.type == "cuda" else (128, 256, 512)
    window = sides[0] // (2 if device.type == "cpu" else 1)
    cases = [(side, 19) for side in sides] + [(sides[0], 150), (sides[0], 1000)]
    return [_in_own_process(side, classes, window, device, images=3) for side, classes in cases]


def large_image(device: torch.device, args) -> list[Measurement]:
    """One image of --side² and 1,000 classes, windows of 512² side by side (overlap costs time, no memory), by a CLIP
    ViT-S/16 of random weights under the quickstart's decoder."""
    return [_in_own_process(args.side, 1000, 512, device, images=1, clip="ViT-S-16", overlap=0.0)]


def _in_own_process(
    side: int, classes: int, window: int, device: torch.device, images: int, clip: str = "", overlap: float = 0.5
) -> Measurement:
    call = f"_segment({side}, {classes}, {window}, '{device.type}', {images}, '{clip}', {overlap})"
    code = f"import hiervl; from benchmarks.speed_network import _segment; {call}"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).resolve().parents[1])
    if result.returncode:
        raise RuntimeError(result.stderr[-2000:])
    seconds, before, first, last = (float(word) for word in result.stdout.split()[-4:])
    note = f"{1 / seconds:.3g} images/s; peak {first:.0f} MiB, of which {before:.0f} before the first image"
    if images > 1:
        note += f", {last:.0f} after {images} images"
    return Measurement(f"sliding window, {side}², {classes} classes", {"ours": seconds}, None, note)


def _segment(side: int, classes: int, window: int, device_type: str, images: int, clip: str, overlap: float) -> None:
    """Prints the median seconds of an image, and the peak memory in MiB before, after the first and after all."""
    device = torch.device(device_type)
    torch.manual_seed(0)
    other_clip = ["MODEL.CLIP.NAME", clip, "MODEL.CLIP.PRETRAINED", "", "MODEL.CLIP.BLOCKS", "(3, 5, 7, 11)"]
    cfg = load_config(QUICKSTART, ["MODEL.DEVICE", device_type, *(other_clip if clip else [])])
    cfg.MODEL.CLASS_NAMES = [f"thing {index}" for index in range(classes)]
    network = build_network(cfg).to(device).eval()
    segmenter = SlidingWindowSegmenter(network, window, overlap, window_batch=4)

    def peak() -> float:
        if device.type == "cuda":
            return torch.cuda.max_memory_allocated() / 2**20
        return peak_of_process() / 1024

    with torch.no_grad():
        network.encode_text()
    peaks, times = [peak()], []
    for _ in range(images):
        image = torch.randint(0, 256, (3, side, side), dtype=torch.uint8)
        synchronize(device)
        start = time.perf_counter()
        segmenter([{"image": image}])
        synchronize(device)
        times.append(time.perf_counter() - start)
        peaks.append(peak())
    print(statistics.median(times), peaks[0], peaks[1], peaks[-1])


def peak_of_process() -> int:
    """KiB of memory that this process has held at most."""
    status = Path("/proc/self/status")
    if status.exists():  # the figure of ``resource`` begins with the memory of the process that started this one
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
