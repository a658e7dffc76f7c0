"""Writing label and instance maps."""

from pathlib import Path

import numpy as np
from PIL import Image

from hiervl.data.loading.readers import MAX_8_BIT
from hiervl.utils.files import write_png


def write_map(path: Path, values: np.ndarray, **options: int) -> None:
    """Write a map (H, W) of whole numbers 0 … 65535 as a gray PNG, of 8 bits where they suffice; it appears whole.

    Args:
        options: Pillow's for PNG, such as ``compress_level``.
    """
    kind = np.uint8 if values.max(initial=0) <= MAX_8_BIT else np.uint16
    write_png(path, Image.fromarray(values.astype(kind)), **options)
