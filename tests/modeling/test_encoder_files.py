"""The files that an encoder needs, and what is wrong with those that are missing."""

import importlib.util

from hiervl.modeling.encoder_files import encoder_files


def test_a_tokenizer_of_the_hub_is_one_of_the_files(make_cfg, monkeypatch, tmp_path):
    siglip = ("MODEL.CLIP.NAME", "ViT-B-16-SigLIP", "MODEL.CLIP.PRETRAINED", "webli", "MODEL.CLIP.TOKENIZER")
    weights, tokenizer = encoder_files(make_cfg(*siglip, str(tmp_path)))
    assert [weights.key, tokenizer.key] == ["MODEL.CLIP.PRETRAINED", "MODEL.CLIP.TOKENIZER"]
    assert (tokenizer.where, tokenizer.defect) == (str(tmp_path), "")
    assert encoder_files(make_cfg(*siglip, "nowhere"))[1].defect == "is missing: name an existing folder"
    known = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "transformers" else known(name))
    assert encoder_files(make_cfg(*siglip, ""))[1].defect.endswith("`pip install transformers`")


def test_a_clip_with_a_tokenizer_of_its_own_needs_weights_alone(make_cfg):
    assert [file.key for file in encoder_files(make_cfg())] == ["MODEL.CLIP.PRETRAINED"]
