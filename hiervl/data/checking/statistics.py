"""What the masks hold, collected mask by mask, and the form of a finding."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from hiervl.data.checking.readings import Reading
from hiervl.data.classes.class_maps import IGNORED, ClassMap, Color
from hiervl.data.folders.facts import MaskFacts
from hiervl.data.folders.masks import AUTO, COLOR, INDEX, LABEL, RawMask, label_of_code

ERROR, WARNING, NOTE = "error", "warning", "note"


@dataclass(frozen=True)
class Finding:
    """A problem or a note: how severe, what it is and how to fix it, its files, and the possible readings of the masks
    if several remain."""

    level: str
    sentence: str
    files: tuple[str, ...] = ()
    readings: tuple[Reading, ...] = ()


def _by_form() -> dict[str, dict]:
    return {INDEX: {}, COLOR: {}, LABEL: {}}


@dataclass
class ValueStatistics:
    """The codes in the masks, collected mask by mask. ``form`` is DATASET.MASK_VALUES."""

    class_map: ClassMap
    form: str = AUTO
    counts: dict[str, dict[int, int]] = field(default_factory=_by_form)
    files: dict[str, dict[int, list[str]]] = field(default_factory=_by_form)
    of_file: dict[str, dict[str, Mapping[int, int]]] = field(default_factory=_by_form)
    unknown: dict[str, dict[str, list[int]]] = field(default_factory=_by_form)
    palettes: dict[str, tuple[set[int], Mapping[int, Color]]] = field(default_factory=dict)
    unknown_names: dict[str, dict[str, int]] = field(default_factory=dict)
    remarks: dict[str, dict[str, int]] = field(default_factory=dict)

    def add(self, name: str, raw: RawMask | MaskFacts) -> np.ndarray:
        """Add a mask, or its facts. Returns its pixels per class (C,)."""
        meaning = label_of_code(raw, self.class_map)
        pixels = np.zeros(len(self.class_map.classes), dtype=np.int64)
        codes = raw.counts()
        self.of_file[raw.form][name] = codes
        for code, count in codes.items():
            self.counts[raw.form][code] = self.counts[raw.form].get(code, 0) + count
            self.files[raw.form].setdefault(code, []).append(name)
            label = meaning.get(code)
            if label is not None and label != IGNORED:
                pixels[label] += count
        unknown = [code for code in codes if code not in meaning]
        if unknown:
            self.unknown[raw.form][name] = unknown
        if raw.unknown_names:
            self.unknown_names[name] = dict(raw.unknown_names)
        if raw.remarks:
            self.remarks[name] = dict(raw.remarks)
        if raw.palette:
            self.palettes[name] = (set(codes), raw.palette)
        return pixels

    def files_with(self, form: str, codes) -> tuple[str, ...]:
        """Names of the masks that hold one of the codes."""
        return tuple(sorted({name for code in codes for name in self.files[form].get(code, [])}))
