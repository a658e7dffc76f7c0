"""Reproducible streams of samples, and their transport from the workers.

A training stream is a sequence of positions 0, 1, 2, … The image at a position, and its augmentation, follow only from
the seed, the stream's name and the position. So the number of workers changes nothing, processes share a stream by
taking different positions, and a resumed run starts at a later position.
"""

import itertools
import logging
import signal
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from hiervl.data.loading.damage import sample_or_replacement
from hiervl.utils.errors import UserError

logger = logging.getLogger(__name__)

LABELED, UNLABELED = "labeled", "unlabeled"
# The purpose of a generator, so that shuffling and augmentation never share random numbers.
SHUFFLE, AUGMENT = 1, 2

Key = tuple[str, int, int]  # stream, position, index of the image
Samples = list[dict[str, Any]]


def sample_generator(seed: int, stream: str, position: int) -> np.random.Generator:
    """The random generator for augmenting the image at a position of a stream."""
    return np.random.default_rng((seed, _stream_id(stream), position, AUGMENT))


def _stream_id(stream: str) -> int:
    return zlib.crc32(stream.encode())  # unlike hash(), the same in every process


class Stream:
    """An endless sequence over ``size`` images, in a new random order in every epoch."""

    def __init__(self, name: str, size: int, seed: int):
        self.name = name
        self.size = size
        self.seed = seed
        self._epoch = -1
        self._order = np.empty(0, dtype=np.int64)

    def index(self, position: int) -> int:
        """The image at ``position``."""
        epoch, place = divmod(position, self.size)
        if epoch != self._epoch:
            rng = np.random.default_rng((self.seed, _stream_id(self.name), epoch, SHUFFLE))
            self._epoch, self._order = epoch, rng.permutation(self.size)
        return int(self._order[place])


def share_of(batch_size: int, micro_batch: int, accumulation: int, rank: int, world_size: int) -> range:
    """The places, in an iteration's batch of ``batch_size``, of one micro-batch in one process."""
    share = batch_size // (accumulation * world_size)
    start = (micro_batch * world_size + rank) * share
    return range(start, start + share)


def mirrored_share_of(
    batch_size: int, micro_batch: int, accumulation: int, rank: int, world_size: int
) -> Sequence[int]:
    """As :func:`share_of`, but each place comes with its mirrored place: 8 places in 2 parts give 0, 1, 6, 7 and 2, 3,
    4, 5.

    CutMix uses the image at the mirrored place of the batch. So every image keeps the partner of the undivided batch,
    as long as the parts have even sizes.
    """
    share = batch_size // (accumulation * world_size)
    if share % 2:
        return share_of(batch_size, micro_batch, accumulation, rank, world_size)
    front = share_of(batch_size // 2, micro_batch, accumulation, rank, world_size)
    return [*front, *(batch_size - 1 - place for place in reversed(front))]


class MicroBatchSampler(Sampler):
    """Endless keys of this process's micro-batches: ``accumulation`` of them for each iteration."""

    def __init__(
        self,
        streams: Sequence[Stream],
        batch_sizes: Sequence[int],
        accumulation: int = 1,
        start_iter: int = 0,
        rank: int = 0,
        world_size: int = 1,
        skip: int = 0,
    ):
        """
        Args:
            streams: the streams of a micro-batch.
            batch_sizes: images that all processes draw from each stream in an iteration; divisible by
                ``accumulation`` × ``world_size``.
            start_iter: the first iteration.
            skip: micro-batches left out at the beginning.
        """
        self.streams = streams
        self.batch_sizes = batch_sizes
        self.accumulation = accumulation
        self.start_iter = start_iter
        self.rank = rank
        self.world_size = world_size
        self.skip = skip

    def __iter__(self) -> Iterator[list[Key]]:
        for number in itertools.count(self.start_iter * self.accumulation + self.skip):
            yield self._keys(*divmod(number, self.accumulation))

    def _keys(self, iteration: int, micro_batch: int) -> list[Key]:
        return [
            (stream.name, position, stream.index(position))
            for stream, batch_size in zip(self.streams, self.batch_sizes)
            for position in self._positions(stream.name, iteration, micro_batch, batch_size)
        ]

    def _positions(self, stream: str, iteration: int, micro_batch: int, batch_size: int) -> list[int]:
        share = mirrored_share_of if stream == UNLABELED else share_of
        places = share(batch_size, micro_batch, self.accumulation, self.rank, self.world_size)
        return [iteration * batch_size + place for place in places]


# ---------------------------------------------------------------------------- samples and their transport


class StreamSamples(Dataset):
    """Augmented samples by key. A :class:`UserError` is returned in place of a sample, not raised: see :class:`Loader`.

    The next readable image replaces an unreadable unlabelled image: see ``damage.py``.
    """

    def __init__(self, sources: dict[str, tuple[Sequence[dict], Callable]], seed: int):
        """
        Args:
            sources: dataset dicts and mapper of each stream.
        """
        self.sources = sources
        self.seed = seed

    def __getitem__(self, key: Key) -> tuple[str, dict[str, Any] | UserError]:
        stream, position, index = key
        dicts, mapper = self.sources[stream]
        if stream != UNLABELED:
            return stream, _sample_or_error(mapper, dicts[index], sample_generator(self.seed, stream, position))

        def make_generator() -> np.random.Generator:
            return sample_generator(self.seed, stream, position)

        return stream, sample_or_replacement(dicts, index, mapper, make_generator)


class TestSamples(Dataset):
    """Test images in order."""

    __test__ = False  # pytest: this is no test

    def __init__(self, dicts: Sequence[dict], mapper: Callable):
        self.dicts = dicts
        self.mapper = mapper

    def __len__(self) -> int:
        return len(self.dicts)

    def __getitem__(self, index: int) -> dict[str, Any] | UserError:
        return _sample_or_error(self.mapper, self.dicts[index])


def _sample_or_error(mapper: Callable, *arguments) -> dict[str, Any] | UserError:
    # An exception that leaves a worker would have the worker's traceback as its message. So it is returned.
    try:
        return mapper(*arguments)
    except UserError as error:
        return UserError(str(error))


class Loader:
    """A DataLoader that raises errors of samples in the calling process, and restarts workers that die.

    Workers start when iteration begins; iterating again starts from the beginning. If a worker dies, all are restarted
    and continue at the next batch. A worker that does not answer ends the iteration.
    """

    max_restarts = 3  # without a batch in between

    def __init__(self, make: Callable[[int], DataLoader], unpack: Callable[[Any], Any], patience: float = 0.0):
        """
        Args:
            make: function from the number of delivered batches to the DataLoader of the next ones. With workers, its
                ``timeout`` is how often they are checked.
            unpack: function from a batch of the DataLoader to the yielded value.
            patience: how many seconds a batch may take; 0: any time.
        """
        self.make = make
        self.unpack = unpack
        self.patience = patience

    def __iter__(self) -> Iterator[Any]:
        delivered, restarts = 0, 0
        while True:
            try:
                for batch in _batches(self.make(delivered), self.patience):
                    if isinstance(batch, UserError):
                        raise batch
                    yield self.unpack(batch)
                    delivered, restarts = delivered + 1, 0
                return
            except WorkerDied as death:
                restarts += 1
                if restarts > self.max_restarts:
                    raise UserError(
                        f"data workers died {restarts} times in a row ({death}): perhaps because memory ran out; lower "
                        "DATALOADER.NUM_WORKERS."
                    ) from death
                logger.warning("A data worker died (%s); starting the workers again.", death)

    def __len__(self) -> int:
        return len(self.make(0))


class WorkerDied(Exception):
    """A data worker ended unexpectedly."""


def _batches(data_loader: DataLoader, patience: float) -> Iterator[Any]:
    """Yield the batches of a DataLoader.

    Raises:
        WorkerDied: a worker died; the others were killed.
        UserError: no batch came within ``patience`` seconds; the workers were killed.
    """
    # PyTorch would raise a worker's death anywhere in the main process, even in the middle of a step. Without its
    # handler, the death is noticed while waiting for a batch.
    handler = signal.getsignal(signal.SIGCHLD)
    iterator = iter(data_loader)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, handler)
    workers = list(getattr(iterator, "_workers", ()))
    asked_at = time.monotonic()
    while True:
        try:
            batch = next(iterator)
        except StopIteration:
            return
        except (RuntimeError, ConnectionError, EOFError, FileNotFoundError) as error:
            is_late = isinstance(error, RuntimeError) and "timed out" in str(error)
            dead = [worker for worker in workers if not worker.is_alive()]
            if is_late and not dead and (not patience or time.monotonic() - asked_at < patience):
                continue
            for worker in workers:
                worker.kill()  # not terminate(), because hanging processes ignore it
            # A batch that a dead worker was sending fails with one of the other errors.
            if dead or (workers and not isinstance(error, RuntimeError)):
                raise WorkerDied(_end_of(dead)) from None
            if not is_late:
                raise
            raise UserError(
                f"no batch came from the data workers within DATALOADER.TIMEOUT ({patience:g} s): check the disk or "
                "network drive that holds the images, then continue with --resume."
            ) from None
        yield batch
        asked_at = time.monotonic()


def _end_of(dead: Sequence[Any]) -> str:
    return f"process {dead[0].pid}, exit code {dead[0].exitcode}" if dead else "while it handed over a batch"


def pack_streams(batch: list[tuple[str, Any]]) -> dict[str, Any] | UserError:
    """Group a micro-batch by stream and stack its tensors.

    A worker sends each tensor through a file of its own. Without stacking, a few hundred images would need more open
    files than a process may have.
    """
    groups: dict[str, Samples] = {}
    for stream, sample in batch:
        if isinstance(sample, UserError):
            return sample
        groups.setdefault(stream, []).append(sample)
    return {stream: _stack(samples) for stream, samples in groups.items()}


def unpack_streams(batch: dict[str, Any]) -> dict[str, Samples]:
    """Undo :func:`pack_streams`. A stream without images becomes an empty list. The tensors are views, not copies."""
    return {stream: _unstack(batch[stream]) if stream in batch else [] for stream in (LABELED, UNLABELED)}


def _stack(samples: Samples) -> dict[str, Any] | Samples:
    names = samples[0].keys()
    if any(sample.keys() != names for sample in samples):  # instances in some of the datasets only
        return samples
    columns = {name: [sample[name] for sample in samples] for name in names}
    return {
        name: torch.stack(values) if isinstance(values[0], torch.Tensor) else values for name, values in columns.items()
    }


def _unstack(columns: dict[str, Any] | Samples) -> Samples:
    if isinstance(columns, list):
        return columns
    return [dict(zip(columns, values)) for values in zip(*columns.values())]


def first_or_error(batch: list) -> list | UserError:
    return batch[0] if isinstance(batch[0], UserError) else batch


def unpack_nothing(batch: Any) -> Any:
    return batch
