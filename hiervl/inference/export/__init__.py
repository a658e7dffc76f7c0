"""Trained networks as files that run without HierVL: ONNX, TorchScript, ``torch.export``."""

from .files import Exported, export_network
from .formats import FORMATS
from .graph import FixedClassSegmenter, export_graph

__all__ = ["FORMATS", "Exported", "FixedClassSegmenter", "export_graph", "export_network"]
