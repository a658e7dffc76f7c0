"""The losses of unlabelled images and their weights."""

from dataclasses import dataclass

from hiervl.utils.errors import UserError

LOSSES = ("pixel", "set")


@dataclass(frozen=True)
class UnlabeledObjective:
    """Settings of the losses of unlabelled images (``SEMI`` of the config).

    The weights are shares: with 1, a loss has about as large a gradient as all losses of labelled images together. For
    pixel losses the network gives the factor for that (:attr:`~hiervl.modeling.segmenter.ClipSegmenter.loss_scale`).

    Attributes:
        enabled: off: supervised training alone, with full weight on the labelled images.
        burn_in: iterations on labelled images alone.
        supervised_share: weight of the losses of labelled images; those of unlabelled images get the rest of 1.
        loss: for pseudo-labels: "pixel" (cross-entropy of the final semantic map) or "set" (the losses of labelled
            images, after every decoder layer, with the teacher's segments as targets).
        strong_weight: of each strong view; strong_views: how many there are.
        perturbation_weight, perturbation_dropout: weight of the weak view whose features lose channels, and how many.
        entropy_weight: weight of the strong views' entropy.
        color_transfer: probability that a labelled image or a strong view takes on the colours of an unlabelled image.
        color_agreement: pseudo-labels are the mean over the weak view and the same in the colours of a labelled image.
        class_mix: probability that a strong view receives classes of a labelled image.
        balance: exponent of the inverse class frequency that weights pseudo-labelled pixels.
        ignore_value: label of pixels that no loss counts.
    """

    enabled: bool = True
    burn_in: int = 0
    supervised_share: float = 0.5
    loss: str = "pixel"
    strong_weight: float = 0.25
    strong_views: int = 2
    perturbation_weight: float = 0.0
    perturbation_dropout: float = 0.5
    entropy_weight: float = 0.0
    color_transfer: float = 0.0
    color_agreement: bool = False
    class_mix: float = 0.0
    balance: float = 0.0
    ignore_value: int = 255

    def __post_init__(self) -> None:
        if self.strong_views not in (1, 2):
            raise UserError(f"SEMI.STRONG_VIEWS is 1 or 2, not {self.strong_views}.")
        if self.loss not in LOSSES:
            raise UserError(f"SEMI.LOSS is one of {', '.join(LOSSES)}, not '{self.loss}'.")

    @classmethod
    def from_config(cls, cfg) -> "UnlabeledObjective":
        semi = cfg.SEMI
        return cls(
            enabled=semi.ENABLED,
            burn_in=semi.BURN_IN,
            supervised_share=semi.SUPERVISED_SHARE,
            loss=semi.LOSS,
            strong_weight=semi.STRONG_WEIGHT,
            strong_views=semi.STRONG_VIEWS,
            perturbation_weight=semi.PERTURBATION_WEIGHT,
            perturbation_dropout=semi.PERTURBATION_DROPOUT,
            entropy_weight=cfg.LOSS.ENTROPY,
            color_transfer=semi.COLOR_TRANSFER,
            color_agreement=semi.COLOR_AGREEMENT,
            class_mix=semi.CLASS_MIX,
            balance=cfg.LOSS.PIXEL_BALANCE,
            ignore_value=cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
        )

    @property
    def has_pseudo_labels(self) -> bool:
        """Whether any loss uses the teacher."""
        return bool(self.strong_weight or self.perturbation_weight)
