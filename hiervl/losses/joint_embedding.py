"""``loss_joint_embedding``: an encoder trained without language learns the embeddings of the frozen CLIP beside it."""

from torch import Tensor
from torch.nn import functional as F


def joint_embedding_loss(joint: Tensor, target: Tensor) -> Tensor:
    """Mean over the positions of 1 − cos(joint, target), as in eq. 6 for hidden patches.

    Args:
        joint: (B, D, h, w) of the trained encoder.
        target: (B, D, h', w') of the frozen CLIP, resized to the encoder's grid.
    """
    if target.shape[2:] != joint.shape[2:]:
        target = F.interpolate(target, size=joint.shape[2:], mode="bilinear", align_corners=False)
    return (1.0 - F.cosine_similarity(joint, target, dim=1)).mean()
