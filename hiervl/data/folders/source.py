"""Where the files of a user's dataset are: the section ``DATASET`` of the configuration as plain values."""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hiervl.data.folders.formats.opening import FORMATS
from hiervl.data.folders.masks import AUTO, FORMS
from hiervl.data.folders.pairing import ANY, NamePattern
from hiervl.data.loading.bands import Bands
from hiervl.utils.errors import UserError

DEFAULT_VAL = 0.2
BACKGROUND, UNLABELED = "background", "unlabeled"
EMPTY = (AUTO, BACKGROUND, UNLABELED)

Part = float | str | Sequence[str] | None  # None, a fraction, a list file, or folders of images and masks


@dataclass(frozen=True)
class FolderSource:
    """Where the files of a dataset are. Paths are relative to ``root``.

    Attributes:
        name: start of the registered names.
        images, masks: folder of the labelled images; folder of their masks, or a COCO JSON file.
        classes: the class file.
        unlabeled: folders of images without masks, or list files (.txt) of such images.
        labeled_list: list file of the images whose masks training may use; "": all except validation and test.
        val, test: a fraction of the labelled images, a list file of some of them, or separate folders [images, masks].
        mask_values: "index", "color" or "auto", see :class:`MaskFolder`.
        image_suffix, mask_suffix: what the stems of images and masks have after their common part, such as ``_sat`` and
            ``_mask``, or patterns with ``{}`` for the common part, such as ``label_{}``.
        mask_variable: name of the map in a NumPy or MATLAB file with several; "": the only one.
        format: of the annotations, one of ``formats.opening.FORMATS``.
        empty_annotations: one of :data:`EMPTY`: what images are whose annotation has no object.
        bands: the bands of TIFFs to read; None: TIFFs are read like other images.
        seed: random seed of the fractions.
        cache: folder for converted masks; "": ~/.cache/hiervl.
    """

    name: str
    root: Path
    images: str
    masks: str
    classes: Path
    unlabeled: tuple[str, ...] = ()
    labeled_list: str = ""
    val: Part = None
    test: Part = None
    mask_values: str = AUTO
    image_suffix: str = ""
    mask_suffix: str = ""
    mask_variable: str = ""
    format: str = AUTO
    empty_annotations: str = AUTO
    bands: Bands | None = None
    seed: int = 0
    cache: str = ""

    def __post_init__(self):
        if not self.name or not self.images or not self.masks:
            empty = "NAME" if not self.name else "LABELED.IMAGES" if not self.images else "LABELED.MASKS"
            raise UserError(f"DATASET.{empty} is empty: the dataset needs a name, a folder of images and their masks.")
        if not re.fullmatch(r"\w[\w .-]*", self.name):
            raise UserError(
                f"DATASET.NAME names files, too: it may hold letters, digits, blanks, '.', '-' and '_', but it is "
                f"{self.name!r}."
            )
        if self.mask_values not in FORMS:
            raise UserError(f"DATASET.MASK_VALUES is one of {', '.join(FORMS)}, not '{self.mask_values}'.")
        if self.format not in FORMATS:
            raise UserError(f"DATASET.FORMAT is one of {', '.join(FORMATS)}, not '{self.format}'.")
        if self.empty_annotations not in EMPTY:
            raise UserError(f"DATASET.EMPTY_ANNOTATIONS is one of {', '.join(EMPTY)}, not '{self.empty_annotations}'.")
        for key, part in (("VAL", self.val), ("TEST", self.test)):
            _check_part(key, part)
        if self.image_names == self.mask_names and self.image_names != ANY and self.images == self.masks:
            raise UserError("DATASET.IMAGE_SUFFIX and MASK_SUFFIX are the same: no name tells a mask from an image.")

    @functools.cached_property
    def image_names(self) -> NamePattern:
        """The pattern of the images' names."""
        return NamePattern.parse(self.image_suffix, "DATASET.IMAGE_SUFFIX")

    @functools.cached_property
    def mask_names(self) -> NamePattern:
        """The pattern of the masks' names."""
        return NamePattern.parse(self.mask_suffix, "DATASET.MASK_SUFFIX")

    @classmethod
    def from_config(cls, cfg) -> "FolderSource":
        """Build it from the section ``DATASET``.

        Raises:
            UserError: a value is missing or invalid.
        """
        node = cfg.DATASET
        unlabeled = (node.UNLABELED,) if isinstance(node.UNLABELED, str) else tuple(node.UNLABELED or ())
        if not node.CLASSES:
            raise UserError("DATASET.CLASSES is empty: name the YAML file of the classes (see configs/custom.yaml).")
        return cls(
            name=node.NAME,
            root=Path(node.ROOT).expanduser().absolute(),
            images=node.LABELED.IMAGES,
            masks=node.LABELED.MASKS,
            classes=Path(node.CLASSES).expanduser().absolute(),
            unlabeled=tuple(str(folder) for folder in unlabeled if str(folder)),
            labeled_list=node.LABELED.LIST,
            val=DEFAULT_VAL if node.VAL is None else node.VAL,
            test=node.TEST,
            mask_values=node.MASK_VALUES,
            image_suffix=node.IMAGE_SUFFIX,
            mask_suffix=node.MASK_SUFFIX,
            mask_variable=node.MASK_VARIABLE,
            format=node.FORMAT,
            empty_annotations=node.EMPTY_ANNOTATIONS,
            bands=Bands.from_config(cfg),
            seed=node.SEED,
            cache=node.CACHE,
        )


def _check_part(key: str, part: Part) -> None:
    if part is None:
        return
    share = _meant_share(part)
    if isinstance(part, str) and not share:
        return
    if isinstance(part, (int, float)) and not isinstance(part, bool) and 0 <= part < 1:
        return
    if isinstance(part, (list, tuple)) and len(part) == 2 and all(isinstance(folder, str) for folder in part):
        return
    raise UserError(
        f"DATASET.{key} is a fraction from 0 to below 1, a list file, or two folders {{IMAGES: …, MASKS: …}}, "
        f"not {part!r}{f': write {share} for {float(share):.0%} of the images' if share else ''}."
    )


def _meant_share(part: Any) -> str:
    """How to write a share that was written as a percentage or with a comma; "": it is none of these."""
    if isinstance(part, (int, float)) and not isinstance(part, bool) and 1 < part < 100:
        return f"{part / 100:g}"
    text = ",".join(map(str, part)) if isinstance(part, (list, tuple)) else str(part)
    percent, comma = re.fullmatch(r"(\d+(?:[.,]\d+)?)\s*%", text.strip()), re.fullmatch(r"0,\d+", text.strip())
    if percent and 0 < float(percent[1].replace(",", ".")) < 100:
        return f"{float(percent[1].replace(',', '.')) / 100:g}"
    return text.strip().replace(",", ".") if comma else ""
