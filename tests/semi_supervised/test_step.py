"""The step on a small network: its losses by hand, and what reaches the student."""

import functools
import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hiervl.modeling.frozen_clip import ClipEmbeddings
from hiervl.semi_supervised import masked
from hiervl.semi_supervised.step import SemiSupervisedStep
from hiervl.semi_supervised.teacher import StudentAsTeacher
from hiervl.utils.errors import UserError

IGNORE = 255
SIZE = 40  # no multiple of 16, to which images are padded
BOXES = {"1": [(8, 4, 24, 20), (0, 0, 0, 0)], "2": [(0, 0, 0, 0), (16, 16, 40, 40)]}


# Loss of pixels 1, and 0.15 of 2 + 5 + 5 for each of the four predictions of a three-layer decoder.
SCALE = 1 + 0.15 * 4 * 12


def make_batch():
    generator = torch.Generator().manual_seed(5)

    def image():
        coarse = 255 * torch.rand(1, 3, 5, 5, generator=generator)
        return F.interpolate(coarse, size=(SIZE, SIZE), mode="nearest")[0].to(torch.uint8)

    labeled, unlabeled = [], []
    for index in range(2):
        sem_seg = torch.full((SIZE, SIZE), 1 + index)
        sem_seg[:, SIZE // 2 :] = 4
        labeled.append({"image": image(), "sem_seg": sem_seg})
        valid = torch.ones(SIZE, SIZE, dtype=torch.bool)
        valid[30 + index :] = False
        item = {"image_weak": image(), "image_strong1": image(), "image_strong2": image(), "valid": valid}
        unlabeled.append({**item, **{f"cutmix_box{view}": torch.tensor(BOXES[view][index]) for view in BOXES}})
    return {"labeled": labeled, "unlabeled": unlabeled}


@pytest.fixture
def make_step(make_cfg, make_network):
    def make(*overrides, trained: bool = True):
        overrides = ("SEMI.CONFIDENCE", 0.0, *overrides)
        step = SemiSupervisedStep.from_config(make_cfg(*overrides), make_network(*overrides, trained=trained))
        return step.train()

    return make


def run_step(step, batch=None):
    torch.manual_seed(11)  # of the points where masks are compared
    return step(batch or make_batch())


def loss_by_hand(step, view, confidence):
    """Cross-entropy of the strong view to the teacher's labels, both pasted by slices; on this one view alone."""
    items = make_batch()["unlabeled"]
    images = torch.stack([item[f"image_strong{view}"] for item in items]).float()
    valid = torch.stack([item["valid"] for item in items])
    with torch.no_grad():
        teacher_scores = step.teacher.network.eval().semantic_maps(torch.stack([item["image_weak"] for item in items]))
        probability = teacher_scores / teacher_scores.sum(1, keepdim=True)
        labels, sure = probability.argmax(1), probability.amax(1)
        pasted = [images.clone(), labels.clone(), sure.clone(), valid.clone()]
        for b, (x0, y0, x1, y1) in enumerate(BOXES[view]):
            for target, source in zip(pasted, (images, labels, sure, valid)):
                target[b, ..., y0:y1, x0:x1] = source[1 - b, ..., y0:y1, x0:x1]
        images, labels, sure, valid = pasted
        student = step.student.train()
        text = student.encode_text()
        scores = student.semantic_scores(student.segment(student.normalize(list(images)), text), text)
        scores = F.interpolate(scores, size=(48, 48), mode="bilinear", align_corners=False)[:, :, :SIZE, :SIZE]
        at_label = (scores / scores.sum(1, keepdim=True)).gather(1, labels.unsqueeze(1)).squeeze(1)
        return -(at_label.log() * (valid & (sure >= confidence))).sum() / valid.sum()


@pytest.mark.parametrize("teacher", ["ema", "student"])
def test_strong_losses_by_hand(make_step, teacher):
    """(1 − share) · weight · scale · cross-entropy, on images, labels, confidence and padding under the same boxes."""
    step = make_step("SEMI.TEACHER", teacher, "SEMI.STRONG_WEIGHT", 0.3, "SEMI.SUPERVISED_SHARE", 0.6)
    if teacher == "ema":  # a teacher that differs from the student, and not only in how classes are scored
        with torch.no_grad():
            for parameter in step.student.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.05 * torch.randn_like(parameter))
    with torch.no_grad():
        weak = torch.stack([item["image_weak"] for item in make_batch()["unlabeled"]])
        scores = step.teacher.network.eval().semantic_maps(weak)
        confidence = (scores / scores.sum(1, keepdim=True)).amax(1).median().item() + 1e-5
    step.threshold.threshold = confidence
    losses = run_step(step.train())
    assert 0.3 < step.statistics["pseudo/kept"].item() < 0.7
    for view in ("1", "2"):
        expected = 0.4 * 0.3 * SCALE * loss_by_hand(step, view, confidence)
        assert expected > 0.01
        torch.testing.assert_close(losses[f"loss_strong{view}"], expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("perturbation, expected", [(0.0, 0.5 + 0.5), (0.7, 0.5 + 0.5 + 1.0)])
def test_guidance_is_that_of_both_strong_views_and_of_the_perturbed_one(make_step, monkeypatch, perturbation, expected):
    """SemiVL's λ·(¼ + ¼ + ½), the share of the unlabelled losses being ½; each loss is taken as 1 here."""
    step = make_step("SEMI.PERTURBATION_WEIGHT", perturbation, "SEMI.GUIDANCE_WEIGHT", 0.2)
    assert step.objective.supervised_share == 0.5
    monkeypatch.setattr(step, "_pixel_loss", lambda scores, target, size, balance=0.0: scores.new_ones(()))
    loss = run_step(step)["loss_clip_guidance"]
    assert loss.item() == pytest.approx(0.5 * 0.2 * SCALE * expected)


def test_pseudo_labels_are_balanced_by_class_and_guidance_is_not(make_step, monkeypatch):
    """As labelled pixels are; each loss is taken as the balance that it gets."""
    step = make_step("LOSS.PIXEL_BALANCE", 0.5, "SEMI.GUIDANCE_WEIGHT", 0.2, "SEMI.STRONG_WEIGHT", 0.3)
    monkeypatch.setattr(step, "_pixel_loss", lambda scores, target, size, balance=0.0: scores.new_tensor(balance))
    losses = run_step(step)
    assert losses["loss_strong1"].item() == losses["loss_strong2"].item() == pytest.approx(0.5 * 0.3 * SCALE * 0.5)
    assert losses["loss_clip_guidance"] == 0


def test_ignored_pixels_have_the_value_of_the_config(make_step):
    step = make_step("MODEL.SEM_SEG_HEAD.IGNORE_VALUE", 99)
    assert step.objective.ignore_value == step.ignore_value == 99


def test_supervised_only_is_the_network_itself(make_step):
    """Exactly the supervised and the prompt losses, at full weight; nothing of the unlabelled images is touched."""
    step = make_step("SEMI.ENABLED", False, "LOSS.MASKED_CONSISTENCY", 0.0, "LOSS.PIXEL_TEXT", 0.0)
    batch = make_batch()
    losses = run_step(step, {"labeled": batch["labeled"], "unlabeled": [{}]})
    torch.manual_seed(11)
    expected = step.student(batch["labeled"])
    assert {"loss_pixel", "loss_prompt_topology", "loss_prompt_anchor"} <= set(losses)
    assert losses.keys() == expected.keys()
    for name, loss in losses.items():
        torch.testing.assert_close(loss, expected[name], atol=1e-6, rtol=1e-6)
    assert step.statistics == {}


def test_weights_of_the_parts(make_step):
    """Supervised losses times their share, prompt losses whole; unlabelled images do not change either."""
    step = make_step("SEMI.SUPERVISED_SHARE", 0.3)
    losses = run_step(step)
    torch.manual_seed(11)
    expected = step.student(make_batch()["labeled"])
    assert {"loss_strong1", "loss_strong2"} <= set(losses) - set(expected)
    for name, loss in expected.items():
        wanted = loss if "prompt" in name else 0.3 * loss
        torch.testing.assert_close(losses[name], wanted, atol=1e-6, rtol=1e-6)


def test_unlabeled_images_are_not_used_during_burn_in(make_step):
    """Unlabelled images are left alone until their first iteration."""
    step = make_step("SEMI.BURN_IN", 3)
    for iteration, is_used in ((0, False), (2, False), (3, True), (4, True)):
        step.iteration = iteration
        losses = run_step(step)
        assert ("loss_strong1" in losses) == is_used and ("pseudo/kept" in step.statistics) == is_used


def test_update_teacher_follows_the_trainer(make_step):
    step = make_step()
    before = step.teacher.network.mask_prior.gain.item()
    with torch.no_grad():
        step.student.mask_prior.gain.fill_(5.0)
    step.iteration = 3
    step.update_teacher()
    assert step.teacher.network.mask_prior.gain.item() == pytest.approx(0.75 * before + 0.25 * 5.0)


@pytest.mark.parametrize("teacher", ["ema", "student"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_gradients_reach_the_student_alone(make_step, teacher, precision, monkeypatch):
    """Also under autocast, whose cached casts must not lose gradients to the passes of the teacher; losses are float32
    and so is all that the criterion computes on."""
    step = make_step("SEMI.TEACHER", teacher)
    seen = []
    criterion = step.student.criterion
    original = criterion.forward

    def spy(predictions, scores, logits, text, targets):
        seen.append((torch.is_autocast_enabled("cpu"), scores.dtype, logits.dtype, text.text_embeddings.dtype))
        return original(predictions, scores, logits, text, targets)

    monkeypatch.setattr(criterion, "forward", spy)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        losses = run_step(step)
    assert seen == [(False, torch.float32, torch.float32, torch.float32)]
    assert {"loss_strong1", "loss_strong2"} <= set(losses)
    assert all(loss.dtype == torch.float32 and torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    gradients = {name: p.grad for name, p in step.student.named_parameters() if p.requires_grad}
    assert not [name for name, gradient in gradients.items() if gradient is None]
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
    assert step.student.training
    if teacher == "ema":
        assert all(parameter.grad is None for parameter in step.teacher.parameters())
        assert not step.teacher.network.training


def test_parts_give_the_losses_and_gradients_of_the_whole(make_step):
    """Each back-propagated before the next is computed, that of the text's own graph included."""
    found = []
    for in_parts in (False, True):
        torch.manual_seed(0)
        step = make_step("SEMI.TEACHER", "student", trained=False)
        torch.manual_seed(11)
        losses = {}
        for part in step.parts(make_batch()) if in_parts else [step(make_batch())]:
            assert not set(part) & set(losses)
            sum(part.values()).backward()
            losses.update({name: loss.detach() for name, loss in part.items()})
        found.append((losses, {name: p.grad for name, p in step.student.named_parameters() if p.grad is not None}))
    (whole, gradients), (losses, summed) = found
    assert {"loss_pixel", "loss_masked_consistency", "loss_prompt_anchor", "loss_strong1"} <= set(losses)
    assert gradients["text_encoder.prompts"].abs().max() > 0
    torch.testing.assert_close(losses, whole)
    torch.testing.assert_close(summed, gradients, atol=1e-4, rtol=1e-5)


def test_parts_keep_the_memory_of_one(make_step, monkeypatch):
    """Nothing of the labelled images is alive any more when those without labels go through the network."""
    step = make_step(trained=False)
    segment, alive = step.student.segment, []
    masks = []

    def spy(*arguments, **options):
        alive.append(sum(mask() is not None for mask in masks))
        output = segment(*arguments, **options)
        masks.extend(weakref.ref(mask) for mask in output.predictions.pred_masks)
        return output

    monkeypatch.setattr(step.student, "segment", spy)
    for part in step.parts(make_batch()):
        sum(part.values()).backward()
        del part
        gc.collect()
    assert len(masks) > 2 and alive == [0, 0]


def test_strong_views_alone_teach_the_student(make_step):
    step = make_step()
    losses = run_step(step)
    (losses["loss_strong1"] + losses["loss_strong2"]).backward()
    for part in ("backbone", "query_generator", "pixel_decoder", "query_decoder", "mask_prior"):
        gradients = [p.grad for p in getattr(step.student, part).parameters() if p.grad is not None]
        assert any(gradient.any() for gradient in gradients), part
    assert step.student.text_encoder.prompts.grad.any()


@pytest.mark.parametrize("classifier", ["linear", "text"])
def test_a_student_that_teaches_itself_labels_as_in_evaluation(make_step, classifier):
    """Without dropout, and by the classifier that predicts: the text's takes no part in training. Only meanwhile."""
    step = make_step(
        "SEMI.TEACHER", "student", "MODEL.QUERY_DECODER.CLASSIFIER", classifier, "LOSS.MASKED_CONSISTENCY", 0.0,
        "LOSS.PIXEL_TEXT", 0.0, "SEMI.GUIDANCE_WEIGHT", 0.0, "SEMI.GUIDANCE_LAST_WEIGHT", 0.0,
    )  # fmt: skip
    student = step.student
    student.query_decoder.mask_head = nn.Sequential(student.query_decoder.mask_head, nn.Dropout(0.5))
    items = make_batch()["unlabeled"]
    weak = torch.stack([item["image_weak"] for item in items])
    expected = student.eval().semantic_maps(weak).argmax(1)
    student.train()
    assert (student.semantic_maps(weak).argmax(1) != expected).float().mean() > 0.02
    run_step(step)
    valid = torch.stack([item["valid"] for item in items])
    assert torch.equal(step.last_pseudo.labels, expected.masked_fill(~valid, IGNORE))
    assert student.training and student.query_decoder.mask_head[1].training


def test_a_student_is_left_in_training_when_labelling_fails(make_step, monkeypatch):
    step = make_step("SEMI.TEACHER", "student", trained=False)

    def fail(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(step.student, "semantic_maps", fail)
    with pytest.raises(MemoryError):
        run_step(step)
    assert step.student.training


def test_student_as_teacher_is_registered_once(make_step):
    step = make_step("SEMI.TEACHER", "student", trained=False)
    assert isinstance(step.teacher, StudentAsTeacher) and step.teacher.network is step.student
    assert not list(step.teacher.parameters()) and not step.teacher.state_dict()
    with pytest.raises(UserError, match="SEMI.TEACHER"):
        make_step("SEMI.TEACHER", "emma", trained=False)


def test_set_losses_are_those_of_labeled_images_with_the_teachers_labels(make_step, monkeypatch):
    """Weights of the views, times how many there are; the pixel loss has its own weight."""
    step = make_step("SEMI.LOSS", "set", "SEMI.STRONG_WEIGHT", 0.3, "SEMI.PERTURBATION_WEIGHT", 0.5)
    step.threshold.threshold = 0.0
    seen, original = [], step.student.criterion.pseudo_losses

    def watched(predictions, targets, absent, image_weight):
        seen.append((predictions, targets, absent, image_weight))
        return original(predictions, targets, absent, image_weight)

    monkeypatch.setattr(step.student.criterion, "pseudo_losses", watched)
    losses = run_step(step)
    ((predictions, targets, absent, image_weight),) = seen
    assert len(predictions.pred_masks) == 4 and len(targets) == 6  # every layer; two strong views and the weak one
    torch.testing.assert_close(image_weight, 3 * torch.tensor([0.3, 0.3, 0.3, 0.3, 0.5, 0.5]))
    weak = torch.stack([item["image_weak"] for item in make_batch()["unlabeled"]])
    labels = step.teacher.network.eval().semantic_maps(weak).argmax(1)
    for target, image_labels, item, gone in zip(targets[4:], labels, make_batch()["unlabeled"], absent[4:]):
        assert torch.equal(target.sem_seg[:SIZE, :SIZE][item["valid"]], image_labels[item["valid"]])
        assert gone.logical_not().nonzero().flatten().tolist() == image_labels[item["valid"]].unique().tolist()
    pixel = step.student.criterion.weights["pixel"]
    assert {"loss_pseudo_class", "loss_pseudo_mask_0", "loss_strong1", "loss_feature_perturbation"} <= set(losses)
    expected = 0.5 * 0.3 * pixel * loss_by_hand(step, "1", 0.0)
    torch.testing.assert_close(losses["loss_strong1"], expected, atol=1e-4, rtol=1e-3)


def test_set_losses_need_queries(make_step):
    with pytest.raises(UserError, match="SEMI.LOSS is 'set', but this network"):
        make_step("SEMI.LOSS", "set", "MODEL.META_ARCHITECTURE", "PixelClassifier", trained=False)


@pytest.mark.parametrize("perturbation, expected", [(0.0, ["strong"]), (0.5, ["strong", "weak"])])
def test_views_get_the_frozen_embeddings_of_their_own_images(make_step, monkeypatch, perturbation, expected):
    """Those of the weak view only where the student sees it, with perturbed features."""
    step = make_step("SEMI.PERTURBATION_WEIGHT", perturbation)
    options = {}
    monkeypatch.setattr(step.student, "segment", lambda images, text, **given: options.update(given))
    strong, weak = torch.zeros(2, 3, SIZE, SIZE), torch.ones(1, 3, SIZE, SIZE)
    frozen = {
        name: ClipEmbeddings(torch.full((len(images), 8, 3, 3), value), torch.full((len(images), 8), value))
        for name, images, value in (("strong", strong, 1.0), ("weak", weak, 2.0))
    }
    seen = [strong, weak] if perturbation else [strong]
    step._student_pass(seen, 1, None, frozen)
    values = [value for name in expected for value in frozen[name].pooled[:, 0].tolist()]
    assert options["frozen_embedding"].pooled[:, 0].tolist() == values
    assert options["frozen_embedding"].dense[:, 0, 0, 0].tolist() == values
    assert ("perturb" in options) == bool(perturbation)


def test_a_hidden_class_is_compared_with_a_frozen_clip_of_another_grid(make_step):
    """The frozen embedding is resized to the student's grid of 6 × 6 patches."""
    step = make_step("LOSS.MASKED_CONSISTENCY", 0.5, "LOSS.PIXEL_TEXT", 0.0)
    items = make_batch()["labeled"]
    images = step.student.normalize([item["image"] for item in items])
    torch.manual_seed(2)
    fine = F.normalize(torch.randn(2, step.student.backbone.embed_dim, 7, 5), dim=1)
    coarse = F.interpolate(fine, size=(6, 6), mode="bilinear", align_corners=False)

    def loss(whole):
        torch.manual_seed(3)  # of the class that is hidden
        text = step.student.encode_text()
        return step.masked.losses(step.student, items, images, whole, text)["loss_masked_consistency"]

    assert images.shape[2:] == (48, 48) and step.student.backbone.dense_stride == 8
    torch.testing.assert_close(loss(fine), loss(coarse))
    assert loss(fine) > 0


def test_a_frozen_clip_is_built_only_for_what_asks_it(make_step):
    off = ("SEMI.GUIDANCE_WEIGHT", 0.0, "SEMI.GUIDANCE_LAST_WEIGHT", 0.0, "LOSS.PIXEL_TEXT", 0.1)
    assert make_step(*off, "LOSS.MASKED_CONSISTENCY", 0.0).frozen_clip is None
    assert make_step(*off, "LOSS.MASKED_CONSISTENCY", 0.1).frozen_clip is not None
    guided = make_step("SEMI.GUIDANCE_WEIGHT", 0.1, "LOSS.MASKED_CONSISTENCY", 0.0, "LOSS.PIXEL_TEXT", 0.0)
    assert guided.frozen_clip is not None


def test_losses_of_unlabeled_images_are_computed_in_float32(make_step, monkeypatch):
    """Also where mixed precision is on."""
    step, seen = make_step(), []
    pixel_loss = step._pixel_loss

    def watched(scores, *arguments):
        seen.append((scores.dtype, torch.is_autocast_enabled("cpu")))
        return pixel_loss(scores, *arguments)

    monkeypatch.setattr(step, "_pixel_loss", watched)
    with torch.autocast("cpu", torch.bfloat16):
        run_step(step)
    assert seen and set(seen) == {(torch.float32, False)}


def test_a_hidden_class_is_compared_in_float32(make_step, monkeypatch):
    """Also where mixed precision is on."""
    step, seen = make_step("LOSS.MASKED_CONSISTENCY", 0.5, "LOSS.PIXEL_TEXT", 0.1), []

    def watched(loss, values, *arguments):
        seen.append((values.dtype, torch.is_autocast_enabled("cpu")))
        return loss(values, *arguments)

    for name in ("masked_consistency_loss", "pixel_text_loss"):
        monkeypatch.setattr(masked, name, functools.partial(watched, getattr(masked, name)))
    with torch.autocast("cpu", torch.bfloat16):
        run_step(step)
    assert seen == 2 * [(torch.float32, False)]
