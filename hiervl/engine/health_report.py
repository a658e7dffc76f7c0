"""Health of a semi-supervised run: figures per class, and problems in plain words."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

NOTHING, EVERYTHING = 0.001, 0.999  # shares of the pixels that count as hardly any and as practically all
VANISHING = 0.01  # a class's share of the kept pixels, relative to its share of the labelled ones
DOMINANT = 0.5  # a class with at least this share of the kept pixels may crowd out the others
LEAST_CONFIDENCE, HIGHEST_CONFIDENCE = 0.5, 0.99  # SEMI.CONFIDENCE beyond these values does not help
MOST_NAMED = 5  # how many classes a sentence names
DROWNED = 0.05  # below this ratio of gradients, unlabelled images have hardly any effect
DRIVEN_OUT = 0.5  # right divided by wrong pseudo-labels of a class's pixels, weighted as in the loss
LEAST_PIXELS = 100  # of a class in validation images, to judge by
ENOUGH_BALANCE = 0.5  # LOSS.PIXEL_BALANCE from which more was not tried
SWALLOWING = 10.0  # odds of a class among kept pixels, relative to those among labelled pixels


class Problem(NamedTuple):
    """A problem of the run."""

    kind: str
    classes: tuple[str, ...]  # the classes that it concerns; empty: the whole run
    sentence: str


@dataclass
class HealthReport:
    """Figures since the last report. Arrays have one entry per class; nan means unknown.

    Attributes:
        class_names: the C classes.
        kept_pixels: pseudo-labelled pixels of unlabelled images that were kept.
        seen_pixels: all valid pixels of those images, over all classes.
        labeled_pixels: pixels of the labelled images, by their true class.
        agreement: share of correct pseudo-labels among those kept on labelled images, by predicted class.
        validation: (C, C) pixels of validation images whose pseudo-label would be kept, by true class and pseudo-label;
            None: there are none.
        validation_pixels: (C,) all their pixels by true class.
        balance: LOSS.PIXEL_BALANCE; unlabeled_weight: weight of unlabelled images, as a share of the config's.
        zero_shot_iou: IoU of the frozen CLIP's prediction on labelled images, 0…1; empty: not computed.
        unguided: classes without guidance.
        relevance_auc: probability that the relevance of a present class is above that of an absent one, 0…1 (0.5:
            chance).
        relevance_present, relevance_absent: mean relevance of present and of absent classes.
        active_classes: mean number of active classes of a labelled image.
        confidence: SEMI.CONFIDENCE, for the messages; nan if nothing reads it (THRESHOLD "adaptive").
        burn_in: SEMI.BURN_IN, for the messages.
        has_class_thresholds: SEMI.THRESHOLD is "class" or "adaptive".
        gradient_ratio: gradient norm of unlabelled images divided by that of labelled images, in one iteration.
    """

    class_names: Sequence[str]
    kept_pixels: np.ndarray
    seen_pixels: int
    labeled_pixels: np.ndarray
    agreement: np.ndarray
    validation: np.ndarray | None = None
    validation_pixels: np.ndarray | None = None
    balance: float = 0.0
    unlabeled_weight: float = 1.0
    zero_shot_iou: np.ndarray | None = None
    unguided: Sequence[int] = ()
    relevance_auc: float = float("nan")
    relevance_present: float = float("nan")
    relevance_absent: float = float("nan")
    active_classes: float = float("nan")
    confidence: float = float("nan")
    gradient_ratio: float = float("nan")
    burn_in: int = 0
    has_class_thresholds: bool = False
    problems: list[Problem] = field(default_factory=list)

    def scalars(self) -> dict[str, float]:
        """The figures by name for the log, without nan."""
        values = {
            "health/relevance_auc": self.relevance_auc,
            "health/relevance_present": self.relevance_present,
            "health/relevance_absent": self.relevance_absent,
            "health/active_classes": self.active_classes,
            "health/gradient_ratio": self.gradient_ratio,
            "health/problems": float(len(self.problems)),
            "health/unlabeled_weight": self.unlabeled_weight,
        }
        for c, name in enumerate(self.class_names):
            values[f"health/kept_pixels/{name}"] = float(self.kept_pixels[c]) if self.seen_pixels else float("nan")
            values[f"health/agreement/{name}"] = float(self.agreement[c])
            right, wrong = self.validation_shares(c)
            values[f"health/validation_right/{name}"] = right
            values[f"health/validation_wrong/{name}"] = wrong
        return {name: value for name, value in values.items() if not np.isnan(value)}

    def as_dict(self, iteration: int) -> dict:
        """For ``health.json``; nan means unknown."""
        classes = {}
        for c, name in enumerate(self.class_names):
            classes[name] = {
                "kept_pixels": int(self.kept_pixels[c]),
                "agreement": float(self.agreement[c]),
                "labelled_pixels": int(self.labeled_pixels[c]),
                "validation_right": self.validation_shares(c)[0],
                "validation_wrong": self.validation_shares(c)[1],
                "guided": c not in self.unguided,
            }
            if self.zero_shot_iou is not None:
                classes[name]["zero_shot_iou"] = float(self.zero_shot_iou[c])
        return {
            "iteration": iteration,
            "seen_pixels": int(self.seen_pixels),
            "kept_share": float(self.kept_pixels.sum() / self.seen_pixels) if self.seen_pixels else float("nan"),
            "relevance_auc": self.relevance_auc,
            "relevance_present": self.relevance_present,
            "relevance_absent": self.relevance_absent,
            "active_classes_per_image": self.active_classes,
            "gradient_ratio": self.gradient_ratio,
            "unlabelled_weight": self.unlabeled_weight,
            "classes": classes,
            "problems": [problem.sentence for problem in self.problems],
        }

    def validation_shares(self, c: int) -> tuple[float, float]:
        """Shares of a class's pixels in validation images that would keep its pseudo-label, and a wrong one."""
        if self.validation is None or self.validation_pixels is None or not self.validation_pixels[c]:
            return float("nan"), float("nan")
        kept, all_of_them = self.validation[c], float(self.validation_pixels[c])
        return float(kept[c]) / all_of_them, float(kept.sum() - kept[c]) / all_of_them


def find_problems(report: HealthReport) -> list[Problem]:
    """Problems in plain words: one sentence each, with one remedy that is not used already."""
    if not report.seen_pixels:
        return []
    kept_share = report.kept_pixels.sum() / report.seen_pixels
    if kept_share < NOTHING:
        sentence = (
            f"hardly any pseudo-label is kept ({100 * kept_share:.2f} % of the pixels), so unlabelled images teach "
            f"nothing: {_let_more_through(report)}."
        )
        return [Problem("nothing", (), sentence)]
    kept = report.kept_pixels / report.kept_pixels.sum()
    labeled = report.labeled_pixels / max(report.labeled_pixels.sum(), 1)
    classes = range(len(report.class_names))
    vanishing = [c for c in classes if labeled[c] > 0 and kept[c] < VANISHING * labeled[c]]
    swallowing = [
        c for c in classes
        if kept[c] > DOMINANT and labeled[c] < 1 and _odds(kept[c]) > SWALLOWING * _odds(labeled[c])
    ]  # fmt: skip
    concerned = [*swallowing, *sorted(vanishing, key=lambda c: -labeled[c])]
    names = tuple(report.class_names[c] for c in concerned)
    facts = _shares(report, swallowing, vanishing, kept, labeled)
    if kept_share > EVERYTHING:
        everything = (
            f"practically every pseudo-label is kept ({100 * kept_share:.1f} % of the pixels), wrong ones included"
        )
        return [Problem("everything", names, f"{'; '.join([everything, *facts])}: {_let_less_through(report)}.")]
    lost = driven_out(report)
    if lost:
        sentence = f"{_wrong_on_validation_images(report, lost)}: {_keep_them(report, lost)}."
        return [Problem("drive out", tuple(report.class_names[c] for c in lost), sentence)]
    if swallowing:
        return [Problem("swallow the others", names, f"{'; '.join(facts)}: {_protect_small_classes(report)}.")]
    # Only now: more weight for pseudo-labels that are wrong would do harm.
    if report.gradient_ratio < DROWNED * report.unlabeled_weight:
        sentence = (
            f"unlabelled images have hardly any weight: their gradient is {report.gradient_ratio:.3f} of that of the "
            "labelled ones. Raise SEMI.STRONG_WEIGHT or lower SEMI.SUPERVISED_SHARE."
        )
        return [Problem("drowned", (), sentence)]
    if vanishing:
        return [Problem("vanish", names, f"{'; '.join(facts)}: {_let_more_through(report)}.")]
    return []


def _shares(report: HealthReport, swallowing, vanishing, kept, labeled) -> list[str]:
    """Classes whose pseudo-labels crowd out the others, and classes whose pseudo-labels vanish, with their shares."""
    facts = []
    for what, chosen in (("swallow the others", swallowing), ("vanish", vanishing)):
        if not chosen:
            continue
        ordered = sorted(chosen, key=lambda c: -labeled[c])
        listed = [
            f"'{report.class_names[c]}' ({100 * kept[c]:.2f} % of the kept pixels, {100 * labeled[c]:.2f} % of the "
            "labelled ones)"
            for c in ordered[:MOST_NAMED]
        ]
        more = f" and {len(chosen) - MOST_NAMED} more" if len(chosen) > MOST_NAMED else ""
        facts.append(f"the pseudo-labels of {', '.join(listed)}{more} {what}")
    return facts


def driven_out(report: HealthReport) -> list[int]:
    """Classes that pseudo-labels teach the student to call otherwise, most of their pixels first.

    Judged by validation images, on which the teacher was not trained. A pixel's pseudo-label weighs as much as in the
    loss, that is, less if its class is frequent (``LOSS.PIXEL_BALANCE``).
    """
    if report.validation is None:
        return []
    kept = report.validation.sum(1)
    weighted = report.validation * np.maximum(report.validation.sum(0), 1.0) ** -report.balance
    right = np.diag(weighted)
    wrong = weighted.sum(1) - right
    is_judged = (kept >= LEAST_PIXELS) & (report.labeled_pixels > 0)
    found = np.flatnonzero(is_judged & (right < DRIVEN_OUT * wrong))
    return sorted(found.tolist(), key=lambda c: -kept[c])


def _wrong_on_validation_images(report: HealthReport, classes: Sequence[int]) -> str:
    listed = []
    for c in classes[:MOST_NAMED]:
        right, wrong = report.validation_shares(c)
        listed.append(f"'{report.class_names[c]}' ({100 * wrong:.0f} % wrong, {100 * right:.0f} % right)")
    more = f" and {len(classes) - MOST_NAMED} more" if len(classes) > MOST_NAMED else ""
    return (
        f"pseudo-labels drive classes out: on validation images, pixels of {', '.join(listed)}{more} would mostly be "
        "learnt as other classes"
    )


def _keep_them(report: HealthReport, lost: Sequence[int]) -> str:
    is_most = len(lost) > np.count_nonzero(report.labeled_pixels) / 2  # then the teacher has learnt hardly anything yet
    if report.balance < ENOUGH_BALANCE and not is_most:
        return f"set LOSS.PIXEL_BALANCE to {ENOUGH_BALANCE:g}"
    return _train_on_labels_first(report)


def _let_more_through(report: HealthReport) -> str:
    if not report.has_class_thresholds:
        return "set SEMI.THRESHOLD to class"
    if report.confidence > LEAST_CONFIDENCE:
        return f"lower SEMI.CONFIDENCE ({report.confidence:g})"
    return "label more images that show these classes"


def _let_less_through(report: HealthReport) -> str:
    if report.confidence < HIGHEST_CONFIDENCE:
        return f"raise SEMI.CONFIDENCE ({report.confidence:g})"
    return _train_on_labels_first(report)


def _protect_small_classes(report: HealthReport) -> str:
    return _train_on_labels_first(report) if report.has_class_thresholds else "set SEMI.THRESHOLD to class"


def _train_on_labels_first(report: HealthReport) -> str:
    return f"train longer on labels alone first (SEMI.BURN_IN, now {report.burn_in} iterations)"


def presence_auc(relevance: np.ndarray, presence: np.ndarray) -> float:
    """Probability that a present class has a higher relevance than an absent one of any image. Ties count half.

    Args:
        relevance: (images, C); presence: (images, C) bool.

    Returns:
        0…1; nan if all classes are present, or none.
    """
    present, absent = np.sort(relevance[presence]), np.sort(relevance[~presence])
    if not len(present) or not len(absent):
        return float("nan")
    below = np.searchsorted(absent, present, side="left")
    not_above = np.searchsorted(absent, present, side="right")
    return float((below + not_above).sum() / 2 / (len(present) * len(absent)))


def _odds(share: float) -> float:
    return share / max(1.0 - share, 1e-6)
