"""What the readers of annotation files refuse, leave out and name, format by format."""

import json
import shutil

import annotation_exports as exports
import numpy as np
import pytest
from annotation_exports import open_export, open_own, write_own
from PIL import Image

from hiervl.data.checking.check import check
from hiervl.data.folders.formats.label_studio import unpack_runs
from hiervl.data.folders.formats.yolo import read_names
from hiervl.utils.errors import UserError


def change(path, function):
    """Rewrite a JSON file as ``function`` of its content leaves it."""
    content = json.loads(path.read_text())
    function(content)
    path.write_text(json.dumps(content))


def sentences(layout):
    return [f"{finding.level}: {finding.sentence}" for finding in check(layout).findings]


def labels(layout, stem="shot 0"):
    return layout.label(layout.labeled.samples[stem])


def relabel(content):
    content["shapes"][0]["label"] = "Cap"


def test_labels_that_are_no_class_are_named_with_counts(tmp_path):
    layout = open_export(tmp_path, "labelme_apart")
    for stem in exports.STEMS[:4]:
        change(tmp_path / f"labels/{stem}.json", relabel)
    (found,) = [sentence for sentence in sentences(layout) if "does not name" in sentence]
    assert found.startswith("error: the annotations have the label 'Cap' (4), which")
    assert "is 'Cap' the class 'cap'?" in found
    with pytest.raises(UserError, match=r"shot 0.json has the label 'Cap' \(1\)"):
        labels(layout)


@pytest.mark.parametrize("name, scene", [("supervisely", "ds"), ("yolo", "s1")])
def test_scenes_may_have_files_of_the_same_names(tmp_path, name, scene):
    """Each annotation file belongs to the image in its own scene: those of the second scene lack their first object."""
    exports.EXPORTS[name](tmp_path)
    if name == "yolo":
        for kind in ("images", "labels"):
            (tmp_path / "s1").mkdir(exist_ok=True)
            (tmp_path / kind / "train").rename(tmp_path / "s1" / kind)
    shutil.copytree(tmp_path / scene, tmp_path / "s2")
    for file in (*tmp_path.glob("s2/ann/*.json"), *tmp_path.glob("s2/labels/*.txt")):
        if file.suffix == ".json":
            change(file, lambda content: content["objects"].pop(0))
        else:
            file.write_text(file.read_text().splitlines()[0] + "\n")
    write_own(tmp_path, f"LABELED: {{IMAGES: ., MASKS: .}}\n  FORMAT: {name}")
    layout = open_own(tmp_path)
    stem = "shot 0"
    images = {key: (labels(layout, key) > 0).sum() for key in layout.labeled.samples if key.endswith(stem)}
    folder = "img" if name == "supervisely" else "images"
    assert set(images) == {f"{scene}/{folder}/{stem}", f"s2/{folder}/{stem}"}
    assert images[f"s2/{folder}/{stem}"] < images[f"{scene}/{folder}/{stem}"]


def test_objects_without_area_are_left_out_and_counted(tmp_path):
    layout = open_export(tmp_path, "labelme_apart")

    def add(content):
        content["shapes"] += [
            {"label": "cap", "points": [[1, 1], [9, 9]], "shape_type": "line"},
            {"label": "cap", "points": [[1, 1], [9, 9]], "shape_type": "polygon"},
            {"label": "cap", "points": [[90, 90], [99, 90], [99, 99]], "shape_type": "polygon"},
        ]

    change(tmp_path / "labels/shot 0.json", add)
    assert sentences(layout) == [
        "warning: 1 line shapes have no area and are left out.",
        "warning: 1 objects cover no pixel of the image.",
        "warning: 1 outlines of fewer than 3 points are left out.",
    ]
    assert np.array_equal(labels(layout), exports.label_map(0))


def test_labelme_circles_groups_and_its_own_labels(tmp_path):
    layout = open_export(tmp_path, "labelme_apart")

    def replace(content):
        content["shapes"] = [
            {"label": "cap", "points": [[3, 3], [3, 5]], "shape_type": "circle", "group_id": 1},
            {"label": "cap", "points": exports.corners((20, 10, 24, 14)), "group_id": 1},
            {"label": "_background_", "points": exports.corners((20, 10, 22, 12))},
            {"label": "__ignore__", "points": exports.corners((0, 20, 32, 24))},
        ]
        content["imageHeight"] = None  # labelme allows it

    change(tmp_path / "labels/shot 0.json", replace)
    sample = layout.labeled.samples["shot 0"]
    shown, instances = sample.masks.labels(sample.key, (24, 32))
    assert (shown[20:] == 255).all() and (shown[10:12, 20:22] == 0).all() and shown[13, 23] == 1
    assert (shown[:8] == 1).sum() == 12  # pixel centres within 2 of (3, 3): a 4×4 square without its corners
    assert set(np.unique(instances)) == {0, 1}


def test_rotated_rectangles_of_x_anylabeling_are_polygons(tmp_path):
    layout = open_export(tmp_path, "labelme_apart")
    points = exports.corners((20, 10, 24, 14))

    def replace(content):
        content["shapes"] = [{"label": "cap", "points": points, "shape_type": "rotation", "direction": 0.0}]

    change(tmp_path / "labels/shot 0.json", replace)
    sample = layout.labeled.samples["shot 0"]
    raw = sample.masks.raw(sample.key)
    assert raw.codes[12, 22] == 1 and (raw.codes == 1).sum() == 16 and not raw.remarks


@pytest.mark.parametrize("name", ["labelme_apart", "yolo", "supervisely"])
def test_mask_suffix_counts_for_annotation_files(tmp_path, name):
    expected = labels(open_export(tmp_path, name))
    for file in [file for file in (tmp_path / "labels").rglob("*.*") if "shot" in file.name]:
        file.rename(file.with_name(file.name.replace("shot 0", "shot 0_gt").replace("shot 1", "shot 1_gt")))
    for file in (tmp_path / "labels").rglob("*.json"):
        change(file, lambda content: content.pop("imagePath", None))
    assert not open_own(tmp_path).unused()  # which would advise to name this folder
    add_setting(tmp_path, "MASK_SUFFIX: _gt")
    assert np.array_equal(labels(open_own(tmp_path)), expected)


def test_mask_suffix_counts_for_the_names_in_coco(tmp_path):
    exports.write_images(tmp_path / "images", ".jpg")
    write_own(tmp_path, "LABELED: {IMAGES: images, MASKS: coco.json}")
    images = [{"id": number, "file_name": f"train_{stem}.jpg"} for number, stem in enumerate(exports.STEMS)]
    box = {"segmentation": [[4, 6, 12, 6, 12, 10, 4, 10]], "category_id": 1}
    content = {
        "images": images,
        "annotations": [{**box, "id": number, "image_id": number} for number in range(len(images))],
        "categories": [{"id": 1, "name": "cap"}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(content))
    assert any("set DATASET.MASK_SUFFIX to train_{}" in sentence for sentence in sentences(open_own(tmp_path)))
    add_setting(tmp_path, 'MASK_SUFFIX: "train_{}"')
    assert (labels(open_own(tmp_path)) == 1).sum() == 8 * 4


def add_setting(root, line):
    config = root / "own.yaml"
    config.write_text(f"{config.read_text()}  {line}\n")


def test_comments_among_the_names_of_yolo_take_no_number(tmp_path):
    (tmp_path / "classes.txt").write_text("# of the mushrooms\ncap\nstem\n")
    assert read_names(tmp_path / "classes.txt") == {0: "cap", 1: "stem"}


def test_annotations_of_another_size_are_refused(tmp_path):
    layout = open_export(tmp_path, "labelme_apart")
    change(tmp_path / "labels/shot 0.json", lambda content: content.update(imageWidth=40))
    with pytest.raises(UserError, match="is for an image of 40×24 pixels, but the image has 32×24"):
        labels(layout)
    assert any("masks differ in size" in sentence for sentence in sentences(layout))


@pytest.mark.parametrize("name", ["labelme_apart", "cvat", "label_studio", "via2", "yolo", "supervisely"])
def test_broken_annotations_are_user_errors(tmp_path, name):
    """A file that is cut off, and one whose values have other types."""
    exports.EXPORTS[name](tmp_path / "good")
    annotation = sorted(
        path
        for path in (tmp_path / "good").rglob("*")
        if path.suffix in (".json", ".xml", ".txt") and path.name != "meta.json"
    )[0].relative_to(tmp_path / "good")
    text = (tmp_path / "good" / annotation).read_text()
    for number, spoilt in enumerate((text[: len(text) // 2] + '"', text.replace("3", "x"), text.replace("[", "{}, ["))):
        root = tmp_path / str(number)
        lines = exports.EXPORTS[name](root)
        (root / annotation).write_text(spoilt)
        form = {"labelme_apart": "labelme", "via2": "via"}.get(name, name)
        write_own(root, f"{lines}\n  FORMAT: {form}")
        try:
            check(open_own(root))
        except UserError as error:
            assert str(root) in str(error)


def test_xml_with_entities_is_refused(tmp_path):
    """Nine lines of entities would unfold into gigabytes, and an external one would read any file."""
    for number, entity in enumerate(('<!ENTITY a "aaaa">', '<!ENTITY a SYSTEM "file:///etc/hostname">')):
        root = tmp_path / str(number)
        lines = exports.cvat(root)
        text = (root / "annotations.xml").read_text()
        text = text.replace("<annotations>", f"<!DOCTYPE annotations [{entity}]><annotations>", 1)
        (root / "annotations.xml").write_text(text.replace("mushrooms/", "&a;"))
        write_own(root, f"{lines}\n  FORMAT: cvat")
        with pytest.raises(UserError, match="entities"):
            open_own(root).labeled  # noqa: B018


def test_cvat_for_video_is_said_to_be_so(tmp_path):
    layout = open_export(tmp_path, "cvat")
    (tmp_path / "annotations.xml").write_text("<annotations><track id='0'><box/></track></annotations>")
    with pytest.raises(UserError, match="CVAT for video XML: export the task from CVAT as 'CVAT for images 1.1'"):
        layout.labeled  # noqa: B018


def test_cvat_ellipse_and_order(tmp_path):
    layout = open_export(tmp_path, "cvat")
    (tmp_path / "annotations.xml").write_text(
        '<annotations><image id="0" name="shot 0.jpg" width="32" height="24">'
        '<ellipse label="stem" cx="10" cy="10" rx="6" ry="2" rotation="90" z_order="1"/>'
        '<box label="cap" xtl="0" ytl="0" xbr="32" ybr="24" z_order="0"/><polyline label="cap" points="1,1;2,2"/>'
        "</image></annotations>"
    )
    sample = layout.labeled.samples["shot 0"]
    raw = sample.masks.raw(sample.key)
    assert raw.codes[5, 10] == 2 and raw.codes[10, 5] == 1 and raw.codes[0, 0] == 1  # it stands upright, on the box
    assert raw.remarks == {"polyline shapes have no area and are left out": 1}


def test_label_studio_takes_the_newest_annotation_or_the_ground_truth(tmp_path):
    layout = open_export(tmp_path, "label_studio")
    region = exports.label_studio_region("polygon", "stem", (0, 0, 5, 5), 0)

    def add(tasks):
        tasks[0]["annotations"][0]["updated_at"] = "2024-05-02T10:00:00Z"
        tasks[0]["annotations"].append({"id": 7, "result": [region], "updated_at": "2024-05-03T10:00:00Z"})
        tasks[1]["annotations"].append({"id": 999, "result": [region]})
        tasks[1]["annotations"][0]["ground_truth"] = True

    change(tmp_path / "project-1-at-2024-05-02.json", add)
    assert labels(layout).sum() == 2 * 25
    assert np.array_equal(labels(layout, "shot 1"), exports.label_map(1))
    assert sentences(layout) == ["warning: 2 annotations are left out, because their image has a newer one."]


def test_label_studio_csv_has_a_row_for_each_annotation(tmp_path):
    open_export(tmp_path, "label_studio_csv")
    path = tmp_path / "project-1-min.csv"
    first, *rows = path.read_text().splitlines()
    older = rows[1].replace("41,", "9,", 1).replace(',1,"/data', ',0,"/data').replace("shot 1", "shot 0")
    path.write_text("\n".join([first, older, *rows]))
    layout = open_own(tmp_path)
    assert np.array_equal(labels(layout), exports.label_map(0))
    assert sentences(layout) == ["warning: 1 annotations are left out, because their image has a newer one."]
    path.write_text("\n".join([first, rows[0].replace("}]", "")]))
    with pytest.raises(UserError, match="project-1-min.csv cannot be read as Label Studio .*: export or save it again"):
        open_own(tmp_path).labeled  # noqa: B018


def test_packed_runs_and_their_ends():
    values = np.array([1, 1, 1, 2, 3, 3] + [4] * 300 + [5], dtype=np.uint8)
    packed = exports.pack_runs(values)
    assert np.array_equal(unpack_runs(packed), values)
    with pytest.raises(ValueError, match="end too early"):
        unpack_runs(packed[:-4])
    with pytest.raises(ValueError, match="numbers of 8 bits"):
        unpack_runs([255] * 4 + packed[4:])


def test_via_class_attribute_is_not_guessed(tmp_path):
    layout = open_export(tmp_path, "via2", exports.CLASSES + "  - {name: Ada}\n")
    with pytest.raises(UserError, match="region attributes part, seen by, and several have values"):
        layout.labeled  # noqa: B018


def test_yolo_without_names_is_refused_and_boxes_do_not_count(tmp_path):
    layout = open_export(tmp_path, "yolo")
    file = tmp_path / "labels/train/shot 0.txt"
    file.write_text(file.read_text() + "0 0.5 0.9 0.25 0.1\n")
    sample = layout.labeled.samples["shot 0"]
    raw = sample.masks.raw(sample.key)
    assert (raw.codes[21:23, 12:20] == 255).all()
    assert raw.remarks == {"boxes have no outline: their area does not count": 1}
    (tmp_path / "data.yaml").unlink()
    with pytest.raises(UserError, match="no data.yaml or classes.txt in it or above it"):
        open_own(tmp_path).labeled  # noqa: B018


def in_pixels(line):
    """A line of YOLO with pixels of the image of 32×24 instead of shares."""
    number, *values = line.split()
    return " ".join([number, *(f"{float(value) * (24 if place % 2 else 32):g}" for place, value in enumerate(values))])


def test_yolo_in_pixels_is_read_where_it_is_certain(tmp_path):
    layout = open_export(tmp_path, "yolo")
    expected = labels(layout)
    for file in (tmp_path / "labels/train").iterdir():
        file.write_text("\n".join(map(in_pixels, file.read_text().splitlines())))
    layout = open_own(tmp_path)
    assert np.array_equal(labels(layout), expected)
    assert sentences(layout) == [
        "warning: 6 files have coordinates in pixels instead of shares of the size, and are read so."
    ]


@pytest.mark.parametrize(
    "line, reason",
    [
        ("0 0.1 0.1 1.7 0.1 0.5 1.6", "line 3 has the coordinate 1.7, which is no share"),  # among shares
        ("0 4 4 40 4 20 20", "line 3 has the coordinate 40, .* not pixels of its 32×24"),
        (
            "0 0.1 0.1 0.5 0.1 0.5",
            "line 3 has 5 numbers behind the class, which are no pairs, and the last may be a confidence",
        ),
    ],
)
def test_yolo_with_wrong_coordinates_is_refused(tmp_path, line, reason):
    open_export(tmp_path, "yolo")
    file = tmp_path / "labels/train/shot 0.txt"
    file.write_text(f"{file.read_text().rstrip()}\n{line}\n")
    with pytest.raises(UserError, match=f"shot 0.txt cannot be read as YOLO segmentation text .{reason}"):
        labels(open_own(tmp_path))


def test_two_formats_in_one_folder_are_not_guessed(tmp_path):
    layout = open_export(tmp_path, "labelme_apart")
    exports.Image.fromarray(exports.label_map(0)).save(tmp_path / "labels/shot 0.png")
    with pytest.raises(UserError, match=r"several formats \(labelme, masks\)"):
        layout.labeled  # noqa: B018
    text = (tmp_path / "own.yaml").read_text()
    (tmp_path / "own.yaml").write_text(text + "  FORMAT: masks\n")
    assert list(open_own(tmp_path).labeled.samples) == ["shot 0"]
    (tmp_path / "own.yaml").write_text(text + "  FORMAT: labelme\n")
    assert len(open_own(tmp_path).labeled.samples) == len(exports.STEMS)


def test_outlines_of_larger_images_are_named(tmp_path):
    """Coordinates say it where the file has no sizes, as VIA's never has."""
    layout = open_export(tmp_path, "via2")
    assert not any("reach beyond" in sentence for sentence in sentences(layout))

    def enlarge(content):
        for entry in content["_via_img_metadata"].values():
            for region in entry["regions"]:
                shape = region["shape_attributes"]
                for key in ("all_points_x", "all_points_y"):
                    shape[key] = [2 * value for value in shape.get(key, [])]

    change(tmp_path / "via_project.json", enlarge)
    (found,) = [sentence for sentence in sentences(open_own(tmp_path)) if "reach beyond their image" in sentence]
    assert found.startswith("warning: ") and "drawn on larger images, all labels are at wrong places" in found


@pytest.mark.parametrize(
    "names, reason",
    [
        ("nc: 3\nnames: [cap, stem]\n", "`nc` says 3 classes, and `names` has 2"),
        ("names: [cap, ]\nnc: 1\n", ""),
        ("names: {0: cap, 1: }\n", "class 1 has no name"),
    ],
)
def test_lists_of_yolo_that_contradict_themselves_are_refused(tmp_path, names, reason):
    (tmp_path / "data.yaml").write_text(names)
    if not reason:
        assert read_names(tmp_path / "data.yaml") == {0: "cap"}
        return
    with pytest.raises(UserError, match=f"data.yaml .*{reason}"):
        read_names(tmp_path / "data.yaml")


def test_two_entries_for_one_image_are_refused(tmp_path):
    layout = open_export(tmp_path, "via2")

    def add(content):
        entries = content["_via_img_metadata"]
        entries["again"] = {**entries["shot 0.jpg999"], "filename": "other\\shot 0.jpg"}

    change(tmp_path / "via_project.json", add)
    with pytest.raises(UserError, match="two entries for the image shot 0"):
        layout.labeled  # noqa: B018


# ---------------------------------------------------------------------------- one mask per class


def test_masks_of_a_class_by_other_names(tmp_path):
    exports.per_class(tmp_path, "masks/{stem}_{name}.png")
    for path in sorted((tmp_path / "masks").iterdir()):
        path.rename(path.with_name(path.name.replace("_cap", "_red").replace("_stem", "_blue")))
    write_own(tmp_path, "LABELED: {IMAGES: photos, MASKS: masks}", exports.CLASSES)
    with pytest.raises(UserError, match=r"told apart by _blue \(6 files\), _red \(6 files\): .* `mask_name: _blue`"):
        open_own(tmp_path).labeled  # noqa: B018
    for path in list((tmp_path / "masks").glob("*_red.png")):
        whole = np.arange(3, dtype=np.uint8).repeat(20)[None].repeat(40, 0)
        Image.fromarray(whole).save(path.with_name(path.name.replace("_red", "_all")))
    with pytest.raises(UserError, match="mask_name: _blue`.* _all shows several classes: .*MASK_SUFFIX to _all"):
        open_own(tmp_path).labeled  # noqa: B018
    for path in (tmp_path / "masks").glob("*_all.png"):
        path.unlink()
    classes = exports.CLASSES.replace("name: cap", "name: cap, mask_name: _red")
    write_own(
        tmp_path,
        "LABELED: {IMAGES: photos, MASKS: masks}",
        classes.replace("name: stem", "name: stem, mask_name: _blue"),
    )
    assert np.array_equal(labels(open_own(tmp_path)), exports.label_map(0))


def test_masks_of_a_class_that_are_set_where_it_is_not(tmp_path):
    layout = open_export(tmp_path, "per_class_suffix")
    for path in (tmp_path / "masks").iterdir():
        exports.Image.fromarray(255 - np.array(exports.Image.open(path))).save(path)
    (error,) = [sentence for sentence in sentences(layout) if sentence.startswith("error")]
    assert "of the pixels belong to several classes: the masks look inverted" in error


def test_a_lost_mask_of_a_class_is_named(tmp_path):
    layout = open_export(tmp_path, "per_class_suffix")
    assert not any("missing" in sentence for sentence in sentences(layout))
    (tmp_path / "masks/shot 0_cap.png").unlink()
    (found,) = [sentence for sentence in sentences(open_own(tmp_path)) if "missing" in sentence]
    assert found.startswith("warning: 1 masks of a class are missing that nearly all images have")
    (tmp_path / "masks/shot 1_cap.png").unlink()  # 4 of 6 images: it may well be absent
    assert not any("missing" in sentence for sentence in sentences(open_own(tmp_path)))


def test_masks_of_a_class_that_overlap_or_are_no_masks(tmp_path):
    layout = open_export(tmp_path, "per_class_suffix")
    cap = tmp_path / "masks/shot 0_cap.png"
    whole = np.array(exports.Image.open(cap))
    whole[0:2] = 255
    whole[10:21, 8:12] = 255
    exports.Image.fromarray(whole).save(cap)
    overlap = 4 * 11  # rows 10 to 20 of the stem
    assert sentences(layout) == [
        f"warning: {overlap} pixels belong to several classes: the last of them in the class file counts."
    ]
    assert labels(layout)[20, 9] == 2 and labels(layout)[1, 0] == 1
    exports.Image.fromarray(np.arange(24 * 32, dtype=np.uint8).reshape(24, 32)).save(cap)
    with pytest.raises(UserError, match="holds 256 values .* a mask of one class holds 0 and one other"):
        labels(open_own(tmp_path), "shot 0")


def test_two_masks_of_a_class_with_one_number_are_refused(tmp_path):
    layout = open_export(tmp_path, "per_class_prefix")
    path = tmp_path / "masks/cap_shot 1.png"
    (tmp_path / "masks/cap_shot 001.png").write_bytes(path.read_bytes())
    with pytest.raises(UserError, match="both show 'cap' and have the number of the image shot 1"):
        layout.labeled  # noqa: B018


def test_label_studio_pngs_need_the_export(tmp_path):
    layout = open_export(tmp_path, "label_studio_png")
    (tmp_path / "project-1.json").unlink()
    with pytest.raises(UserError, match="whose names have the task's number, .*: export the project as JSON"):
        layout.labeled  # noqa: B018


def test_label_studio_pngs_beside_the_export(tmp_path):
    layout = open_export(tmp_path, "label_studio_png")
    expected = {stem: labels(layout, stem) for stem in layout.labeled.samples}
    (tmp_path / "project-1.json").rename(tmp_path / "masks/project-1.json")
    layout = open_own(tmp_path)
    assert set(layout.labeled.samples) == set(expected)
    assert all(np.array_equal(labels(layout, stem), expected[stem]) for stem in expected)


def test_ordinary_masks_are_not_taken_for_masks_of_a_class(tmp_path):
    """Images whose names begin with another's, and masks in folders of their own."""
    exports.write_images(tmp_path / "photos", ".jpg", ["a", "a_1", "a_1_cap"])
    for stem in ("city/a", "city/a_1", "town/a_1_cap"):
        path = tmp_path / f"masks/{stem}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        exports.Image.fromarray(exports.label_map(0)).save(path)
    write_own(tmp_path, "LABELED: {IMAGES: photos, MASKS: masks}", exports.CLASSES)
    layout = open_own(tmp_path)
    assert sorted(layout.labeled.samples) == ["a", "a_1", "a_1_cap"]
    assert np.array_equal(labels(layout, "a_1"), exports.label_map(0))


@pytest.mark.parametrize("place", [".", "labels"])
def test_two_orders_of_yolo_s_classes_are_refused(tmp_path, place):
    layout = open_export(tmp_path, "yolo")
    assert check(layout).is_sound
    names = list(read_names(tmp_path / "data.yaml").values())
    (tmp_path / place / "classes.txt").write_text("\n".join(names))
    assert check(open_own(tmp_path)).is_sound
    (tmp_path / place / "classes.txt").write_text("\n".join(names[::-1]))
    with pytest.raises(UserError) as error:
        check(open_own(tmp_path))
    text = str(error.value)
    for order in (names, names[::-1]):
        assert ", ".join(f"{number} {name}" for number, name in enumerate(order)) in text
    assert "data.yaml" in text and "classes.txt" in text


def test_a_list_of_another_dataset_above_yolo_s_labels_is_none_of_theirs(tmp_path):
    (tmp_path / "export").mkdir()
    open_export(tmp_path / "export", "yolo")
    (tmp_path / "classes.txt").write_text("car\nbus")
    assert check(open_own(tmp_path / "export")).is_sound


@pytest.mark.parametrize("label, sentence", [("7", "line 2 has the class 7, but"), ("0.5", "line 2 has the class 0.5")])
def test_yolo_s_class_out_of_range_is_named_with_file_and_line(tmp_path, label, sentence):
    layout = open_export(tmp_path, "yolo")
    path = next(path for path in sorted((tmp_path / "labels").rglob("*.txt")) if "shot 0" in path.name)
    lines = path.read_text().splitlines()
    path.write_text(lines[0] + f"\n{label} 0.1 0.1 0.5 0.1 0.5 0.5\n")
    (found,) = [text for text in sentences(layout) if text.startswith("error")]
    assert str(path) in found and sentence in found
    assert label != "7" or "names only 0 cap, 1 stem: correct the line" in found
