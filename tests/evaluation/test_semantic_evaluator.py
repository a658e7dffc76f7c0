import inspect
import json
import logging
import math
import os
import pickle
import re

import numpy as np
import pytest
import torch
import torch.multiprocessing as multiprocessing
from PIL import Image

from hiervl.evaluation import (
    SemanticEvaluator,
    confusion_matrix,
    format_results_table,
    scores_from_confusion,
    write_results,
)

IGNORE = 255


def evaluator_of(truths, class_names, **options):
    """An evaluator whose label files are the entries of ``truths``, named by their index."""

    def read_label(path, num_classes, ignore_label, image_size, image_file):
        return truths[int(path)]

    return SemanticEvaluator(class_names, read_label=read_label, **options)


def feed(evaluator, predictions, order=None):
    for index in range(len(predictions)) if order is None else order:
        evaluator.process([{"sem_seg_file_name": str(index)}], [{"labels": predictions[index]}])


def slow_scores(truths, predictions, num_classes):
    """The same metrics by sets of pixels, class by class."""
    pixels = [
        (t, p)
        for truth, prediction in zip(truths, predictions)
        for t, p in zip(truth.ravel().tolist(), prediction.ravel().tolist())
        if t != IGNORE
    ]
    ious, accuracies, weighted = [], [], 0.0
    for c in range(num_classes):
        truth = {i for i, (t, _) in enumerate(pixels) if t == c}
        predicted = {i for i, (_, p) in enumerate(pixels) if p == c}
        ious.append(100 * len(truth & predicted) / len(truth | predicted) if truth | predicted else math.nan)
        if truth:
            accuracies.append(100 * len(truth & predicted) / len(truth))
            weighted += ious[c] * len(truth) / len(pixels)
    known = [iou for iou in ious if not math.isnan(iou)]
    return {
        "mIoU": sum(known) / len(known),
        "fwIoU": weighted,
        "mACC": sum(accuracies) / len(accuracies),
        "pACC": 100 * sum(t == p for t, p in pixels) / len(pixels),
        "IoU": ious,
    }


def random_maps(seed, count, num_classes, missing=()):
    rng = np.random.default_rng(seed)
    classes = [c for c in range(num_classes) if c not in missing]
    truths, predictions = [], []
    for _ in range(count):
        size = tuple(rng.integers(3, 12, 2))
        truths.append(rng.choice([*classes, IGNORE], size))
        predictions.append(rng.choice(classes, size))
    return truths, predictions


def test_confusion_matrix_counts_by_hand():
    truth = np.array([[0, 0, 1], [1, 2, IGNORE]], dtype=np.uint8)
    prediction = np.array([[0, 1, 1], [1, 0, 2]])
    matrix = confusion_matrix(truth, prediction, 3)
    assert matrix.dtype == np.int64
    # The ignored pixel's prediction, 2, counts nowhere.
    assert matrix.tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 0]]


def test_rows_are_truth():
    assert confusion_matrix(np.array([[0]]), np.array([[1]]), 2).tolist() == [[0, 1], [0, 0]]


@pytest.mark.parametrize("truth, prediction", [([[3]], [[0]]), ([[-1]], [[0]]), ([[0]], [[3]])])
def test_confusion_matrix_refuses_labels_that_are_no_class(truth, prediction):
    with pytest.raises(ValueError, match="labels"):
        confusion_matrix(np.array(truth), np.array(prediction), 3)


def test_scores_by_hand():
    # rows truth: a 6 pixels, 4 right; b 4 pixels, 3 right.
    scores = scores_from_confusion(np.array([[4, 2], [1, 3]]), ["a", "b"])
    assert scores["IoU"] == pytest.approx({"a": 100 * 4 / 7, "b": 100 * 3 / 6})
    assert scores["mIoU"] == pytest.approx(100 * (4 / 7 + 1 / 2) / 2)
    assert scores["fwIoU"] == pytest.approx(100 * (0.6 * 4 / 7 + 0.4 * 1 / 2))
    assert scores["mACC"] == pytest.approx(100 * (4 / 6 + 3 / 4) / 2)
    assert scores["pACC"] == pytest.approx(70)
    # a: 4 right of 5 predicted and 6 true. b: 3 right of 5 predicted and 4 true.
    assert scores["precision"] == pytest.approx({"a": 80, "b": 60})
    assert scores["recall"] == pytest.approx({"a": 100 * 4 / 6, "b": 75})
    assert scores["F1"] == pytest.approx({"a": 100 * 8 / 11, "b": 100 * 6 / 9})
    assert scores["mF1"] == pytest.approx(100 * (8 / 11 + 6 / 9) / 2)


def test_convention_for_classes_that_do_not_occur():
    # a: right. b: predicted only, IoU 0, no accuracy. c: nowhere, nan, in no mean.
    confusion = np.array([[3, 1, 0], [0, 0, 0], [0, 0, 0]])
    scores = scores_from_confusion(confusion, ["a", "b", "c"])
    assert scores["IoU"]["a"] == pytest.approx(75)
    assert scores["IoU"]["b"] == 0
    assert math.isnan(scores["IoU"]["c"])
    assert scores["mIoU"] == pytest.approx(75 / 2)
    assert scores["mIoU_in_truth"] == pytest.approx(75)
    assert scores["mACC"] == pytest.approx(75)
    assert scores["fwIoU"] == pytest.approx(75)
    assert scores["F1"]["a"] == pytest.approx(100 * 6 / 7) and scores["F1"]["b"] == 0
    assert scores["precision"]["a"] == 100 and scores["precision"]["b"] == 0
    assert scores["recall"]["a"] == pytest.approx(75)
    assert math.isnan(scores["recall"]["b"])  # it does not occur
    assert all(math.isnan(scores[kind]["c"]) for kind in ("F1", "precision", "recall"))
    assert scores["mF1"] == pytest.approx(100 * 6 / 7 / 2)


def test_without_any_pixel_all_scores_are_nan():
    scores = scores_from_confusion(np.zeros((2, 2), dtype=np.int64), ["a", "b"])
    assert all(math.isnan(scores[name]) for name in ("mIoU", "mIoU_in_truth", "fwIoU", "mACC", "pACC", "mF1"))
    assert all(math.isnan(value) for kind in ("IoU", "F1", "precision", "recall") for value in scores[kind].values())


@pytest.mark.parametrize("missing", [(), (3,), (0, 2)])
def test_agrees_with_a_slow_computation(missing):
    truths, predictions = random_maps(seed=len(missing), count=5, num_classes=5, missing=missing)
    evaluator = evaluator_of(truths, "abcde")
    feed(evaluator, predictions)
    scores = evaluator.evaluate()["sem_seg"]
    expected = slow_scores(truths, predictions, 5)
    for name in ("mIoU", "fwIoU", "mACC", "pACC"):
        assert scores[name] == pytest.approx(expected[name])
    assert list(scores["IoU"].values()) == pytest.approx(expected["IoU"], nan_ok=True)
    assert scores["images"] == 5


def test_agrees_with_detectron2(tmp_path):
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.evaluation import SemSegEvaluator

    # Class 1 is never in the truth but predicted, class 3 in neither.
    truths, predictions = random_maps(seed=8, count=4, num_classes=4, missing=(3,))
    truths = [np.where(truth == 1, 0, truth) for truth in truths]
    records = []
    for index, truth in enumerate(truths):
        path = tmp_path / f"{index}.png"
        Image.fromarray(truth.astype(np.uint8)).save(path)
        records.append({"file_name": f"{index}.jpg", "sem_seg_file_name": str(path)})
    one_hot = [(torch.as_tensor(prediction) == torch.arange(4)[:, None, None]).float() for prediction in predictions]
    outputs = [{"labels": labels, "sem_seg": scores} for labels, scores in zip(predictions, one_hot)]

    name = "test_agrees_with_detectron2"
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(stuff_classes=list("abcd"), ignore_label=IGNORE)
    try:
        theirs = SemSegEvaluator(name, distributed=False)
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    results = []
    for evaluator in (theirs, SemanticEvaluator("abcd")):
        evaluator.reset()
        evaluator.process(records, outputs)
        results.append(evaluator.evaluate()["sem_seg"])
    expected, scores = results
    for metric in ("fwIoU", "mACC", "pACC"):
        assert scores[metric] == pytest.approx(expected[metric])
    assert scores["mIoU_in_truth"] > scores["mIoU"] + 1
    assert scores[detectron2_mean()] == pytest.approx(expected["mIoU"])


def detectron2_mean():
    """Which of the two means this Detectron2 calls mIoU; its main branch has the version of a release."""
    from detectron2.evaluation import SemSegEvaluator

    counts_them = "np.sum(iou[acc_valid]) / np.sum(iou_valid)" in inspect.getsource(SemSegEvaluator.evaluate)
    return "mIoU" if counts_them else "mIoU_in_truth"


def test_class_maps_do_in_place_of_labels():
    """As a network gives them that Detectron2 evaluates."""
    truths, predictions = random_maps(seed=9, count=2, num_classes=3)
    by_labels, by_maps = evaluator_of(truths, "abc"), evaluator_of(truths, "abc")
    feed(by_labels, predictions)
    for index, prediction in enumerate(predictions):
        maps = (torch.as_tensor(prediction) == torch.arange(3)[:, None, None]).float()
        by_maps.process([{"sem_seg_file_name": str(index)}], [{"sem_seg": maps}])
    assert by_maps.evaluate() == by_labels.evaluate()


def test_perfect_prediction_is_100():
    truths, _ = random_maps(seed=7, count=3, num_classes=4)
    evaluator = evaluator_of(truths, "abcd")
    feed(evaluator, [np.where(truth == IGNORE, 0, truth) for truth in truths])
    scores = evaluator.evaluate()["sem_seg"]
    assert [scores[name] for name in ("mIoU", "fwIoU", "mACC", "pACC")] == pytest.approx([100] * 4)


def test_order_and_batching_of_images_do_not_matter():
    truths, predictions = random_maps(seed=3, count=6, num_classes=4)
    forward, backward, together = (evaluator_of(truths, "abcd") for _ in range(3))
    feed(forward, predictions)
    feed(backward, predictions, order=[5, 2, 0, 4, 1, 3])
    together.process(
        [{"sem_seg_file_name": str(i)} for i in range(6)],
        [{"labels": prediction} for prediction in predictions],
    )
    assert forward.evaluate() == backward.evaluate() == together.evaluate()


def test_reset_removes_all_counts():
    truths, predictions = random_maps(seed=4, count=2, num_classes=3)
    evaluator = evaluator_of(truths, "abc")
    feed(evaluator, predictions)
    evaluator.reset()
    assert evaluator.images == 0
    assert not evaluator.confusion.any()


def test_memory_does_not_grow_with_the_number_of_images():
    truth = np.random.default_rng(0).integers(0, 3, (64, 64))
    evaluator = evaluator_of([truth], "abc")

    def stored_bytes():
        state = {name: value for name, value in vars(evaluator).items() if not callable(value)}
        return len(pickle.dumps(state))

    feed(evaluator, [truth])
    after_one = stored_bytes()
    for _ in range(300):
        feed(evaluator, [truth])
    assert evaluator.images == 301
    assert evaluator.confusion.shape == (3, 3)
    assert evaluator.confusion.dtype == np.int64
    assert stored_bytes() - after_one < 10  # the digits of a larger count; one number per image would be 300


def test_refuses_a_prediction_of_another_size():
    evaluator = evaluator_of([np.zeros((4, 5), dtype=np.uint8)], "ab")
    with pytest.raises(ValueError, match="size"):
        feed(evaluator, [np.zeros((5, 4), dtype=np.int64)])


def test_refuses_images_without_labels_and_ambiguous_names():
    with pytest.raises(ValueError, match="photo.jpg"):
        evaluator_of([], "ab").process([{"file_name": "photo.jpg"}], [{"labels": np.zeros((3, 3), np.uint8)}])
    with pytest.raises(ValueError, match="differ"):
        SemanticEvaluator(["bat", "bat"])


def test_reads_label_files_by_default(tmp_path):
    path = tmp_path / "label.png"
    Image.fromarray(np.array([[0, 1, IGNORE]], dtype=np.uint8)).save(path)
    evaluator = SemanticEvaluator(["a", "b"])
    inputs = [{"sem_seg_file_name": str(path)}]
    evaluator.process(inputs, [{"labels": np.array([[0, 0, 1]])}])
    assert evaluator.confusion.tolist() == [[1, 0], [1, 0]]


def test_works_with_detectron2(caplog):
    from detectron2.evaluation import inference_on_dataset, print_csv_format
    from detectron2.evaluation.testing import flatten_results_dict

    truths, predictions = random_maps(seed=5, count=3, num_classes=3, missing=(2,))
    evaluator = evaluator_of(truths, ["car", "traffic-light", "absent"])
    loader = [[{"sem_seg_file_name": str(index)}] for index in range(3)]

    def model(inputs):
        return [{"labels": predictions[int(inputs[0]["sem_seg_file_name"])]}]

    with caplog.at_level(logging.INFO):
        results = inference_on_dataset(model, loader, evaluator)
        print_csv_format(results)
    assert "mIoU,mIoU_in_truth,fwIoU,mACC,pACC,mF1,IoU,F1,precision,recall,images" in caplog.text
    assert "traffic-light" in caplog.text  # the table

    flat = flatten_results_dict(results)
    assert flat["sem_seg/IoU/car"] == results["sem_seg"]["IoU"]["car"]
    assert math.isnan(flat["sem_seg/IoU/absent"])
    assert all(isinstance(float(value), float) for value in flat.values())  # as EvalHook demands


def count_in_process(rank, meeting_point, directory):
    torch.distributed.init_process_group("gloo", init_method=meeting_point, rank=rank, world_size=2)
    truths, predictions = random_maps(seed=6, count=5, num_classes=4)
    evaluator = evaluator_of(truths, "abcd")
    feed(evaluator, predictions, order=[0, 2, 4] if rank == 0 else [1, 3])
    results = evaluator.evaluate()
    with open(os.path.join(directory, f"{rank}.json"), "w") as file:
        json.dump(results, file)
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="PyTorch without torch.distributed")
def test_processes_add_up_their_counts(tmp_path):
    context = multiprocessing.get_context("fork")
    arguments = (f"file://{tmp_path}/meeting", str(tmp_path))
    processes = [context.Process(target=count_in_process, args=(rank, *arguments), daemon=True) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0

    truths, predictions = random_maps(seed=6, count=5, num_classes=4)
    alone = evaluator_of(truths, "abcd")
    feed(alone, predictions)
    assert json.loads((tmp_path / "0.json").read_text()) == alone.evaluate()
    assert json.loads((tmp_path / "1.json").read_text()) is None


def test_table_lists_every_class_and_leaves_unknown_ones_open():
    names = [f"class{i}" for i in range(60)]
    confusion = np.diag([10] * 59 + [0])
    scores = scores_from_confusion(confusion, names)
    scores["images"] = 12
    table = format_results_table({"sem_seg": scores})
    assert all(f" {name} " in table for name in names)
    assert table.count("100.00") == 4 * 59 + 6
    assert "nan" not in table
    lines = table.splitlines()
    assert len({len(line) for line in lines[: lines.index("")]}) == 1  # aligned
    assert lines.index("") == 2 + 30  # two classes a line
    columns = ["class", "IoU", "F1", "precision", "recall"]
    assert [cell.strip() for cell in lines[0].strip("|").split("|")] == 2 * columns
    assert re.sub("-+", "-", lines[1]) == "|:-|-:|-:|-:|-:" * 2 + "|"
    assert [cell.strip() for cell in lines[33].strip("|").split("|")][-2:] == ["mF1", "images"]


def test_results_file_is_valid_json_with_null_for_nan(tmp_path):
    path = tmp_path / "out" / "results.json"
    scores = scores_from_confusion(np.array([[2, 0], [0, 0]]), ["a", "naïve"])
    write_results({"sem_seg": scores, "counts": [np.int64(3), np.float32("nan")]}, str(path))

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    text = path.read_text(encoding="utf-8")
    assert text.startswith('{\n  "sem_seg": {\n    "mIoU": 100.0,') and '"naïve"' in text and text.endswith("}\n")
    content = json.loads(text, parse_constant=refuse)
    assert content["sem_seg"]["IoU"] == {"a": 100.0, "naïve": None}
    assert content["counts"] == [3, None]
    assert os.listdir(path.parent) == ["results.json"]


def test_failed_write_keeps_the_old_results(tmp_path):
    path = tmp_path / "results.json"
    write_results({"a": 1.0}, str(path))
    with pytest.raises(TypeError):
        write_results({"a": object()}, str(path))
    with pytest.raises(ValueError):
        write_results({"a": math.inf}, str(path))
    assert json.loads(path.read_text()) == {"a": 1.0}
    assert os.listdir(tmp_path) == ["results.json"]
