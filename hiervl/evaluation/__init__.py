"""Evaluation: segment whole images, and compute metrics."""

from hiervl.evaluation.segmenter import SlidingWindowSegmenter
from hiervl.evaluation.semantic_evaluator import (
    SemanticEvaluator,
    confusion_matrix,
    format_results_table,
    scores_from_confusion,
    write_results,
)
from hiervl.evaluation.sliding_window import sliding_window_positions

__all__ = [
    "SemanticEvaluator",
    "SlidingWindowSegmenter",
    "confusion_matrix",
    "format_results_table",
    "scores_from_confusion",
    "sliding_window_positions",
    "write_results",
]
