"""Speed of exported networks beside the network itself, on the CPU.

    python -m benchmarks.export [--weights RUN_OR_FILE] [--side 512] [--batch 1] [--repeats 10] [--threads 1]

Candidates take turns on random images that change from round to round; figures are medians. Without ``--weights`` it is
the default network (CLIP ViT-B/16, 21 classes) with random weights. Each measurement is written to
``benchmarks/results/export_cpu.json`` beside those measured before.
"""

import argparse
import importlib.metadata
import tempfile
from pathlib import Path

import torch

from hiervl.config.defaults import get_hiervl_cfg
from hiervl.inference.export import FORMATS, FixedClassSegmenter, export_graph
from hiervl.inference.export.formats import read_onnx
from hiervl.inference.export.parity import Run, random_images
from hiervl.inference.restore import restore_network
from hiervl.modeling import HierVL, build_network

from .timing import RESULTS, Measurement, commit, interleaved, record

CLASSES = 21
INPUTS = 4  # batches that the rounds go through


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="", help="a checkpoint, or the folder of a run")
    parser.add_argument("--name", default="", help="what the measurement is called (the side and the weights)")
    parser.add_argument("--side", type=int, default=512, help="of the square images, in pixels")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    measured = commit()  # files may change while it runs
    network = restore_network(args.weights, "", "cpu").network if args.weights else untrained()
    generator = torch.Generator().manual_seed(0)
    images = [random_images((args.batch, args.side, args.side), generator) for _ in range(INPUTS)]
    runs: dict[str, Run] = {"eager": network.semantic_maps}
    with tempfile.TemporaryDirectory() as folder:
        runs.update(exported(network, Path(folder), args.threads))
        seconds = interleaved(
            {name: lambda index, run=run: run(images[index % INPUTS]) for name, run in runs.items()},
            torch.device("cpu"),
            args.repeats,
        )
    rows, of = rows_of(network, images[0])
    note = f"text queries: {rows} eager, {of} exported"
    name = args.name or f"{Path(args.weights).name or 'ViT-B/16'} at {args.side}²"
    print(f"{name}, batch {args.batch}, {args.threads} thread(s); {note}")
    for candidate, median in seconds.items():
        print(f"  {candidate:14}{1e3 * median:10.1f} ms{seconds['eager'] / median:8.2f} × eager")
    options = {
        "side": args.side,
        "batch": args.batch,
        "repeats": args.repeats,
        "onnxruntime": importlib.metadata.version("onnxruntime"),
    }
    measurement = Measurement("one forward pass", seconds, compare=None, note=note)
    record(RESULTS / "export_cpu.json", name, [measurement], torch.device("cpu"), measured, options)


def untrained() -> HierVL:
    """The default network with random weights, its gate where random images' similarities lie."""
    cfg = get_hiervl_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.CLIP.PRETRAINED = ""
    cfg.MODEL.CLASS_NAMES = ["background", *(f"class {number}" for number in range(1, CLASSES))]
    network = build_network(cfg).eval()
    images = random_images((4, 224, 224), torch.Generator().manual_seed(1))
    batch = network.normalize(list(images))
    network.gate.fit_gate(network.relevance_similarity(batch, network.encode_text()))
    return network


def exported(network: HierVL, folder: Path, threads: int) -> dict[str, Run]:
    """Every format's file, ready to run."""
    program = export_graph(FixedClassSegmenter(network))
    runs: dict[str, Run] = {}
    for name, form in FORMATS.items():
        path = folder / f"network{form.suffix}"
        form.write(program, path, {})
        runs[name] = read_onnx(path, threads) if name == "onnx" else form.read(path)
    return runs


def rows_of(network: HierVL, images: torch.Tensor) -> tuple[int, int]:
    """Text queries of the network itself, which follow the image, and of the exported one."""
    with torch.no_grad():
        queries = network.segment(network.normalize(list(images)), network.encode_text()).text_queries
    return queries.queries.shape[1], network.query_generator.num_levels * len(network.class_names)


if __name__ == "__main__":
    main()
