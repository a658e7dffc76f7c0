"""``python -m hiervl check-data CONFIG``: find and explain errors in a dataset before they cost GPU time."""

import math
from pathlib import Path

import numpy as np

from hiervl.data.checking.check import ERROR, UNLABELED, WARNING, Layout, Report, check
from hiervl.data.checking.registered_layout import RegisteredLayout
from hiervl.data.checking.statistics import Finding
from hiervl.data.classes.class_maps import IGNORED
from hiervl.data.classes.definitions import distinct_color
from hiervl.data.folders.pools import Sample
from hiervl.data.folders.stratified import stratified_order
from hiervl.engine.presets import apply_preset, format_choices
from hiervl.engine.run_config import find_layout, load_config, settle_device
from hiervl.utils.errors import UserError
from hiervl.utils.files import write_text
from hiervl.visualization.pictures import comparison_sheet, overlay

HELP = "look for errors in your images and masks before training"

BAR = 30  # characters of the histogram's longest bar
FILES_SHOWN = 5
READINGS_SHOWN = 4  # images on a sheet of readings


def add_arguments(parser) -> None:
    parser.add_argument("config", help="YAML of the training: configs/custom.yaml filled in, or any other")
    parser.add_argument("--images", type=int, default=8, help="images on the overlay sheet")
    parser.add_argument("opts", nargs="*", default=[], metavar="KEY VALUE", help="config values")


def run(args) -> int:
    """0: training can start; 1: there are errors."""
    cfg = load_config(args.config, args.opts)
    settle_device(cfg)
    layout = find_layout(cfg)
    choices: list | None = None
    try:
        choices = apply_preset(cfg, None if isinstance(layout, RegisteredLayout) else layout, show=False)
    except UserError:  # the check explains any such error better
        pass
    report = check(
        layout,
        cfg.INPUT.CROP_SIZE if choices is not None else None,
        cfg.INPUT.SHORT_SIDE,
        cfg.DATALOADER.MAX_DAMAGED,
        transfers_colors=cfg.SEMI.COLOR_TRANSFER > 0,
    )
    folder = Path(cfg.OUTPUT_DIR) / "check_data"
    text = (format_names(layout) if isinstance(layout, RegisteredLayout) else "") + format_report(report)
    if choices:
        text += f"\n{format_choices(choices)}\n"
    sheet = draw_sheet(layout, report, folder / "overlays.png", args.images)
    if sheet is not None:
        text += f"\nOverlays of masks on images, please look at them: {sheet}\n"
    for path in draw_readings(layout, report, folder):
        text += f"\nPossible readings of the masks beside the images, please compare them: {path}\n"
    text += f"\n{verdict(report)}"
    print(text)
    _write(folder / "report.txt", text + "\n")
    return 0 if report.is_sound else 1


def verdict(report: Report) -> str:
    """The last line."""
    errors = sum(finding.level == ERROR for finding in report.findings)
    warnings = sum(finding.level == WARNING for finding in report.findings)
    if errors:
        return f"Verdict: not ready. {errors} error(s) to fix, {warnings} warning(s)."
    if warnings:
        return f"Verdict: ready to train, with {warnings} warning(s): please read them."
    return "Verdict: ready to train."


def format_names(layout: RegisteredLayout) -> str:
    """The names of the registered datasets of the splits."""
    lines = [f"  {split:<12}{', '.join(names)}" for split, names in layout.names.items() if names]
    return "\n".join(["Datasets", *lines, "", ""])


def format_report(report: Report) -> str:
    """Counts and sizes, histogram, findings."""
    return "\n".join([*_counts(report), "", *_histogram(report), "", *_findings(report), ""])


def _counts(report: Report) -> list[str]:
    lines = ["Images"]
    for split in ("labelled", "train", "val", "test", UNLABELED):
        paths = report.splits.get(split, [])
        sizes = np.array([report.images[path].size for path in paths if path in report.images])
        if not len(sizes):
            if paths or split in ("train", UNLABELED):
                follows = "  (training is supervised only)" if split == UNLABELED and not paths else ""
                lines.append(f"  {split:<12}{len(paths):>6}{follows}")
            continue
        (low_h, low_w), (high_h, high_w) = sizes.min(axis=0), sizes.max(axis=0)
        size = f"{low_w}×{low_h}" + ("" if (low_h, low_w) == (high_h, high_w) else f" to {high_w}×{high_h}")
        lines.append(f"  {split:<12}{len(paths):>6}  {size}")
    return lines


def _histogram(report: Report) -> list[str]:
    """Share of the labelled pixels and number of images of every class."""
    total = sum(report.pixels.values(), np.zeros(len(report.class_names), dtype=np.int64))
    share = total / max(total.sum(), 1)
    splits = [split for split in ("labelled", "train", "val", "test") if report.splits.get(split)]
    shown = {split: report.presence(split).sum(axis=0) for split in splits}
    width = max(5, *(len(name) for name in report.class_names))
    lines = [f"{'Class':<{width + 2}}{'pixels':>8}" + "".join(f"{split:>10}" for split in splits) + "  (images)"]
    for label, name in enumerate(report.class_names):
        bar = "█" * math.ceil(BAR * total[label] / max(total.max(), 1))
        counts = "".join(f"{shown[split][label]:>10}" for split in splits)
        lines.append(f"  {name:<{width}}{share[label]:>8.2%}{counts}  {bar}".rstrip())
    return lines


def _findings(report: Report) -> list[str]:
    lines = []
    for finding in report.findings:
        lines.append(f"{finding.level}: {finding.sentence}")
        lines.extend(f"    {name}" for name in finding.files[:FILES_SHOWN])
        if len(finding.files) > FILES_SHOWN:
            lines.append(f"    … and {len(finding.files) - FILES_SHOWN} more")
    return lines or ["No problems were found."]


def draw_sheet(layout: Layout, report: Report, path: Path, count: int) -> Path | None:
    """Draw image, overlay and mask for some images that together show all classes; None if no image can be read."""
    samples = [
        sample for sample in layout.labeled.samples.values()
        if str(sample.image) in report.images and str(sample.image) in report.pixels
    ]  # fmt: skip
    if not samples or count < 1:
        return None
    presence = np.array([report.pixels[str(sample.image)] > 0 for sample in samples])
    rows = []
    order = stratified_order(presence)
    doubtful = [index for index in order if str(samples[index].image) in report.doubtful][: max(1, count // 2)]
    for index in dict.fromkeys([*doubtful, *order]):  # first those that people should look at
        row = _sheet_row(layout, samples[index])
        rows += [row] if row else []
        if len(rows) == count:
            break
    if not rows:
        return None
    classes = layout.class_map.classes
    comparison_sheet(rows, layout.class_map.class_names, [definition.color for definition in classes], str(path))
    return path


def draw_readings(layout: Layout, report: Report, folder: Path) -> list[Path]:
    """A sheet for every finding with several possible readings of the masks: the image, and the mask in each
    reading."""
    drawn: list[Path] = []
    for finding in report.findings:
        rows = _reading_rows(layout, finding) if finding.readings else []
        if rows:
            path = folder / ("readings.png" if not drawn else f"readings_{len(drawn) + 1}.png")
            names = _names_in(finding)
            comparison_sheet(
                rows, names, [_color_of(layout, name, label) for label, name in enumerate(names)], str(path)
            )
            drawn.append(path)
    return drawn


def _names_in(finding: Finding) -> list[str]:
    return list(dict.fromkeys(name for reading in finding.readings for name in reading.names.values()))


def _color_of(layout: Layout, name: str, label: int) -> tuple[int, int, int]:
    known = {definition.name: definition.color for definition in layout.class_map.classes}
    return known.get(name) or distinct_color(len(known) + label)


def _reading_rows(layout: Layout, finding: Finding) -> list:
    """Rows for masks with the problem, or for any masks if it concerns all together."""
    labels = {name: label for label, name in enumerate(_names_in(finding))}
    samples = [sample for sample in layout.labeled.samples.values()]
    shown = [sample for sample in samples if sample.masks.name(sample.key) in finding.files] or samples
    rows = []
    for sample in shown[:: max(1, len(shown) // READINGS_SHOWN)]:
        try:
            codes, image = sample.masks.raw(sample.key).codes, layout.read_image(sample.image)
        except UserError:  # named among the findings
            continue
        panels = [("image", image)]
        for number, reading in enumerate(finding.readings, start=1):
            label = np.full(codes.shape, IGNORED, dtype=np.int32)
            for value, name in reading.names.items():
                label[codes == value] = labels[name]
            panels.append((f"({number}) {reading.title}", label))
        rows.append((sample.image.name, panels))
    return rows[:READINGS_SHOWN]


def _sheet_row(layout: Layout, sample: Sample):
    try:
        image = layout.read_image(sample.image)
        label = layout.label(sample, image.shape[:2])
        colors = [definition.color for definition in layout.class_map.classes]
        panels = [("image", image), ("mask on it", overlay(image, label, colors)), ("mask", label)]
    except (UserError, ValueError):  # named among the findings
        return None
    return sample.image.name, panels


def _write(path: Path, text: str) -> None:
    try:
        write_text(path, text)
    except OSError as error:
        raise UserError(f"OUTPUT_DIR: {path} cannot be written ({error.strerror}).") from None
