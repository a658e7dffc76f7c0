"""What the network hands to the losses. Both sides know these types, and neither the other's modules."""

from .query_predictions import INSTANCE_ROW, QueryPredictions
from .text_features import TextFeatures

__all__ = ["INSTANCE_ROW", "QueryPredictions", "TextFeatures"]
