"""Annotation files and other files that lie in folders are recognised by their content and named."""

import json

import numpy as np
import pytest
from PIL import Image

from hiervl.data.folders import kinds

POLYGON = [[1, 1], [5, 1], [5, 5]]
# One of each kind, cut down to what the format's own description requires.
FILES = {
    "coco": ("a.json", {"images": [], "annotations": [{"id": 1}], "categories": []}),
    "coco_panoptic": ("a.json", {"images": [], "annotations": [{"segments_info": []}], "categories": []}),
    "labelme": ("a.json", {"version": "5.4.1", "flags": {}, "shapes": [], "imagePath": "a.jpg", "imageData": None}),
    "via": ("a.json", {"a.jpg123": {"filename": "a.jpg", "size": 123, "regions": [], "file_attributes": {}}}),
    "via3": ("a.json", {"project": {}, "config": {}, "attribute": {}, "file": {}, "metadata": {}, "view": {}}),
    "label_studio": ("a.json", [{"id": 1, "data": {"image": "a.jpg"}, "annotations": [{"result": []}]}]),
    "label_studio_min": ("a.json", [{"image": "a.jpg", "id": 1, "label": [], "annotator": 1, "annotation_id": 4}]),
    "label_studio_csv": ("a.csv", '"annotation_id","annotator","created_at","id","image","label","lead_time"\n'),
    "supervisely": ("a.jpg.json", {"description": "", "size": {"height": 4, "width": 4}, "objects": [], "tags": []}),
    "cityscapes": ("a.json", {"imgHeight": 4, "imgWidth": 4, "objects": [{"label": "road", "polygon": POLYGON}]}),
    "datumaro": ("a.json", {"info": {}, "categories": {}, "items": []}),
    "geojson": ("a.geojson", {"type": "FeatureCollection", "features": []}),
    "json": ("a.json", {"anything": 1}),
    "cvat_images": ("a.xml", "<?xml version='1.0'?><annotations><version>1.1</version><image id='0'/></annotations>"),
    "cvat_video": ("a.xml", "<annotations><version>1.1</version><track id='0' label='car'></track></annotations>"),
    "voc_boxes": ("a.xml", "<annotation><filename>a.jpg</filename><object><name>car</name></object></annotation>"),
    "yolo_polygons": ("a.txt", "0 0.1 0.1 0.5 0.1 0.5 0.5\n1 0.1 0.1 0.5 0.1 0.5 0.5 0.2 0.4\n"),
    "yolo_polygons in pixels": ("a.txt", "0 10 10 50.5 10 50 50\n"),
    "yolo_boxes": ("a.txt", "0 0.5 0.5 0.1 0.1\n"),
    "yolo_data": ("data.yaml", "train: images\nval: images\nnc: 2\nnames: [a, b]\n"),
    "labelmap": ("labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\n"),
    "classes_csv": ("_classes.csv", "Pixel Value, Class\n0, background\n"),
    "via_csv": ("a.csv", "filename,file_size,file_attributes,region_count,region_id\n"),
}


@pytest.mark.parametrize("key", FILES)
def test_annotation_files_are_called_by_their_names(tmp_path, key):
    name, content = FILES[key]
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    assert kinds.kind_of_file(path).key == key.split()[0]


@pytest.mark.parametrize("text", ["a.jpg\nb.jpg\n", "", "sky 1 2 3 4", "1 2", "0.5 1 1 9 1 9 9", "1 2 3 4 5 6"])
def test_a_list_of_names_is_no_annotation_file(tmp_path, text):
    path = tmp_path / "list.txt"
    path.write_text(text)
    assert kinds.kind_of_file(path) is None


def test_unused_files_are_counted_and_named(tmp_path):
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    Image.fromarray(np.zeros((4, 4, 3), dtype=np.uint8)).save(folder / "used.jpg")
    Image.fromarray(np.zeros((4, 4, 3), dtype=np.uint8)).save(folder / "renamed.heic", format="JPEG")
    (folder / "deep" / "IMG_1.HEIF").write_bytes(b"\x00\x00\x00\x18ftypheic" + bytes(40))
    (folder / "masks.zip").write_bytes(b"PK\x03\x04" + bytes(40))
    (folder / ".hidden.json").write_text("{}")
    for number in range(3):
        (folder / f"{number}.json").write_text(json.dumps(FILES["labelme"][1]))
    unused = kinds.unused_files(folder)
    assert [(entry.kind and entry.kind.key, len(entry.files)) for entry in unused][0] == ("labelme", 3)
    sentence = kinds.describe_unused(unused)
    assert "3 .json (labelme JSON: " in sentence and "1 .heif (HEIC photograph: " in sentence
    assert "1 .heic (images: " in sentence and "1 .zip (archive: " in sentence
    assert "used" not in sentence and "hidden" not in sentence


def test_a_file_in_place_of_a_folder_is_named(tmp_path):
    path = tmp_path / "annotations.xml"
    path.write_text(FILES["cvat_images"][1])
    assert "is a file of CVAT for images XML" in str(kinds.refuse_file(path, "DATASET.LABELED.MASKS"))


@pytest.mark.parametrize("name", ["IMG_1.CR2", "DSC_1.NEF", "slide.svs"])
def test_files_that_begin_as_a_tiff_are_not_to_be_renamed(tmp_path, name):
    """A camera's raw file renamed to .tif would be read as its small preview."""
    Image.fromarray(np.zeros((4, 4, 3), dtype=np.uint8)).save(tmp_path / name, format="TIFF")
    sentence = kinds.describe_unused(kinds.unused_files(tmp_path))
    assert "suffix" not in sentence and ("develop it" in sentence or "cut it into tiles" in sentence)


@pytest.mark.parametrize(
    "name, content, sentence",
    [
        ("scan.nii.gz", b"\x1f\x8b", "1 .nii.gz (medical volume: export the slices as PNG"),
        ("scan.nii", bytes(400), "1 .nii (medical volume: export"),
        ("scan.DCM", bytes(400), "1 .dcm (DICOM file: export the slices"),
        ("photo.jpeg2000", b"\xff\x4f\xff\x51", "1 .jpeg2000 (JPEG 2000 image: convert to JPEG or PNG"),
        ("cells.czi", b"ZISRAWFILE", "1 .czi (microscope's file: export its images"),
        ("layers.psd", b"8BPS", "1 .psd (Photoshop file: export it as PNG"),
        ("light.exr", b"\x76\x2f\x31\x01", "1 .exr (OpenEXR image: save it as PNG"),
        ("film.webm", b"\x1a\x45\xdf\xa3", "1 .webm (video: extract frames"),
        ("film", b"\x1a\x45\xdf\xa3", "1 without a suffix (video: extract frames"),
        ("all.tar.gz", b"\x1f\x8b", "1 .tar.gz (archive: unpack it"),
        ("all.rar", b"Rar!", "1 .rar (archive: unpack it"),
        ("train.parquet", b"PAR1", "1 .parquet (table of a data set: save its images and masks as files"),
        ("masks.h5", b"\x89HDF\r\n\x1a\n", "1 .h5 (HDF5 file: save the arrays as PNG"),
        ("masks.pkl", b"\x80\x04", "1 .pkl (Python pickle: it may run programs and is never opened; save"),
        ("labels.xlsx", b"PK\x03\x04", "1 .xlsx (office document)"),
    ],
)
def test_files_of_other_fields_are_named_with_a_way_to_use_them(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    assert kinds.describe_unused(kinds.unused_files(tmp_path)).startswith(sentence)


@pytest.mark.parametrize("name", ["a.JPG.crdownload", "a.jpg.part"])
def test_unfinished_downloads_are_to_be_downloaded_again(tmp_path, name):
    Image.fromarray(np.zeros((4, 4, 3), dtype=np.uint8)).save(tmp_path / name, format="JPEG")
    assert "(unfinished download: download it again)" in kinds.describe_unused(kinds.unused_files(tmp_path))


def test_canon_raw_files_are_not_taken_for_videos(tmp_path):
    (tmp_path / "IMG_1.CR3").write_bytes(b"\x00\x00\x00\x18ftypcrx " + bytes(40))
    assert "(camera's raw file: develop it" in kinds.describe_unused(kinds.unused_files(tmp_path))


def test_empty_files_do_not_hide_the_kind_of_the_others(tmp_path):
    """YOLO writes an empty file, or a line break, for an image without objects."""
    for number in range(6):
        (tmp_path / f"{number}.txt").write_text("\n" * (number % 2))
    (tmp_path / "9.txt").write_text(FILES["yolo_polygons"][1])
    (unused,) = kinds.unused_files(tmp_path)
    assert unused.kind is kinds.YOLO_POLYGONS and len(unused.files) == 7


def test_tasks_with_predictions_alone_are_no_annotations():
    """What `predict --save label_studio` writes."""
    kind = kinds.kind_of_json([{"data": {"image": "a.jpg"}, "predictions": [{"result": []}]}])
    assert kind.name == "Label Studio tasks with predictions" and "import them into Label Studio" in kind.advice
