"""A training of other classes starts from the weights of a checkpoint, class by class."""

import logging

import torch

from hiervl.engine.checkpoint import SegmentationCheckpointer
from hiervl.engine.start_weights import carry_over_classes, describe_change


def test_rows_follow_the_names_of_their_classes():
    saved = {"head": torch.tensor([[1.0], [2.0], [3.0], [9.0]]), "other": torch.zeros(2)}  # 9: no object
    current = {"head": torch.tensor([[-1.0], [-2.0], [-3.0]])}
    carry_over_classes(saved, current, ["head"], ["a", "b", "c"], ["c", "new"])
    assert saved["head"].flatten().tolist() == [3.0, -2.0, 9.0]
    assert current["head"].flatten().tolist() == [-1.0, -2.0, -3.0]


def test_rows_of_another_architecture_are_left_alone():
    saved = {"head": torch.zeros(4, 7)}
    carry_over_classes(saved, {"head": torch.ones(3, 8)}, ["head"], ["a", "b", "c"], ["a", "b"])
    assert saved["head"].shape == (4, 7)


def test_the_change_of_classes_is_logged():
    assert describe_change(["a", "b"], ["b", "c"]) == "known: b; new: c; gone: a"


def test_a_network_starts_from_one_of_other_classes(tmp_path, make_network, caplog):
    trained = make_network("MODEL.CLASS_NAMES", ["background", "cat", "tree"])
    trained.mask_prior.set_known([True, False, True])  # CLIP knows no cat
    SegmentationCheckpointer(trained, str(tmp_path)).save("model_final")
    network = make_network("MODEL.CLASS_NAMES", ["ground", "tree", "cat", "sky"], trained=False)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with caplog.at_level(logging.WARNING):
        SegmentationCheckpointer(network, str(tmp_path)).load(str(tmp_path / "model_final.pth"), checkpointables=[])
    assert "known: tree, cat; new: ground, sky; gone: background" in caplog.text
    loaded, source = network.state_dict(), trained.state_dict()
    head = "query_decoder.class_head.weight"
    torch.testing.assert_close(loaded[head][[1, 2, 4]], source[head][[2, 1, 3]])
    torch.testing.assert_close(loaded[head][[0, 3]], before[head][[0, 3]])
    assert loaded["mask_prior.known"].tolist() == [True, True, False, True]
    differing = [key for key in source if not torch.equal(loaded[key], source[key])]
    assert sorted(differing) == ["mask_prior.known", "query_decoder.class_head.bias", head]


def test_weights_of_another_shape_are_counted_once(tmp_path, make_network, caplog):
    network = make_network(trained=False)
    weights = {f"more.{name}": value for name, value in list(network.state_dict().items())[:2]}
    for name, value in network.state_dict().items():
        weights[name] = value[None]  # none of them fits
    torch.save({"model": weights}, tmp_path / "other.pth")
    with caplog.at_level(logging.WARNING):
        SegmentationCheckpointer(network, str(tmp_path)).load(str(tmp_path / "other.pth"), checkpointables=[])
    count = len(network.state_dict())
    assert f"{count} of the network's {count} weights" in caplog.text
    assert "2 weights of the checkpoint are not in the network" in caplog.text
