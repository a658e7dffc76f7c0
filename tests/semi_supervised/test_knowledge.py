"""The mask prior is switched off for classes that the untrained CLIP does not know."""

import numpy as np
import pytest
import torch

from hiervl.modeling.frozen_clip import FrozenClip
from hiervl.semi_supervised import knowledge
from hiervl.semi_supervised.knowledge import labeled_images, silence_prior

NAN = float("nan")


@pytest.mark.parametrize("least, known", [(0.02, [True, False, True, True, True, True]), (0.0, [True] * 6)])
def test_the_prior_is_silent_about_classes_that_clip_does_not_know(
    make_network, make_cfg, monkeypatch, caplog, least, known
):
    """'cat' was seen often enough and never found; 'red bus' too rarely to say; 'sky' not at all."""
    iou, shown = np.array([0.5, 0.01, 0.0, 0.03, 0.9, NAN]), np.array([9, 3, 2, 4, 4, 0])
    network = make_network()
    cfg = make_cfg("MODEL.QUERY_DECODER.PRIOR_MIN_IOU", least)
    asked = []
    monkeypatch.setattr(knowledge, "zero_shot", lambda *asked_for: asked.append(asked_for) or (iou, shown))
    silence_prior(cfg, network)
    assert [arguments[:2] for arguments in asked] == ([(cfg, network)] if least else [])
    assert all(isinstance(clip, FrozenClip) for *_, clip in asked)
    assert network.mask_prior.known.tolist() == known
    assert ("'cat' (1.0 %)" in caplog.text) == (not all(known))


def test_clip_is_not_judged_where_nothing_depends_on_it(make_network, make_cfg, monkeypatch):
    """Without a prior, or when no class is to be silenced: reading the labelled images takes time."""
    monkeypatch.setattr(knowledge, "zero_shot", lambda *_: pytest.fail("CLIP was judged"))
    without = ("MODEL.QUERY_DECODER.MASK_PRIOR", False)
    network = make_network(*without)
    silence_prior(make_cfg(*without), network)
    assert network.mask_prior is None
    silence_prior(make_cfg("MODEL.QUERY_DECODER.PRIOR_MIN_IOU", 0.0), make_network())


def test_labeled_images_are_those_of_training_or_the_given_ones(make_network, monkeypatch):
    def batch(value):
        return [{"image": torch.full((3, 2, 2), value + i), "sem_seg": torch.full((2, 2), i)} for i in range(2)]

    monkeypatch.setattr(knowledge, "labeled_batches", lambda cfg: [batch(10.0), batch(20.0)] if cfg == "cfg" else None)
    network = make_network()
    for batches, expected in ((None, [10.0, 20.0]), ([batch(5.0)], [5.0])):
        found = list(labeled_images("cfg", network, batches))
        assert [images[0, 0, 0, 0].item() for images, _ in found] == expected
        for images, truth in found:
            assert images.shape == (2, 3, 2, 2) and truth.tolist() == [[[0, 0], [0, 0]], [[1, 1], [1, 1]]]
