"""What an evaluation needs: test sets with labels of the network's classes, and the precision of the training."""

import torch

from hiervl.data.registered.datasets import class_names_of, load_dataset
from hiervl.engine.loop import amp_type
from hiervl.utils.errors import UserError
from hiervl.utils.text import listed


def check_test_classes(cfg, dataset_name: str, class_names: list[str]) -> None:
    """Raises a UserError if the dataset has not as many classes as the network."""
    names = list(cfg.MODEL.CLASS_NAMES) or class_names_of(dataset_name)
    if len(names) != len(class_names):
        raise UserError(
            f"DATASETS.TEST: '{dataset_name}' has {len(names)} classes, but the network was built for "
            f"{len(class_names)} ({listed(class_names)}): name a test set of the same classes."
        )


def check_test_labels(dataset_name: str) -> None:
    """Raises a UserError that names the first image without a label."""
    for entry in load_dataset(dataset_name, "DATASETS.TEST"):
        if "sem_seg_file_name" not in entry:
            raise UserError(
                f"DATASETS.TEST: '{dataset_name}' holds {entry['file_name']}, which has no label to compare with: name "
                "a dataset with labels."
            )


def evaluation_precision(cfg) -> torch.autocast:
    """Mixed precision as in training, but only on CUDA."""
    is_mixed = cfg.SOLVER.AMP.ENABLED and cfg.MODEL.DEVICE.startswith("cuda")
    return torch.autocast("cuda", dtype=amp_type(cfg.SOLVER.AMP.DTYPE), enabled=is_mixed)
