"""Every config of the paper's table, on stand-ins: its data, its schedule, two iterations and an evaluation."""

import itertools
import json
import math
from pathlib import Path

import pytest

from hiervl.data.loading.loaders import load_labeled, load_unlabeled
from hiervl.engine.run_config import load_config, prepare_config
from hiervl.engine.trainer import SemiSupervisedTrainer
from hiervl.semi_supervised import calibration

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
SPARE = 8  # stand-ins beside those of the largest labelled subset
# Of the design: classes, crop, epochs, learning rate, factor of the backbone, short side, labelled images.
TABLE = {
    "pascal": (21, 512, 80, 1e-4, 0.01, 512, (92, 183, 366, 732, 1464)),
    "coco": (81, 512, 10, 4e-4, 0.001, 0, (232, 463, 925, 1849, 3697)),
    "ade20k": (150, 512, 40, 4e-4, 0.001, 512, (158, 316, 632, 1263, 2526)),
    "cityscapes": (19, 801, None, 5e-5, 0.1, 0, (100, 186, 372, 744, 1488)),
}
NAMES = [f"{dataset}_{count}" for dataset, row in TABLE.items() for count in row[-1]]
TINY = {
    "SEMI.BURN_IN": "0",  # two iterations must see both losses
    "MODEL.DEVICE": "cpu",
    "MODEL.CLIP.NAME": "shapesworld",
    "MODEL.CLIP.PRETRAINED": "shapesworld",
    "MODEL.CLIP.BLOCKS": "[1, 2, 3, 5]",
    "MODEL.CLIP.DENSE": "value",
    "MODEL.PIXEL_DECODER.DIM": "16",
    "MODEL.PIXEL_DECODER.HEADS": "2",
    "MODEL.PIXEL_DECODER.LAYERS": "1",
    "MODEL.PIXEL_DECODER.FEEDFORWARD": "16",
    "MODEL.QUERY_DECODER.LAYERS": "1",
    "MODEL.QUERY_DECODER.HEADS": "2",
    "MODEL.QUERY_DECODER.FEEDFORWARD": "16",
    "MODEL.QUERY_DECODER.INSTANCE_QUERIES": "4",
    "MODEL.HSQG.CALIBRATED_RECALL": "0.0",
    "LOSS.NUM_POINTS": "32",
    "MODEL.TEXT.PROMPTS": "2",  # the small CLIP spells most words letter by letter and has room for 32 tokens
    "MODEL.TEXT.PROMPT_INIT": "a photo",
    "MODEL.TEXT.TEMPLATE": "a {}.",
    "INPUT.CROP_SIZE": "32",
    "INPUT.SHORT_SIDE": "0",
    "SOLVER.IMS_PER_BATCH": "2",
    "SOLVER.UNLABELED_PER_BATCH": "2",
    "SOLVER.EPOCHS": "0",
    "SOLVER.MAX_ITER": "2",
    "SOLVER.AMP.ENABLED": "False",
    "TEST.PICTURES": "0",
    "DATALOADER.NUM_WORKERS": "0",
}


def test_the_table_is_complete():
    found = {path.stem for dataset in TABLE for path in CONFIGS.glob(f"{dataset}_*.yaml")}
    assert found == set(NAMES) and len(NAMES) == 20


@pytest.mark.parametrize("name", NAMES)
def test_data_and_schedule(name, benchmarks, tmp_path):
    dataset, _, count = name.rpartition("_")
    _, crop, epochs, rate, factor, short_side, counts = TABLE[dataset]
    options = ["OUTPUT_DIR", str(tmp_path), "MODEL.DEVICE", "cpu"]
    cfg = prepare_config(load_config(str(CONFIGS / f"{name}.yaml"), options))
    assert (cfg.INPUT.CROP_SIZE, cfg.INPUT.SHORT_SIDE) == (crop, short_side)
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.BACKBONE_MULTIPLIER) == (rate, factor)
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.UNLABELED_PER_BATCH) == (8, 8)
    assert (cfg.MODEL.CLIP.NAME, cfg.SEMI.ENABLED) == ("ViT-B-16-quickgelu", True)

    labeled, unlabeled = load_labeled(cfg), load_unlabeled(cfg)
    assert len(labeled) == int(count)
    assert len(unlabeled) == max(counts) + SPARE - int(count)
    assert not {entry["image_id"] for entry in labeled} & {entry["image_id"] for entry in unlabeled}
    assert not any("sem_seg_file_name" in entry for entry in unlabeled)
    of_all_splits = 83760  # SemiVL's code, of Cityscapes
    assert cfg.SOLVER.MAX_ITER == (epochs * math.ceil(len(unlabeled) / 8) if epochs else of_all_splits)


@pytest.mark.parametrize("name", NAMES)
def test_trains_and_evaluates(name, benchmarks, tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "MAX_IMAGES", 8)
    options = list(itertools.chain.from_iterable(TINY.items()))
    cfg = load_config(str(CONFIGS / f"{name}.yaml"), [*options, "OUTPUT_DIR", str(tmp_path)])
    trainer = SemiSupervisedTrainer(prepare_config(cfg))
    results = trainer.train()["sem_seg"]
    assert trainer.iter == 2
    assert len(results["IoU"]) == TABLE[name.rpartition("_")[0]][0]
    assert 0 <= results["mIoU"] <= 100 and results["images"] in (1, 2)
    logged = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert {"loss_pixel", "loss_strong1", "loss_clip_guidance"} <= set(logged[-1])
