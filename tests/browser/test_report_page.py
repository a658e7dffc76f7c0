"""The report in a browser: it sorts, fades, fits a phone, follows the dark scheme and loads nothing from a network."""

import json

import numpy as np
import pytest

from hiervl.visualization.gallery import data_url
from hiervl.visualization.report import write_report
from hiervl.visualization.run_data import evaluation_file

NAMES = ["sky", "tree", "a class with <b>a very long name</b> that no phone can show in one line", "bus", "pole", "cat"]
IOU = [90.0, 7.5, 55.5, None, 61.0, 8.25]
COLORS = {"image": (250, 0, 0), "truth": (0, 250, 0), "prediction": (0, 0, 250), "confidence": (90, 90, 90)}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """→ the address of the report of a made-up run."""
    run = tmp_path_factory.mktemp("browser") / "a_run_whose_name_is_longer_than_the_screen_of_a_phone_is_wide"
    run.mkdir()
    (run / "config.yaml").write_text("SEMI: {ENABLED: true}\nDATASETS: {TRAIN: [toy_train_4], TEST: [toy_val]}\n")
    rows = [{"iteration": i, "total_loss": 3 - i / 40, "lr": 1e-4, "pseudo/kept": 0.5} for i in range(40)]
    (run / "metrics.json").write_text("\n".join(map(json.dumps, rows)))
    scores = {"mIoU": 55.5, "fwIoU": 70.0, "mACC": 60.0, "pACC": 80.0, "images": 2, "IoU": dict(zip(NAMES, IOU))}
    (run / "results.json").write_text(json.dumps({"sem_seg": scores}))
    plain = {name: data_url(np.full((60, 90, 3), color, np.uint8), "PNG") for name, color in COLORS.items()}
    shown = {"file": f"{'x' * 60}.jpg", "mIoU": 12.3, "confidence": 45.6, "pictures": plain}
    evaluation = {
        "dataset": "toy_val",
        "class_names": NAMES,
        "colours": [[40 * i, 90, 200] for i in range(len(NAMES))],
        "confusion": (np.eye(len(NAMES), dtype=int) * 80 + 10).tolist(),
        "groups": {"best": [shown], "worst": [shown, shown]},
        "versions": {"PyTorch": "9.9"},
    }
    (run / evaluation_file("toy_val")).write_text(json.dumps(evaluation))
    return write_report(run).as_uri()


def column(page, index):
    return page.locator("table.classes tbody tr").evaluate_all(f"rows => rows.map(row => row.cells[{index}].innerText)")


def test_a_click_on_a_heading_sorts_and_another_one_turns_round(visit, report):
    page = visit(report).page
    assert column(page, 0) == NAMES
    page.get_by_role("button", name="IoU").click()
    assert column(page, 2) == ["90.00", "61.00", "55.50", "8.25", "7.50", "–"]  # as numbers, not as text
    page.get_by_role("button", name="IoU").click()
    assert column(page, 2) == ["–", "7.50", "8.25", "55.50", "61.00", "90.00"]
    page.get_by_role("button", name="class").click()
    assert column(page, 0) == sorted(NAMES, reverse=True)
    assert page.locator("th[aria-sort]").all_inner_texts() == ["class"]


def test_the_slider_fades_from_picture_to_picture(visit, report):
    page = visit(report).page
    viewer = page.locator(".viewer").first
    opacities = "pictures => pictures.map(picture => getComputedStyle(picture).opacity)"
    seen = {}
    for place in ("0", "1", "1.5", "3"):
        viewer.locator("input").fill(place)
        seen[place] = viewer.locator("img").evaluate_all(opacities)
    assert seen["0"] == ["1", "0", "0", "0"]
    assert seen["1"] == ["1", "1", "0", "0"]
    assert seen["1.5"] == ["1", "1", "0.5", "0"]
    assert seen["3"] == ["1", "1", "1", "1"]
    viewer.locator("input").focus()
    page.keyboard.press("Home")
    assert viewer.locator("img").evaluate_all(opacities) == seen["0"]
    # Each has its own, which starts at the prediction.
    assert page.locator(".viewer").nth(1).locator("img").evaluate_all(opacities) == ["1", "1", "1", "0"]


def luminance(page):
    """Of the text and of the paper, 0…1."""
    channels = page.evaluate(
        "['color', 'backgroundColor'].map(key => getComputedStyle(document.body)[key].match(/\\d+/g).map(Number))"
    )
    return [sum(color[:3]) / 765 for color in channels]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_follows_the_scheme_fits_a_phone_and_loads_nothing(visit, report, phone, scheme):
    seen = visit(report, scheme, phone)
    seen.page.locator("details summary").click()
    assert seen.overflow() == 0
    bars = [bar.bounding_box() for bar in seen.page.locator(".bar i").all()]
    assert all(bar["x"] + bar["width"] <= phone["width"] for bar in bars)
    assert bars[0]["width"] > 1.5 * bars[2]["width"] > 3 * bars[1]["width"]  # 90.0, 55.5 and 7.5
    text, paper = luminance(seen.page)
    assert (text < 0.3 and paper > 0.9) if scheme == "light" else (text > 0.8 and paper < 0.2)
    assert [url for url in seen.requested if not url.startswith("data:")] == [report]
    assert seen.errors == []
