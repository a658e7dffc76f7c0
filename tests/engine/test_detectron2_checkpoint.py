"""Detectron2 loads a run's checkpoint and gets the network that was evaluated."""

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model

from hiervl.config import get_hiervl_cfg
from hiervl.engine.checkpoint import SegmentationCheckpointer
from hiervl.engine.run_config import load_config, prepare_config
from hiervl.engine.trainer import SemiSupervisedTrainer
from hiervl.utils.checkpoint_file import load_network, read_checkpoint


@pytest.fixture(scope="module")
def run(world, options, tmp_path_factory):
    """→ function from what is evaluated to the trainer of a finished run and its folder."""

    def make(network):
        folder = tmp_path_factory.mktemp(network)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DETECTRON2_DATASETS", str(world))
            torch.manual_seed(0)
            chosen = ("TEST.PICTURES", "0", "TEST.NETWORK", network)
            trainer = SemiSupervisedTrainer(prepare_config(load_config("", options(world, folder, *chosen))))
            trainer.resume_or_load(resume=False)
            trainer.train()
            (folder / "config.yaml").write_text(trainer.cfg.dump())  # as the command line does
        return trainer, folder

    return make


@pytest.fixture(scope="module")
def finished(run):
    return run("teacher")


def config_of(folder):
    """As the documentation says."""
    cfg = get_hiervl_cfg()
    cfg.merge_from_file(str(folder / "config.yaml"))
    cfg.MODEL.CLIP.PRETRAINED = "checkpoint"
    cfg.MODEL.WEIGHTS = str(folder / "model_final.pth")
    cfg.INPUT.MIN_SIZE_TEST = 0
    return cfg


def assert_equal(network, expected):
    for name, value in expected.state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name


def test_detectron2s_checkpointer_loads_the_teacher(finished):
    trainer, folder = finished
    network = build_model(config_of(folder))
    DetectionCheckpointer(network).load(str(folder / "model_final.pth"))
    assert_equal(network, trainer.step.teacher.network)
    name = "pixel_decoder.mask_projection.weight"
    assert not torch.equal(network.state_dict()[name], trainer.student.state_dict()[name])


def test_detectron2s_predictor_gives_the_teachers_prediction(finished):
    trainer, folder = finished
    image = np.random.default_rng(0).integers(0, 256, (32, 40, 3)).astype(np.uint8)  # blue, green, red
    predicted = DefaultPredictor(config_of(folder))(image)["sem_seg"]
    inputs = {"image": torch.as_tensor(image[..., ::-1].copy()).permute(2, 0, 1)}
    expected = trainer.step.teacher.network([inputs])[0]["sem_seg"]
    assert predicted.shape == (11, 32, 40)
    torch.testing.assert_close(predicted, expected)


def test_each_network_comes_back_as_itself(finished):
    """Also into a training that starts from it, which goes on from the student."""
    trainer, folder = finished
    path = str(folder / "model_final.pth")
    for which, expected in (("teacher", trainer.step.teacher.network), ("student", trainer.student)):
        network = build_model(config_of(folder))
        load_network(network, path, which)
        assert_equal(network, expected)
    network = build_model(config_of(folder))
    SegmentationCheckpointer(network).load(path)
    assert_equal(network, trainer.student)


def test_the_teacher_is_written_once(finished):
    checkpoint = read_checkpoint(str(finished[1] / "model_final.pth"))
    for name, value in checkpoint["model"].items():
        assert value.data_ptr() == checkpoint["teacher"][f"network.{name}"].data_ptr(), name


def test_the_student_is_the_model_if_it_is_evaluated(run):
    trainer, folder = run("student")
    network = build_model(config_of(folder))
    DetectionCheckpointer(network).load(str(folder / "model_final.pth"))
    assert_equal(network, trainer.student)
    load_network(network, str(folder / "model_final.pth"), "teacher")
    assert_equal(network, trainer.step.teacher.network)


def test_checkpoints_without_an_entry_for_the_student_hold_it_as_model(finished, tmp_path):
    trainer, folder = finished
    checkpoint = read_checkpoint(str(folder / "model_final.pth"))
    checkpoint["model"] = checkpoint.pop("student")
    torch.save(checkpoint, tmp_path / "old.pth")
    network = build_model(config_of(folder))
    load_network(network, str(tmp_path / "old.pth"), "student")
    assert_equal(network, trainer.student)
    other = build_model(config_of(folder))
    SegmentationCheckpointer(other).load(str(tmp_path / "old.pth"))
    assert_equal(other, trainer.student)
