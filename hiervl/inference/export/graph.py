"""A trained network as one graph: fixed classes, text embeddings included, any batch and image size."""

import contextlib
import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from hiervl.modeling.layers import HasExportForm
from hiervl.modeling.segmenter import ClipSegmenter
from hiervl.structures import TextFeatures
from hiervl.utils.errors import UserError

TRAINING_PARTS = ("text_encoder", "criterion", "prompt_regularizer")  # not needed when the text is fixed


class FixedClassSegmenter(nn.Module):
    """images (B, 3, H, W), float32, RGB in 0…255 → S (B, C, H, W), float32, not normalised over the classes.

    It computes the same as ``semantic_maps`` of the network, with normalisation, padding to a multiple of ``stride``
    and cropping. H and W are at least ``smallest_side``.
    """

    network: ClipSegmenter
    pixel_mean: Tensor  # (3, 1, 1)
    pixel_std: Tensor

    def __init__(self, network: ClipSegmenter):
        """network: in evaluation mode, with its classes set. It is copied.

        Raises:
            UserError: an image may have no active class, which a fixed graph cannot express.
        """
        super().__init__()
        gate = network.gate
        if gate is not None and not (gate.min_active or gate.always_active):
            raise UserError(
                "this network lets an image have no active class at all (MODEL.HSQG.MIN_ACTIVE 0 and no background "
                "class), which cannot be exported: train with MIN_ACTIVE of at least 1."
            )
        self.network = copy.deepcopy(network)
        for name in TRAINING_PARTS:
            if hasattr(self.network, name):
                setattr(self.network, name, None)
        for name, value in network.encode_text()._asdict().items():
            self.register_buffer(f"text_{name}", None if value is None else value.detach().clone())
        # The network's own are not in a state_dict.
        self.register_buffer("pixel_mean", network.pixel_mean.clone())
        self.register_buffer("pixel_std", network.pixel_std.clone())

    @property
    def stride(self) -> int:
        """Images are padded to a multiple of this many pixels."""
        return self.network.backbone.size_divisibility

    @property
    def smallest_side(self) -> int:
        """Least side of an image: PyTorch's export treats maps that are one pixel wide as special cases."""
        return self.stride + 1

    def forward(self, images: Tensor) -> Tensor:
        text = TextFeatures(*(getattr(self, f"text_{name}") for name in TextFeatures._fields))
        height, width = images.shape[2:]
        padded = [(side + self.stride - 1) // self.stride * self.stride for side in (height, width)]
        batch = (images - self.pixel_mean) / self.pixel_std
        batch = F.pad(batch, (0, padded[1] - width, 0, padded[0] - height))
        scores = self.network.semantic_scores(self.network.segment(batch, text), text)
        scores = F.interpolate(scores, size=padded, mode="bilinear", align_corners=False)
        # A slice would test whether there is anything to cut off, and the graph would be right for only one answer.
        rows, columns = (torch.arange(side, device=scores.device) for side in (height, width))
        return scores.index_select(2, rows).index_select(3, columns)


@contextlib.contextmanager
def export_form(module: nn.Module) -> Iterator[None]:
    """Switch all parts of ``module`` that have an export form to it."""
    parts = [part for part in module.modules() if isinstance(part, HasExportForm)]
    for part in parts:
        part.export_form = True
    try:
        yield
    finally:
        for part in parts:
            part.export_form = False


def export_graph(segmenter: FixedClassSegmenter) -> ExportedProgram:
    """The graph of ``segmenter`` with free batch, height and width. All formats are written from it."""
    stride, smallest = segmenter.stride, segmenter.smallest_side
    sizes = {0: Dim("batch", min=1), 2: Dim("height", min=smallest), 3: Dim("width", min=smallest)}
    # An example that is not a special case: neither square nor a multiple of the stride.
    example = torch.zeros(2, 3, 4 * stride + 5, 5 * stride + 7, device=segmenter.pixel_mean.device)
    # Other attention kernels would record views that fit only their memory layout. Guards that cannot be proved become
    # checks when the graph runs.
    with export_form(segmenter), torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        return torch.export.export(
            segmenter.eval(),
            (example,),
            dynamic_shapes=(sizes,),
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )
