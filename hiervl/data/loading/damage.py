"""Unreadable unlabelled images are left out, logged and counted. Too many of them end the training.

An unreadable
labelled image ends training at once: labels are few, and each one cost somebody work.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hiervl.utils.errors import UserError

logger = logging.getLogger(__name__)

DAMAGED = "damaged"  # entry of a sample: problems of the images that it replaces
MAX_ATTEMPTS = 20


def sample_or_replacement(
    dicts: Sequence[dict], index: int, mapper: Callable, make_generator: Callable[[], np.random.Generator]
) -> dict[str, Any] | UserError:
    """The sample of an unlabelled image, or of the next readable one in the list.

    The choice depends only on the files, so processes and resumed runs agree.

    Returns:
        The sample, with the problems of skipped images as "damaged": {file name: sentence}; or the error, if
        :data:`MAX_ATTEMPTS` images in a row cannot be read.
    """
    damaged: dict[str, str] = {}
    for attempt in range(min(MAX_ATTEMPTS, len(dicts))):
        entry = dicts[(index + attempt) % len(dicts)]
        try:
            sample = mapper(entry, make_generator())
        except UserError as error:
            damaged[entry["file_name"]] = str(error)
            continue
        sample[DAMAGED] = damaged
        return sample
    first = next(iter(damaged.values()))
    return UserError(f"{len(damaged)} unlabelled images in a row cannot be read, the first of them: {first}")


class DamageCount:
    """Counts the unreadable unlabelled images in this process, each once."""

    def __init__(self, total: int, max_share: float):
        """
        Args:
            total: number of unlabelled images.
            max_share: the share that may be damaged, 0…1.
        """
        self.total = total
        self.max_share = max_share
        self.damaged: dict[str, str] = {}

    def check(self, batch: dict[str, list[dict]]) -> dict[str, list[dict]]:
        """Log new "damaged" entries of the samples, and remove the entries.

        Raises:
            UserError: more than the share is damaged.
        """
        for sample in (sample for samples in batch.values() for sample in samples):
            for file_name, problem in sample.pop(DAMAGED, {}).items():
                if file_name not in self.damaged:
                    self._add(file_name, problem)
        return batch

    def _add(self, file_name: str, problem: str) -> None:
        self.damaged[file_name] = problem
        count = f"{len(self.damaged)} of {self.total} unlabelled images"
        logger.warning("Left out (%s so far): %s", count, problem)
        if len(self.damaged) > self.max_share * self.total:
            raise UserError(
                f"{count} cannot be read, more than the share DATALOADER.MAX_DAMAGED ({self.max_share:g}) allows; the "
                f"last one: {problem}"
            )
