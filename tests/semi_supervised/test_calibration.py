"""What the relevance gate is fitted to."""

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from hiervl.modeling.semantic_queries import HierarchicalSemanticQueryGenerator
from hiervl.semi_supervised import calibration


class Network(nn.Module):
    class_names = ["a", "b", "c"]
    device = torch.device("cpu")
    gate = None

    def encode_text(self):
        return None

    def normalize(self, images):
        return torch.stack(images)

    def relevance_similarity(self, images, text):
        return images.flatten(1)


@pytest.mark.parametrize("ignore_value", [255, -1, -100])
def test_ignored_pixels_show_no_class(monkeypatch, ignore_value):
    sample = {"image": torch.tensor([0.1, 0.2, 0.3]), "sem_seg": torch.tensor([[1, ignore_value]])}
    monkeypatch.setattr(calibration, "labeled_batches", lambda cfg: [[sample]])
    similarity, presence = calibration.labeled_similarities(SimpleNamespace(), Network())
    assert similarity.tolist() == [pytest.approx([0.1, 0.2, 0.3])] and presence.tolist() == [[False, True, False]]


class Gate:
    """A gate whose logits are far from its probabilities."""

    def __init__(self):
        self.threshold = torch.tensor(0.5)

    def gate_logits(self, similarity):
        return 10 * similarity

    calibrate_threshold = HierarchicalSemanticQueryGenerator.calibrate_threshold


def network_with_images(monkeypatch, *samples):
    """A network with a gate, in training mode, and labelled images of the similarities and labels given."""
    network = Network().train()
    network.gate = Gate()
    batches = [
        [{"image": torch.tensor(similarity), "sem_seg": torch.tensor([labels])}] for similarity, labels in samples
    ]
    monkeypatch.setattr(calibration, "labeled_batches", lambda cfg: batches)
    return network


def config(recall, threshold=0.9):
    hsqg = SimpleNamespace(CALIBRATED_RECALL=recall, THRESHOLD=threshold)
    return SimpleNamespace(MODEL=SimpleNamespace(HSQG=hsqg))


def test_the_threshold_is_a_probability_that_the_share_of_present_classes_passes(monkeypatch):
    """Present are classes of the logits −1, 0, 1, 2, −2: four of five pass at σ(−1), all at σ(−2)."""
    samples = (([-0.1, 0.9, 0.0], [0, 2]), ([0.1, 0.2, 0.8], [0, 1]), ([0.9, 0.9, -0.2], [2, 255]))
    network = network_with_images(monkeypatch, *samples)
    for recall, expected in ((0.75, -1.0), (1.0, -2.0)):
        calibration.calibrate_threshold(config(recall), network)
        assert network.gate.threshold.item() == pytest.approx(1 / (1 + math.exp(-expected)))
    calibration.calibrate_threshold(config(0.75, threshold=0.1), network)
    assert network.gate.threshold.item() == pytest.approx(0.1)  # never above it
    network.gate.threshold.fill_(0.3)
    calibration.calibrate_threshold(config(0.0), network)
    assert network.gate.threshold.item() == pytest.approx(0.3)  # switched off


def test_the_network_is_asked_in_evaluation_mode_and_left_as_it_was(monkeypatch):
    network = network_with_images(monkeypatch, ([0.1, 0.2, 0.3], [1]))
    modes = []
    similarity = network.relevance_similarity
    monkeypatch.setattr(
        network,
        "relevance_similarity",
        lambda *args: modes.append((network.training, torch.is_grad_enabled())) or similarity(*args),
    )
    for training in (True, False):
        calibration.labeled_similarities(SimpleNamespace(), network.train(training))
        assert network.training == training
    assert modes == [(False, False)] * 2


def test_networks_without_a_gate_are_left_alone(monkeypatch):
    network = network_with_images(monkeypatch, ([0.1, 0.2, 0.3], [1]))
    gate, network.gate = network.gate, None
    calibration.calibrate_threshold(config(1.0), network)
    calibration.fit_gate(config(1.0), network)
    assert gate.threshold.item() == 0.5


def test_images_are_read_in_whole_batches_up_to_64(monkeypatch):
    """Eight at a time, so many batches that every image comes, at most eight."""
    asked = []

    def loader(*arguments):
        asked.append(arguments)
        return itertools.count()

    cfg = SimpleNamespace(DATASETS=SimpleNamespace(TEST=("first", "second")))
    monkeypatch.setattr(calibration, "build_labeled_loader", loader)
    for images, batches in ((1, 1), (8, 1), (9, 2), (63, 8), (64, 8), (1000, 8)):
        monkeypatch.setattr(
            calibration, "load_labeled", lambda config, images=images: range(images) if config else None
        )
        assert len(list(calibration.labeled_batches(cfg))) == batches
    assert asked == [(cfg, 8)] * 6
    assert len(list(calibration.validation_batches(cfg, 17))) == 3
    assert asked[-1] == (cfg, 8, "first")
    cfg.DATASETS.TEST = ()
    assert list(calibration.validation_batches(cfg, 17)) == []
