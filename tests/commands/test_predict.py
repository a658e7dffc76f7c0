"""``python -m hiervl predict`` as a user runs it, on a tiny network."""

import json
import os
import socket
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from torch import nn

from hiervl import __main__ as entry
from hiervl.data.classes.definitions import ClassDefinition, read_classes
from hiervl.evaluation import label_maps
from hiervl.inference import batch
from hiervl.inference.batch import BatchPredictor
from hiervl.inference.inputs import Item, left_out, list_items
from hiervl.inference.predictor import HierVLPredictor
from hiervl.inference.results import ResultFolder
from hiervl.utils.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]
CLASSES = [ClassDefinition(name, (name,), (40 * i, 255 - i, i), i == 0) for i, name in enumerate(("a", "b", "c"))]


class Brightest(nn.Module):
    """Class of a pixel: the channel that is brightest."""

    device = torch.device("cpu")

    def __init__(self, num_classes=3):
        super().__init__()
        self.num_classes = num_classes
        self.has_instance_queries = False

    def semantic_maps_and_instances(self, images):
        maps = images.new_zeros(len(images), self.num_classes, *images.shape[2:], dtype=torch.float32)
        maps[:, :3] = images
        return maps, None

    def semantic_maps(self, images):
        return self.semantic_maps_and_instances(images)[0]


@pytest.fixture
def brightest(monkeypatch, tmp_path):
    """The command with :class:`Brightest` in place of a trained network; → its exit status."""
    weights = tmp_path / "model.pth"
    weights.touch()

    def make(path, *, classes, device, network, **options):
        return HierVLPredictor(Brightest(), classes or CLASSES, crop_size=16, **options)

    monkeypatch.setattr(HierVLPredictor, "from_checkpoint", make)

    def run(*arguments):
        folders = ("--weights", str(weights), "--output", str(tmp_path / "out"))
        return entry.main(["predict", *folders, *map(str, arguments)])

    return run


def pictures(folder, *names, height=20, width=30):
    """Random pictures of saturated colours; → their brightest channels by name."""
    labels = {}
    rng = np.random.default_rng(0)
    for name in names:
        label = rng.integers(0, 3, (height, width))
        image = np.eye(3, dtype=np.uint8)[label] * 255
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
        labels[name] = label
    return labels


def test_everything_is_written_and_can_be_read_by_others(brightest, tmp_path):
    labels = pictures(tmp_path / "in", "x.png", "deep/y.png")
    everything = ("mask", "overlay", "confidence", "instances", "panoptic")
    assert brightest("--input", tmp_path / "in", "--save", *everything) == 0
    out = tmp_path / "out"
    for name, label in labels.items():
        with Image.open(out / "mask" / name) as mask:
            assert mask.mode == "P" and mask.getpalette()[:6] == [0, 255, 0, 40, 254, 1]
            np.testing.assert_array_equal(np.asarray(mask), label)
        assert (np.asarray(Image.open(out / "confidence" / name)) == 255).all()
        assert Image.open(out / "overlay" / name).height > 20  # with the legend
    assert read_classes(out / "classes.yaml") == CLASSES

    record = json.loads((out / "json" / "x.json").read_text())
    expected = np.bincount(labels["x.png"].ravel()).tolist()
    assert [entry["pixels"] for entry in record["classes"]] == expected
    assert sum(entry["share"] for entry in record["classes"]) == pytest.approx(1, abs=1e-5)

    coco = COCO(str(out / "instances.json"))
    by_file = {Path(image["file_name"]).name: image["id"] for image in coco.imgs.values()}
    covered = np.zeros((20, 30), int)
    for annotation in coco.loadAnns(coco.getAnnIds(imgIds=by_file["y.png"])):
        mask = coco.annToMask(annotation)
        assert annotation["area"] == mask.sum() == coco_mask.area(annotation["segmentation"])
        assert annotation["bbox"] == coco_mask.toBbox(annotation["segmentation"]).tolist()
        covered[mask > 0] = annotation["category_id"] - 1
    np.testing.assert_array_equal(covered, labels["deep/y.png"])  # class 0 is background: no instance

    panoptic = json.loads((out / "panoptic.json").read_text())
    (entry_x,) = [entry for entry in panoptic["annotations"] if entry["file_name"] == "x.png"]
    colors = np.asarray(Image.open(out / "panoptic" / "x.png")).astype(int)
    ids = colors[..., 0] + 256 * colors[..., 1] + 65536 * colors[..., 2]
    for segment in entry_x["segments_info"]:
        assert (labels["x.png"][ids == segment["id"]] == segment["category_id"] - 1).all()
        assert (ids == segment["id"]).sum() == segment["area"]
        rows, columns = np.nonzero(ids == segment["id"])
        left, top, width, height = segment["bbox"]
        assert (top, top + height - 1) == (rows.min(), rows.max())
        assert (left, left + width - 1) == (columns.min(), columns.max())
    assert (ids > 0).all()


def test_drafts_for_annotation_tools(brightest, tmp_path):
    """The files of all images together hold those of an earlier call, too."""
    pictures(tmp_path / "in", "a.png", "b/c.png", height=40, width=60)
    tools = ("labelme", "cvat", "label_studio", "yolo")
    assert brightest("--input", tmp_path / "in/a.png", "--save", *tools) == 0
    assert brightest("--input", tmp_path / "in", "--save", *tools) == 0
    out = tmp_path / "out"
    assert (out / "labelme/b/c.json").is_file() and (out / "yolo/labels/a.txt").is_file()
    assert "names" in (out / "yolo/data.yaml").read_text()
    assert (out / "cvat/annotations.xml").read_text().count("<image ") == 2
    assert len(json.loads((out / "label_studio/tasks.json").read_text())) == 2


def test_a_bad_file_is_reported_and_the_rest_goes_on(brightest, tmp_path, capsys):
    pictures(tmp_path / "in", "a.png", "c.png")
    (tmp_path / "in" / "b.png").write_bytes(b"nonsense")
    assert brightest("--input", tmp_path / "in") == 1
    assert "b.png" in (tmp_path / "out" / "failed.txt").read_text()
    assert sorted(path.name for path in (tmp_path / "out" / "mask").iterdir()) == ["a.png", "c.png"]
    assert "2 of 3 files" in capsys.readouterr().out

    pictures(tmp_path / "in", "b.png")
    assert brightest("--input", tmp_path / "in") == 0
    assert not (tmp_path / "out" / "failed.txt").exists()


def test_finished_files_are_skipped_unless_overwrite_is_set(brightest, tmp_path, capsys):
    pictures(tmp_path / "in", "a.png", "b.png")
    assert brightest("--input", tmp_path / "in", "--save", "mask") == 0
    mask = tmp_path / "out" / "mask" / "a.png"
    mask.write_bytes(b"mine")
    assert brightest("--input", tmp_path / "in", "--save", "mask") == 0
    assert mask.read_bytes() == b"mine"
    assert brightest("--input", tmp_path / "in", "--save", "mask", "--flip") == 2  # other settings
    assert "other flip" in capsys.readouterr().err
    assert brightest("--input", tmp_path / "in", "--save", "mask", "overlay") == 0  # more of the same
    assert mask.read_bytes() != b"mine" and (tmp_path / "out" / "overlay" / "a.png").exists()
    mask.write_bytes(b"mine")
    assert brightest("--input", tmp_path / "in", "--save", "mask", "--overwrite", "--flip") == 0
    assert mask.read_bytes() != b"mine"
    mask.write_bytes(b"mine")
    assert brightest("--input", tmp_path / "in", "--save", "mask", "--flip") == 0  # the new settings hold
    assert mask.read_bytes() == b"mine"


def test_a_class_file_names_other_classes(brightest, tmp_path):
    pictures(tmp_path / "in", "a.png")
    (tmp_path / "classes.yaml").write_text("classes: [water, {name: land, background: true}, ice]")
    assert brightest("--input", tmp_path / "in", "--classes", tmp_path / "classes.yaml") == 0
    written = read_classes(tmp_path / "out" / "classes.yaml")
    assert [definition.name for definition in written] == ["water", "land", "ice"]


def test_every_frame_of_a_video_and_the_overlays_as_a_video(brightest, tmp_path):
    path = str(tmp_path / "v.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"MJPG"), 5, (32, 16))
    for channel in (0, 1, 2):
        frame = np.zeros((16, 32, 3), np.uint8)
        frame[..., channel] = 255  # blue, green, red
        writer.write(frame)
    writer.release()
    (tmp_path / "w.mp4").write_bytes(b"nonsense")
    assert brightest("--input", path, tmp_path / "w.mp4", "--save", "mask", "overlay", "instances") == 1
    out = tmp_path / "out"
    assert [int(np.median(Image.open(out / "mask" / "v" / f"{i:06d}.png"))) for i in range(3)] == [2, 1, 0]
    overlay = cv2.VideoCapture(str(out / "overlay" / "v.mp4"))
    assert overlay.get(cv2.CAP_PROP_FRAME_COUNT) == 3 and overlay.get(cv2.CAP_PROP_FPS) == 5
    for label in (2, 1, 0):  # half of what the frame shows, half the class's colour; the codec is not exact
        is_read, frame = overlay.read()
        rgb = frame[2:14, 2:30, ::-1].reshape(-1, 3).mean(0)
        expected = (np.eye(3)[label] * 255 + CLASSES[label].color) / 2
        assert is_read and np.abs(rgb - expected).max() < 25, (label, rgb, expected)
    assert json.loads((out / "json" / "v.json").read_text())["frames"] == 3
    assert len(json.loads((out / "instances.json").read_text())["images"]) == 3


def test_inputs_are_files_folders_and_patterns_each_file_once(tmp_path):
    for name in ("a.jpg", "a.png", "deep/b.tif", "deep/c.txt", ".hidden/d.png", "out/e.png", "odd.image"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    folder, out = str(tmp_path), str(tmp_path / "out")

    def names(*inputs):
        return [item.name for item in list_items(inputs, out)]

    assert names(folder) == ["a", "a.png", "deep/b"]
    assert names(folder, f"{folder}/a.png", f"{folder}/odd.image") == ["a", "a.png", "deep/b", "odd"]
    assert names(f"{folder}/**/*.*") == ["a", "a.png", "deep/b"]
    assert names(f"{folder}/deep/*.tif", f"{folder}/a.jpg") == ["b", "a"]
    mistakes = {f"{folder}/absent": "does not exist", f"{folder}/*.bmp": "no image or video", out: "of the results"}
    for wrong, message in mistakes.items():
        with pytest.raises(UserError, match=message):
            list_items([wrong], out)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads the peak of the memory as Linux has it")
def test_a_large_tiff_is_read_and_written_by_windows_in_bounded_memory(tmp_path, monkeypatch):
    rasterio = pytest.importorskip("rasterio")
    size, num_classes = 2048, 24
    transform = rasterio.transform.from_origin(500000, 5000000, 0.5, 0.5)
    profile = {"driver": "GTiff", "height": size, "width": size, "count": 3, "dtype": "uint8"}
    with rasterio.open(tmp_path / "a.tif", "w", crs="EPSG:32632", transform=transform, **profile) as file:
        for band in range(3):
            values = np.zeros((size, size), np.uint8)
            values[band * 512 : (band + 1) * 512] = 255  # three stripes, then black
            file.write(values, band + 1)
    del values
    monkeypatch.setattr(batch, "WHOLE_PIXELS", 1_000_000)
    monkeypatch.setattr(label_maps, "CLASS_MAP_BYTES", 20_000_000)
    classes = [ClassDefinition(str(i), (str(i),), (i, i, i)) for i in range(num_classes)]
    network = HierVLPredictor(Brightest(num_classes), classes, crop_size=256, overlap=0.25, window_batch=1)
    results = ResultFolder(str(tmp_path / "out"), classes, ("mask", "confidence", "overlay"), ())
    worker = BatchPredictor(network, results)

    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = memory("VmRSS")
    (outcome,) = worker.run([Item(str(tmp_path / "a.tif"), "a")])
    grown = memory("VmHWM") - before
    assert outcome[1] is None
    whole = 4 * num_classes * size**2 / 2**20  # 384 MB: what the class maps of the whole image would take
    assert grown < whole / 2
    with rasterio.open(tmp_path / "out" / "mask" / "a.tif") as mask:
        assert mask.crs.to_epsg() == 32632 and mask.transform == transform
        assert mask.colormap(1)[2][:3] == (2, 2, 2)
        np.testing.assert_array_equal(mask.read(1)[:1536, 7], np.repeat([0, 1, 2], 512))
    assert json.loads((tmp_path / "out" / "json" / "a.json").read_text())["classes"][1]["pixels"] == 512 * size
    assert Image.open(tmp_path / "out" / "overlay" / "a.png").width == size

    results.kinds = ("instances",)
    (outcome,) = worker.run([Item(str(tmp_path / "a.tif"), "a")])
    assert "cut it into tiles" in outcome[1]


def memory(key: str) -> float:
    """Of this process, in MB."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key)]
    return int(line.split()[1]) / 1024


def test_a_small_geotiff_keeps_its_place(brightest, tmp_path):
    rasterio = pytest.importorskip("rasterio")
    label = pictures(tmp_path, "a.png")["a.png"]
    profile = {"driver": "GTiff", "height": 20, "width": 30, "count": 4, "dtype": "uint16", "crs": "EPSG:4326"}
    transform = rasterio.transform.from_origin(10, 50, 0.1, 0.1)
    with rasterio.open(tmp_path / "b.tif", "w", transform=transform, **profile) as file:
        for band in range(3):
            file.write(((label == band) * 65535).astype(np.uint16), band + 1)
    assert brightest("--input", tmp_path / "b.tif", "--save", "mask", "instances") == 0
    with rasterio.open(tmp_path / "out" / "mask" / "b.tif") as mask:
        np.testing.assert_array_equal(mask.read(1), label)
        assert mask.transform == transform


def test_two_processes_share_the_files(save_run, tmp_path):
    """As torchrun starts them, with a real checkpoint: no file is lost, none is done twice, one JSON holds them all."""
    _, run = save_run("MODEL.QUERY_DECODER.LAYERS", 1, "MODEL.PIXEL_DECODER.LAYERS", 1)
    pictures(tmp_path / "in", *[f"{i}.png" for i in range(7)])
    (tmp_path / "in" / "bad.png").write_bytes(b"nonsense")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "hiervl", "predict", "--weights", run, "--input", tmp_path / "in"]
    command += ["--output", out, "--device", "cpu", "--save", "mask", "instances"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            list(map(str, command)),
            cwd=REPOSITORY,
            env={**os.environ, **shared, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in ("0", "1")
    ]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [1, 1], outputs  # a file failed: all ranks say so
    assert "7 of 8 files" in outputs[0] and "files" not in outputs[1]
    assert sorted(path.stem for path in (out / "mask").iterdir()) == [str(i) for i in range(7)]
    images = json.loads((out / "instances.json").read_text())["images"]
    assert sorted(Path(image["file_name"]).stem for image in images) == [str(i) for i in range(7)]
    assert len((out / "failed.txt").read_text().splitlines()) == 1


def test_ranks_share_every_file_once():
    from hiervl.inference.ranks import Ranks

    items = list(range(10))
    shares = [Ranks(rank, 3, rank).share(items) for rank in range(3)]
    assert sorted(item for share in shares for item in share) == items
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_missing_checkpoint_is_a_sentence(tmp_path, capsys):
    arguments = ["--weights", str(tmp_path / "none"), "--input", "x", "--output", str(tmp_path / "out")]
    assert entry.main(["predict", *arguments]) == 2
    assert "neither a checkpoint nor a run" in capsys.readouterr().err


def test_files_that_are_left_out_are_named(tmp_path):
    for name in ("in/a.jfif", "in/b.JPG", "in/out/c.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "in/IMG_1.HEIC").write_bytes(b"\x00\x00\x00\x18ftypheic" + bytes(40))
    folder, output = str(tmp_path / "in"), str(tmp_path / "in/out")
    assert [item.name for item in list_items([folder], output)] == ["a", "b"]
    ((what, _, files, _),) = left_out([folder], output)
    assert what == ".heic (HEIC photograph)" and files == (str(tmp_path / "in/IMG_1.HEIC"),)
    for name in ("a.jfif", "b.JPG"):
        (tmp_path / "in" / name).unlink()
    with pytest.raises(UserError, match="no images or videos in .*, but 1 .heic .HEIC photograph: .* convert"):
        list_items([folder], output)


def test_links_in_a_circle_names_that_are_no_utf8_and_folders_of_the_system(brightest, tmp_path, capsys):
    """Every image once, under a name of its own, and files that every reader of JSON and XML takes."""
    folder = tmp_path / "in"
    pictures(folder, "a.png", "A.png", "deep/b.png")
    os.symlink("..", folder / "deep" / "back")
    latin = os.fsdecode(b"caf\xe9.png")
    (folder / latin).write_bytes((folder / "a.png").read_bytes())
    pictures(folder / "__MACOSX", "a.png")
    (folder / "Thumbs.db").write_bytes(b"x")
    assert brightest("--input", folder, "--save", "mask", "instances", "labelme", "cvat", "label_studio", "yolo") == 0
    said = capsys.readouterr()
    assert "4 of 4 files are predicted" in said.out and "Left out" not in said.err
    out = tmp_path / "out"
    names = {path.relative_to(out / "mask").as_posix() for path in (out / "mask").rglob("*.png")}
    assert names == {"A.png", "a.png.png", "deep/b.png", latin}  # no two differ in capitals alone
    images = json.loads((out / "instances.json").read_text(encoding="utf-8"))["images"]
    assert len(images) == 4 and any(image["file_name"].endswith(latin) for image in images)
    tasks = json.loads((out / "label_studio/tasks.json").read_text(encoding="utf-8"))
    assert {task["data"]["image"] for task in tasks} == {
        f"/data/local-files/?d={name}" for name in ("A.png", "a.png", "caf%E9.png", "deep/b.png")
    }
    cvat = ElementTree.parse(out / "cvat/annotations.xml").getroot()
    assert {image.get("name") for image in cvat.iter("image")} == {"A.png", "a.png", "caf?.png", "deep/b.png"}
    assert json.loads((out / f"labelme/{Path(latin).stem}.json").read_text())["imagePath"].endswith(latin)
    assert brightest("--input", folder, "--save", "mask") == 0  # and what is done is known


def test_damaged_settings_of_an_earlier_call_are_a_sentence(brightest, tmp_path, capsys):
    pictures(tmp_path / "in", "a.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/predict.json").write_text("{half")
    assert brightest("--input", tmp_path / "in") == 2
    assert "predict.json is damaged" in capsys.readouterr().err
    assert brightest("--input", tmp_path / "in", "--overwrite") == 0


def test_bands_of_a_tiff_are_chosen(brightest, tmp_path, capsys):
    rasterio = pytest.importorskip("rasterio")
    values = np.random.default_rng(0).integers(0, 3000, (5, 20, 30)).astype(np.uint16)
    path = tmp_path / "many.tif"
    with rasterio.open(path, "w", driver="GTiff", height=20, width=30, count=5, dtype="uint16") as file:
        file.write(values)
    assert brightest("--input", path) == 1
    assert "is a TIFF of 5 bands of 16 bits" in (said := capsys.readouterr().err) and "--bands" in said
    assert brightest("--input", path, "--bands", 4, 3, 2, "--band-range", 0, 3000, "--overwrite") == 0
    mask = np.array(Image.open(tmp_path / "out/mask/many.png"))
    assert (mask == values[[3, 2, 1]].argmax(0)).mean() > 0.95  # but for values that are one after rounding
    assert brightest("--input", path, "--bands", 4, 3, 0) == 2
    assert "--bands names three bands" in capsys.readouterr().err
