"""Speed of HierVL's parts beside ``transformers``' Mask2Former, in one table.

    python -m benchmarks.speed [ROW …] [--device cpu|cuda] [--repeats 10] [--threads N]

Rows: attention, decoder, decoder-training, losses, text, iteration, sliding-window, large-image, loading, start-up;
all by default. Candidates take turns on random inputs that change from round to round; figures are medians. Each row
is written to ``benchmarks/results/speed_{cpu|cuda}.json`` beside the rows measured before.
"""

import argparse

import torch

from .speed_data import loading, start_up
from .speed_network import iteration, large_image, sliding_window, text
from .speed_parts import attention, decoder, decoder_training, losses
from .timing import RESULTS, commit, print_table, record

ROWS = {
    "attention": attention,
    "decoder": decoder,
    "decoder-training": decoder_training,
    "losses": losses,
    "text": text,
    "iteration": iteration,
    "sliding-window": sliding_window,
    "large-image": large_image,
    "loading": loading,
    "start-up": start_up,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help="; ".join(ROWS))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=10, help="timed rounds; a median of fewer than 10 says little")
    parser.add_argument("--crop", type=int, default=512, help="side of the images in pixels")
    parser.add_argument("--batch", type=int, default=0, help="images; 0: 1 on a CPU, 8 on a GPU")
    parser.add_argument("--side", type=int, default=4096, help="side of the image of the row 'large-image'")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--config", default="", help="config of the row 'iteration' (default: the quickstart's)")
    args = parser.parse_args()
    unknown = [name for name in args.rows if name not in ROWS]
    if unknown:
        parser.error(f"no row '{unknown[0]}'; choose from {', '.join(ROWS)}")
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    measured = commit()  # files may change while it runs
    args.batch = args.batch or (8 if device.type == "cuda" else 1)
    for name in args.rows or ROWS:
        torch.manual_seed(0)
        measurements = ROWS[name](device, args)
        print(f"\n{name}")
        print_table(measurements)
        options = {"repeats": args.repeats, "crop": args.crop, "batch": args.batch, "side": args.side}
        record(RESULTS / f"speed_{device.type}.json", name, measurements, device, measured, options)


if __name__ == "__main__":
    main()
