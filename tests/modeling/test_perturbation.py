import torch

from hiervl.modeling.perturbation import drop_channels


def test_whole_channels_of_the_last_images_are_dropped():
    """Of maps of ones with p = 0.75: channels are 0 or 4 all over, a quarter of them kept; all else stays."""
    maps = {"res2": torch.ones(3, 400, 2, 2), "res3": torch.ones(3, 400, 1, 1), "pooled_embedding": torch.ones(3, 400)}
    torch.manual_seed(0)
    found = drop_channels(maps, ("res2", "res3"), probability=0.75, first=1)
    assert found["pooled_embedding"] is maps["pooled_embedding"]
    for name in ("res2", "res3"):
        assert (found[name][0] == 1).all() and (maps[name] == 1).all()
        dropped = found[name][1:].flatten(2)
        assert ((dropped == 0).all(2) | (dropped == 4).all(2)).all()
        assert 0.17 < (dropped[..., 0] == 4).float().mean() < 0.33  # 800 channels: ± 5 standard deviations
    assert not torch.equal(found["res2"][1, :, 0, 0], found["res2"][2, :, 0, 0])  # drawn for every image
    assert not torch.equal(found["res2"][1, :, 0, 0], found["res3"][1, :, 0, 0])  # and for every map


def test_gradients_pass_the_kept_channels_alone():
    maps = {"res2": torch.ones(2, 50, 1, 1, requires_grad=True)}
    torch.manual_seed(0)
    found = drop_channels(maps, ("res2",), probability=0.5, first=0)["res2"]
    found.sum().backward()
    assert torch.equal(maps["res2"].grad, found.detach())  # 2 where kept, 0 where dropped
