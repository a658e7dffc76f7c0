"""The facts about an image for ``check-data``: its size, a fingerprint, its brightness."""

import functools
import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hiervl.data.checking.duplicates import Fingerprint, fingerprint
from hiervl.data.folders.facts import FactsStore, file_stamp, key_of, processes
from hiervl.data.loading.bands import Bands
from hiervl.data.loading.readers import read_overview
from hiervl.utils.errors import UserError
from hiervl.utils.parallel import map_files


class ImageFacts(NamedTuple):
    """Facts about a readable image."""

    size: tuple[int, int]  # height, width, upright
    mark: Fingerprint
    brightest: int  # 0…255

    def to_json(self) -> str:
        return json.dumps([self.size, self.mark.bits.tolist(), self.mark.thumbnail.tolist(), self.brightest])

    @classmethod
    def from_json(cls, text: str) -> "ImageFacts":
        size, bits, thumbnail, brightest = json.loads(text)
        mark = Fingerprint(np.array(bits, dtype=np.uint8), np.array(thumbnail, dtype=np.uint8))
        return cls((size[0], size[1]), mark, brightest)


def read_image_facts(
    paths: Sequence[str], store: FactsStore, bands: Bands | None = None
) -> list[ImageFacts | UserError]:
    """Facts about images, or the error for an unreadable one. Facts that are not stored yet are read in several
    processes."""
    keys = [key_of("image", (file_stamp(path), bands)) for path in paths]
    known = store.get(keys)
    new = [index for index, key in enumerate(keys) if key not in known]
    read = dict(
        zip(
            new,
            map_files(functools.partial(_read, bands=bands), [paths[index] for index in new], "images", processes()),
        )
    )
    store.put({keys[index]: facts.to_json() for index, facts in read.items() if isinstance(facts, ImageFacts)})
    return [read[index] if index in read else ImageFacts.from_json(known[key]) for index, key in enumerate(keys)]


def _read(path: str, bands: Bands | None) -> ImageFacts | UserError:
    try:
        size, image = read_overview(path, bands)
    except UserError as error:
        return error
    return ImageFacts(size, fingerprint(image), int(image.max()))
