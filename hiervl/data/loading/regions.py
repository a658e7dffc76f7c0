"""Connected regions of a label map, used as objects if none are annotated."""

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

NO_INSTANCE = 0
MIN_SHARE = 0.001  # of the map: smaller regions of a class are one object together


def regions_as_instances(labels: np.ndarray, ignore_value: int) -> np.ndarray:
    """labels (H, W) → numbers (H, W) int32: one per region of a class; ``NO_INSTANCE`` for specks and pixels without a
    label.

    Regions are 4-connected. Runs of equal labels in a row are joined with touching runs in the next row. This works for
    all classes at once, and there are far fewer runs than pixels.
    """
    starts = np.ones(labels.shape, bool)
    starts[:, 1:] = labels[:, 1:] != labels[:, :-1]
    runs = np.cumsum(starts, dtype=np.int32).reshape(labels.shape) - 1
    first = np.flatnonzero(starts)
    lengths = np.diff(first, append=labels.size)
    # If two runs touch, one of them starts in their first common column.
    touches = (labels[1:] == labels[:-1]) & (starts[1:] | starts[:-1])
    above, below = runs[:-1][touches], runs[1:][touches]
    graph = coo_matrix((np.ones(len(above), bool), (above, below)), shape=(len(first), len(first)))
    count, region_of_run = connected_components(graph, directed=False)
    areas = np.bincount(region_of_run, lengths, count)
    counts = areas >= MIN_SHARE * labels.size
    counts[region_of_run[labels.ravel()[first] == ignore_value]] = False
    number_of_region = np.where(counts, NO_INSTANCE + np.cumsum(counts), NO_INSTANCE).astype(np.int32)
    return number_of_region[region_of_run][runs]
