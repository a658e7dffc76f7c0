"""Label maps of annotations, converted once and kept."""

import hashlib
import os
from pathlib import Path

import numpy as np

from hiervl.data.folders.files import image_frame
from hiervl.data.folders.pools import Sample
from hiervl.data.loading.readers import Frame
from hiervl.data.loading.turns import fitting_orientation, turned, turned_size
from hiervl.data.loading.writers import write_map
from hiervl.utils.errors import UserError

CACHE_VARIABLE = "XDG_CACHE_HOME"


def cache_folder(chosen: str = "") -> Path:
    """The folder for converted masks."""
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get(CACHE_VARIABLE) or "~/.cache").expanduser() / "hiervl"


def converted_files(sample: Sample, folder: Path) -> tuple[str, str | None]:
    """Files of a sample's label map and, if its annotations have objects, of the instances. Converted into ``folder``
    if needed.

    Raises:
        UserError: as the source's ``labels``; or the cache cannot be written.
    """
    if sample.masks.as_it_is(sample.key):
        return sample.masks.name(sample.key), None
    image = image_frame(sample.image)
    orientation = orientation_of_mask(sample, image)
    stamp = (sample.masks.stamp(sample.key), orientation)
    digest = hashlib.sha256(repr(stamp).encode()).hexdigest()[:16]
    base = f"{sample.image.stem}-{digest}"
    label_file, instance_file = folder / f"{base}.png", folder / f"{base}-instances.png"
    has_instances = sample.masks.has_instances
    if not label_file.is_file() or (has_instances and not instance_file.is_file()):
        height, width = turned_size(turned_size(*image), orientation)  # of the stored mask
        labels, instances = sample.masks.labels(sample.key, (height, width))
        _save(turned(labels, orientation), label_file, orientation)
        if instances is not None:
            _save(turned(instances, orientation), instance_file, orientation)
    return str(label_file), str(instance_file) if has_instances else None


def orientation_of_mask(sample: Sample, image: Frame) -> int | None:
    """How a mask is to be turned to lie on its image, see ``turns.py``.

    Raises:
        UserError: an annotation cannot be read.
    """
    mask = sample.masks.frame(sample.key, image)
    if mask is None:
        return None
    upright = turned_size(image.size, image.orientation)
    return fitting_orientation(mask.size, mask.orientation, upright, image.orientation)


def _save(values: np.ndarray, path: Path, orientation: int | None) -> None:
    """Save a converted mask. Several processes may write it at once.

    ``orientation``: the rotation that was applied. If it was known, the file's EXIF data says upright.
    """
    try:
        # Written once, read in every epoch: with this compression, reading takes a fifth of the time.
        write_map(path, values, says_upright=orientation is not None, compress_level=1)
    except OSError as error:
        raise UserError(
            f"the converted mask {path} cannot be written ({error.strerror or error}): set DATASET.CACHE to a folder "
            "you may write to."
        ) from None
