"""``python -m hiervl export``: a trained network as one file that runs without HierVL."""

from pathlib import Path

from hiervl.data.classes.definitions import read_classes
from hiervl.inference.export import FORMATS, export_network
from hiervl.inference.restore import describe_classes, restore_network

HELP = "write a trained network as ONNX, TorchScript or torch.export, and compare it with the original"


def add_arguments(parser) -> None:
    parser.add_argument("--weights", required=True, metavar="RUN_OR_FILE", help="a checkpoint, or the folder of a run")
    parser.add_argument("--format", required=True, choices=sorted(FORMATS), help="what is written")
    suffixes = ", ".join(f"{name}: {form.suffix}" for name, form in sorted(FORMATS.items()))
    parser.add_argument("--output", required=True, metavar="FILE", help=f"the file ({suffixes})")
    parser.add_argument("--classes", help="class file of other classes than those of the training")
    parser.add_argument("--network", choices=("teacher", "student"), default="", help="which of the two (as evaluated)")
    parser.add_argument(
        "--tolerance", type=float, default=1e-3, help="largest difference of the scores from the original's"
    )


def run(args) -> int:
    """Export on the CPU and print the comparison. A file that differs too much is an error and is not kept."""
    restored = restore_network(args.weights, args.network, "cpu")
    classes = restored.classes
    if args.classes:
        classes = read_classes(args.classes)
        describe_classes(restored.network, classes)
    exported = export_network(
        restored.network, classes, args.format, Path(args.output), cfg=restored.cfg, tolerance=args.tolerance
    )
    print("\n".join(exported.lines()))
    return 0
