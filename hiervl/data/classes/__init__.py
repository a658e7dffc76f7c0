"""Classes: their definition, their file, and how mask values become their labels."""

from .definitions import ClassDefinition, read_classes

__all__ = ["ClassDefinition", "read_classes"]
