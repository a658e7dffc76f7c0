import itertools
import os

import pytest
import torch
from PIL import Image

from hiervl.data.loading import loaders
from hiervl.data.loading.loaders import build_semi_supervised_loader, build_test_loader
from hiervl.utils.errors import UserError


def take(loader, count):
    iterator = iter(loader)
    batches = list(itertools.islice(iterator, count))
    iterator.close()
    return batches


def assert_equal(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others):
        assert batch.keys() == other.keys()
        for stream in batch:
            assert len(batch[stream]) == len(other[stream])
            for sample, twin in zip(batch[stream], other[stream]):
                assert sample.keys() == twin.keys()
                for name, value in sample.items():
                    same = torch.equal(value, twin[name]) if torch.is_tensor(value) else value == twin[name]
                    assert same, name


class TestDeterminism:
    def test_workers_change_nothing(self, camvid, cfg):
        batches = take(build_semi_supervised_loader(cfg), 5)
        cfg.DATALOADER.NUM_WORKERS = 2
        assert_equal(take(build_semi_supervised_loader(cfg), 5), batches)

    def test_resumed_run_sees_what_the_uninterrupted_one_sees(self, camvid, cfg):
        cfg.SOLVER.ACCUMULATION = 2
        batches = take(build_semi_supervised_loader(cfg), 14)
        assert_equal(take(build_semi_supervised_loader(cfg, start_iter=5), 4), batches[10:])

    def test_seed_matters_and_torchs_generator_is_left_alone(self, camvid, cfg):
        state = torch.get_rng_state()
        first = take(build_semi_supervised_loader(cfg), 1)
        assert torch.equal(torch.get_rng_state(), state)
        cfg.SEED = 1
        assert not torch.equal(
            first[0]["labeled"][0]["image"], take(build_semi_supervised_loader(cfg), 1)[0]["labeled"][0]["image"]
        )

    def test_accumulation_divides_the_same_iteration(self, camvid, cfg):
        (whole,) = take(build_semi_supervised_loader(cfg), 1)
        cfg.SOLVER.ACCUMULATION = 2
        first, second = take(build_semi_supervised_loader(cfg), 2)
        joined = {stream: first[stream] + second[stream] for stream in whole}
        assert len(first["labeled"]) == 2 and len(first["unlabeled"]) == 1
        assert_equal([joined], [whole])


class TestSemiSupervisedLoader:
    def test_without_semi_enabled_no_unlabeled_images_are_loaded(self, camvid, cfg):
        cfg.SEMI.ENABLED = False
        (batch,) = take(build_semi_supervised_loader(cfg), 1)
        assert batch["unlabeled"] == [] and len(batch["labeled"]) == 4
        cfg.SEMI.ENABLED, cfg.SOLVER.UNLABELED_PER_BATCH = True, 0
        (batch,) = take(build_semi_supervised_loader(cfg), 1)
        assert batch["unlabeled"] == []

    def test_iterations_per_epoch(self, camvid, cfg):
        cfg.SOLVER.UNLABELED_PER_BATCH = 3
        assert loaders.iterations_per_epoch(cfg) == 3  # 8 unlabelled images
        cfg.DATASETS.UNLABELED = ()
        assert loaders.iterations_per_epoch(cfg) == 3  # 12 labelled images, 4 at a time

    def test_samples_with_and_without_instances_mix(self, camvid, cfg):
        (camvid / "instances" / "train").mkdir(parents=True)
        for number in range(0, 20, 2):
            Image.new("L", (80, 60)).save(camvid / "instances" / "train" / f"{number:03d}.png")
        for stands_in in (False, True):
            cfg.INPUT.REGIONS_AS_INSTANCES = stands_in
            samples = [sample for batch in take(build_semi_supervised_loader(cfg), 3) for sample in batch["labeled"]]
            assert {"instance_ids" in sample for sample in samples} == {True, stands_in}

    @pytest.mark.parametrize("workers", [0, 2])
    def test_bad_label_reaches_the_caller_as_one_sentence(self, camvid, cfg, workers):
        for path in (camvid / "labels" / "train").iterdir():
            Image.new("L", (80, 60), 99).save(path)
        cfg.DATALOADER.NUM_WORKERS = workers
        with pytest.raises(UserError) as error:
            take(build_semi_supervised_loader(cfg), 1)
        assert "holds 99, but the 11 classes" in str(error.value)
        assert "\n" not in str(error.value) and "Traceback" not in str(error.value)

    @pytest.mark.parametrize(
        "key, batch_size", [("IMS_PER_BATCH", 5), ("UNLABELED_PER_BATCH", 3), ("IMS_PER_BATCH", 0)]
    )
    def test_a_batch_that_processes_cannot_share_is_refused(self, camvid, cfg, key, batch_size):
        cfg.SOLVER.ACCUMULATION, cfg.SOLVER[key] = 2, batch_size
        with pytest.raises(UserError, match=f"SOLVER.{key} is {batch_size}, but must be a multiple of 2"):
            build_semi_supervised_loader(cfg)

    def test_wrong_dataset_names(self, camvid, cfg):
        cfg.DATASETS.UNLABELED = ()
        with pytest.raises(UserError, match="DATASETS.UNLABELED is empty"):
            build_semi_supervised_loader(cfg)
        cfg.DATASETS.TRAIN = ("camvid_train_12_unlabeled",)
        with pytest.raises(UserError, match="DATASETS.TRAIN holds .* which has no label"):
            build_semi_supervised_loader(cfg)


class TestTestLoader:
    @pytest.mark.parametrize("workers", [0, 2])
    def test_processes_get_every_image_once(self, camvid, cfg, monkeypatch, workers):
        cfg.DATALOADER.NUM_WORKERS = workers
        monkeypatch.setattr(loaders.comm, "get_world_size", lambda: 2)
        seen = []
        for rank in range(2):
            monkeypatch.setattr(loaders.comm, "get_rank", lambda rank=rank: rank)
            loader = build_test_loader(cfg, "camvid_val")
            batches = list(loader)
            assert len(batches) == len(loader) and all(len(batch) == 1 for batch in batches)
            seen += [batch[0]["image_id"] for batch in batches]
        assert sorted(seen) == ["000", "001", "002"]

    @pytest.mark.parametrize("count, expected", [(4, ["000", "005", "010", "015"]), (3, ["000", "006", "013"])])
    def test_some_images_come_from_all_over_the_dataset(self, camvid, cfg, monkeypatch, count, expected):
        """Of 20 images, in whichever process; of 3 images no more than these."""
        monkeypatch.setattr(loaders.comm, "get_world_size", lambda: 2)
        assert [batch[0]["image_id"] for batch in build_test_loader(cfg, "camvid_train", count)] == expected
        assert len(list(build_test_loader(cfg, "camvid_val", 8))) == 3

    def test_a_missing_image_reaches_the_caller_as_one_sentence(self, camvid, cfg):
        loader = build_test_loader(cfg, "camvid_val")
        os.remove(camvid / "images" / "val" / "002.png")
        with pytest.raises(UserError, match="002.png is missing"):
            list(loader)
