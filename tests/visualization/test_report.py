"""The page of a run, read back with an HTML parser."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import yaml

from hiervl import __main__ as entry
from hiervl.utils.errors import UserError
from hiervl.visualization.gallery import data_url
from hiervl.visualization.report import write_report
from hiervl.visualization.report_page import _how_to_keep_more
from hiervl.visualization.run_data import RunData, evaluation_file, read_run

VOID = {"meta", "link", "img", "input", "line", "circle", "polyline", "br"}
NASTY = "cat <script>alert(1)</script> & co"


class Page(HTMLParser):
    """Elements by tag, the text, and whether every element is closed in order."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.text, self.balanced = {}, [], [], True
        self.feed(text)
        self.balanced &= not self.open

    def handle_starttag(self, tag, attributes):
        self.elements.setdefault(tag, []).append(dict(attributes))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.setdefault(tag, []).append(dict(attributes))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.balanced = False

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)


def make_run(folder, miou, enabled=True, gallery=True):
    folder.mkdir(parents=True)
    config = {
        "SEMI": {"ENABLED": enabled},
        "DATASETS": {"TRAIN": ["toy_train_4"], "TEST": ["toy_val"]},
        "SOLVER": {"MAX_ITER": 40},
        "SEED": 0,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    rows = [
        {"iteration": i, "total_loss": 3.0 - i / 20, "loss_class": 1.0, "loss_class_0": 1.0, "loss_strong1": 0.5,
         "lr": 0.1, "pseudo/kept": 0.5, "pseudo/kept_foreground": 0.005}
        for i in (19, 39)
    ]  # fmt: skip
    rows[1]["sem_seg/mIoU"] = miou
    (folder / "metrics.json").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"iteration": 4')
    scores = {"mIoU": miou, "fwIoU": 70.0, "mACC": 60.0, "pACC": 80.0, "images": 2}
    scores["IoU"] = {"sky": 90.0, NASTY: miou, "bus": None}
    scores.update(
        mF1=65.5, F1={"sky": 94.7, NASTY: 71.4, "bus": None}, precision={"sky": 91.0, NASTY: 88.0, "bus": None}
    )
    scores["recall"] = {"sky": 98.9, NASTY: 60.1, "bus": None}
    (folder / "results.json").write_text(json.dumps({"sem_seg": scores}))
    if gallery:
        pixel = data_url(np.zeros((2, 2, 3), np.uint8), "PNG")
        pictures = {name: pixel for name in ("image", "truth", "prediction", "confidence")}
        shown = {"file": "a/b.jpg", "mIoU": 12.3, "confidence": 45.6, "pictures": pictures}
        content = {
            "dataset": "toy_val",
            "class_names": ["sky", NASTY, "bus"],
            "colours": [[1, 2, 3], [4, 5, 6], [7, 8, 9]],
            "confusion": [[90, 10, 0], [30, 60, 10], [0, 0, 0]],
            "groups": {"best": [shown], "worst": [shown, {**shown, "file": "a/c.jpg"}], "uncertain": []},
            "versions": {"PyTorch": "9.9"},
        }
        (folder / evaluation_file("toy_val")).write_text(json.dumps(content))
    return folder


@pytest.fixture
def page(tmp_path):
    run = make_run(tmp_path / "semi", 55.5)
    make_run(tmp_path / "supervised", 50.25, enabled=False)
    text = write_report(run).read_text()
    return text, Page(text)


def test_the_page_is_well_formed_and_loads_nothing(page):
    text, parsed = page
    assert parsed.balanced
    assert "http" not in re.sub(r"http://www\.w3\.org\S*", "", text)
    sources = [image["src"] for image in parsed.elements["img"]]
    assert sources and all(source.startswith("data:image/") for source in sources)
    assert [link["href"] for link in parsed.elements["link"]] == ["data:,"]
    assert all("src" not in script for script in parsed.elements["script"])
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest", text)
    assert "prefers-color-scheme: dark" in text
    assert any(meta.get("name") == "viewport" for meta in parsed.elements["meta"])


def test_text_from_outside_is_escaped(page):
    text, parsed = page
    assert len(parsed.elements["script"]) == 1
    assert NASTY in "".join(parsed.text) or "cat <script>" in "".join(parsed.text)


def test_numbers_and_comparison(page):
    words = " ".join("".join(page[1].text).split())
    assert "Unlabelled images gained +5.25 mIoU over the supervised-only run supervised (50.25)." in words
    assert "55.50" in words and "toy_train_4" in words and "PyTorch 9.9" in words
    assert "0.5 % of the foreground are kept. That is very little" in words


def test_kept_pseudo_labels_without_a_background(tmp_path):
    metrics = make_run(tmp_path / "run", 55.5) / "metrics.json"
    metrics.write_text(metrics.read_text().replace("pseudo/kept_foreground", "pseudo/other").replace("0.5,", "0.004,"))
    assert "0.4 % of all pixels are kept. That is very little" in write_report(tmp_path / "run").read_text()


@pytest.mark.parametrize(
    "worst, titles", [("ba", ["All, worst first"]), ("bc", ["Best", "Worst", "Most uncertain"])], ids=["few", "many"]
)
def test_few_images_are_shown_once(tmp_path, worst, titles):
    run = make_run(tmp_path / "run", 55.5)
    path = run / evaluation_file("toy_val")
    content = json.loads(path.read_text())
    shown = content["groups"]["best"][0]
    names = {"best": "ab", "worst": worst, "uncertain": "ab"}
    content["groups"] = {group: [{**shown, "file": f"{name}.jpg"} for name in names[group]] for group in names}
    path.write_text(json.dumps(content))
    words = "".join(Page(write_report(run).read_text()).text)
    headings = [title for title in ("All, worst first", "Best", "Worst", "Most uncertain") if f"{title}\n" in words]
    assert headings == titles
    assert len(titles) > 1 or words.index("b.jpg") < words.index("a.jpg")
    assert words.count("a.jpg") == (1 if len(titles) == 1 else 2)


@pytest.mark.parametrize(
    "settings, remedy",
    [
        ("{THRESHOLD: fixed, CONFIDENCE: 0.95}", ": set SEMI.THRESHOLD to class"),
        ("{THRESHOLD: class, CONFIDENCE: 0.8}", ": lower SEMI.CONFIDENCE (0.8)"),
        ("{THRESHOLD: class, CONFIDENCE: 0.5}", ": label more images"),
    ],
)
def test_the_remedy_is_not_in_force_already(settings, remedy):
    for last, end in ((99, remedy), (9, ", which may change: 10 of 100 iterations are done")):
        config = f"SEMI: {settings}\nSOLVER: {{MAX_ITER: 100}}\n"
        assert _how_to_keep_more(RunData("run", {"total_loss": {last: 1.0}}, {}, [], config)) == end


def test_classes_can_be_sorted_and_have_bars(page):
    text, parsed = page
    assert [table["class"] for table in parsed.elements["table"]] == ["classes sortable", "confusion"]
    values = [float(cell["data-value"]) for cell in parsed.elements["td"] if cell.get("class") == "bar"]
    assert values == [90.0, 55.5, -1]  # a class without a score sorts last
    words = " ".join("".join(parsed.text).split())
    assert "Dice / F1" in words and all(number in words for number in ("65.50", "94.70", "88.00", "60.10"))
    assert [i["style"] for i in parsed.elements["i"]] == ["width:90.0%", "width:55.5%", "width:0.0%"]


def test_confusions_are_shares_of_the_true_class(page):
    words = "".join(page[1].text)
    assert "30.0 % of cat" in words and "10.0 % of sky" in words
    assert "of bus" not in words  # it does not occur


def test_every_viewer_has_four_pictures_and_a_slider(page):
    parsed = page[1]
    assert len(parsed.elements["input"]) == 3
    assert {slider["max"] for slider in parsed.elements["input"]} == {"3"}
    assert {slider["value"] for slider in parsed.elements["input"]} == {"2"}  # where the prediction is
    assert len(parsed.elements["img"]) == 12


def test_curves_leave_out_the_losses_of_single_layers(page):
    captions = "".join(page[1].text)
    assert "loss_class " in captions and "loss_class_0" not in captions
    assert len(page[1].elements["svg"]) == len(page[1].elements["figure"]) - 3


def test_parts_that_a_run_lacks_are_left_out(tmp_path):
    run = make_run(tmp_path / "run", 50.0, gallery=False)
    parsed = Page(write_report(run, output=tmp_path / "deep" / "page.html").read_text())
    assert parsed.balanced and "img" not in parsed.elements
    assert "gained" not in "".join(parsed.text)
    (run / "results.json").unlink()
    assert "Not evaluated yet." in write_report(run).read_text()


def test_the_twin_of_a_comparison_is_found_and_broken_neighbors_are_passed_over(tmp_path):
    run = make_run(tmp_path / "semi", 55.5)
    broken = make_run(tmp_path / "broken", 50.0, enabled=False)
    (broken / "results.json").write_text('{"sem_seg": ')
    assert "gained" not in write_report(run).read_text()
    make_run(run / "supervised", 50.0, enabled=False)
    assert "gained" in write_report(run).read_text()


def test_a_neighbor_with_other_settings_is_no_comparison(tmp_path):
    run = make_run(tmp_path / "semi", 55.5)
    other = make_run(tmp_path / "supervised", 50.0, enabled=False)
    config = yaml.safe_load((other / "config.yaml").read_text())
    (other / "config.yaml").write_text(yaml.safe_dump({**config, "SEED": 1}))
    assert "gained" not in write_report(run).read_text()
    assert "gained" in write_report(run, compare=other).read_text()


def test_a_folder_that_is_no_run_is_a_sentence(tmp_path, capsys):
    with pytest.raises(UserError, match="not a run's folder"):
        read_run(tmp_path)
    assert entry.main(["report", str(tmp_path)]) == 2
    run = make_run(tmp_path / "run", 50.0)
    assert entry.main(["report", str(run)]) == 0
    assert capsys.readouterr().out.strip() == str(run / "report.html")
    lines = b'{"iteration": 1, "lr": 0.\xff{"iteration": 2}\n3\n{"iteration": 3, "lr": 0.5, "norm": Infinity}'
    (run / "metrics.json").write_bytes(lines)
    assert read_run(run).curves == {"lr": {3: 0.5}}  # a line was cut off, then training went on
    (run / "results.json").write_text('{"sem_seg": ')
    with pytest.raises(UserError, match="results.json is damaged"):
        read_run(run)
