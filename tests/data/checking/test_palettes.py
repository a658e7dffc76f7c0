"""Palettes that number the colours of one file alone, as GIF and optimised PNG do."""

import numpy as np
import pytest
from PIL import Image

from hiervl.data.checking.check import check

COLORS = {0: (0, 0, 0), 1: (200, 0, 0), 2: (0, 0, 200)}
UNCOLORED = "classes: [{name: background, background: true}, cap, stem]"


def optimised(own):
    """Masks numbered by what each of them shows; the first two show no cap, whose number the stem then has."""
    for number, path in enumerate(sorted((own.root / "labelled/masks").iterdir())):
        labels = np.array(Image.open(path))
        labels[(labels == 1) & (number < 2)] = 0
        shown, numbers = np.unique(labels, return_inverse=True)
        image = Image.fromarray(numbers.reshape(labels.shape).astype(np.uint8)).convert("P")
        image.putpalette([channel for value in shown for channel in COLORS[value]])
        image.save(path)


@pytest.mark.parametrize("classes", [None, UNCOLORED])
def test_one_number_with_two_colors_means_nothing(own, classes):
    optimised(own)
    if classes:
        (own.root / "classes.yaml").write_text(classes)
    (found,) = check(own.layout()).findings
    assert found.level == "error" and "set DATASET.MASK_VALUES to color" in found.sentence
    assert "1 is the colour [200, 0, 0] in the palette of" in found.sentence and len(found.files) == 10
    (warning,) = check(own.layout("MASK_VALUES: index")).findings
    assert warning.level == "warning" and "see in the overlays" in warning.sentence


def test_their_colors_can_be_read(own):
    optimised(own)
    layout = own.layout("MASK_VALUES: color")
    assert check(layout).findings == []
    first = layout.labeled.samples["00"]
    assert np.unique(first.masks.labels(first.key, (64, 64))[0]).tolist() == [0, 2]
