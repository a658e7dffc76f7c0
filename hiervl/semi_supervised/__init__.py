"""Learning from labelled and unlabelled images together."""

from .step import SemiSupervisedStep
from .teacher import EmaTeacher, StudentAsTeacher
from .trainer import SemiSupervisedTrainer

__all__ = ["EmaTeacher", "SemiSupervisedStep", "SemiSupervisedTrainer", "StudentAsTeacher"]
