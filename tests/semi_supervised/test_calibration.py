"""What the relevance gate is fitted to."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from hiervl.semi_supervised import calibration


class Network(nn.Module):
    class_names = ["a", "b", "c"]
    device = torch.device("cpu")

    def encode_text(self):
        return None

    def normalise(self, images):
        return torch.stack(images)

    def relevance_similarity(self, images, text):
        return images.flatten(1)


@pytest.mark.parametrize("ignore_value", [255, -1, -100])
def test_ignored_pixels_show_no_class(monkeypatch, ignore_value):
    sample = {"image": torch.tensor([0.1, 0.2, 0.3]), "sem_seg": torch.tensor([[1, ignore_value]])}
    monkeypatch.setattr(calibration, "labelled_batches", lambda cfg: [[sample]])
    similarity, presence = calibration.labelled_similarities(SimpleNamespace(), Network())
    assert similarity.tolist() == [pytest.approx([0.1, 0.2, 0.3])] and presence.tolist() == [[False, True, False]]
