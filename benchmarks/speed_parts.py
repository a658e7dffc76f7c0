"""Rows of ``speed.py`` that have a counterpart in Mask2Former: deformable attention, decoders, matching and losses."""

import torch
from detectron2.layers import ShapeSpec
from torch import Tensor
from torch.nn import functional as F

from hiervl.losses.criterion import SupervisedCriterion
from hiervl.losses.targets import image_targets
from hiervl.modeling.deformable_attention import DeformableAttention, reference_points
from hiervl.modeling.pixel_decoder import DeformablePixelDecoder
from hiervl.modeling.query_decoder import DualQueryDecoder
from hiervl.modeling.semantic_queries import TextQueries
from hiervl.structures import QueryPredictions, TextFeatures

from . import peer
from .timing import Measurement, interleaved

WIDTH, HEADS, POINTS = 256, 8, 4
QUERIES = 100
CLASSES = 150
INPUTS = 3  # different random inputs, taken in turn
EMBED_DIM = 512
# Channels of the maps at strides 4, 8, 16 and 32 that a ViT-B/16 gives.
CHANNELS = (192, 384, 768, 768)
LEVELS, ACTIVE_CLASSES = 3, 7


def attention(device: torch.device, args) -> list[Measurement]:
    """Deformable attention with its projections, every pixel of the maps at strides 32, 16 and 8 being a query."""
    shapes = [(args.crop // stride, args.crop // stride) for stride in (32, 16, 8)]
    ours = DeformableAttention(WIDTH, len(shapes), HEADS, POINTS).to(device)
    with torch.no_grad():  # as after some training: every query has offsets and weights of its own
        ours.sampling_offsets.weight.normal_(std=0.05)
        ours.attention_weights.weight.normal_(std=0.05)
    theirs = peer.attention(WIDTH, HEADS, len(shapes), POINTS).to(device)
    theirs.load_state_dict(ours.state_dict())
    points = reference_points(shapes, device)
    their_points = points[:, :, None].expand(args.batch, -1, len(shapes), -1)
    inputs = [torch.randn(2, args.batch, points.shape[1], WIDTH, device=device) for _ in range(INPUTS)]

    def run_ours(query: Tensor, maps: Tensor) -> Tensor:
        return ours(query, points, maps, shapes)

    def run_theirs(query: Tensor, maps: Tensor) -> Tensor:
        return theirs(query, encoder_hidden_states=maps, reference_points=their_points, spatial_shapes_list=shapes)[0]

    def forward(run):
        @torch.no_grad()
        def call(index: int) -> None:
            run(*inputs[index % INPUTS])

        return call

    def both(run):
        def call(index: int) -> None:
            query, maps = (x.clone().requires_grad_() for x in inputs[index % INPUTS])
            out = run(query, maps)
            out.backward(inputs[(index + 1) % INPUTS][0])

        return call

    return [
        Measurement(name, interleaved({"ours": of(run_ours), "peer": of(run_theirs)}, device, args.repeats))
        for name, of in (("deformable attention, forward", forward), ("deformable attention, forward + backward", both))
    ]


def decoder(device: torch.device, args) -> list[Measurement]:
    """Pixel decoder + query decoder at inference."""
    return _decoders(device, args, training=False)


def decoder_training(device: torch.device, args) -> list[Measurement]:
    """Pixel decoder + query decoder, forward and backward, with predictions of all layers."""
    return _decoders(device, args, training=True)


def _decoders(device: torch.device, args, training: bool) -> list[Measurement]:
    theirs = peer.Decoders(CHANNELS, CLASSES, QUERIES).to(device).train(training)
    plain = _OurDecoders(cmsam=False, text_queries=False).to(device).train(training)
    aligned = _OurDecoders(cmsam=True, text_queries=False).to(device).train(training)
    full = _OurDecoders(cmsam=True, text_queries=True).to(device).train(training)
    inputs = [
        [
            torch.randn(args.batch, c, args.crop // s, args.crop // s, device=device)
            for c, s in zip(CHANNELS, (4, 8, 16, 32))
        ]
        for _ in range(INPUTS)
    ]
    is_cuda = device.type == "cuda"

    def candidate(model):
        def call(index: int) -> None:
            features = inputs[index % INPUTS]
            with torch.autocast(device.type, torch.bfloat16, enabled=is_cuda), torch.set_grad_enabled(training):
                outputs = model(features)
            if training:
                sum(out.float().square().mean() for out in outputs).backward()
                model.zero_grad(set_to_none=True)

        return call

    seconds = interleaved(
        {"peer": candidate(theirs), "ours": candidate(plain), "cmsam": candidate(aligned), "full": candidate(full)},
        device,
        args.repeats,
    )
    what = "decoders, training" if training else "decoders, inference"
    rows = LEVELS * ACTIVE_CLASSES
    return [
        Measurement(f"{what}, CMSAM and text queries off", {n: seconds[n] for n in ("ours", "peer")}),
        Measurement(
            f"{what}, with CMSAM",
            {"ours": seconds["cmsam"], "without": seconds["ours"], "peer": seconds["peer"]},
            "without",
            f"{rows} text queries",
        ),
        Measurement(
            f"{what}, with CMSAM and text queries",
            {"ours": seconds["full"], "without": seconds["ours"], "peer": seconds["peer"]},
            "without",
            f"{rows} text queries; {seconds['peer'] / seconds['full']:.2f}× the peer, which has none",
        ),
    ]


class _OurDecoders(torch.nn.Module):
    """HierVL's two decoders behind the interface of :class:`peer.Decoders`."""

    def __init__(self, cmsam: bool, text_queries: bool):
        super().__init__()
        maps = {f"res{i}": ShapeSpec(channels=c, stride=2**i) for i, c in zip((2, 3, 4, 5), CHANNELS)}
        self.pixel_decoder = DeformablePixelDecoder(
            maps, dim=WIDTH, num_heads=HEADS, num_points=POINTS, text_reads_pixels=cmsam, pixels_read_text=cmsam
        )
        self.query_decoder = DualQueryDecoder(
            CLASSES, EMBED_DIM, dim=WIDTH, num_heads=HEADS, num_instance_queries=QUERIES, text_queries=text_queries
        )
        self.names = list(maps)
        self.has_text = cmsam or text_queries

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        text = self._text(features[0]) if self.has_text else None
        pixels = self.pixel_decoder(dict(zip(self.names, features)), text)
        predictions = self.query_decoder(pixels, text, every_layer=self.training)
        return [*predictions.pred_masks, *predictions.pred_logits]

    def _text(self, like: Tensor) -> TextQueries:
        rows = (len(like), LEVELS * ACTIVE_CLASSES)
        return TextQueries(
            queries=torch.randn(*rows, WIDTH, device=like.device),
            position=torch.randn(*rows, WIDTH, device=like.device),
            classes=torch.arange(ACTIVE_CLASSES, device=like.device).repeat(LEVELS).expand(rows),
            valid=torch.ones(rows, dtype=torch.bool, device=like.device),
            log_relevance=torch.zeros(rows, device=like.device),
            relevance_logits=torch.zeros(len(like), CLASSES, device=like.device),
        )


def losses(device: torch.device, args) -> list[Measurement]:
    """Matching and class, mask and dice loss of 9 predictions, forward and backward, on targets made beforehand."""
    images, layers = args.batch, 9
    criterion = SupervisedCriterion(
        weights={"class": 2.0, "mask": 5.0, "dice": 5.0, "pixel": 0.0, "align": 0.0, "relevance": 0.0}
    )
    theirs = peer.Losses(CLASSES, QUERIES)
    theirs.criterion.to(device)
    found = []
    for segments in (5, 20, 60):
        predicted = [_predictions(images, layers, args.crop, device) for _ in range(2)]
        maps = [[_label_map(segments, args.crop, device) for _ in range(images)] for _ in range(2)]
        candidates = {
            "ours": _our_losses(criterion, predicted, maps, layers),
            "peer": _their_losses(theirs, predicted, maps),
            "one layer": _our_losses(criterion, predicted, maps, 1),
        }
        seconds = interleaved(candidates, device, args.repeats, warmup=1)
        note = f"9 layers cost {seconds['ours'] / seconds['one layer']:.1f}× one layer"
        found.append(Measurement(f"matching + losses, 9 layers, {segments} segments", seconds, note=note))
    return found


def _our_losses(criterion: SupervisedCriterion, inputs: list[QueryPredictions], maps: list[list[Tensor]], layers: int):
    """Targets are made beforehand, as the peer's are."""
    targets = [[image_targets(m, None, m.shape, 255) for m in batch_maps] for batch_maps in maps]
    images, device = len(maps[0]), maps[0][0].device
    text = TextFeatures(*(3 * [torch.zeros(CLASSES, 8, device=device)]), torch.arange(CLASSES, device=device))
    scores = torch.ones(images, CLASSES, 8, 8, device=device)
    gate = torch.zeros(images, CLASSES, device=device)

    def call(index: int) -> None:
        predicted = inputs[index % len(inputs)]
        predicted = predicted._replace(
            pred_logits=predicted.pred_logits[:layers], pred_masks=predicted.pred_masks[:layers]
        )
        sum(criterion(predicted, scores, gate, text, targets[index % len(inputs)]).values()).backward()

    return call


def _their_losses(theirs: peer.Losses, inputs: list[QueryPredictions], maps: list[list[Tensor]]):
    targets = [[_their_target(m) for m in batch_maps] for batch_maps in maps]

    def call(index: int) -> None:
        predicted = inputs[index % len(inputs)]
        theirs(predicted.pred_logits, predicted.pred_masks, targets[index % len(inputs)]).backward()

    return call


def _predictions(images: int, layers: int, crop: int, device: torch.device) -> QueryPredictions:
    """Smooth random masks, as a network's are; leaves that receive gradients."""
    side, rows = crop // 4, QUERIES

    def masks() -> Tensor:
        coarse = 4 * torch.randn(images, rows, side // 8, side // 8, device=device)
        return F.interpolate(coarse, size=(side, side), mode="bilinear").requires_grad_()

    return QueryPredictions(
        pred_logits=[torch.randn(images, rows, CLASSES + 1, device=device, requires_grad=True) for _ in range(layers)],
        pred_masks=[masks() for _ in range(layers)],
        joint_embeddings=torch.zeros(images, rows, 8, device=device),
        query_classes=torch.full((images, rows), -1, device=device),
        query_valid=torch.ones(images, rows, dtype=torch.bool, device=device),
    )


def _label_map(segments: int, crop: int, device: torch.device) -> Tensor:
    """Every class in one region: the nearest of as many random points."""
    grid = torch.stack(torch.meshgrid(*2 * [torch.arange(0, crop, 4, device=device)], indexing="ij"), -1).float()
    centers = torch.rand(segments, 2, device=device) * crop
    nearest = torch.cdist(grid.flatten(0, 1), centers).argmin(1).view(grid.shape[:2])
    classes = torch.randperm(CLASSES, device=device)[:segments]
    return classes[nearest].repeat_interleave(4, 0).repeat_interleave(4, 1)


def _their_target(label_map: Tensor) -> dict[str, Tensor]:
    labels = label_map.unique()
    return {"labels": labels, "masks": (label_map == labels[:, None, None]).float()}
