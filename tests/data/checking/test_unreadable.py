"""A training whose unlabelled images cannot be read does not begin."""

import pytest

from hiervl.data.checking import unreadable
from hiervl.data.checking.unreadable import refuse_unreadable
from hiervl.engine.run_config import load_config, prepare_config
from hiervl.utils.errors import UserError


def spoil(own, numbers):
    for number in numbers:
        (own.root / f"unlabelled/u{number}.png").write_bytes(b"<html>no image</html>")


def test_too_many_of_few_are_named_before_the_training(own):
    spoil(own, (1, 3))
    options = ["OUTPUT_DIR", str(own.root / "out"), "MODEL.DEVICE", "cpu"]
    with pytest.raises(UserError) as caught:
        prepare_config(load_config(own.config(), options))
    sentence = str(caught.value)
    assert sentence.startswith(
        "2 unlabelled images of 4 cannot be read, more than the share DATALOADER.MAX_DAMAGED (0.05)"
    )
    assert f"allows: {own.root}/unlabelled/u1.png, {own.root}/unlabelled/u3.png (the first:" in sentence
    refuse_unreadable(own.layout(), 0.5)  # as many as may be


@pytest.mark.parametrize("broken, is_refused", [(18, False), (19, True)])
def test_a_sample_of_many_must_be_far_above_the_share(own, broken, is_refused, monkeypatch):
    """20 of 100 are read; 2 · 0.2 · 20 + 10 = 18 of them may be broken by chance."""
    monkeypatch.setattr(unreadable, "MOST_READ", 20)
    for number in range(100):
        own.image(f"unlabelled/u{number:03d}.png", (8, 8))
    for path in (own.root / "unlabelled").glob("u?.png"):
        path.unlink()
    for number in range(0, 5 * broken, 5):
        (own.root / f"unlabelled/u{number:03d}.png").write_bytes(b"")
    if is_refused:
        with pytest.raises(UserError, match="19 unlabelled images of 20 that were looked at, of 100 cannot be read"):
            refuse_unreadable(own.layout(), 0.2)
    else:
        refuse_unreadable(own.layout(), 0.2)
