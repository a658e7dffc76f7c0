"""The report's page: the data of a run as plain values for the templates in ``assets/report``.

The templates escape
all text. The page loads nothing from other places.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from hiervl.evaluation.semantic_evaluator import MEANS
from hiervl.visualization.run_data import RunData

ASSETS = Path(__file__).resolve().parent.parent / "assets" / "report"
LINE_COLORS = ("#1f6feb", "#d9730d", "#2da44e", "#bf3989", "#8250df", "#9a6700", "#0aa2c0", "#cf222e")
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 340, 190, 58, 20, 8  # of a chart, in units of its view box
MAX_CONFUSION = 40  # classes; a larger matrix is not drawn
MAX_CONFUSED = 12  # pairs that are listed
LEAST_KEPT = 0.01  # the report warns if a smaller share of the (foreground) pixels keeps its pseudo-label
LEAST_CONFIDENCE = 0.5  # a lower SEMI.CONFIDENCE does not help
RIGHT, WRONG = "46, 160, 67", "207, 34, 46"  # RGB in the confusion matrix
GROUPS = {"best": "Best", "worst": "Worst", "uncertain": "Most uncertain"}

UNLABELED_LOSSES = ("loss_strong1", "loss_strong2", "loss_clip_guidance", "loss_feature_perturbation", "loss_entropy")

Curves = dict[str, dict[int, float]]  # by name, by iteration


def page(run: RunData, other: RunData | None) -> str:
    """The whole page of a run. other: the supervised run that it is compared with."""
    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    several = len(run.scores()) > 1
    return environment.get_template("page.html").render(
        style=_own_text("style.css"),
        script=_own_text("script.js"),
        name=run.name,
        kind="semi-supervised" if run.setting("SEMI.ENABLED", True) else "supervised-only",
        datasets=run.setting("DATASETS.TRAIN") or [],
        scores=[
            {
                "dataset": dataset,
                "suffix": f" · {dataset}" if several else "",
                "facts": _facts(scores),
                "comparison": _comparison(scores, other, dataset),
                "classes": _classes(scores),
            }
            for dataset, scores in run.scores().items()
        ],
        charts=_charts(run, other),
        pseudo_labels=_pseudo_labels(run),
        evaluations=[
            {
                "suffix": f" · {evaluation['dataset']}" if several else "",
                "class_names": evaluation["class_names"],
                **_confusions(evaluation),
                **_images(evaluation),
            }
            for evaluation in run.evaluations
        ],
        versions=_versions(run),
        config=run.config,
    )


def _own_text(name: str) -> Markup:
    return Markup((ASSETS / name).read_text(encoding="utf-8"))  # HierVL's own file


# ---------------------------------------------------------------------------- head


def _facts(scores: dict[str, Any]) -> dict[str, str]:
    facts = {label: _percent(scores[label]) for label in MEANS if label in scores}
    return {**facts, "images": str(scores.get("images", "–"))}


def _comparison(scores: dict[str, Any], other: RunData | None, dataset: str) -> dict[str, Any] | None:
    """The gain from unlabelled images over the supervised run."""
    theirs = None if other is None else other.scores().get(dataset)
    if other is None or theirs is None or scores.get("mIoU") is None or theirs.get("mIoU") is None:
        return None
    gain = scores["mIoU"] - theirs["mIoU"]
    return {"gain": gain, "tone": "good" if gain > 0 else "bad", "run": other.name, "miou": theirs["mIoU"]}


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _versions(run: RunData) -> dict[str, str]:
    if not run.evaluations:
        return {}
    first = run.evaluations[0]
    return {**first.get("versions", {}), "device": first.get("device", "–")}


# ---------------------------------------------------------------------------- curves


class Line(NamedTuple):
    """A curve of a chart, or a dot if it has a single point."""

    color: str
    label: str
    points: list[tuple[str, str]]  # x and y in the view box


class Chart(NamedTuple):
    """Curves over the iterations, ready to be drawn as SVG, with the texts at the ends of the axes."""

    title: str
    lines: list[Line]
    low: str
    high: str
    first: int
    last: int
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    top: int = TOP
    base: int = HEIGHT - BOTTOM


def _charts(run: RunData, other: RunData | None) -> list[Chart]:
    quality = {name: points for name, points in run.curves.items() if re.search(r"sem_seg/(mIoU|mACC)$", name)}
    if other is not None:
        quality.update(
            {f"{name} ({other.name})": p for name, p in other.curves.items() if name.endswith("sem_seg/mIoU")}
        )
    losses = {n: p for n, p in run.curves.items() if n.startswith("loss_") and not re.search(r"_\d+$", n)}
    unlabeled = {name: points for name, points in losses.items() if name in UNLABELED_LOSSES}
    prompts = {name: points for name, points in losses.items() if name.startswith("loss_prompt")}
    labeled = {name: points for name, points in losses.items() if name not in {**unlabeled, **prompts}}
    charts = {
        "Quality on the test set, in percent": quality,
        "Sum of the losses": _named(run, "total_loss"),
        "Losses of labelled images": labeled,
        "Losses of unlabelled images": unlabeled,
        "Losses of the prompts": prompts,
        "Learning rate": _named(run, "lr"),
        "Length of the gradient": _named(run, "gradient_norm"),
    }
    return [_chart(title, curves) for title, curves in charts.items() if curves]


def _named(run: RunData, name: str) -> Curves:
    return {name: run.curves[name]} if name in run.curves else {}


def _how_to_keep_more(run: RunData) -> str:
    """The end of a sentence that says that hardly any pixels are kept: one remedy, which is not in force already."""
    most = run.setting("SOLVER.MAX_ITER", 0)
    done = max((max(points) for points in run.curves.values() if points), default=0) + 1
    if done < most / 2:
        return f", which may change: {done} of {most} iterations are done"
    threshold, confidence = run.setting("SEMI.THRESHOLD", "fixed"), run.setting("SEMI.CONFIDENCE", 1.0)
    if threshold == "fixed":
        return ": set SEMI.THRESHOLD to class"
    if threshold == "class" and confidence > LEAST_CONFIDENCE:  # "adaptive" does not read it
        return f": lower SEMI.CONFIDENCE ({confidence:g})"
    return ": label more images"


def _pseudo_labels(run: RunData) -> dict[str, Any] | None:
    curves = {name.split("/", 1)[1]: points for name, points in run.curves.items() if name.startswith("pseudo/")}
    if not curves:
        return None
    text = "Share of the unlabelled pixels that keep their pseudo-label: of all pixels, and by the teacher's class."
    kept, region = curves.get("kept_foreground"), "the foreground"
    if not kept:  # no class is background
        kept, region = curves.get("kept"), "all pixels"
    if kept:
        last = kept[max(kept)]
        text += f" At the end {100 * last:.1f} % of {region} are kept."
        if last < LEAST_KEPT:
            text += f" That is very little{_how_to_keep_more(run)}."
    return {"text": text, "chart": _chart("Kept pseudo-labels", curves)}


def _chart(title: str, curves: Curves) -> Chart:
    values = [value for points in curves.values() for value in points.values()]
    steps = [step for points in curves.values() for step in points]
    low, high = min(values), max(values)
    first, last = min(steps), max(steps)
    high = high if high > low else low + (abs(low) or 1.0)

    def place(step: int, value: float) -> tuple[str, str]:
        x = LEFT + (WIDTH - LEFT - 6) * (step - first) / max(1, last - first)
        y = TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)
        return f"{x:.1f}", f"{y:.1f}"

    lines = [
        Line(
            LINE_COLORS[index % len(LINE_COLORS)],
            f"{name} {points[max(points)]:.4g}",
            [place(step, points[step]) for step in sorted(points)],
        )
        for index, (name, points) in enumerate(sorted(curves.items()))
    ]
    return Chart(title, lines, f"{low:.3g}", f"{high:.3g}", first + 1, last + 1)


# ---------------------------------------------------------------------------- classes


def _classes(scores: dict[str, Any]) -> dict[str, Any]:
    """The heads and rows of the table. Classes without a score come last."""
    others = [kind for kind in ("F1", "precision", "recall") if kind in scores]
    rows = [
        {
            "name": name,
            **_score_cell(value),
            "width": f"{max(0.0, value or 0.0):.1f}",
            "others": [_score_cell(scores[kind].get(name)) for kind in others],
        }
        for name, value in scores.get("IoU", {}).items()
    ]
    return {"others": ["Dice / F1" if kind == "F1" else kind for kind in others], "rows": rows}


def _score_cell(value: float | None) -> dict[str, Any]:
    return {"shown": _percent(value), "order": -1 if value is None else value}


def _confusions(evaluation: dict[str, Any]) -> dict[str, Any]:
    names, matrix = evaluation["class_names"], evaluation["confusion"]
    totals = [sum(row) for row in matrix]
    shares = [[count / total if total else 0.0 for count in row] for row, total in zip(matrix, totals)]
    pairs = sorted(
        ((shares[t][p], t, p) for t in range(len(names)) for p in range(len(names)) if t != p and shares[t][p] > 0),
        reverse=True,
    )[:MAX_CONFUSED]
    listed = [{"share": f"{100 * s:.1f}", "truth": names[t], "prediction": names[p]} for s, t, p in pairs]
    cells = [(names[t], [_cell(share, t == p) for p, share in enumerate(row)]) for t, row in enumerate(shares)]
    return {"pairs": listed, "matrix": cells if len(names) <= MAX_CONFUSION else []}


def _cell(share: float, is_right: bool) -> dict[str, str]:
    return {
        "color": f"rgba({RIGHT if is_right else WRONG},{0.75 * share**0.5:.2f})",
        "shown": f"{100 * share:.0f}" if share >= 0.005 else "",
    }


# ---------------------------------------------------------------------------- images


def _images(evaluation: dict[str, Any]) -> dict[str, Any]:
    legend = [
        {"color": f"rgb({','.join(map(str, color))})", "name": name}
        for name, color in zip(evaluation["class_names"], evaluation["colours"])
    ]
    shown = {title: evaluation["groups"][group] for group, title in GROUPS.items() if evaluation["groups"].get(group)}
    if len({frozenset(entry["file"] for entry in entries) for entries in shown.values()}) == 1 < len(shown):
        shown = {"All, worst first": evaluation["groups"]["worst"]}  # so few that every group holds the same ones
    groups = [{"title": title, "entries": [_entry(entry) for entry in entries]} for title, entries in shown.items()]
    return {"legend": legend, "groups": groups}


def _entry(entry: dict[str, Any]) -> dict[str, Any]:
    return {
        "pictures": entry["pictures"],
        "name": Path(entry["file"]).name,
        "miou": f"{entry['mIoU']:.1f}",
        "confidence": f"{entry['confidence']:.1f}",
    }
