"""Images that cannot be read, workers that die or hang."""

import itertools
import os
import signal
import time

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from hiervl.data.loading.damage import DamageCount, sample_or_replacement
from hiervl.data.loading.loaders import build_semi_supervised_loader
from hiervl.data.loading.streams import Loader, MicroBatchSampler, Stream, mirrored_share_of
from hiervl.utils.errors import UserError


def mapper(entry, generator):
    if entry["file_name"].startswith("bad"):
        raise UserError(f"{entry['file_name']} cannot be read.")
    return {"file_name": entry["file_name"], "drawn": int(generator.integers(1000))}


def entries(*names):
    return [{"file_name": name} for name in names]


def make_generator():
    return np.random.default_rng(3)


def test_next_readable_image_takes_the_place():
    """Cyclically, with the random numbers of the place."""
    files = entries("a", "bad1", "bad2", "b", "bad3")
    drawn = int(make_generator().integers(1000))
    for index, name, damaged in ((0, "a", []), (1, "b", ["bad1", "bad2"]), (4, "a", ["bad3"])):
        sample = sample_or_replacement(files, index, mapper, make_generator)
        assert (sample["file_name"], sample["drawn"], list(sample["damaged"])) == (name, drawn, damaged)
    error = sample_or_replacement(entries("bad1", "bad2"), 1, mapper, make_generator)
    assert isinstance(error, UserError) and "2 unlabelled images in a row" in str(error) and "bad2" in str(error)


def test_damage_is_counted_once_per_file_and_bounded(caplog):
    count = DamageCount(total=20, max_share=0.1)
    for name in ("x.png", "x.png", "y.png"):
        batch = count.check({"labeled": [{}], "unlabeled": [{"damaged": {name: f"{name} is broken."}}]})
        assert batch == {"labeled": [{}], "unlabeled": [{}]}
    assert "2 of 20" in caplog.records[-1].getMessage() and len(caplog.records) == 2
    with pytest.raises(UserError, match="3 of 20 .*DATALOADER.MAX_DAMAGED .0.1. .*z.png is broken"):
        count.check({"unlabeled": [{"damaged": {"z.png": "z.png is broken."}}]})


DAMAGE = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:60]),
    "empty": lambda path: path.write_bytes(b""),
    "deleted": lambda path: path.unlink(),
    "program": lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n"),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("workers", [0, 1])
def test_unlabeled_image_is_left_out_and_a_labeled_one_stops(camvid, cfg, damage, workers):
    """All 8 unlabelled places are served although one file is damaged after it was listed."""
    if workers and damage != "deleted":
        pytest.skip("one kind of damage is enough with workers")
    labeled = _dicts(cfg.DATASETS.TRAIN[0])[0]["file_name"]
    cfg.DATALOADER.NUM_WORKERS, cfg.DATALOADER.MAX_DAMAGED = workers, 0.2
    loader = build_semi_supervised_loader(cfg)
    cfg.DATALOADER.MAX_DAMAGED = 0.1
    strict = build_semi_supervised_loader(cfg)
    unlabeled = {entry["file_name"] for entry in _dicts(cfg.DATASETS.UNLABELED[0])}
    victim = sorted(unlabeled)[2]
    DAMAGE[damage](camvid / "images" / "train" / os.path.basename(victim))
    seen = [item for batch in itertools.islice(loader, 4) for item in batch["unlabeled"]]
    names = [item["file_name"] for item in seen]
    assert len(names) == 8 and set(names) == unlabeled - {victim} and "damaged" not in seen[0]
    with pytest.raises(UserError, match="1 of 8 unlabelled images cannot be read"):
        list(itertools.islice(strict, 4))

    DAMAGE[damage](camvid / "images" / "train" / os.path.basename(labeled))
    with pytest.raises(UserError, match=os.path.basename(labeled)):
        list(itertools.islice(loader, 3))


def test_file_that_may_not_be_read(camvid, cfg, monkeypatch):
    """Permissions, also where the tests run as root, who may read all."""
    from hiervl.data.loading import readers

    def refuse(path, *arguments):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(readers, "open", refuse, raising=False)
    with pytest.raises(UserError, match="a.png cannot be read .*Permission denied"):
        Image.new("RGB", (4, 4)).save(camvid / "a.png")
        readers.read_image(str(camvid / "a.png"))


def _dicts(name):
    from hiervl.data.registered.datasets import load_dataset

    return load_dataset(name)


# ---------------------------------------------------------------------------- parts of a batch


def test_parts_keep_their_mirrored_partners():
    """8 places in 2 parts and in 4; 6 in 2 are odd, 3 each, and stay together as they come."""
    assert [list(mirrored_share_of(8, 0, 1, rank, 2)) for rank in (0, 1)] == [[0, 1, 6, 7], [2, 3, 4, 5]]
    parts = [list(mirrored_share_of(8, micro, 2, rank, 2)) for micro in (0, 1) for rank in (0, 1)]
    assert parts == [[0, 7], [1, 6], [2, 5], [3, 4]]
    assert [list(mirrored_share_of(6, micro, 2, 0, 1)) for micro in (0, 1)] == [[0, 1, 2], [3, 4, 5]]


def test_sampler_goes_on_in_the_middle_of_an_iteration():
    streams = [Stream("labeled", 10, 0), Stream("unlabeled", 7, 0)]
    whole = list(itertools.islice(iter(MicroBatchSampler(streams, [4, 8], 2, start_iter=3)), 9))
    rest = list(itertools.islice(iter(MicroBatchSampler(streams, [4, 8], 2, start_iter=3, skip=5)), 4))
    assert rest == whole[5:]


# ---------------------------------------------------------------------------- workers


class Numbers(Dataset):
    """0 … 11; the worker that is to read 5 kills itself or hangs, as long as there is the file that says so."""

    def __init__(self, order, how):
        self.order, self.how = order, how

    def __len__(self):
        return len(self.order)

    def __getitem__(self, index):
        number = self.order[index]
        if number == 5 and self.how.exists():
            what = self.how.read_text()
            if what != "kill for ever":
                self.how.unlink()
            if "kill" in what:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(100)
        return torch.tensor(number)


def numbers(how, patience):
    def make(delivered):
        return DataLoader(Numbers(range(delivered, 12), how), batch_size=None, num_workers=2, timeout=0.2)

    return Loader(make, int, patience)


def test_killed_worker_is_replaced_and_nothing_lost(tmp_path):
    how = tmp_path / "how"
    how.write_text("kill once")
    assert list(numbers(how, patience=60)) == list(range(12))
    how.write_text("kill for ever")
    with pytest.raises(UserError, match="data workers died 4 times in a row .*NUM_WORKERS"):
        list(numbers(how, patience=60))


def test_hung_worker_ends_in_time(tmp_path):
    how = tmp_path / "how"
    how.write_text("hang")
    started = time.monotonic()
    with pytest.raises(UserError, match="DATALOADER.TIMEOUT .1 s."):
        list(numbers(how, patience=1.0))
    assert time.monotonic() - started < 10
