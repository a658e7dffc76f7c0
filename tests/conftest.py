"""A small HierVL around a small random CLIP, for tests of every part."""

import json

import pytest
import torch

import hiervl  # noqa: F401  applies what Detectron2 needs, before any test imports it

CLIP_CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "patch_size": 8, "layers": 4, "width": 64, "head_width": 16},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
CLASS_NAMES = ["background", "cat", "red bus", "tree", "potted plant", "sky"]


@pytest.fixture(scope="session")
def clip_file(tmp_path_factory) -> str:
    """An open_clip model config of a CLIP that fits in a test."""
    path = tmp_path_factory.mktemp("clip") / "hiervl_test_clip.json"
    path.write_text(json.dumps(CLIP_CONFIG))
    return str(path)


@pytest.fixture
def clip(clip_file):
    """That CLIP with random weights, and its tokenizer: what ``load_clip`` returns."""
    from hiervl.modeling.clip import load_clip

    torch.manual_seed(0)
    return load_clip(clip_file, "")


@pytest.fixture
def make_cfg(clip_file):
    """→ function from ``KEY, VALUE, …`` to the config of a small HierVL."""

    from hiervl.config import get_hiervl_cfg

    def make(*overrides):
        cfg = get_hiervl_cfg()
        settings = {
            "MODEL.DEVICE": "cpu",
            "MODEL.CLASS_NAMES": CLASS_NAMES,
            "MODEL.CLIP.NAME": clip_file,
            "MODEL.CLIP.PRETRAINED": "",
            "MODEL.CLIP.BLOCKS": [0, 1, 2, 3],
            "MODEL.CLIP.VISUAL_PROMPTS": 2,
            "MODEL.TEXT.PROMPTS": 4,
            "MODEL.TEXT.PROMPT_INIT": "a photo of a",
            "MODEL.HSQG.LEVELS": 2,
            "MODEL.PIXEL_DECODER.DIM": 32,
            "MODEL.PIXEL_DECODER.LAYERS": 2,
            "MODEL.PIXEL_DECODER.HEADS": 4,
            "MODEL.PIXEL_DECODER.FEEDFORWARD": 32,
            "MODEL.QUERY_DECODER.LAYERS": 3,
            "MODEL.QUERY_DECODER.HEADS": 4,
            "MODEL.QUERY_DECODER.FEEDFORWARD": 32,
            "MODEL.QUERY_DECODER.INSTANCE_QUERIES": 8,
            "LOSS.NUM_POINTS": 64,
        }
        cfg.merge_from_list([item for pair in settings.items() for item in pair])
        cfg.merge_from_list(list(overrides))
        return cfg

    return make


@pytest.fixture
def make_network(make_cfg):
    """→ function from config overrides to a seeded network whose parts all matter.

    CMSAM starts with scales of 0, all offsets of the deformable attention with the same directions and the gate far
    from the similarities of a random CLIP; here they are moved to where a fault would show.
    """

    from detectron2.modeling import build_model

    import hiervl.modeling  # noqa: F401  fills Detectron2's registries

    def make(*overrides, trained: bool = True):
        torch.manual_seed(0)
        network = build_model(make_cfg(*overrides))
        if trained:
            with torch.no_grad():
                for name, parameter in network.named_parameters():
                    if name.endswith(("scale", "sampling_offsets.weight", "attention_weights.weight")):
                        parameter.add_(0.3 * torch.randn_like(parameter))
                text = network.eval().encode_text()
                images = network.normalise(list(255 * torch.rand(8, 3, 64, 64)))
                pooled = network.backbone(images)["pooled_embedding"]
                network.query_generator.fit_gate(text.class_similarity(pooled))
            network.train()
        return network

    return make
