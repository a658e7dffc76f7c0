"""Pictures of segmentations, and a run's report page."""

from .pictures import colorize, comparison_sheet, draw_comparisons, overlay

__all__ = ["colorize", "comparison_sheet", "draw_comparisons", "overlay"]
