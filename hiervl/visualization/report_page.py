"""The parts of the report's page. All text from outside is escaped; nothing is loaded from anywhere."""

import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from hiervl.visualization.run_data import RunData

ASSETS = Path(__file__).resolve().parent.parent / "assets" / "report"
LINE_COLOURS = ("#1f6feb", "#d9730d", "#2da44e", "#bf3989", "#8250df", "#9a6700", "#0aa2c0", "#cf222e")
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 340, 190, 58, 20, 8  # of a chart, in units of its view box
MAX_CONFUSION = 40  # classes; a larger matrix is not drawn
START = "prediction"  # the caption that a viewer shows first
MAX_CONFUSED = 12  # pairs that are listed
LEAST_KEPT = 0.01  # share of the (foreground) pixels with a pseudo-label below which the report warns

OF_UNLABELLED = ("loss_strong1", "loss_strong2", "loss_clip_guidance", "loss_feature_perturbation", "loss_entropy")


def page(run: RunData, other: RunData | None) -> str:
    """The whole page."""
    sections = [
        _head(run, other),
        _section("Curves", _curves(run, other)),
        _section("Pseudo-labels", _pseudo_labels(run)),
        *[_section(f"Classes{_of(run, name)}", _classes(scores)) for name, scores in run.scores().items()],
        *[_section(f"Confusions{_of(run, e['dataset'])}", _confusions(e)) for e in run.evaluations],
        *[_section(f"Images{_of(run, e['dataset'])}", _images(e)) for e in run.evaluations],
        _section("Settings", _settings(run)),
    ]
    body = "\n".join(section for section in sections if section)
    style = (ASSETS / "style.css").read_text(encoding="utf-8")
    script = (ASSETS / "script.js").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<title>{escape(run.name)} · HierVL</title>\n'
        f"<style>\n{style}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n<script>\n{script}</script>\n</body>\n</html>\n"
    )


def _section(title: str, content: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n{content}\n</section>" if content else ""


def _of(run: RunData, dataset: str) -> str:
    return f" · {dataset}" if len(run.scores()) > 1 else ""


# ---------------------------------------------------------------------------- head


def _head(run: RunData, other: RunData | None) -> str:
    datasets = run.setting("DATASETS.TRAIN") or []
    kind = "semi-supervised" if run.setting("SEMI.ENABLED", True) else "supervised-only"
    parts = [f"<h1>{escape(run.name)}</h1>", f'<p class="pale">{kind}, trained on {escape(", ".join(datasets))}</p>']
    for name, scores in run.scores().items():
        facts = [_fact(label, _percent(scores.get(label))) for label in ("mIoU", "fwIoU", "mACC", "pACC")]
        facts.append(_fact("images", str(scores.get("images", "–"))))
        parts.append(f'<p class="pale">{escape(name)}</p><div class="facts">{"".join(facts)}</div>')
        parts.append(_comparison(scores, other, name))
    if not run.scores():
        parts.append("<p>Not evaluated yet.</p>")
    return "\n".join(part for part in parts if part)


def _comparison(scores: dict[str, Any], other: RunData | None, dataset: str) -> str:
    """What unlabelled images have gained over the supervised-only run."""
    theirs = None if other is None else other.scores().get(dataset)
    if theirs is None or scores.get("mIoU") is None or theirs.get("mIoU") is None:
        return ""
    gain = scores["mIoU"] - theirs["mIoU"]
    tone = "good" if gain > 0 else "bad"
    return (
        f'<p id="comparison">Unlabelled images gained <b class="{tone}">{gain:+.2f}</b> mIoU over the supervised-only '
        f"run {escape(other.name)} ({theirs['mIoU']:.2f}).</p>"
    )


def _fact(label: str, value: str) -> str:
    return f'<div class="fact"><b>{escape(value)}</b><span class="pale">{escape(label)}</span></div>'


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


# ---------------------------------------------------------------------------- curves


def _curves(run: RunData, other: RunData | None) -> str:
    quality = {name: points for name, points in run.curves.items() if re.search(r"sem_seg/(mIoU|mACC)$", name)}
    if other is not None:
        quality.update(
            {f"{name} ({other.name})": p for name, p in other.curves.items() if name.endswith("sem_seg/mIoU")}
        )
    losses = {n: p for n, p in run.curves.items() if n.startswith("loss_") and not re.search(r"_\d+$", n)}
    unlabelled = {name: points for name, points in losses.items() if name in OF_UNLABELLED}
    prompts = {name: points for name, points in losses.items() if name.startswith("loss_prompt")}
    labelled = {name: points for name, points in losses.items() if name not in {**unlabelled, **prompts}}
    charts = {
        "Quality on the test set, in percent": quality,
        "Sum of the losses": _named(run, "total_loss"),
        "Losses of labelled images": labelled,
        "Losses of unlabelled images": unlabelled,
        "Losses of the prompts": prompts,
        "Learning rate": _named(run, "lr"),
        "Length of the gradient": _named(run, "gradient_norm"),
    }
    drawn = [_chart(title, lines) for title, lines in charts.items() if lines]
    return f'<div class="grid">{"".join(drawn)}</div>' if drawn else ""


def _named(run: RunData, name: str) -> dict[str, dict[int, float]]:
    return {name: run.curves[name]} if name in run.curves else {}


def _pseudo_labels(run: RunData) -> str:
    lines = {name.split("/", 1)[1]: points for name, points in run.curves.items() if name.startswith("pseudo/")}
    if not lines:
        return ""
    text = "Share of the unlabelled pixels that keep their pseudo-label, in all and by what the teacher takes them for."
    kept, of_what = lines.get("kept_foreground"), "the foreground"
    if not kept:  # no class is background
        kept, of_what = lines.get("kept"), "all pixels"
    if kept:
        last = kept[max(kept)]
        text += f" At the end {100 * last:.1f} % of {of_what} are kept."
        if last < LEAST_KEPT:
            text += " That is next to nothing: lower SEMI.CONFIDENCE, or set SEMI.THRESHOLD to class."
    return f'<p>{escape(text)}</p><div class="grid">{_chart("Kept pseudo-labels", lines)}</div>'


def _chart(title: str, lines: dict[str, dict[int, float]]) -> str:
    """Curves over the iterations as SVG."""
    values = [value for points in lines.values() for value in points.values()]
    steps = [step for points in lines.values() for step in points]
    low, high = min(values), max(values)
    first, last = min(steps), max(steps)
    high = high if high > low else low + (abs(low) or 1.0)

    def place(step: int, value: float) -> str:
        x = LEFT + (WIDTH - LEFT - 6) * (step - first) / max(1, last - first)
        y = TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)
        return f"{x:.1f},{y:.1f}"

    parts, keys = [], []
    for index, (name, points) in enumerate(sorted(lines.items())):
        colour = LINE_COLOURS[index % len(LINE_COLOURS)]
        path = [place(step, points[step]) for step in sorted(points)]
        if len(path) == 1:
            x, y = path[0].split(",")
            parts.append(f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>')
        else:
            parts.append(f'<polyline points="{" ".join(path)}" stroke="{colour}"/>')
        latest = points[max(points)]
        keys.append(_key(colour, f"{name} {latest:.4g}"))
    base = HEIGHT - BOTTOM
    return (
        f'<figure><h3>{escape(title)}</h3><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f'<line class="axis" x1="{LEFT}" y1="{base}" x2="{WIDTH}" y2="{base}"/>'
        f'<line class="axis" x1="{LEFT}" y1="{TOP}" x2="{LEFT}" y2="{base}"/>'
        f'<text x="{LEFT - 4}" y="{TOP + 8}" text-anchor="end">{high:.3g}</text>'
        f'<text x="{LEFT - 4}" y="{base}" text-anchor="end">{low:.3g}</text>'
        f'<text x="{LEFT}" y="{HEIGHT - 5}">{first + 1}</text>'
        f'<text x="{WIDTH - 2}" y="{HEIGHT - 5}" text-anchor="end">iteration {last + 1}</text>'
        f"{''.join(parts)}</svg><figcaption>{' '.join(keys)}</figcaption></figure>"
    )


# ---------------------------------------------------------------------------- classes


def _classes(scores: dict[str, Any]) -> str:
    """IoU of every class as a table that can be sorted, with bars."""
    rows = []
    for number, (name, value) in enumerate(scores.get("IoU", {}).items()):
        known = value is not None
        rows.append(
            f'<tr><td>{escape(name)}</td><td data-value="{number}">{number}</td>'
            f'<td data-value="{value if known else -1}">{_percent(value)}</td>'
            f'<td class="bar" data-value="{value if known else -1}">'
            f'<i style="width:{max(0.0, value) if known else 0:.1f}%"></i></td></tr>'
        )
    heads = "".join(f"<th><button>{head}</button></th>" for head in ("class", "label", "IoU"))
    return (
        f'<div class="scroll"><table class="classes sortable"><thead><tr>{heads}<th></th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _confusions(evaluation: dict[str, Any]) -> str:
    """The matrix, as shares of every true class, and the largest confusions in words."""
    names, matrix = evaluation["class_names"], evaluation["confusion"]
    totals = [sum(row) for row in matrix]
    shares = [[count / total if total else 0.0 for count in row] for row, total in zip(matrix, totals)]
    pairs = sorted(
        ((shares[t][p], t, p) for t in range(len(names)) for p in range(len(names)) if t != p and shares[t][p] > 0),
        reverse=True,
    )[:MAX_CONFUSED]
    listed = "".join(
        f"<li>{100 * share:.1f} % of <b>{escape(names[t])}</b> is taken for <b>{escape(names[p])}</b></li>"
        for share, t, p in pairs
    )
    text = f"<ul>{listed}</ul>" if listed else "<p>None.</p>"
    if len(names) > MAX_CONFUSION:
        return text
    heads = "".join(f"<th>{escape(name)}</th>" for name in names)
    rows = "".join(
        f"<tr><th>{escape(names[t])}</th>{''.join(_confusion_cell(share, t == p) for p, share in enumerate(row))}</tr>"
        for t, row in enumerate(shares)
    )
    return (
        f'{text}<p class="pale">Rows: truth. Columns: prediction. In percent of the pixels of the true class.</p>'
        f'<div class="scroll"><table class="confusion"><thead><tr><th></th>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _key(colour: str, text: str) -> str:
    """An entry of a legend."""
    return f'<span class="entry"><span class="key" style="background:{colour}"></span>{escape(text)}</span>'


def _confusion_cell(share: float, is_right: bool) -> str:
    colour = "46, 160, 67" if is_right else "207, 34, 46"
    shown = f"{100 * share:.0f}" if share >= 0.005 else ""
    return f'<td style="background:rgba({colour},{0.75 * share**0.5:.2f})">{shown}</td>'


# ---------------------------------------------------------------------------- images


def _images(evaluation: dict[str, Any]) -> str:
    titles = {"best": "Best", "worst": "Worst", "uncertain": "Most uncertain"}
    keys = " ".join(
        _key(f"rgb({','.join(map(str, colour))})", name)
        for name, colour in zip(evaluation["class_names"], evaluation["colours"])
    )
    parts = [f'<p class="pale">{keys}</p>']
    for group, title in titles.items():
        entries = evaluation["groups"].get(group, [])
        if entries:
            parts.append(f'<h3>{title}</h3><div class="grid pictures">{"".join(map(_viewer, entries))}</div>')
    return "".join(parts) if len(parts) > 1 else ""


def _viewer(entry: dict[str, Any]) -> str:
    """Pictures on top of each other, with a slider between them that starts at the prediction."""
    captions: list[str] = list(entry["pictures"])
    pictures = "".join(
        f'<img src="{escape(entry["pictures"][caption], quote=True)}" alt="{escape(caption)}">' for caption in captions
    )
    return (
        f'<figure class="viewer"><div class="stack">{pictures}</div>'
        f'<input type="range" min="0" max="{len(captions) - 1}" step="0.01" '
        f'value="{captions.index(START) if START in captions else 0}" aria-label="{_joined(captions)}">'
        f'<div class="ticks">{"".join(f"<span>{escape(caption)}</span>" for caption in captions)}</div>'
        f"<figcaption>{escape(Path(entry['file']).name)} · mIoU {entry['mIoU']:.1f} · confidence "
        f"{entry['confidence']:.1f} %</figcaption></figure>"
    )


def _joined(captions: Sequence[str]) -> str:
    return escape("from " + " to ".join(captions), quote=True)


# ---------------------------------------------------------------------------- settings


def _settings(run: RunData) -> str:
    parts = []
    for evaluation in run.evaluations[:1]:
        versions = {**evaluation.get("versions", {}), "device": evaluation.get("device", "–")}
        parts.append("<p>" + " · ".join(f"{escape(k)} {escape(str(v))}" for k, v in versions.items()) + "</p>")
    if run.config:
        parts.append(f"<details><summary>config.yaml</summary><pre>{escape(run.config)}</pre></details>")
    return "".join(parts)
