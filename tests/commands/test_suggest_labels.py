"""``python -m hiervl suggest-labels`` as a user runs it after a training on own folders."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from hiervl.__main__ import main
from hiervl.data.classes.definitions import read_classes
from hiervl.engine.run_config import load_config, prepare_config
from hiervl.engine.trainer import SemiSupervisedTrainer


@pytest.fixture
def trained(own, world, options):
    """A run on the own dataset whose student and teacher differ; → its folder."""
    words = options(world, own.root / "run", "SOLVER.PRESET", "none")
    pairs = [pair for pair in zip(words[::2], words[1::2]) if not pair[0].startswith("DATASETS.")]
    lists = own.root / "first.txt"
    lists.write_text("".join(f"{number:02d}\n" for number in range(6)))
    config = own.config("LABELED: {IMAGES: labelled/images, MASKS: labelled/masks, LIST: first.txt}\nVAL: 0")
    trainer = SemiSupervisedTrainer(prepare_config(load_config(config, [word for pair in pairs for word in pair])))
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in trainer.student.query_decoder.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    trainer.checkpointer.save("model_final")
    return own.root / "run"


def run(*arguments):
    return main(["suggest-labels", *map(str, arguments), "--device", "cpu"])


def rows_of(folder):
    with open(folder / "suggested.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_from_the_unlabeled_images_of_the_run(own, trained, capsys):
    assert run(trained, "--count", 5, "--formats", "labelme", "cvat") == 0
    out = trained / "suggested_labels"
    names = (out / "suggested.txt").read_text().split()
    # the four without a mask and the four that the list leaves out; none of the six that training sees
    assert len(set(names)) == 5 and set(names) <= {"u0", "u1", "u2", "u3", "06", "07", "08", "09"}
    assert "5 of 8 images are suggested" in capsys.readouterr().out
    rows = rows_of(out)
    assert [row["name"] for row in rows] == names and [row["rank"] for row in rows] == list("12345")
    assert all(0 < float(row["uncertainty"]) <= 1 and 0 < float(row["disagreement"]) <= 1 for row in rows)
    assert all(float(row["novelty"]) < 2 for row in rows)  # the labelled images were looked at

    classes = read_classes(out / "classes.yaml")
    coco = COCO(str(out / "annotations.json"))
    assert [image["file_name"] for image in coco.imgs.values()] == [f"{name}.png" for name in names]
    for image_id, name in enumerate(names, start=1):
        mask = Image.open(out / "masks" / f"{name}.png")
        assert mask.mode == "P" and mask.getpalette()[3:6] == list(classes[1].color)
        mask = np.asarray(mask)
        assert (out / "images" / f"{name}.png").read_bytes() == Path(rows[image_id - 1]["file"]).read_bytes()
        for annotation in coco.loadAnns(coco.getAnnIds(imgIds=image_id)):
            inside = coco.annToMask(annotation).astype(bool)
            assert (mask[inside] == annotation["category_id"] - 1).mean() > 0.9
    assert coco.anns
    assert sorted(path.stem for path in (out / "labelme").iterdir()) == sorted(names)
    assert (out / "cvat/annotations.xml").read_text().count("<polygon ") == len(coco.anns)
    assert Image.open(out / "contact_sheet.png").height > 5 * 200
    assert run(trained, "--count", 5, "--output", own.root / "again") == 0
    assert rows_of(own.root / "again") == rows

    # The list goes on where the first one ends: what was suggested is what training sees next.
    longer = own.root / "second.txt"
    longer.write_text((own.root / "first.txt").read_text() + "".join(f"{n}\n" for n in names if n.isdigit()))
    layout = own.layout("LABELED: {IMAGES: labelled/images, MASKS: labelled/masks, LIST: second.txt}\nVAL: 0")
    assert set(layout.division["train"]) == {f"{n:02d}" for n in range(6)} | {n for n in names if n.isdigit()}

    assert run(trained) == 2  # somebody may have corrected the drafts
    assert "is not empty: name a new folder with --output" in capsys.readouterr().err


def test_from_a_folder_with_bad_files_and_labeled_ones(own, trained, capsys):
    for number in range(6):
        own.image(f"labelled/images/more/deep{number}.png", size=(40 + number, 90))
    (own.root / "labelled/images/broken.jpg").write_bytes(b"no image")
    own.root.joinpath("labelled/masks").rename(own.root / "gone")
    out = own.root / "out"
    assert run(trained, "--unlabeled", own.root / "labelled/images", "--count", 50, "--output", out) == 1
    printed = capsys.readouterr()
    assert "broken.jpg cannot be read" in printed.err and "1 could not be read" in printed.out
    assert "broken.jpg\t" in (out / "failed.txt").read_text()
    names = set((out / "suggested.txt").read_text().split())
    assert {f"more/deep{number}" for number in range(6)} <= names
    assert len(names) == 16  # without masks, nobody knows which were labelled
    (own.root / "gone").rename(own.root / "labelled/masks")
    (own.root / "labelled/images/broken.jpg").unlink()
    for file in (own.root / "labelled/images/more").iterdir():
        own.mask(f"labelled/masks/more/{file.name}", own.labels(size=np.asarray(Image.open(file)).shape[:2]))
    assert run(trained, "--unlabeled", own.root / "labelled/images", "--count", 50, "--output", own.root / "o2") == 0
    names = set((own.root / "o2" / "suggested.txt").read_text().split())
    assert names == {"06", "07", "08", "09"} | {f"more/deep{number}" for number in range(6)}
    files = {image["file_name"] for image in json.loads((own.root / "o2/annotations.json").read_text())["images"]}
    assert "more/deep0.png" in files


def test_mistakes_are_one_sentence(own, trained, capsys):
    assert run(trained, "--count", 0) == 2
    assert run(trained, "--unlabeled", own.root / "nowhere") == 2
    (own.root / "bad").mkdir()
    (own.root / "bad" / "a.png").write_bytes(b"no image")
    assert run(trained, "--unlabeled", own.root / "bad", "--output", own.root / "o") == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert "at least one image" in errors[0] and "nowhere' does not exist" in errors[1]
    assert "none of the 1 images can be read" in errors[2] and len(errors) == 3
