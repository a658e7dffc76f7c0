"""What the network hands to the losses. Both sides know these types and not each other's modules."""

from .query_predictions import INSTANCE_QUERY, QueryPredictions
from .text_features import TextFeatures

__all__ = ["INSTANCE_QUERY", "QueryPredictions", "TextFeatures"]
