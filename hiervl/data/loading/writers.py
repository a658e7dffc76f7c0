"""Write label and instance maps."""

from pathlib import Path

import numpy as np
from PIL import Image

from hiervl.data.loading.readers import MAX_8_BIT
from hiervl.data.loading.turns import ORIENTATION, UPRIGHT
from hiervl.utils.files import write_png


def write_map(path: Path, values: np.ndarray, *, says_upright: bool = False, **options: int) -> None:
    """Write a map (H, W) of whole numbers 0 … 65535 as a grey PNG, with 8 bits if they are enough. The file is written
    completely or not at all.

    Args:
        says_upright: write EXIF data that says upright.
        options: Pillow's for PNG, such as ``compress_level``.
    """
    kind = np.uint8 if values.max(initial=0) <= MAX_8_BIT else np.uint16
    exif = Image.Exif()
    if says_upright:
        exif[ORIENTATION] = UPRIGHT
    write_png(path, Image.fromarray(values.astype(kind)), exif=exif, **options)
