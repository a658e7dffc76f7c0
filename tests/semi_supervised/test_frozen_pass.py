"""Images of one size share a pass through the frozen CLIP."""

import pytest
import torch

from hiervl.modeling.frozen_clip import ClipEmbeddings
from hiervl.semi_supervised.frozen_pass import embed_together


class Clip:
    """Its embeddings are the images' means."""

    def __init__(self):
        self.seen = []

    def embed(self, images, pooled):
        self.seen.append(tuple(images.shape))
        mean = images.mean((1, 2, 3))
        return ClipEmbeddings(mean[:, None, None, None], mean[:, None] if pooled else None)


@pytest.mark.parametrize("pooled", [True, False])
def test_groups_of_one_size_share_a_pass_and_get_their_own(pooled):
    groups = {
        "labelled": torch.stack([torch.full((3, 4, 4), value) for value in (1.0, 2.0)]),
        "weak": torch.full((1, 3, 8, 4), 3.0),
        "strong": torch.stack([torch.full((3, 4, 4), value) for value in (4.0, 5.0, 6.0)]),
    }
    clip = Clip()
    found = embed_together(clip, groups, pooled)
    assert clip.seen == [(5, 3, 4, 4), (1, 3, 8, 4)]
    for name, values in (("labelled", [1, 2]), ("weak", [3]), ("strong", [4, 5, 6])):
        assert found[name].dense.flatten().tolist() == values
        assert (found[name].pooled is None) if not pooled else found[name].pooled.flatten().tolist() == values
