"""``python -m hiervl serve``: a local page on which to drop an image and edit the classes."""

import sys
from pathlib import Path

from hiervl.data.classes.definitions import read_classes
from hiervl.inference.predictor import HierVLPredictor
from hiervl.inference.restore import find_checkpoint
from hiervl.serving.segmenter import UploadLimits
from hiervl.utils.errors import UserError

HELP = "try a trained network on a local page: drop an image, edit the classes"

MEBI, MEGA = 2**20, 10**6


def add_arguments(parser) -> None:
    parser.add_argument("--weights", required=True, metavar="RUN_OR_FILE", help="a checkpoint, or the folder of a run")
    parser.add_argument("--classes", help="class file that the table starts with (the classes of the training)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; others than this machine's are open")
    parser.add_argument("--port", type=int, default=7860, help="port to listen on; 0: any free one")
    parser.add_argument("--max-upload", type=float, default=20, metavar="MIB", help="largest file of an image, in MiB")
    parser.add_argument("--max-pixels", type=float, default=25, metavar="MEGAPIXELS", help="most pixels of an image")
    parser.add_argument("--device", default="", help="such as cpu or cuda:1 (a CUDA device where there is one)")


def run(args) -> int:
    """Serve until interrupted."""
    for option, value in (("--max-upload", args.max_upload), ("--max-pixels", args.max_pixels)):
        if not value > 0:
            raise UserError(f"{option} is a positive number, not {value:g}.")
    try:
        from hiervl.serving.server import serve
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("hiervl"):
            raise
        raise UserError(
            f"serve needs Gradio ({error.name} is not installed): `{sys.executable} -m pip install 'gradio>=6' "
            "'pillow<13'` installs it."
        ) from None
    predictor = HierVLPredictor.from_checkpoint(
        args.weights, classes=read_classes(args.classes) if args.classes else None, device=args.device
    )
    weights = Path(find_checkpoint(args.weights)).absolute()
    limits = UploadLimits(round(args.max_upload * MEBI), round(args.max_pixels * MEGA))
    serve(predictor, weights.parent.name, args.host, args.port, limits)
    return 0
