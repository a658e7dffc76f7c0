"""Build the loaders of training and test images from the configuration. ``streams.py`` has what they iterate."""

import itertools
import logging
import math
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import torch
from detectron2.utils import comm
from torch.utils.data import DataLoader

from hiervl.data.loading.damage import DamageCount
from hiervl.data.loading.mappers import LabeledMapper, TestMapper, UnlabeledMapper
from hiervl.data.loading.packed import PackedDicts, UnlabeledDicts
from hiervl.data.loading.readers import DOUBTFUL, is_doubtful_mask
from hiervl.data.loading.streams import (
    LABELED,
    UNLABELED,
    Loader,
    MicroBatchSampler,
    Samples,
    Stream,
    StreamSamples,
    TestSamples,
    first_or_error,
    pack_streams,
    sample_generator,
    unpack_nothing,
    unpack_streams,
)
from hiervl.data.registered.datasets import class_names_of, ignore_label_of, load_dataset
from hiervl.utils.errors import UserError

logger = logging.getLogger(__name__)

# How often a waiting process checks that its workers are alive, in seconds.
WORKER_CHECK_SECONDS = 2.0


def build_semi_supervised_loader(cfg, start_iter: int = 0) -> Loader:
    """The training loader, for this process.

    Yields ``SOLVER.ACCUMULATION`` micro-batches per iteration, each ``{"labeled": [dict], "unlabeled": [dict]}`` as
    :class:`LabeledMapper` and :class:`UnlabeledMapper` make them; "unlabeled" is empty if ``SEMI.ENABLED`` is off or
    ``SOLVER.UNLABELED_PER_BATCH`` is 0.

    Args:
        start_iter: the first iteration. The batches are those of an uninterrupted run, unless ``SEED`` is −1: then
            every start draws new ones.

    Raises:
        UserError: a dataset is missing, unknown or wrong, or a batch cannot be divided between the processes. While
            iterating: an image or label is missing or wrong.
    """
    seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    sources: dict[str, tuple[Sequence[dict], Callable[..., Any]]] = {LABELED: (load_labeled(cfg), _labeled_mapper(cfg))}
    if comm.is_main_process():
        _warn_of_doubtful_masks(sources[LABELED][0])
    batch_sizes = {LABELED: _checked_batch_size(cfg, "IMS_PER_BATCH")}
    if cfg.SEMI.ENABLED and cfg.SOLVER.UNLABELED_PER_BATCH > 0:
        sources[UNLABELED] = (load_unlabeled(cfg), UnlabeledMapper.from_config(cfg))
        batch_sizes[UNLABELED] = _checked_batch_size(cfg, "UNLABELED_PER_BATCH")

    def make(delivered: int) -> DataLoader:
        sampler = MicroBatchSampler(
            [Stream(name, len(dicts), seed) for name, (dicts, _) in sources.items()],
            list(batch_sizes.values()),
            cfg.SOLVER.ACCUMULATION,
            start_iter,
            comm.get_rank(),
            comm.get_world_size(),
            skip=delivered,
        )
        # No persistent_workers: the stream is endless, and after an error each such worker takes 5 seconds to stop.
        return DataLoader(
            StreamSamples(sources, seed),
            batch_sampler=sampler,
            collate_fn=pack_streams,
            **_loader_options(cfg),
        )

    unlabeled, _ = sources.get(UNLABELED, ((), None))
    count = DamageCount(len(unlabeled), cfg.DATALOADER.MAX_DAMAGED)
    return Loader(make, lambda batch: count.check(unpack_streams(batch)), cfg.DATALOADER.TIMEOUT)


def build_labeled_loader(cfg, batch_size: int, dataset_name: str = "") -> Iterator[Samples]:
    """Endless batches of augmented labelled images, the same in every process: of a dataset of ``DATASETS.TEST``, or of
    those in training."""
    dicts = load_dataset(dataset_name, "DATASETS.TEST") if dataset_name else load_labeled(cfg)
    mapper = _labeled_mapper(cfg, dataset_name)
    seed = max(cfg.SEED, 0)
    stream = Stream("calibration", len(dicts), seed)
    for start in itertools.count(0, batch_size):
        positions = range(start, start + batch_size)
        yield [mapper(dicts[stream.index(p)], sample_generator(seed, stream.name, p)) for p in positions]


def build_test_loader(cfg, dataset_name: str, count: int = 0) -> Loader:
    """The images of a dataset in order, one per batch (a list of one dict, see :class:`TestMapper`).

    Every process gets every ``world size``-th image: none is missing or doubled, but some may get one fewer.

    Args:
        count: not all images but so many, evenly spread over the dataset, and the same ones in every process.

    Raises:
        UserError: the dataset is unknown or wrong. While iterating: an image is missing or wrong.
    """
    dataset = load_dataset(dataset_name, "DATASETS.TEST")
    if count:  # neighbours are often frames of one video
        own = [dataset[index * len(dataset) // count] for index in range(count)] if count < len(dataset) else dataset
    else:
        own = dataset[comm.get_rank() :: comm.get_world_size()]
    mapper = TestMapper.from_config(cfg)

    def make(delivered: int) -> DataLoader:
        samples = TestSamples(own[delivered:], mapper)
        return DataLoader(samples, batch_size=1, collate_fn=first_or_error, **_loader_options(cfg))

    return Loader(make, unpack_nothing, cfg.DATALOADER.TIMEOUT)


def iterations_per_epoch(cfg) -> int:
    """Iterations of one pass over the unlabelled images, or over the labelled images if there are none.

    ``SEMI.ENABLED`` does not matter, so the supervised baseline of a semi-supervised run trains equally long.
    """
    if cfg.DATASETS.UNLABELED and cfg.SOLVER.UNLABELED_PER_BATCH > 0:
        images = sum(len(load_dataset(name, "DATASETS.UNLABELED")) for name in cfg.DATASETS.UNLABELED)
        return math.ceil(images / cfg.SOLVER.UNLABELED_PER_BATCH)
    return math.ceil(len(load_labeled(cfg)) / cfg.SOLVER.IMS_PER_BATCH)


def load_labeled(cfg) -> Sequence[dict]:
    """The dicts of ``DATASETS.TRAIN``, every one with a label."""
    dicts = _load_all(cfg.DATASETS.TRAIN, "DATASETS.TRAIN")
    for entry in dicts:
        if "sem_seg_file_name" not in entry:
            raise UserError(
                f"DATASETS.TRAIN holds {entry['file_name']}, which has no label: name labelled datasets only."
            )
    if len({tuple(class_names_of(name)) for name in cfg.DATASETS.TRAIN}) > 1:
        raise UserError(f"the datasets in DATASETS.TRAIN differ in their classes: {', '.join(cfg.DATASETS.TRAIN)}.")
    return dicts


def load_unlabeled(cfg) -> Sequence[dict]:
    """The dicts of ``DATASETS.UNLABELED``."""
    return _load_all(cfg.DATASETS.UNLABELED, "DATASETS.UNLABELED")


def _load_all(names: Sequence[str], key: str) -> Sequence[dict]:
    if not names:
        switch = ", or set SEMI.ENABLED to False" if key == "DATASETS.UNLABELED" else ""
        raise UserError(f"{key} is empty: name a dataset{switch}.")
    if len(names) == 1:
        dicts = load_dataset(names[0], key)
        return dicts if isinstance(dicts, UnlabeledDicts) else PackedDicts(dicts)
    return PackedDicts(itertools.chain.from_iterable(load_dataset(name, key) for name in names))


def _labeled_mapper(cfg, dataset_name: str = "") -> LabeledMapper:
    name = dataset_name or cfg.DATASETS.TRAIN[0]
    num_classes = len(cfg.MODEL.CLASS_NAMES or class_names_of(name))
    return LabeledMapper.from_config(cfg, num_classes, ignore_label_of(name))


def _warn_of_doubtful_masks(dicts: Sequence[dict]) -> None:
    files = ((entry["file_name"], entry["sem_seg_file_name"]) for entry in dicts)
    doubtful = [mask for image, mask in files if is_doubtful_mask(image, mask)]
    if doubtful:
        logger.warning("%d %s. The first is %s.", len(doubtful), DOUBTFUL, doubtful[0])


def _checked_batch_size(cfg, key: str) -> int:
    batch_size, parts = cfg.SOLVER[key], cfg.SOLVER.ACCUMULATION * comm.get_world_size()
    if batch_size <= 0 or batch_size % parts:
        raise UserError(
            f"SOLVER.{key} is {batch_size}, but must be a multiple of {parts}: the number of processes "
            f"({comm.get_world_size()}) times SOLVER.ACCUMULATION ({cfg.SOLVER.ACCUMULATION})."
        )
    return batch_size


def _start_worker(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process handles Ctrl-C and ends the workers
    cv2.setNumThreads(0)  # there are several workers already; OpenCV's threads would not survive the fork


def _loader_options(cfg) -> dict[str, Any]:
    return {
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
        "pin_memory": cfg.MODEL.DEVICE.startswith("cuda") and torch.cuda.is_available(),
        "worker_init_fn": _start_worker,
        "timeout": WORKER_CHECK_SECONDS if cfg.DATALOADER.NUM_WORKERS else 0,
        # Its own generator; else starting the loader would draw from the model's.
        "generator": torch.Generator(),
    }
