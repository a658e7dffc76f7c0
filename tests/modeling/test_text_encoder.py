import copy

import open_clip
import pytest
import torch

from hiervl.modeling.clip import load_clip
from hiervl.modeling.text_encoder import PromptedTextEncoder, weights_changed
from hiervl.utils.errors import UserError

NAMES = [["cat"], ["potted plant"], ["traffic light"]]


def make_encoder(clip, phrases=NAMES, **options):
    return PromptedTextEncoder(*clip, phrases, **options)


def encode_text(clip, texts):
    """open_clip's own result for whole sequences of its context length."""
    tokenize = open_clip.SimpleTokenizer(context_length=clip[0].context_length)
    with torch.no_grad():
        return clip[0].encode_text(tokenize(texts), normalize=True)


@pytest.mark.parametrize("name", ["tiny", "ViT-B-16-quickgelu"])
def test_template_equals_open_clip(name, clip_file):
    torch.manual_seed(0)
    clip = load_clip(clip_file if name == "tiny" else name, "")
    encoder = make_encoder(clip, num_prompts=0).eval()
    expected = encode_text(clip, [f"a photo of a {one_class[0]}." for one_class in NAMES])
    text = encoder()
    torch.testing.assert_close(text.text_embeddings, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(text.prototypes, expected, atol=1e-5, rtol=0)
    assert encoder.prompted_ids.shape[1] < clip[0].context_length  # the sequences were cut


def test_prompts_that_are_words_equal_open_clip(clip):
    """Learnable tokens that start from "this is a photo of a" give that text, before any training."""
    encoder = make_encoder(clip, num_prompts=6, prompt_init="this is a photo of a").eval()
    expected = encode_text(clip, [f"this is a photo of a {one_class[0]}." for one_class in NAMES])
    torch.testing.assert_close(encoder().text_embeddings, expected, atol=1e-5, rtol=0)
    prototypes = encode_text(clip, [f"a photo of a {one_class[0]}." for one_class in NAMES])
    torch.testing.assert_close(encoder().prototypes, prototypes, atol=1e-5, rtol=0)


def test_several_phrases_count_by_their_best(clip):
    """A class's similarity is that of its best phrase; its embedding is their mean, of length 1."""
    phrases = [["cat", "kitten"], ["tree"], ["bus", "coach", "double-decker"]]
    text = make_encoder(clip, phrases, num_prompts=0).eval()()
    single = encode_text(clip, [f"a photo of a {phrase}." for one_class in phrases for phrase in one_class])
    mean = torch.nn.functional.normalize(single[3:6].mean(0), dim=0)
    torch.testing.assert_close(text.text_embeddings[2], mean, atol=1e-5, rtol=0)
    features = torch.nn.functional.normalize(torch.randn(4, 5, 32), dim=-1)
    by_phrase = features @ single.T
    expected = torch.stack((by_phrase[..., :2].amax(-1), by_phrase[..., 2], by_phrase[..., 3:].amax(-1)), dim=-1)
    torch.testing.assert_close(text.class_similarity(features), expected, atol=1e-5, rtol=0)


def test_gradients_reach_the_prompts_and_not_the_encoder(clip):
    encoder = make_encoder(clip, num_prompts=2, prompt_init="photo of").train()
    (encoder().text_embeddings * torch.randn(3, 32)).sum().backward()
    assert encoder.prompts.grad.abs().min() > 0
    assert [name for name, p in encoder.named_parameters() if p.requires_grad] == ["prompts"]
    assert all(parameter.grad is None for parameter in encoder.tower.parameters())


def changes_of(encoder, clip_file):
    """Everything after which kept embeddings would be wrong, by name."""

    def step():
        encoder.prompts.grad = torch.ones_like(encoder.prompts)
        torch.optim.AdamW([encoder.prompts], lr=0.1).step()
        weights_changed(encoder)

    def learn():
        encoder.train()
        with torch.no_grad():
            encoder.prompts.mul_(3.0)
        encoder.eval()

    def write_encoder():
        with torch.no_grad():
            encoder.tower.text_projection.copy_(torch.randn_like(encoder.tower.text_projection))
        weights_changed(encoder, frozen=True)

    def other_weights():
        torch.manual_seed(1)
        other = make_encoder(load_clip(clip_file, ""), num_prompts=2, prompt_init="photo of")
        encoder.load_state_dict(other.state_dict())

    return {
        "optimiser": step,
        "training and evaluation": learn,
        "tower": write_encoder,
        "load_state_dict": other_weights,
        "set_classes": lambda: encoder.set_classes([["dog"], ["cat"], ["sky"]]),
    }


@pytest.mark.parametrize("change", ["optimiser", "training and evaluation", "tower", "load_state_dict", "set_classes"])
def test_embeddings_are_kept_until_they_change(clip, clip_file, change):
    encoder = make_encoder(clip, num_prompts=2, prompt_init="photo of").eval()
    before = encoder()
    assert encoder() is before
    changes_of(encoder, clip_file)[change]()
    after = encoder()
    assert after is not before
    assert not torch.allclose(after.text_embeddings, before.text_embeddings, atol=1e-4)
    torch.testing.assert_close(after.text_embeddings, encoder._encode().text_embeddings)


def test_a_copy_notices_that_the_shared_encoder_was_loaded_or_moved(clip, clip_file):
    """As a teacher, whose student is loaded alone."""
    encoder = make_encoder(clip, num_prompts=2, prompt_init="photo of").eval()
    copied = copy.deepcopy(encoder)
    before = copied()
    changes_of(encoder, clip_file)["load_state_dict"]()
    loaded = copied()
    assert not torch.allclose(loaded.prototypes, before.prototypes, atol=1e-4)
    copied.double()
    assert copied().prototypes is not loaded.prototypes
    assert encoder.eval()().prototypes is not before.prototypes


def test_embeddings_of_mixed_precision_are_not_kept_for_float32(clip):
    """Without learnable prompts nothing is ever written: the first pass of training would decide about evaluation."""
    encoder = make_encoder(clip, num_prompts=0).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = encoder()
        assert encoder() is mixed
    expected = encode_text(clip, [f"a photo of a {one_class[0]}." for one_class in NAMES])
    assert not torch.allclose(mixed.text_embeddings, expected, atol=1e-4)
    torch.testing.assert_close(encoder().text_embeddings, expected, atol=1e-5, rtol=0)


def test_training_never_reads_kept_embeddings(clip):
    encoder = make_encoder(clip, num_prompts=2, prompt_init="photo of").eval()
    encoder()
    assert encoder.train()().text_embeddings.requires_grad


def test_training_encodes_the_fixed_prompts_once(clip, clip_file, monkeypatch):
    encoder = make_encoder(clip, num_prompts=2, prompt_init="photo of").train()
    first = encoder()
    encoded = []
    embed = encoder._embed_phrases
    monkeypatch.setattr(encoder, "_embed_phrases", lambda name, prompts: encoded.append(name) or embed(name, prompts))
    changes_of(encoder, clip_file)["optimiser"]()
    again = encoder()
    assert encoded == ["prompted"] and torch.equal(first.prototypes, again.prototypes)
    changes_of(encoder, clip_file)["load_state_dict"]()
    assert not torch.allclose(encoder().prototypes, first.prototypes, atol=1e-4)
    assert encoded[-2:] == ["fixed", "prompted"]


def test_set_classes_takes_another_number_of_classes(clip):
    encoder = make_encoder(clip, num_prompts=0).eval()
    encoder.set_classes([["a very long phrase of many words"], ["sky"], ["tree"], ["sea"]])
    expected = encode_text(clip, ["a photo of a sky."])
    torch.testing.assert_close(encoder().text_embeddings[1:2], expected, atol=1e-5, rtol=0)
    assert encoder().text_embeddings.shape == (4, 32)


def test_copies_share_the_encoder_and_have_their_own_prompts(clip):
    encoder = make_encoder(clip, num_prompts=2, prompt_init="photo of").eval()
    before = encoder().text_embeddings
    copied = copy.deepcopy(encoder)
    assert copied.tower is encoder.tower
    assert copied.prompts is not encoder.prompts
    with torch.no_grad():
        copied.prompts.mul_(3.0)
    assert not torch.allclose(copied().text_embeddings, before, atol=1e-4)
    assert torch.equal(encoder().text_embeddings, before)


def test_refuses_what_it_cannot_encode(clip):
    with pytest.raises(UserError, match="has 4[0-9] tokens; CLIP's text encoder takes 32"):
        make_encoder(clip, [["word " * 40]], num_prompts=0)
    with pytest.raises(UserError, match="at least one phrase"):
        make_encoder(clip, [["cat"], []])
