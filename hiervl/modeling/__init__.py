"""The network, one file per box of the figure. Importing this package fills Detectron2's registries."""

from hiervl.structures import QueryPredictions, TextFeatures

from .clip_image_encoder import ClipImageEncoder
from .convolutional_encoder import ConvolutionalEncoder
from .encoders import build_clip_image_encoder
from .hiervl import HierVL, NetworkOutput
from .image_encoder import ImageEncoder
from .pixel_classifier import PixelClassifier
from .pixel_decoder import PIXEL_DECODER_REGISTRY, DeformablePixelDecoder, build_pixel_decoder
from .query_decoder import QUERY_DECODER_REGISTRY, DualQueryDecoder, QueryDecoder, build_query_decoder, semantic_map
from .registered import build_network
from .semantic_queries import HierarchicalSemanticQueryGenerator, TextQueries
from .text_encoder import PromptedTextEncoder

__all__ = [
    "PIXEL_DECODER_REGISTRY",
    "QUERY_DECODER_REGISTRY",
    "ClipImageEncoder",
    "ConvolutionalEncoder",
    "DeformablePixelDecoder",
    "DualQueryDecoder",
    "HierVL",
    "HierarchicalSemanticQueryGenerator",
    "ImageEncoder",
    "NetworkOutput",
    "PixelClassifier",
    "PromptedTextEncoder",
    "QueryDecoder",
    "QueryPredictions",
    "TextFeatures",
    "TextQueries",
    "build_clip_image_encoder",
    "build_network",
    "build_pixel_decoder",
    "build_query_decoder",
    "semantic_map",
]
