"""Panoptic quality (Kirillov et al., CVPR 2019): how many segments are found and how well they fit, in one number."""

from collections.abc import Sequence

import numpy as np

MATCH_IOU = 0.5  # above this IoU a segment matches at most one other


class PanopticQuality:
    """PQ of a class = Σ IoU of the matched pairs / (TP + FP/2 + FN/2), over all images.

    A true and a predicted segment match if they have the same class and their IoU exceeds 0.5. Pixels outside all true
    segments do not count. A predicted segment that lies mostly there is not a false positive.
    """

    def __init__(self, num_classes: int):
        self.iou = np.zeros(num_classes)
        self.matched = np.zeros(num_classes, int)
        self.missed = np.zeros(num_classes, int)
        self.invented = np.zeros(num_classes, int)

    def add(
        self, truth: np.ndarray, truth_labels: dict[int, int], found: np.ndarray, found_labels: dict[int, int]
    ) -> dict[int, int]:
        """Count an image.

        Args:
            truth, found: (H, W) segment numbers, 0 for none.
            truth_labels, found_labels: class of every segment number.

        Returns:
            the true segments that were matched, with the number of the found one.
        """
        pairs, common = np.unique(np.stack((truth.ravel(), found.ravel())), axis=1, return_counts=True)
        overlap = {(int(t), int(f)): int(n) for (t, f), n in zip(pairs.T, common)}
        area = {number: int((truth == number).sum()) for number in truth_labels}
        void = {number: overlap.get((0, number), 0) for number in found_labels}
        found_area = {number: int((found == number).sum()) for number in found_labels}
        matches: dict[int, int] = {}
        for (true, guess), shared in overlap.items():
            if true == 0 or guess == 0 or truth_labels[true] != found_labels[guess]:
                continue
            iou = shared / (area[true] + found_area[guess] - void[guess] - shared)
            if iou > MATCH_IOU:
                matches[true] = guess
                self.iou[truth_labels[true]] += iou
        for number, label in truth_labels.items():
            (self.matched if number in matches else self.missed)[label] += 1
        for number in set(found_labels) - set(matches.values()):
            if found_area[number] and void[number] / found_area[number] <= MATCH_IOU:
                self.invented[found_labels[number]] += 1
        return matches

    def score(self, classes: Sequence[int]) -> float:
        """Mean PQ in percent over those of ``classes`` that occur in the truth or the prediction; nan without any."""
        chosen = np.asarray(classes, int)
        counts = (self.matched + self.missed / 2 + self.invented / 2)[chosen]
        occurring = counts > 0
        if not occurring.any():
            return float("nan")
        return float(100 * (self.iou[chosen][occurring] / counts[occurring]).mean())
