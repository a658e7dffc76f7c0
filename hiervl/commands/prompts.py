"""``python -m hiervl prompts CONFIG``: what CLIP finds with your phrases, before any training."""

import math
from pathlib import Path

from hiervl.config.check import check_config
from hiervl.data.checking.registered_layout import RegisteredLayout
from hiervl.data.classes.class_maps import IGNORED
from hiervl.engine.presets import apply_preset
from hiervl.engine.run_config import find_layout, load_config, settle_clip, settle_device
from hiervl.inference.zero_shot import ClassPictures, ZeroShotClip, ZeroShotScores
from hiervl.modeling.encoders import check_clip
from hiervl.visualization.pictures import comparison_sheet

HELP = "score the phrases of your classes by what CLIP finds with them in the labelled images"

ROWS_PER_SHEET = 10
UNSEEN = 5.0  # IoU in percent; below it CLIP does not find a class
CLEARLY = 1.0  # percent of IoU


def add_arguments(parser) -> None:
    parser.add_argument("config", help="YAML of the training: configs/custom.yaml filled in, or any other")
    parser.add_argument("opts", nargs="*", default=[], metavar="KEY VALUE", help="config values")


def run(args) -> int:
    """Tables of IoU by class and phrase, and a picture per class, from the labelled images of training."""
    cfg = load_config(args.config, args.opts)
    settle_device(cfg)
    settle_clip(cfg)
    layout = find_layout(cfg)
    apply_preset(cfg, None if isinstance(layout, RegisteredLayout) else layout, show=False)
    check_config(cfg)
    check_clip(cfg.MODEL.CLIP.NAME)
    classes = layout.class_map.classes
    names, phrases = layout.class_map.class_names, [definition.phrases for definition in classes]
    clip = ZeroShotClip.from_config(cfg, phrases)
    scores, pictures = ZeroShotScores(names, phrases, IGNORED), ClassPictures(names)
    samples = layout.division["train"]
    for stem, sample in samples.items():
        image = layout.read_image(sample.image)
        truth = layout.label(sample, image.shape[:2])
        maps = clip(image)
        prediction = scores.add(maps, truth)
        pictures.add(stem, image, truth, prediction, maps)
    print(f"CLIP {cfg.MODEL.CLIP.NAME} without training, on the {len(samples)} labelled images of the training set:\n")
    print(format_scores(scores))
    colors = [definition.color for definition in classes]
    notes = [f"IoU {_percent(value)}" for value in scores.class_scores()["IoU"].values()]
    rows = pictures.rows(notes)
    for number, start in enumerate(range(0, len(rows), ROWS_PER_SHEET), start=1):
        path = Path(cfg.OUTPUT_DIR) / "prompts" / f"classes_{number}.png"
        comparison_sheet(rows[start : start + ROWS_PER_SHEET], names, colors, str(path))
        print(f"pictures: {path}")
    return 0


def format_scores(scores: ZeroShotScores) -> str:
    """A line per class: its IoU, and the IoU with each of its phrases alone, best first. Then advice."""
    class_scores = scores.class_scores()
    width = max(5, *(len(name) for name in scores.class_names))
    lines = [f"  {'class':<{width}}{'IoU':>7}   the class with one phrase alone"]
    unseen, better = [], []
    for (name, value), phrases in zip(class_scores["IoU"].items(), scores.phrase_scores()):
        ranked = sorted(phrases, key=lambda pair: math.inf if math.isnan(pair[1]) else -pair[1])
        listed = ", ".join(f"{phrase} {_percent(score)}" for phrase, score in ranked) if len(ranked) > 1 else ""
        lines.append(f"  {name:<{width}}{_percent(value):>7}   {listed}".rstrip())
        is_better = len(ranked) > 1 and ranked[0][1] > max(value + CLEARLY, UNSEEN)
        if value < UNSEEN and not is_better:
            unseen.append(name)
        if is_better:
            better.append(f"'{name}' scores {_percent(ranked[0][1])} with '{ranked[0][0]}' alone: drop other phrases.")
    lines.append(f"\n  mIoU {class_scores['mIoU']:.1f}\n")
    if unseen:
        lines.append(
            f"CLIP hardly finds {', '.join(unseen)}: describe what they look like, or name them otherwise; where no "
            "words help, the labelled masks must do."
        )
    return "\n".join([*lines, *better, ""])


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1f}"
