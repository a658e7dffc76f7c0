"""Pictures of segmentations, and a run's report page."""

from .pictures import colourise, comparison_sheet, draw_comparisons, overlay

__all__ = ["colourise", "comparison_sheet", "draw_comparisons", "overlay"]
