"""Which images an evaluation keeps, and that their pictures are what they claim to be."""

import base64
import io
import json

import numpy as np
import torch
from PIL import Image

from hiervl.evaluation import SemanticEvaluator
from hiervl.visualization.gallery import EvaluationGallery

COLORS = [(10, 20, 30), (200, 100, 0)]


def picture(url: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",", 1)[1]))))


def evaluate(tmp_path, images, count):
    """images: (right pixels of 4 × 4, confidence) → the written file."""
    evaluator = SemanticEvaluator(["a", "b"], distributed=False)
    gallery = EvaluationGallery(evaluator, str(tmp_path / "g" / "g.json"), COLORS, count=count, facts={"seed": 3})
    for number, (right, confidence) in enumerate(images):
        truth = np.zeros((4, 4), np.uint8)
        labels = np.ones((4, 4), np.uint8)
        labels.reshape(-1)[:right] = 0
        Image.fromarray(truth).save(tmp_path / f"{number}.png")
        inputs = [{
            "file_name": f"{number}.jpg",
            "sem_seg_file_name": str(tmp_path / f"{number}.png"),
            "image": torch.full((3, 4, 4), 7, dtype=torch.uint8),
        }]  # fmt: skip
        outputs = [{"labels": labels, "confidence": np.full((4, 4), confidence, np.float32)}]
        evaluator.process(inputs, outputs)
        gallery.process(inputs, outputs)
    assert gallery.evaluate() is None
    return json.loads((tmp_path / "g" / "g.json").read_text())


def test_best_worst_and_most_uncertain(tmp_path):
    written = evaluate(tmp_path, [(16, 0.9), (4, 0.8), (12, 0.6), (8, 0.7)], count=2)
    files = {group: [entry["file"] for entry in entries] for group, entries in written["groups"].items()}
    assert files == {
        "best": ["0.jpg", "2.jpg"],
        "worst": ["1.jpg", "3.jpg"],
        "uncertain": ["2.jpg", "3.jpg"],
    }
    assert written["confusion"] == [[40, 24], [0, 0]]
    assert written["seed"] == 3 and written["class_names"] == ["a", "b"]


def test_pictures_show_image_truth_prediction_and_confidence(tmp_path):
    (entry,) = evaluate(tmp_path, [(8, 0.6)], count=1)["groups"]["best"]
    pictures = {name: picture(url) for name, url in entry["pictures"].items()}
    assert (pictures["image"] == 7).all()
    assert (pictures["truth"] == COLORS[0]).all()
    assert (pictures["prediction"][:2] == COLORS[0]).all() and (pictures["prediction"][2:] == COLORS[1]).all()
    assert (pictures["confidence"] == 153).all()  # 0.6 · 255
    assert round(entry["confidence"]) == 60


def test_images_without_a_truth_or_a_counted_pixel_are_left_out(tmp_path):
    evaluator = SemanticEvaluator(["a", "b"], distributed=False)
    gallery = EvaluationGallery(evaluator, str(tmp_path / "g.json"), COLORS)
    Image.fromarray(np.full((4, 4), 255, np.uint8)).save(tmp_path / "ignored.png")
    outputs = [{"labels": np.zeros((4, 4), np.uint8), "confidence": np.full((4, 4), 0.5, np.float32)}]
    image = torch.zeros(3, 4, 4, dtype=torch.uint8)
    gallery.process([{"file_name": "x", "image": image}], outputs)
    ignored = {"file_name": "y", "image": image, "sem_seg_file_name": str(tmp_path / "ignored.png")}
    gallery.process([ignored], outputs)
    gallery.evaluate()
    assert all(not entries for entries in json.loads((tmp_path / "g.json").read_text())["groups"].values())
