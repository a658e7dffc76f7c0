"""The method: learn from labelled and unlabelled images together."""

from .step import SemiSupervisedStep
from .teacher import EmaTeacher, StudentAsTeacher

__all__ = ["EmaTeacher", "SemiSupervisedStep", "StudentAsTeacher"]
