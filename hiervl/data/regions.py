"""Connected regions of a label map, as objects where nobody has annotated any."""

import cv2
import numpy as np

NO_INSTANCE = 0
MIN_SHARE = 0.001  # of the map: smaller regions of a class are one object together


def regions_as_instances(labels: np.ndarray, ignore_value: int) -> np.ndarray:
    """labels (H, W) → numbers (H, W) int32: one for every region of a class, ``NO_INSTANCE`` for specks and where there
    is no label."""
    numbers = np.full(labels.shape, NO_INSTANCE, np.int32)
    last = NO_INSTANCE
    for label in np.unique(labels).tolist():
        if label == ignore_value:
            continue
        is_class = (labels == label).astype(np.uint8)
        _, regions, statistics, _ = cv2.connectedComponentsWithStats(is_class, connectivity=4)
        is_large = statistics[:, cv2.CC_STAT_AREA] >= MIN_SHARE * labels.size
        is_large[0] = False  # the other classes
        number_of = np.where(is_large, last + np.cumsum(is_large), NO_INSTANCE).astype(np.int32)
        numbers += number_of[regions]
        last += int(is_large.sum())
    return numbers
