"""Training steps that fail (NaN, out of memory), and their replay from a saved file."""

import numpy as np
import pytest
import torch
from detectron2.utils.events import EventStorage

from hiervl.engine.loop import LossScaler, divide
from hiervl.utils.errors import UserError


@pytest.fixture
def make_loop(world, options, tmp_path, monkeypatch):
    """→ function from config overrides to a trainer whose loop reads its loader."""

    def make(*overrides, folder="run"):
        from hiervl.engine.run_config import load_config, prepare_config
        from hiervl.engine.trainer import SemiSupervisedTrainer

        monkeypatch.setenv("DETECTRON2_DATASETS", str(world))
        torch.manual_seed(0)
        given = ("SOLVER.UNLABELED_PER_BATCH", "4", *overrides)
        trainer = SemiSupervisedTrainer(prepare_config(load_config("", options(world, tmp_path / folder, *given))))
        trainer.resume_or_load(resume=False)
        trainer._trainer.read_from(trainer.build_train_loader(trainer.cfg))
        torch.manual_seed(1)
        return trainer

    return make


def weights(trainer):
    return {name: value.clone() for name, value in trainer.step.state_dict().items()}


def run_steps(trainer, count):
    with EventStorage(0):
        for trainer._trainer.iter in range(count):
            trainer._trainer.run_step()


def poison(trainer, when):
    """The pixel loss is NaN whenever ``when(call number)``."""
    original, calls = trainer.student.supervised_losses, []

    def losses(*arguments):
        calls.append(1)
        found = original(*arguments)
        return {**found, "loss_pixel": found["loss_pixel"] * float("nan")} if when(len(calls)) else found

    trainer.student.supervised_losses = losses


def test_nan_stops_with_its_cause_and_leaves_the_weights(make_loop):
    trainer = make_loop()
    run_steps(trainer, 1)
    before = weights(trainer)
    poison(trainer, lambda call: True)
    with pytest.raises(UserError, match="iteration 0: loss_pixel became infinite or NaN on the batch .*png.*--replay"):
        run_steps(trainer, 1)
    assert all(torch.equal(value, before[name]) for name, value in weights(trainer).items())


def test_nan_is_left_out_up_to_k_times(make_loop, caplog):
    """Steps 2 and 3 of 5 are poisoned: the third step's data are not trained on, the fourth's are; k = 1 ends it."""
    trainer = make_loop("SOLVER.MAX_SKIPPED_STEPS", "2", "SEMI.THRESHOLD", "class")
    poison(trainer, lambda call: call in (2, 3))
    with EventStorage(0) as storage:
        states = []
        for trainer._trainer.iter in range(4):
            trainer._trainer.run_step()
            states.append(weights(trainer))
        assert storage.latest()["skipped_steps"][0] == 2
    same = [all(torch.equal(a[n], b[n]) for n in a) for a, b in zip(states, states[1:])]
    assert same == [True, True, False]
    assert trainer._trainer.state_dict() == {"skipped_steps": 2, "parts": 1, "accumulation": 1}

    trainer = make_loop("SOLVER.MAX_SKIPPED_STEPS", "1")
    poison(trainer, lambda call: call in (2, 3))
    with pytest.raises(UserError, match="stopped at iteration 2: loss_pixel"):
        run_steps(trainer, 4)


def test_infinite_gradient_is_found(make_loop):
    trainer = make_loop()
    parameter = trainer.student.query_decoder.parameters().__next__()
    parameter.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(UserError, match="the gradient became infinite or NaN"):
        run_steps(trainer, 1)


def overflowing(trainer, scale):
    """As float16 on a GPU, with gradients that overflow however little the losses are scaled; → a trained parameter."""
    trainer._trainer.scaler = LossScaler("cpu", init_scale=scale)
    parameter = next(trainer.student.query_decoder.parameters())
    return parameter, parameter.register_hook(lambda gradient: gradient * float("inf"))


def test_overflow_that_no_scale_prevents_is_found(make_loop):
    """Scales of 4 and 2 overflow as scales may; at 1 the network is at fault. What is logged stays finite."""
    trainer = make_loop("SOLVER.MAX_SKIPPED_STEPS", "1")
    parameter, hook = overflowing(trainer, 4.0)
    start = parameter.clone()
    run_steps(trainer, 2)
    assert trainer._trainer.skipped_steps == 0 and "gradient_norm" not in trainer.step.statistics
    run_steps(trainer, 1)
    assert trainer._trainer.skipped_steps == 1 and torch.equal(parameter, start)
    hook.remove()
    run_steps(trainer, 1)
    assert torch.isfinite(trainer.step.statistics["gradient_norm"]) and not torch.equal(parameter, start)
    overflowing(trainer, 1.0)
    with pytest.raises(UserError, match="the gradient became infinite or NaN"):
        run_steps(trainer, 1)


def test_scaling_can_begin_with_a_resumed_run():
    """What a run without mixed precision saves of its scaler is empty."""
    scaler = LossScaler("cpu", init_scale=8.0)
    scaler.load_state_dict(LossScaler("cpu", enabled=False).state_dict())
    assert scaler.get_scale() == 8.0
    scaler.load_state_dict(LossScaler("cpu", init_scale=2.0).state_dict())
    assert scaler.get_scale() == 2.0


def test_replay_repeats_the_step(make_loop, monkeypatch, tmp_path):
    """The losses of the report are those of the step, to the printed digit; the module that broke is named."""
    from hiervl.engine.trainer import SemiSupervisedTrainer

    trainer = make_loop()
    run_steps(trainer, 1)
    with torch.no_grad():  # what a broken update leaves behind
        trainer.student.pixel_decoder.get_parameter(_last_name(trainer.student.pixel_decoder)).fill_(float("nan"))
    with pytest.raises(UserError, match="broken_step_0000000.pth"):
        run_steps(trainer, 1)
    lines = SemiSupervisedTrainer.replay(str(tmp_path / "run" / "broken_step_0000000.pth"))
    text = "\n".join(lines)
    assert "iteration 0" in text and "loss_pixel" in text and "nan" in text
    assert "first output that is not finite: student.pixel_decoder" in text

    healthy = make_loop("SEMI.GUIDANCE_CONFIDENCE", "0.0", folder="healthy")
    healthy.step.guidance.unguided.update(range(6))  # as a look at the labelled images before training may do
    losses = []
    original = healthy._trainer.accumulate
    healthy._trainer.accumulate = lambda batches: losses.extend(original(batches)) or losses
    healthy._trainer._problem = lambda losses: "nothing"
    with pytest.raises(UserError, match="nothing"):
        run_steps(healthy, 1)
    lines = SemiSupervisedTrainer.replay(str(tmp_path / "healthy" / "broken_step_0000000.pth"))
    printed = dict(line.split() for line in lines if line.startswith("  loss"))
    assert printed == {name: f"{value:.6g}" for name, value in losses[0].values.items()}
    assert lines[-2:] == ["first output that is not finite: none", "gradients that are not finite: 0"]
    with pytest.raises(UserError, match="is a checkpoint, not a broken step"):
        healthy.checkpointer.save("model_0000000")
        SemiSupervisedTrainer.replay(str(tmp_path / "healthy" / "model_0000000.pth"))


def _last_name(module):
    return [name for name, _ in module.named_parameters()][-1]


# ---------------------------------------------------------------------------- memory


def out_of_memory_above(trainer, images):
    """As if the GPU held that many images of a pass."""
    original = trainer.student.segment

    def segment(batch, *arguments, **options):
        if len(batch) > images:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        return original(batch, *arguments, **options)

    trainer.student.segment = segment


def test_out_of_memory_is_one_sentence(make_loop):
    trainer = make_loop("SOLVER.HALVE_ON_OUT_OF_MEMORY", "False")
    out_of_memory_above(trainer, 1)
    with pytest.raises(UserError, match="memory is exhausted at iteration 0: set SOLVER.ACCUMULATION to 2 "):
        run_steps(trainer, 1)


def test_halved_batches_are_those_of_accumulation(make_loop):
    """4 unlabelled images make strong batches of 8; with room for 4, two halves are computed: bit for bit what
    SOLVER.ACCUMULATION 2 does from the start, statistics of the threshold included."""
    common = ("SEMI.THRESHOLD", "class", "SEMI.PERTURBATION_WEIGHT", "0.0")  # no third view
    halved = make_loop(*common)
    out_of_memory_above(halved, 4)
    run_steps(halved, 2)
    assert halved._trainer.state_dict()["parts"] == 2
    accumulated = make_loop("SOLVER.ACCUMULATION", "2", *common)
    run_steps(accumulated, 2)
    others = weights(accumulated)
    assert all(torch.equal(value, others[name]) for name, value in weights(halved).items())
    assert any(not torch.equal(v, w) for v, w in zip(weights(halved).values(), weights(make_loop()).values()))


def test_a_student_that_teaches_itself_is_trained_on(make_loop):
    """Memory that ends in its own labelling, where it is in evaluation mode."""
    trainer = make_loop("SEMI.TEACHER", "student")
    original = trainer.student.semantic_maps

    def semantic_maps(images, **options):
        if len(images) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        return original(images, **options)

    trainer.student.semantic_maps = semantic_maps
    run_steps(trainer, 1)
    assert trainer._trainer.parts == 2 and trainer.student.training


def test_halving_ends_where_a_batch_is_odd(make_loop):
    trainer = make_loop()
    out_of_memory_above(trainer, 0)
    with pytest.raises(UserError, match="at iteration 0: switch SOLVER.AMP.ENABLED "):  # 2 labelled images
        run_steps(trainer, 1)


def test_parts_do_not_outlive_the_batches_they_fit(make_loop):
    """Two parts, resumed with micro-batches of one labelled image: no part is empty."""
    resumed = make_loop("SOLVER.ACCUMULATION", "2")
    resumed._trainer.load_state_dict({"skipped_steps": 0, "parts": 2, "accumulation": 2})
    assert resumed._trainer.parts == 2
    run_steps(resumed, 1)
    assert resumed._trainer.parts == 1


def test_the_accumulation_that_the_warning_names_divides_once(make_loop, caplog):
    halved = make_loop("SEMI.PERTURBATION_WEIGHT", "0.0")  # no third view
    out_of_memory_above(halved, 4)
    run_steps(halved, 1)
    assert "set SOLVER.ACCUMULATION to 2." in caplog.text and "CutMix" not in caplog.text
    for accumulation, parts in (("1", 2), ("2", 1)):
        resumed = make_loop("SOLVER.ACCUMULATION", accumulation)
        resumed._trainer.load_state_dict(halved._trainer.state_dict())
        assert resumed._trainer.parts == parts


def test_parts_without_a_partner_for_cutmix_are_warned_of(make_loop, caplog):
    """2 unlabelled images in 2 parts."""
    halved = make_loop("SEMI.PERTURBATION_WEIGHT", "0.0", "SOLVER.UNLABELED_PER_BATCH", "2")
    out_of_memory_above(halved, 2)
    run_steps(halved, 1)
    assert (
        halved._trainer.parts == 2
        and "With one unlabelled image in each part, CutMix has no other image" in caplog.text
    )


def test_a_step_is_noticed_by_the_students_cached_text(make_loop, monkeypatch):
    """Whether or not anything begins or ends its training meanwhile, and however the optimiser writes."""
    trainer = make_loop()
    encoder, kept = trainer.student.text_encoder, []

    def step():
        kept.append(encoder.eval()().text_embeddings)
        values = encoder.prompts.detach().numpy()
        values += np.arange(values.shape[1], dtype=values.dtype) % 7

    monkeypatch.setattr(trainer._trainer.optimizer, "step", step)
    run_steps(trainer, 1)
    assert not encoder.training and not torch.allclose(encoder().text_embeddings, kept[0])


def test_divide_by_hand():
    parts = list(divide({"labeled": list("abcd"), "unlabeled": list("ABCD")}, 2))
    assert [["".join(items) for items in part.values()] for part in parts] == [["ab", "AD"], ["cd", "BC"]]
