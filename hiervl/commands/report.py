"""``python -m hiervl report RUN``: one HTML page about a run, which opens without a server."""

from pathlib import Path

from hiervl.visualization.report import write_report

HELP = "write one HTML page about a run: curves, classes, confusions, pictures, settings"


def add_arguments(parser) -> None:
    parser.add_argument("run", metavar="RUN", help="folder of a run (OUTPUT_DIR)")
    parser.add_argument("--compare", metavar="RUN", help="the supervised-only run (one beside it of the same config)")
    parser.add_argument("--output", help="the page (report.html in the run's folder)")


def run(args) -> int:
    """Write the page from the run's files. Nothing is computed again."""
    print(write_report(args.run, compare=args.compare, output=args.output and Path(args.output)))
    return 0
