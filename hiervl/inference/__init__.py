"""Inference: what is done with a trained network's predictions."""

from hiervl.inference.pictures import colourise, comparison_sheet, default_colours, draw_comparisons, overlay

__all__ = ["colourise", "comparison_sheet", "default_colours", "draw_comparisons", "overlay"]
