"""Rows of ``speed.py`` for the data: images per second of a worker, and the start with a million unlabelled files."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from hiervl.config.defaults import get_hiervl_cfg
from hiervl.data.loading.mappers import LabeledMapper, UnlabeledMapper
from hiervl.data.loading.readers import read_image

from .timing import Measurement

PHOTO_SIZE = (375, 500)  # height and width of most of Pascal VOC
PHOTOS = 32
CLASSES = 21
WORKERS, PAIRS = 8, 8  # of the paper's setting
FILES, FOLDERS = 1_000_000, 100


def loading(device: torch.device, args) -> list[Measurement]:
    """JPEG photographs of VOC's size through the mappers at a crop of 512, by one process as a worker is one: seconds
    of an image, the median over rounds of 32."""
    cv2.setNumThreads(0)
    cfg = get_hiervl_cfg()
    cfg.INPUT.CROP_SIZE = args.crop
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        dicts = [_photo(rng, Path(folder) / str(number)) for number in range(PHOTOS)]
        kib = sum(os.path.getsize(entry["file_name"]) for entry in dicts) / PHOTOS / 1024
        unlabeled, labeled = UnlabeledMapper.from_config(cfg), LabeledMapper.from_config(cfg, CLASSES, 255)
        steps = {
            "reading alone": lambda entry: read_image(entry["file_name"]),
            "unlabelled image, three views": lambda entry: unlabeled(entry, rng),
            "labelled image": lambda entry: labeled(entry, rng),
        }
        seconds = {name: [] for name in steps}
        for index in range(1 + args.repeats):
            for name, step in steps.items():
                start = time.perf_counter()
                for entry in dicts:
                    step(entry)
                if index:
                    seconds[name].append((time.perf_counter() - start) / PHOTOS)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    pair = median["unlabelled image, three views"] + median["labelled image"]
    notes = {name: f"{1 / value:.0f} images/s" for name, value in median.items()}
    notes["reading alone"] += f", JPEG of {kib:.0f} KiB"
    found = [Measurement(f"loading: {name}", {"ours": median[name]}, None, notes[name]) for name in steps]
    iteration = PAIRS * pair / WORKERS
    note = f"{PAIRS} + {PAIRS} images by {WORKERS} workers, a core each"
    return [*found, Measurement("loading: the shortest iteration that is fed", {"ours": iteration}, None, note)]


def _photo(rng: np.random.Generator, stem: Path) -> dict:
    """A JPEG with structure of every size, and a label of large regions."""
    height, width = PHOTO_SIZE
    image = np.zeros((height, width, 3), np.float32)
    for octave in range(1, 8):
        coarse = rng.normal(size=(2 + 2**octave, 2 + 2**octave, 3)).astype(np.float32)
        image += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) * 60 / octave
    image += rng.normal(scale=4, size=image.shape)
    Image.fromarray(np.clip(image + 128, 0, 255).astype(np.uint8)).save(f"{stem}.jpg", quality=92)
    label = cv2.resize(rng.integers(0, CLASSES, (6, 8), np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    Image.fromarray(label).save(f"{stem}.png")
    return {"file_name": f"{stem}.jpg", "sem_seg_file_name": f"{stem}.png", "image_id": stem.name}


def start_up(device: torch.device, args) -> list[Measurement]:
    """From the configuration to a training loader, with a million unlabelled files in 100 folders, and with a list of
    them; each in a process of its own. The files are made, empty, in a temporary folder."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _million_files(root)
        for name, entry in (("folders", "unlabeled"), ("a list", "list.txt")):
            code = f"import hiervl; from benchmarks.speed_data import _start; _start({str(root)!r}, {entry!r})"
            command = [sys.executable, "-c", code]
            result = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).resolve().parents[1])
            if result.returncode:
                raise RuntimeError(result.stderr[-2000:])
            seconds, before, peak = (float(word) for word in result.stdout.split()[-3:])
            note = f"peak {peak:.0f} MiB, of which {before:.0f} are the imported libraries"
            found.append(Measurement(f"start with {FILES:,} files in {name}", {"ours": seconds}, None, note))
    return found


def _million_files(root: Path) -> None:
    rng = np.random.default_rng(0)
    (root / "labeled").mkdir()
    for number in range(4):
        _photo(rng, root / "labeled" / str(number))
    (root / "masks").mkdir()
    for path in (root / "labeled").glob("*.png"):
        path.rename(root / "masks" / path.name)
    names = "".join(f"  - class {index}\n" for index in range(CLASSES))
    (root / "classes.yaml").write_text(f"classes:\n{names}")
    with open(root / "list.txt", "w", encoding="utf-8") as file:
        for index in range(FILES):
            name = f"unlabeled/{index % FOLDERS:03d}/2007_{index:06d}.jpg"
            if index < FOLDERS:
                (root / name).parent.mkdir(parents=True)
            os.close(os.open(root / name, os.O_CREAT))
            file.write(name + "\n")


def _start(root: str, unlabeled: str) -> None:
    """Prints the seconds, and the peak memory in MiB before and after."""
    from hiervl.data.folders.dataset import register_folder_dataset
    from hiervl.data.loading.loaders import build_semi_supervised_loader, iterations_per_epoch, load_unlabeled
    from hiervl.engine.run_record import split_hash

    from .speed_network import peak_of_process

    before, start = peak_of_process() / 1024, time.perf_counter()
    cfg = get_hiervl_cfg()
    names = register_folder_dataset(
        "speed", "labeled", "masks", f"{root}/classes.yaml", root, [unlabeled], cache=f"{root}/cache"
    )
    cfg.DATASETS.TRAIN, cfg.DATASETS.UNLABELED = (names.train,), (names.unlabeled,)
    iterations_per_epoch(cfg)
    split_hash(load_unlabeled(cfg))
    build_semi_supervised_loader(cfg)
    print(time.perf_counter() - start, before, peak_of_process() / 1024)
