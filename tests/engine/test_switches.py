"""A part that is switched off adds no loss, trains no parameter and runs no network."""

import pytest
import torch
from torch.nn import functional as F

from hiervl.modeling import HierVL
from hiervl.modeling.frozen_clip import FrozenClip
from hiervl.semi_supervised.step import SemiSupervisedStep
from hiervl.utils.errors import UserError
from hiervl.utils.recompute import RECOMPUTABLE

SIZE = 48
ALL = (
    "SEMI.CONFIDENCE", 0.0, "SEMI.GUIDANCE_CONFIDENCE", 0.0, "LOSS.ENTROPY", 0.1, "MODEL.HSQG.GROUND_TRUTH_PRESENCE",
    True, "MODEL.QUERY_DECODER.LAYERS", 1, "MODEL.PIXEL_DECODER.LAYERS", 1,
)  # fmt: skip
LOSSES = set(
    "loss_class loss_mask loss_dice loss_class_0 loss_mask_0 loss_dice_0 loss_pixel loss_align loss_relevance "
    "loss_strong1 loss_strong2 loss_feature_perturbation loss_entropy loss_clip_guidance loss_masked_consistency "
    "loss_pixel_text loss_prompt_topology loss_prompt_anchor".split()
)
UNLABELED = {name for name in LOSSES if name.split("_")[1].rstrip("12") in ("strong", "feature", "entropy", "clip")}


def make_batch(unlabeled_size=SIZE):
    generator = torch.Generator().manual_seed(3)

    def image(size):
        coarse = 255 * torch.rand(1, 3, 4, 4, generator=generator)
        return F.interpolate(coarse, size=(size, size), mode="nearest")[0].to(torch.uint8)

    labeled, unlabeled = [], []
    for index in range(2):
        sem_seg = torch.full((SIZE, SIZE), 1 + index)
        sem_seg[:, SIZE // 2 :] = 4
        labeled.append({"image": image(SIZE), "sem_seg": sem_seg})
        views = {f"image_{view}": image(unlabeled_size) for view in ("weak", "strong1", "strong2")}
        boxes = {f"cutmix_box{view}": torch.tensor((8, 4, 24, 20)) for view in "12"}
        valid = torch.ones(unlabeled_size, unlabeled_size, dtype=torch.bool)
        unlabeled.append({**views, **boxes, "valid": valid})
    return {"labeled": labeled, "unlabeled": unlabeled}


@pytest.fixture
def make_step(make_cfg, make_network):
    def make(*overrides):
        overrides = (*ALL, *overrides)
        return SemiSupervisedStep.from_config(make_cfg(*overrides), make_network(*overrides, trained=False)).train()

    return make


def without_gradient(step):
    return [name for name, p in step.student.named_parameters() if p.requires_grad and p.numel() and p.grad is None]


def of(*starts):
    return {name for name in LOSSES if name.startswith(starts)}


SWITCHES = [
    ((), set()),
    (("LOSS.CLASS", 0.0), of("loss_class")),
    (("LOSS.MASK", 0.0, "LOSS.DICE", 0.0), of("loss_mask", "loss_dice") - {"loss_masked_consistency"}),
    (("LOSS.PIXEL", 0.0), of("loss_pixel") - {"loss_pixel_text"}),
    (("LOSS.ALIGN", 0.0), {"loss_align"}),
    (("LOSS.RELEVANCE", 0.0), {"loss_relevance"}),
    (("LOSS.ENTROPY", 0.0), {"loss_entropy"}),
    (("LOSS.PROMPT_TOPOLOGY", 0.0), {"loss_prompt_topology"}),
    (("LOSS.PROMPT_ANCHOR", 0.0), {"loss_prompt_anchor"}),
    (("LOSS.MASKED_CONSISTENCY", 0.0), {"loss_masked_consistency"}),
    (("LOSS.PIXEL_TEXT", 0.0), {"loss_pixel_text"}),
    (("SEMI.STRONG_WEIGHT", 0.0), of("loss_strong")),
    (("SEMI.STRONG_VIEWS", 1), {"loss_strong2"}),
    (("SEMI.PERTURBATION_WEIGHT", 0.0), {"loss_feature_perturbation"}),
    (("SEMI.GUIDANCE_WEIGHT", 0.0), {"loss_clip_guidance"}),
    (
        ("SEMI.STRONG_WEIGHT", 0.0, "LOSS.ENTROPY", 0.0, "SEMI.GUIDANCE_WEIGHT", 0.0),
        UNLABELED - {"loss_feature_perturbation"},
    ),
    (("SEMI.ENABLED", False), UNLABELED),
    (("SEMI.TEACHER", "student"), set()),
    (("MODEL.HSQG.LEVELS", 1), set()),
    (("MODEL.HSQG.RELEVANCE", False), {"loss_relevance"}),
    (("MODEL.HSQG.GROUND_TRUTH_PRESENCE", False), set()),
    (("MODEL.HSQG.HARD_NEGATIVES", 0), set()),
    (("MODEL.CMSAM.TEXT_READS_PIXELS", False), set()),
    (("MODEL.CMSAM.PIXELS_READ_TEXT", False), set()),
    (("MODEL.CMSAM.TEXT_READS_PIXELS", False, "MODEL.CMSAM.PIXELS_READ_TEXT", False), set()),
    (("MODEL.QUERY_DECODER.INSTANCE_QUERIES", 0), {"loss_align"}),
    (("MODEL.QUERY_DECODER.TEXT_QUERIES", False), set()),
    (("MODEL.QUERY_DECODER.MASK_PRIOR", False), set()),
    (("MODEL.QUERY_DECODER.PIXEL_PRIOR", True), set()),
    (("MODEL.QUERY_DECODER.PIXEL_PRIOR", True, "LOSS.PIXEL", 0.0), of("loss_pixel") - {"loss_pixel_text"}),
    (
        ("MODEL.QUERY_DECODER.TEXT_QUERIES", False, "MODEL.CMSAM.PIXELS_READ_TEXT", False),
        {"loss_prompt_topology", "loss_prompt_anchor", "loss_relevance"},
    ),
    (("MODEL.TEXT.PROMPTS", 0), {"loss_prompt_topology", "loss_prompt_anchor"}),
    (("MODEL.TEXT.PROMPT_INIT", ""), set()),
    (("MODEL.CLIP.VISUAL_PROMPTS", 0), set()),
    (
        ("MODEL.CLIP.VISUAL_PROMPTS", 0, "MODEL.CLIP.TRAINABLE", "none"),
        {"loss_masked_consistency", "loss_pixel_text"},
    ),
]


@pytest.mark.parametrize("overrides, gone", SWITCHES, ids=[" ".join(map(str, pair[0])) or "all" for pair in SWITCHES])
def test_switched_off_losses_are_gone_and_all_parameters_are_trained(make_step, overrides, gone):
    step = make_step(*overrides)
    losses = step(make_batch())
    has_pixel_prior = step.student.pixel_prior is not None and step.student.pixel_loss_weight
    assert set(losses) == LOSSES - gone | ({"loss_pixel_prior"} if has_pixel_prior else set())
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    assert without_gradient(step) == []


def test_switched_off_networks_do_not_exist(make_step):
    assert make_step().frozen_clip is not None
    off = make_step("SEMI.GUIDANCE_WEIGHT", 0.0, "LOSS.MASKED_CONSISTENCY", 0.0)
    assert off.frozen_clip is None and "loss_pixel_text" in off(make_batch())
    everything_off = make_step(
        "SEMI.STRONG_WEIGHT", 0.0, "LOSS.ENTROPY", 0.0, "SEMI.GUIDANCE_WEIGHT", 0.0, "SEMI.PERTURBATION_WEIGHT", 0.0
    )
    everything_off.teacher = None  # nobody asks it
    assert not UNLABELED & set(everything_off(make_batch()))
    no_text = make_step(
        "MODEL.QUERY_DECODER.TEXT_QUERIES", False, "MODEL.CMSAM.PIXELS_READ_TEXT", False,
        "MODEL.QUERY_DECODER.INSTANCE_SEEDS", False,
    ).student  # fmt: skip
    assert no_text.query_generator is None and no_text.text_encoder.prompts is None
    assert not no_text.pixel_decoder.exchanges and no_text.mask_prior is None
    aligned = make_step("LOSS.ALIGN", 0.0).student
    assert aligned.query_decoder.align_head is None
    with pytest.raises(UserError, match="LOSS.ALIGN"):
        make_step("LOSS.ALIGN", 0.0, "MODEL.QUERY_DECODER.CLASSIFIER", "text")


@pytest.mark.parametrize("overrides", [("SEMI.GUIDANCE_WEIGHT", 0.0), ("LOSS.CLASS", 0.0), ("LOSS.ENTROPY", 0.0)])
def test_the_other_losses_stay_as_they_are(make_step, overrides):
    def run(step):
        torch.manual_seed(5)
        return step(make_batch())

    with_all, without = make_step(), make_step(*overrides)
    before, after = run(with_all), run(without)
    unlabeled_losses = of("loss_strong", "loss_clip_guidance", "loss_entropy", "loss_feature_perturbation")
    for name, loss in after.items():
        if name in unlabeled_losses:  # their weights are shares of the labelled losses
            loss = loss * (with_all.student.loss_scale / without.student.loss_scale)
        if "LOSS.CLASS" not in overrides or name not in of("loss_mask", "loss_dice", "loss_align"):  # by the matching
            torch.testing.assert_close(loss, before[name], atol=1e-5, rtol=1e-4)


# ---- the frozen CLIP ----------------------------------------------------------------------------------------------

WITHOUT_LANGUAGE = ("MODEL.ENCODER.NAME", "test_vit", "MODEL.ENCODER.PRETRAINED", "", "MODEL.CLIP.VISUAL_PROMPTS", 0)


@pytest.fixture
def passes(monkeypatch):
    """Sizes of the batches that went through the frozen CLIP."""
    seen = []
    original = FrozenClip.embed

    def embed(self, images, pooled=False):
        seen.append(len(images))
        return original(self, images, pooled)

    monkeypatch.setattr(FrozenClip, "embed", embed)
    return seen


def test_one_pass_through_the_frozen_clip_serves_all(make_step, passes):
    make_step()(make_batch())
    assert passes == [2 + 2]  # labelled, weak
    make_step("LOSS.MASKED_CONSISTENCY", 0.0)(make_batch())
    make_step("SEMI.GUIDANCE_WEIGHT", 0.0)(make_batch())
    assert passes[1:] == [2, 2]
    del passes[:]
    make_step()(make_batch(unlabeled_size=32))  # cannot share a batch
    assert passes == [2, 2]


def test_one_pass_also_if_all_language_comes_from_the_frozen_clip(make_step, passes):
    """Labelled, weak and both strong views; and the network alone finds the same as when it is told."""
    step = make_step(*WITHOUT_LANGUAGE)
    torch.manual_seed(5)
    told = step(make_batch())
    assert passes == [2 + 2 + 4]
    torch.manual_seed(5)
    alone = step.student(make_batch()["labeled"])
    assert passes == [8, 2]
    for name in ("loss_pixel", "loss_relevance"):
        torch.testing.assert_close(told[name], 0.5 * alone[name], atol=1e-5, rtol=1e-4)
    # The trained encoder changes, its relevance stays that of the frozen one.
    images = step.student.normalize([item["image"] for item in make_batch()["labeled"]])
    text = step.student.encode_text()
    before = step.student.relevance_similarity(images, text)
    with torch.no_grad():
        for parameter in step.student.backbone.visual.parameters():
            parameter.add_(0.1)
    assert torch.equal(step.student.relevance_similarity(images, text), before)


@pytest.mark.parametrize("encoder", [(), WITHOUT_LANGUAGE], ids=["CLIP", "without language"])
def test_the_frozen_clip_is_never_saved_and_never_copied(make_step, encoder):
    step = make_step(*encoder)
    assert isinstance(step.student, HierVL)
    saved = set(step.student.state_dict())
    assert set(step.teacher.network.state_dict()) == saved and not any("frozen" in name for name in saved)
    assert not list(step.frozen_clip.parameters()) and not step.frozen_clip.state_dict()
    assert step.teacher.network.frozen_clip is step.student.frozen_clip
    step.student.load_state_dict(step.student.state_dict())
    step.update_teacher()


def test_both_phrases_of_a_class_can_guide(make_network):
    """Of a class's phrases the better one counts, for the fixed prompt as for the learnable one."""
    network = make_network(trained=False).eval()
    clip = FrozenClip(network.backbone, logit_scale=100.0)
    network.text_encoder.set_classes([["background"], ["cat", "red bus"], ["tree"]])
    text = network.encode_text()
    images = network.normalize(list(255 * torch.rand(1, 3, 32, 32)))
    dense = clip.embed(images).dense
    cosine = torch.einsum("bdhw,kd->bkhw", dense, text.phrase_prototypes)
    best = torch.stack((cosine[:, 0], torch.maximum(cosine[:, 1], cosine[:, 2]), cosine[:, 3]), dim=1)
    torch.testing.assert_close(clip(images, text), (100.0 * best).softmax(1), atol=1e-4, rtol=0)


def test_recomputing_changes_no_loss_and_no_gradient(make_step):
    found = []
    for recompute in (False, True):
        torch.manual_seed(0)
        step = make_step("MODEL.RECOMPUTE", list(RECOMPUTABLE) if recompute else [])
        student = step.student
        parts = (student.backbone, student.pixel_decoder, student.query_decoder, student.criterion)
        assert all(part.recompute is recompute for part in parts)
        torch.manual_seed(1)
        losses = step(make_batch())
        sum(losses.values()).backward()
        gradients = {name: p.grad for name, p in step.student.named_parameters() if p.grad is not None}
        found.append(({name: loss.detach() for name, loss in losses.items()}, gradients))
    (losses, gradients), (again, recomputed) = found
    torch.testing.assert_close(again, losses)
    torch.testing.assert_close(recomputed, gradients)
