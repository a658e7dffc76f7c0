"""Detectron2's ``DefaultTrainer`` around the semi-supervised step."""

import contextlib
import dataclasses
import functools
import logging
import weakref
from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultTrainer, HookBase, hooks
from detectron2.engine.train_loop import TrainerBase
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators, inference_on_dataset
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventWriter
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hiervl.data.classes.records import to_records
from hiervl.data.loading.loaders import build_semi_supervised_loader, build_test_loader
from hiervl.data.registered.catalogs import definitions_of
from hiervl.data.registered.datasets import class_names_of, ignore_label_of
from hiervl.engine.run_config import config_from_text
from hiervl.engine.run_record import read_record, resume_command, start_record
from hiervl.evaluation import SemanticEvaluator, SlidingWindowSegmenter, write_results
from hiervl.modeling import HierVL, build_network
from hiervl.modeling.clip import FROM_CHECKPOINT, read_clip_config
from hiervl.modeling.mask2former_weights import load_decoder_weights
from hiervl.modeling.text_encoder import weights_changed
from hiervl.semi_supervised.calibration import calibrate_threshold, fit_gate
from hiervl.semi_supervised.knowledge import silence_prior
from hiervl.semi_supervised.step import SemiSupervisedStep
from hiervl.utils.checkpoint_file import load_network
from hiervl.utils.errors import UserError
from hiervl.utils.tolerance import going_on_without
from hiervl.visualization.gallery import EvaluationGallery
from hiervl.visualization.pictures import draw_comparisons
from hiervl.visualization.report import facts_of_run
from hiervl.visualization.run_data import evaluation_file
from hiervl.visualization.training_pictures import TrainingPictures

from .checkpoint import RandomState, SegmentationCheckpointer
from .failures import UserStop, past_detectron2
from .health import HealthCheck
from .hooks import (
    BestCheckpoint,
    PeriodicCheckpoints,
    PeriodicEvaluation,
    RunReport,
    ShortHistory,
    StopOnRequest,
    Stopped,
    TolerantWriter,
    best_metric,
)
from .interruption import StopRequest
from .loggers import build_loggers, drop_logged
from .loop import OptimizationLoop
from .replay import dump_step, read_step, replay_step
from .shared_cores import SharedCores
from .solver import build_lr_scheduler, build_optimizer
from .test_sets import check_test_classes, check_test_labels, evaluation_precision

logger = logging.getLogger(__name__)

# Detectron2's names for evaluations of pixel classes, alone or with others.
PIXEL_CLASSES = ("sem_seg", "cityscapes_sem_seg", "coco_panoptic_seg")


class SemiSupervisedTrainer(DefaultTrainer):
    """Trains a student on labelled and unlabelled images and updates its teacher. Evaluates, saves, resumes.

    ``DefaultTrainer``'s constructor builds one model on one data stream. This one builds the step instead.
    :meth:`train` builds the data, because only then the first iteration is known.
    """

    def __init__(self, cfg):
        TrainerBase.__init__(self)
        self.cfg = cfg
        self.start_iter, self.max_iter = 0, cfg.SOLVER.MAX_ITER
        for name in cfg.DATASETS.TEST:
            self.build_evaluator(cfg, name)  # so that errors appear before training, not after it
        self.student = self.build_model(cfg)
        self.step = SemiSupervisedStep.from_config(cfg, self.student).to(cfg.MODEL.DEVICE)
        self.step.train()
        self._trainer = OptimizationLoop.from_config(
            cfg,
            _distributed(self.step),
            self.build_optimizer(cfg, self.student),
            functools.partial(dump_step, cfg.OUTPUT_DIR, cfg.dump(), self.step),
        )
        self.scheduler = self.build_lr_scheduler(cfg, self.optimizer)
        self.random_state = RandomState()
        self.checkpointer = SegmentationCheckpointer(
            self.student,
            cfg.OUTPUT_DIR,
            evaluated=self.evaluated_network,
            extra=self.checkpoint_extra(cfg, self.student.class_names),
            teacher=self.step.teacher,
            threshold=self.step.threshold,
            optimizer=self.optimizer,
            scaler=self._trainer.scaler,
            loop=self._trainer,
            random_state=self.random_state,
            trainer=weakref.proxy(self),
        )
        self._last_eval_results: dict = {}
        self.was_stopped = False  # stopped by a signal before the end
        self.stop_request = StopRequest()
        self.register_hooks(self.build_hooks())

    # ---- construction -------------------------------------------------------------------------------------------

    @classmethod
    def build_model(cls, cfg) -> HierVL:
        return build_network(cfg)

    @classmethod
    def build_optimizer(cls, cfg, model):
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg, optimizer):
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg, start_iter: int = 0):
        return build_semi_supervised_loader(cfg, start_iter)

    @classmethod
    def build_test_loader(cls, cfg, dataset_name, count=0):
        """count: see :func:`hiervl.data.loading.loaders.build_test_loader`."""
        return build_test_loader(cfg, dataset_name, count)

    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        """The evaluator of a dataset. A subclass may return any evaluator, Detectron2's or its own.

        Raises:
            UserError: the dataset's ``evaluator_type`` is for another task.
        """
        kind = MetadataCatalog.get(dataset_name).get("evaluator_type") or PIXEL_CLASSES[0]
        if kind not in PIXEL_CLASSES:
            raise UserError(
                f"DATASETS.TEST: '{dataset_name}' is evaluated as '{kind}' (evaluator_type in its metadata), which "
                f"HierVL lacks: give it one of {', '.join(PIXEL_CLASSES)}, or override the trainer's build_evaluator."
            )
        return SemanticEvaluator(
            cfg.MODEL.CLASS_NAMES or class_names_of(dataset_name), ignore_label=ignore_label_of(dataset_name)
        )

    @staticmethod
    def checkpoint_extra(cfg, class_names: list[str]) -> dict:
        """What a checkpoint needs to stand alone: the config, and the classes' names, phrases and colours."""
        classes = definitions_of(class_names, next(iter(cfg.DATASETS.TRAIN), None), cfg.MODEL.HSQG.ALWAYS_ACTIVE)
        if not cfg.MODEL.TEXT.PHRASES:
            classes = [dataclasses.replace(definition, phrases=(definition.name,)) for definition in classes]
        extra = {"config": cfg.dump(), "classes": to_records(classes)}
        clip_config = read_clip_config(cfg.MODEL.CLIP.NAME)
        return extra if clip_config is None else {**extra, "clip_config": clip_config}

    @classmethod
    def build_gallery(cls, cfg, dataset_name, evaluator) -> list:
        """The report's part about an evaluation, for evaluators that count a confusion matrix."""
        if not cfg.TEST.PICTURES or not isinstance(evaluator, SemanticEvaluator):
            return []
        classes = definitions_of(evaluator.class_names, dataset_name)
        path = Path(cfg.OUTPUT_DIR) / evaluation_file(dataset_name)
        colors = [definition.color for definition in classes]
        return [EvaluationGallery(evaluator, str(path), colors, facts=facts_of_run(cfg, dataset_name))]

    def build_writers(self) -> list[EventWriter]:
        """Detectron2's writers and those of ``LOGGERS``."""
        return [*super().build_writers(), *build_loggers(self.cfg)]

    def build_hooks(self) -> list[HookBase | None]:
        """Timing, schedule, evaluation, checkpoints, log."""
        cfg = self.cfg
        self._checkpoints = PeriodicCheckpoints(self.checkpointer, self.random_state, cfg.SOLVER.CHECKPOINT_PERIOD)
        return [
            ShortHistory(),
            hooks.IterationTimer(),
            hooks.LRScheduler(),
            PeriodicEvaluation(cfg.TEST.EVAL_PERIOD, self._evaluate, self._checkpoints),
            BestCheckpoint(self.checkpointer, best_metric(cfg.DATASETS.TEST)),
            self._checkpoints,
            *self._watching_hooks(),
            SharedCores() if cfg.MODEL.DEVICE == "cpu" and comm.get_world_size() == 1 else None,
            TolerantWriter(self.build_writers(), period=20) if comm.is_main_process() else None,
            RunReport(cfg.OUTPUT_DIR, cfg.TEST.EVAL_PERIOD) if comm.is_main_process() else None,
            StopOnRequest(self.stop_request, self._checkpoints),
        ]

    def _watching_hooks(self) -> list[HookBase]:
        """Hooks for health and pictures of learning from unlabelled images."""
        semi = self.cfg.SEMI
        if not semi.ENABLED or self.cfg.SOLVER.UNLABELED_PER_BATCH <= 0:
            return []
        watching: list[HookBase] = []
        if semi.HEALTH_PERIOD > 0 or self.step.guidance is not None:
            watching.append(HealthCheck(self.cfg, self.step, semi.HEALTH_PERIOD))
        if semi.PICTURES_PERIOD > 0:
            watching.append(TrainingPictures(self.cfg, self.step, semi.PICTURES_PERIOD))
        return watching

    # ---- training -----------------------------------------------------------------------------------------------

    def resume_or_load(self, resume: bool = True) -> None:
        """Continue from the newest intact checkpoint of the run in OUTPUT_DIR, else start from ``MODEL.WEIGHTS`` (or
        from CLIP alone)."""
        record = read_record(self.cfg.OUTPUT_DIR)
        is_resumed = resume and self.checkpointer.resume(record["run"] if record else None, self.cfg.dump())
        if is_resumed:
            self.start_iter = self.iter + 1  # a checkpoint holds the iteration that was just finished
        else:
            if resume:
                logger.warning("There is no checkpoint to resume from in %s: starting anew.", self.cfg.OUTPUT_DIR)
            if self.cfg.MODEL.CLIP.PRETRAINED == FROM_CHECKPOINT and not self.cfg.MODEL.WEIGHTS:
                raise UserError(
                    "MODEL.CLIP.PRETRAINED is 'checkpoint', but MODEL.WEIGHTS names no checkpoint: name one, or CLIP's "
                    "own weights."
                )
            self.checkpointer.load(self.cfg.MODEL.WEIGHTS, checkpointables=[])
            if self.cfg.MODEL.DECODER_WEIGHTS:
                self._load_decoder_weights()
            if not self.cfg.MODEL.WEIGHTS:
                fit_gate(self.cfg, self.student)
                silence_prior(self.cfg, self.student)
            self.step.update_teacher()  # at iteration 0 the average is the student itself
        _take_from_main_process([*self.step.parameters(), *self.step.buffers()])
        weights_changed(self.step, frozen=True)
        run = self.checkpointer.resumed_run if is_resumed else None
        if comm.is_main_process():
            drop_logged(self.cfg.OUTPUT_DIR, self.start_iter)
        self.checkpointer.extra["run"] = start_record(self.cfg, is_resumed, self.start_iter, run)

    def _load_decoder_weights(self) -> None:
        """Start the decoders from ``MODEL.DECODER_WEIGHTS``."""
        model = self.cfg.MODEL
        if model.WEIGHTS:
            raise UserError("MODEL.WEIGHTS already contains decoders: remove it or MODEL.DECODER_WEIGHTS.")
        if not isinstance(self.student, HierVL):
            raise UserError(
                f"MODEL.DECODER_WEIGHTS: {model.META_ARCHITECTURE} has no Mask2Former decoders: leave the key empty."
            )
        load_decoder_weights(self.student, model.DECODER_WEIGHTS)

    def train(self) -> dict:
        """Train from ``start_iter`` to ``max_iter``. Returns the results of the last evaluation.

        SIGTERM or SIGINT end it after the current iteration, when that is saved.
        """
        for name in self.cfg.DATASETS.TEST:  # errors of an evaluation should appear before the first iteration
            check_test_classes(self.cfg, name, self.student.class_names)
            check_test_labels(name)
        self._trainer.read_from(self.build_train_loader(self.cfg, self.start_iter))
        try:
            with self.stop_request:
                TrainerBase.train(self, self.start_iter, self.max_iter)
        except UserStop as stop:
            raise stop.error from None
        except Stopped as stopped:
            self.was_stopped = True
            if comm.is_main_process():
                print(f"Saved after iteration {stopped.iteration}; continue with\n  {resume_command()}", flush=True)
        finally:
            self._trainer.read_from(())  # ends the data workers
        return self._last_eval_results

    def run_step(self) -> None:
        """One iteration; where it has to end the training, what the ones before it have made is saved first."""
        try:
            with past_detectron2():
                super().run_step()
        except UserStop:
            path = self._checkpoints.save_before_failing()
            if path is not None:
                print(
                    f"Saved in {path}; when the error below is fixed, continue with\n  {resume_command()}", flush=True
                )
            raise

    def after_step(self) -> None:
        with past_detectron2():
            super().after_step()

    def state_dict(self) -> dict:
        """Iteration and hooks. The state of the loop has its own names in checkpoints."""
        return TrainerBase.state_dict(self)

    def load_state_dict(self, state: dict) -> None:
        TrainerBase.load_state_dict(self, state)

    # ---- evaluation ---------------------------------------------------------------------------------------------

    @property
    def evaluated_network(self) -> nn.Module:
        """The network of ``TEST.NETWORK``."""
        return self.student if self.cfg.TEST.NETWORK == "student" else self.step.teacher.network

    def _evaluate(self) -> dict:
        teacher = self.step.teacher.network
        with evaluation_precision(self.cfg):
            calibrate_threshold(self.cfg, teacher)
        if teacher.gate is not None and self.student.gate is not None:
            _take_from_main_process([teacher.gate.threshold])
            self.student.gate.threshold.copy_(teacher.gate.threshold)
        self._last_eval_results = self.test(self.cfg, self.evaluated_network, must_write=False)
        return self._last_eval_results

    @classmethod
    def test(cls, cfg, model, evaluators=None, must_write: bool = True) -> dict:
        """Evaluate on ``DATASETS.TEST`` with sliding windows. Writes ``results.json`` and pictures to OUTPUT_DIR.

        Args:
            evaluators: one, or one per dataset, in place of :meth:`build_evaluator`. They get the output of
                :class:`SlidingWindowSegmenter`, with "sem_seg" unless their ``reads_class_maps`` is False.

        Raises:
            OSError: results.json cannot be written; if ``must_write`` is off, this is only logged.
            UserError: the GPU's memory is exhausted.
        """
        try:
            with evaluation_precision(cfg):
                return cls._test(cfg, model, evaluators, must_write)
        except torch.cuda.OutOfMemoryError as error:
            raise UserError(
                "the GPU's memory is exhausted by the evaluation: lower TEST.WINDOW_BATCH or INPUT.SHORT_SIDE; a "
                "training goes on with --resume."
            ) from error

    @classmethod
    def _test(cls, cfg, model, evaluators, must_write: bool) -> dict:
        segmenter = SlidingWindowSegmenter(
            model, cfg.INPUT.CROP_SIZE, overlap=cfg.TEST.OVERLAP, window_batch=cfg.TEST.WINDOW_BATCH
        )
        if isinstance(evaluators, DatasetEvaluator):
            evaluators = [evaluators]
        if evaluators and len(evaluators) != len(cfg.DATASETS.TEST):
            raise ValueError(f"{len(evaluators)} evaluators for {len(cfg.DATASETS.TEST)} datasets (DATASETS.TEST)")
        results = {}
        for index, name in enumerate(cfg.DATASETS.TEST):
            check_test_classes(cfg, name, model.class_names)
            check_test_labels(name)
            evaluator = evaluators[index] if evaluators else cls.build_evaluator(cfg, name)
            watched = DatasetEvaluators([evaluator, *cls.build_gallery(cfg, name, evaluator)])
            segmenter.class_maps = getattr(evaluator, "reads_class_maps", True)
            results[name] = inference_on_dataset(segmenter, cls.build_test_loader(cfg, name), watched) or {}
            segmenter.class_maps = False
            if comm.is_main_process() and cfg.TEST.PICTURES:
                path = Path(cfg.OUTPUT_DIR) / f"predictions_{name}.png"
                loader = cls.build_test_loader(cfg, name, cfg.TEST.PICTURES)
                with going_on_without(str(path)):
                    draw_comparisons(segmenter, loader, MetadataCatalog.get(name), str(path), cfg.TEST.PICTURES)
        if len(results) == 1:
            results = next(iter(results.values()))
        if comm.is_main_process() and results:
            path = Path(cfg.OUTPUT_DIR) / "results.json"
            with contextlib.nullcontext() if must_write else going_on_without(str(path)):
                write_results(results, str(path))
        return results

    @classmethod
    def replay(cls, path: str, overrides: Sequence[str] = ()) -> list[str]:
        """``--replay``: repeat a broken step. Returns the lines of a report.

        Args:
            path: the broken_step_….pth of a training; it also holds the config.
            overrides: ``KEY VALUE …`` to change it, for example SOLVER.AMP.ENABLED False.
        """
        content = read_step(path)
        cfg = config_from_text(content["config"], overrides, path)
        seed_all_rng(None if cfg.SEED < 0 else cfg.SEED)  # as in training, because a random CLIP is in no checkpoint
        step = SemiSupervisedStep.from_config(cfg, cls.build_model(cfg)).to(cfg.MODEL.DEVICE).train()
        loop = OptimizationLoop.from_config(cfg, step, cls.build_optimizer(cfg, step.student))
        loop.parts = content["replay"]["parts"]
        return replay_step(step, content, loop.accumulate)

    @classmethod
    def evaluate_checkpoint(cls, cfg) -> dict:
        """``--eval-only``: the ``TEST.NETWORK`` of ``MODEL.WEIGHTS`` on ``DATASETS.TEST``."""
        if not cfg.MODEL.WEIGHTS:
            raise UserError("--eval-only needs weights: add MODEL.WEIGHTS path/to/model_final.pth to the command.")
        network = cls.build_model(cfg)
        load_network(network, cfg.MODEL.WEIGHTS, cfg.TEST.NETWORK)
        results = cls.test(cfg, network.eval())
        test_images = f"{cfg.DATASET.NAME}_test"
        if cfg.DATASET.TEST and test_images not in cfg.DATASETS.TEST:
            logger.info(
                f"Evaluated on {', '.join(cfg.DATASETS.TEST)}. For the images of DATASET.TEST add "
                f"DATASETS.TEST \"('{test_images}',)\" to the command."
            )
        return results


def _take_from_main_process(tensors: list[torch.Tensor]) -> None:
    """All processes continue with the main one's values, in case their machines round differently."""
    if comm.get_world_size() > 1:
        for tensor in tensors:
            torch.distributed.broadcast(tensor.data, 0)


def _distributed(step: SemiSupervisedStep) -> nn.Module:
    if comm.get_world_size() == 1:
        return step
    device_ids = [comm.get_local_rank()] if step.student.device.type == "cuda" else None
    # Switched-off parts leave parameters without gradients.
    model = DistributedDataParallel(step, device_ids=device_ids, broadcast_buffers=False, find_unused_parameters=True)
    weights_changed(step, frozen=True)  # they already have the main process's values
    return model
