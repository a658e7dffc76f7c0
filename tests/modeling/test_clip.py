"""Loading of CLIP's weights, and the errors where they cannot be fetched."""

import logging

import open_clip
import pytest

from hiervl.modeling.clip import CHATTY, SHIPPED, load_clip
from hiervl.utils.errors import UserError


def test_a_hub_out_of_reach_is_one_sentence(monkeypatch, caplog):
    def create_model(name, **options):
        for source in CHATTY:
            logging.getLogger(source).warning("'[Errno -2] Name or service not known' thrown while requesting HEAD …")
            logging.getLogger(source).warning("Retrying in 1s [Retry 1/5].")
            logging.getLogger(source).warning("something else")
        logging.error("Failed to download weights for tag 'openai': …")
        raise RuntimeError("Failed to download file (open_clip_model.safetensors)")

    monkeypatch.setattr(open_clip, "create_model", create_model)
    failure = "'openai' of 'ViT-B-16' could not be loaded .Failed to download file"
    with caplog.at_level(logging.INFO), pytest.raises(UserError, match=failure):
        load_clip("ViT-B-16", "openai")
    said = [record.getMessage() for record in caplog.records]
    assert said == ["CLIP ViT-B-16, weights 'openai': read from the cache, or downloaded.", *["something else"] * 2]
    with caplog.at_level(logging.INFO):
        logging.getLogger(CHATTY[0]).warning("Retrying in 1s [Retry 1/5].")
    assert caplog.messages[-1] == "Retrying in 1s [Retry 1/5]."  # heard again afterwards


def test_a_config_brings_the_vocabulary_beside_it():
    """It knows fewer words than that of open_clip."""
    whole = open_clip.SimpleTokenizer()
    vocabulary = open_clip.SimpleTokenizer(str(SHIPPED["shapesworld"].parent / "bpe.txt.gz"))
    _, tokens = load_clip("shapesworld", "")
    for text in ("a photo of a road", "striped shape"):
        assert tokens.encode(text) == vocabulary.encode(text)
    assert tokens.suffix == (vocabulary.eot_token_id,) != (whole.eot_token_id,)
