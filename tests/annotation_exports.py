"""One small dataset, written as the tools export it: scenes of boxes, whose label maps are known.

``EXPORTS`` has a function per format. It writes images and annotations below a folder and returns the lines of the
section DATASET that name them.
"""

import base64
import csv
import io
import json
import zlib

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 24, 32
NAMES = ("background", "cap", "stem")
COLORS = {0: (0, 0, 0), 1: (200, 0, 0), 2: (0, 0, 200)}
STEMS = tuple(f"shot {number}" for number in range(6))
CLASSES = (
    "classes:\n  - {name: background, background: true, color: [0, 0, 0]}\n  - {name: cap, color: [200, 0, 0]}\n"
    "  - {name: stem, color: [0, 0, 200]}\n"
)


def write_own(root, lines, classes=CLASSES):
    """The class file and the YAML of a dataset, whose section DATASET has these lines."""
    (root / "classes.yaml").write_text(classes)
    (root / "own.yaml").write_text(
        f"DATASET:\n  NAME: own\n  {lines}\n  CLASSES: classes.yaml\n  CACHE: {root / 'cache'}\n"
    )


def open_own(root):
    """→ the layout of the dataset below ``root``."""
    from hiervl.engine.run_config import load_config, require_own_dataset

    return require_own_dataset(load_config(str(root / "own.yaml")))


def open_export(root, name, classes=CLASSES):
    """→ the layout of an export, written below ``root``."""
    write_own(root, EXPORTS[name](root), classes)
    return open_own(root)


def boxes(number):
    """Left, top, right, bottom of a scene's cap and of the stem that lies on it."""
    return (2 + number, 3, 15 + number, 12), (8 + number, 7, 12 + number, 21)


def label_map(number):
    labels = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    for label, (left, top, right, bottom) in enumerate(boxes(number), start=1):
        labels[top:bottom, left:right] = label
    return labels


def corners(box):
    left, top, right, bottom = box
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def write_images(folder, suffix=".png", stems=STEMS):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for stem in stems:
        blocks = rng.integers(0, 256, (3, 4, 3)).astype(np.uint8)
        Image.fromarray(blocks).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(folder / f"{stem}{suffix}")


def scenes():
    return [(number, stem, list(zip(NAMES[1:], boxes(number)))) for number, stem in enumerate(STEMS)]


def save_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


# ---------------------------------------------------------------------------- labelme


def labelme_shapes(objects, number):
    """A polygon, and the stem in turn as rectangle, polygon and mask."""
    shapes = [
        {"label": name, "points": corners(box), "group_id": None, "shape_type": "polygon"} for name, box in objects
    ]
    left, top, right, bottom = objects[1][1]
    if number % 3 == 1:
        shapes[1].update(points=[[right, bottom], [left, top]], shape_type="rectangle")
    if number % 3 == 2:
        mask = png(np.full((bottom - top, right - left), True))
        shapes[1].update(
            points=[[left, top], [right - 1, bottom - 1]], shape_type="mask", mask=base64.b64encode(mask).decode()
        )
    return shapes


def png(mask):
    file = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(file, format="PNG")
    return file.getvalue()


def labelme(root, folder, image_path):
    write_images(root / "photos", ".jpg")
    for number, stem, objects in scenes():
        save_json(root / folder / f"{stem}.json", {
            "version": "5.4.1", "flags": {}, "shapes": labelme_shapes(objects, number), "imageData": "aaaa",
            "imagePath": image_path.format(stem), "imageHeight": HEIGHT, "imageWidth": WIDTH,
        })  # fmt: skip
    return f"LABELED: {{IMAGES: photos, MASKS: {folder}}}"


def labelme_beside(root):
    return labelme(root, "photos", "{}.jpg")


def labelme_apart(root):
    return labelme(root, "labels", "..\\photos\\{}.jpg")


# ---------------------------------------------------------------------------- one mask per class


def per_class(root, path):
    write_images(root / "photos", ".jpg")
    for number, stem, _ in scenes():
        for label, name in enumerate(NAMES):
            if label:
                file = root / path.format(stem=stem, name=name)
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray((label_map(number) == label).astype(np.uint8) * 255).save(file)


def per_class_suffix(root):
    per_class(root, "masks/{stem}_{name}.png")
    return "LABELED: {IMAGES: photos, MASKS: masks}"


def per_class_prefix(root):
    per_class(root, "masks/{name}_{stem}.png")
    return "LABELED: {IMAGES: photos, MASKS: masks}"


def per_class_folder(root):
    per_class(root, "masks/{name}/{stem}.png")
    return "LABELED: {IMAGES: photos, MASKS: masks}"


def per_class_image_folder(root):
    per_class(root, "masks/{stem}/{name}.png")
    return "LABELED: {IMAGES: photos, MASKS: masks}"


def per_class_beside(root):
    per_class(root, "photos/{stem}-{name}.png")
    return "LABELED: {IMAGES: photos, MASKS: photos}"


def label_studio_png(root):
    write_images(root / "photos", ".jpg")
    for number, _, _ in scenes():
        for label in (1, 2):
            file = root / "masks" / f"task-{number + 7}-annotation-{40 + number}-by-1-tag-{NAMES[label]}-0.png"
            file.parent.mkdir(exist_ok=True)
            Image.fromarray((label_map(number) == label).astype(np.uint8) * 255).save(file)
    save_json(root / "project-1.json", label_studio_tasks())
    return "LABELED: {IMAGES: photos, MASKS: masks}"


# ---------------------------------------------------------------------------- CVAT


def cvat_element(kind, name, box):
    left, top, right, bottom = box
    if kind == 0:
        points = ";".join(f"{x:.2f},{y:.2f}" for x, y in corners(box))
        return f'<polygon label="{name}" source="manual" occluded="0" points="{points}" z_order="0"></polygon>'
    if kind == 1:
        return f'<box label="{name}" occluded="0" xtl="{left}" ytl="{top}" xbr="{right}" ybr="{bottom}" z_order="1"/>'
    width, height = right - left + 2, bottom - top  # a pixel more on either side, which is outside
    rle = ", ".join(["1"] + [str(width - 2), "2"] * (height - 1) + [str(width - 2), "1"])
    return (
        f'<mask label="{name}" source="manual" occluded="0" rle="{rle}" left="{left - 1}" top="{top}" '
        f'width="{width}" height="{height}" z_order="1"></mask>'
    )


def cvat(root):
    write_images(root / "images", ".jpg")
    images = []
    for number, stem, objects in scenes():
        (cap, cap_box), (stem_name, stem_box) = objects
        elements = [cvat_element(0, cap, cap_box), cvat_element(1 + number % 2, stem_name, stem_box)][
            :: 1 - number % 2 * 2
        ]
        images.append(
            f'<image id="{number}" name="mushrooms/{stem}.jpg" width="{WIDTH}" height="{HEIGHT}">'
            f"{''.join(elements)}</image>"
        )
    labels = "".join(f"<label><name>{name}</name><color>#c80000</color><attributes/></label>" for name in NAMES[1:])
    (root / "annotations.xml").write_text(
        '<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version><meta><task><labels>'
        f"{labels}</labels></task></meta>{''.join(images)}</annotations>"
    )
    return "LABELED: {IMAGES: images, MASKS: annotations.xml}"


def voc_colors(root):
    """CVAT's "Segmentation mask 1.1": VOC's folders with RGB masks and a labelmap."""
    write_images(root / "JPEGImages", ".jpg")
    (root / "SegmentationClass").mkdir()
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    palette = np.array([COLORS[label] for label in range(3)], dtype=np.uint8)
    for number, stem, _ in scenes():
        Image.fromarray(palette[label_map(number)]).save(root / f"SegmentationClass/{stem}.png")
    write_object_masks(root)
    (root / "ImageSets/Segmentation/default.txt").write_text("\n".join(STEMS))
    lines = ["# label:color_rgb:parts:actions", *(f"{NAMES[i]}:{','.join(map(str, COLORS[i]))}::" for i in range(3))]
    (root / "labelmap.txt").write_text("\n".join(lines) + "\n")
    return "LABELED: {IMAGES: JPEGImages, MASKS: SegmentationClass}"


def write_object_masks(root):
    """Beside the masks of classes, as in every export: the objects' numbers by the same names."""
    (root / "SegmentationObject").mkdir()
    for number, stem, _ in scenes():
        image = Image.fromarray((label_map(number) > 0).astype(np.uint8), mode="P")
        image.putpalette([0, 0, 0, 128, 0, 0])
        image.save(root / f"SegmentationObject/{stem}.png")


def voc_palette(root):
    """As VOC itself: palette masks of some images, lists of training and validation images, no list of classes."""
    write_images(root / "JPEGImages", ".jpg", (*STEMS, "not labelled"))
    (root / "SegmentationClass").mkdir()
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    for number, stem, _ in scenes():
        image = Image.fromarray(label_map(number), mode="P")
        image.putpalette([channel for label in range(3) for channel in COLORS[label]])
        image.save(root / f"SegmentationClass/{stem}.png")
    write_object_masks(root)
    (root / "ImageSets/Segmentation/train.txt").write_text("\n".join(STEMS[:4]))
    (root / "ImageSets/Segmentation/val.txt").write_text("\n".join(STEMS[4:]))
    return "LABELED: {IMAGES: JPEGImages, MASKS: SegmentationClass, LIST: ImageSets/Segmentation/train.txt}\n  " + (
        "VAL: ImageSets/Segmentation/val.txt\n  UNLABELED: JPEGImages"
    )


# ---------------------------------------------------------------------------- Label Studio


def pack_runs(values):
    """What ``@thi.ng/rle-pack`` makes of bytes: runs of up to 4, 16, 256 or 65536, single ones as runs of one."""
    bits = f"{len(values):032b}" + f"{7:05b}" + "".join(f"{size - 1:04b}" for size in (2, 4, 8, 16))
    borders = np.flatnonzero(np.diff(values)) + 1
    starts, ends = [0, *borders], [*borders, len(values)]
    place = 0
    while place < len(starts):
        start, end = starts[place], ends[place]
        if end - start == 1 and place + 1 < len(starts) and ends[place + 1] - starts[place + 1] == 1:
            bits += "0" + "00" + f"{1:02b}" + f"{values[start]:08b}" + f"{values[start + 1]:08b}"  # two single ones
            place += 2
            continue
        for first in range(start, end, 65536):
            length = min(65536, end - first) - 1
            choice = next(i for i, size in enumerate((2, 4, 8, 16)) if length < 2**size)
            bits += "1" + f"{choice:02b}" + f"{length:0{(2, 4, 8, 16)[choice]}b}" + f"{values[start]:08b}"
        place += 1
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def label_studio_region(kind, name, box, number):
    left, top, right, bottom = box
    common = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0, "from_name": "label"}
    if kind == "polygon":
        points = [[100 * x / WIDTH, 100 * y / HEIGHT] for x, y in corners(box)]
        value = {"points": points, "closed": True, "polygonlabels": [name]}
    elif kind == "rectangle":
        value = {"x": 100 * left / WIDTH, "y": 100 * top / HEIGHT, "width": 100 * (right - left) / WIDTH,
                 "height": 100 * (bottom - top) / HEIGHT, "rotation": 0, "rectanglelabels": [name]}  # fmt: skip
    else:
        rgba = np.zeros((HEIGHT, WIDTH, 4), dtype=np.uint8)
        rgba[top:bottom, left:right] = (7, 80, 80, 255)
        value = {"format": "rle", "rle": pack_runs(rgba.ravel()), "brushlabels": [name]}
    return {**common, "id": f"{name}{number}", "to_name": "image", "type": f"{kind}labels", "value": value}


def label_studio_tasks():
    tasks = []
    for number, stem, objects in scenes():
        kinds = ("polygon", ("rectangle", "brush")[number % 2])
        result = [label_studio_region(kind, *item, number) for kind, item in zip(kinds, objects)]
        if number == 3:  # geometry and label as results of their own
            bare = {**result[0], "type": "polygon", "value": {"points": result[0]["value"]["points"]}}
            result[0] = {**result[0], "type": "labels", "value": {"labels": ["cap"]}}
            result.insert(0, bare)
        tasks.append({
            "id": number + 7,
            "data": {"image": f"/data/upload/1/0a1b2c{number:02d}-{stem.replace(' ', '%20')}.jpg"},
            "annotations": [
                {"id": 40 + number, "result": result, "was_cancelled": False},
                {"id": 90 + number, "result": [], "was_cancelled": True},
            ],
            "predictions": [{"result": [label_studio_region("polygon", "cap", (0, 0, 30, 20), number)]}],
        })  # fmt: skip
    return tasks


def label_studio(root):
    write_images(root / "photos", ".jpg")
    save_json(root / "project-1-at-2024-05-02.json", label_studio_tasks())
    return "LABELED: {IMAGES: photos, MASKS: project-1-at-2024-05-02.json}"


def label_studio_min(root):
    write_images(root / "photos", ".jpg")
    tasks = []
    for number, stem, objects in scenes():
        regions = [label_studio_region("polygon", *item, number) for item in objects]
        regions = [{**region["value"], "original_width": WIDTH, "original_height": HEIGHT} for region in regions]
        tasks.append({"image": f"/data/local-files/?d=photos/{stem}.jpg", "id": number, "label": regions,
                      "annotator": 1, "annotation_id": 40 + number, "created_at": "2024-05-02"})  # fmt: skip
    save_json(root / "project-1-min.json", tasks)
    return "LABELED: {IMAGES: photos, MASKS: project-1-min.json}"


def label_studio_csv(root):
    """A row for each annotation; texts are quoted, and regions are JSON."""
    label_studio_min(root)
    path = root / "project-1-min.json"
    tasks = json.loads(path.read_text())
    tasks = [{**task, "annotator": "a@b.c", "updated_at": "2024-05-02", "lead_time": 3.5} for task in tasks]
    with open(path.with_suffix(".csv"), "w", newline="") as file:
        writer = csv.DictWriter(file, sorted(tasks[0]), quoting=csv.QUOTE_NONNUMERIC)
        writer.writeheader()
        writer.writerows({**task, "label": json.dumps(task["label"])} for task in tasks)
    path.unlink()
    return "LABELED: {IMAGES: photos, MASKS: project-1-min.csv}"


# ---------------------------------------------------------------------------- YOLO, Roboflow


def yolo(root):
    write_images(root / "images/train", ".jpg")
    (root / "labels/train").mkdir(parents=True)
    for _, stem, objects in scenes():
        lines = [
            f"{NAMES.index(name) - 1} " + " ".join(f"{x / WIDTH} {y / HEIGHT}" for x, y in corners(box))
            for name, box in objects[::-1]
        ]
        (root / f"labels/train/{stem}.txt").write_text("\n".join(lines) + "\n")
    (root / "data.yaml").write_text(
        "path: ../mushrooms\ntrain: images/train\nval: images/val\nnc: 2\nnames: [cap, stem]\n"
    )
    return "LABELED: {IMAGES: images/train, MASKS: labels/train}"


def roboflow_masks(root):
    """png-mask-semantic: photographs, masks and the list of classes in one folder."""
    names = [f"{stem.replace(' ', '-')}_jpg.rf.0123456789abcdef" for stem in STEMS]
    for folder in ("train", "valid"):
        write_images(root / folder, ".jpg", names)
        for number, name in enumerate(names):
            Image.fromarray(label_map(number)).save(root / folder / f"{name}_mask.png")
        lines = ["Pixel Value, Class", *(f"{value}, {name}" for value, name in enumerate(NAMES))]
        (root / folder / "_classes.csv").write_text("\n".join(lines))
    return "LABELED: {IMAGES: train, MASKS: train}\n  MASK_SUFFIX: _mask"


def roboflow_coco(root):
    """COCO with Roboflow's first category, which stands above the others and which no annotation has."""
    write_images(root / "train", ".jpg")
    annotations = []
    for number, _, objects in scenes():
        for name, box in objects:
            left, top, right, bottom = box
            annotations.append({
                "id": len(annotations), "image_id": number, "category_id": NAMES.index(name), "iscrowd": 0,
                "bbox": [left, top, right - left, bottom - top], "area": (right - left) * (bottom - top),
                "segmentation": [[value for point in corners(box) for value in point]],
            })  # fmt: skip
    categories = [{"id": 0, "name": "mushrooms", "supercategory": "none"}]
    categories += [{"id": i, "name": NAMES[i], "supercategory": "mushrooms"} for i in (1, 2)]
    images = [{"id": i, "file_name": f"{stem}.jpg", "height": HEIGHT, "width": WIDTH} for i, stem in enumerate(STEMS)]
    save_json(
        root / "train/_annotations.coco.json", {"images": images, "annotations": annotations, "categories": categories}
    )
    return "LABELED: {IMAGES: train, MASKS: train}"


# ---------------------------------------------------------------------------- Supervisely, VIA


def supervisely(root):
    write_images(root / "ds/img", ".jpg")
    for number, stem, objects in scenes():
        (cap, cap_box), (stem_name, (left, top, right, bottom)) = objects
        exterior = [[x - (x == cap_box[2]), y - (y == cap_box[3])] for x, y in corners(cap_box)]  # pixels, not borders
        bitmap = base64.b64encode(zlib.compress(png(np.full((bottom - top, right - left), True)))).decode()
        figures = [
            {"classTitle": cap, "geometryType": "polygon", "points": {"exterior": exterior, "interior": []}},
            {"classTitle": stem_name, "geometryType": "bitmap", "bitmap": {"data": bitmap, "origin": [left, top]}},
        ]
        if number % 2:
            box = {"exterior": [[left, top], [right - 1, bottom - 1]], "interior": []}
            figures[1] = {"classTitle": stem_name, "geometryType": "rectangle", "points": box}
        content = {"description": "", "tags": [], "size": {"height": HEIGHT, "width": WIDTH}, "objects": figures}
        save_json(root / f"ds/ann/{stem}.jpg.json", content)
    classes = [{"title": NAMES[i], "shape": "any", "color": "#{:02X}{:02X}{:02X}".format(*COLORS[i])} for i in (1, 2)]
    save_json(root / "meta.json", {"classes": classes, "tags": []})
    return "LABELED: {IMAGES: ds/img, MASKS: ds/ann}"


def via_regions(objects, number):
    regions = []
    for name, (left, top, right, bottom) in objects:
        shape = {"name": "rect", "x": left, "y": top, "width": right - left, "height": bottom - top}
        if number % 2:
            points = corners((left, top, right, bottom))
            shape = {"name": "polygon", "all_points_x": [x for x, _ in points], "all_points_y": [y for _, y in points]}
        regions.append({"shape_attributes": shape, "region_attributes": {"part": name, "seen by": "Ada"}})
    return regions


def via1(root):
    write_images(root / "photos", ".jpg")
    content = {}
    for number, stem, objects in scenes():
        regions = {str(place): region for place, region in enumerate(via_regions(objects, number))}
        entry = {"fileref": "", "size": 999, "filename": f"{stem}.jpg", "base64_img_data": "", "file_attributes": {}}
        content[f"{stem}.jpg999"] = {**entry, "regions": regions}
    save_json(root / "via_region_data.json", content)
    return "LABELED: {IMAGES: photos, MASKS: via_region_data.json}"


def via2(root):
    write_images(root / "photos", ".jpg")
    entries = {
        f"{stem}.jpg999": {"filename": f"{stem}.jpg", "size": 999, "regions": via_regions(objects, number),
                           "file_attributes": {}}
        for number, stem, objects in scenes()
    }  # fmt: skip
    save_json(root / "via_project.json", {"_via_settings": {}, "_via_img_metadata": entries, "_via_attributes": {}})
    return "LABELED: {IMAGES: photos, MASKS: via_project.json}"


# ---------------------------------------------------------------------------- mask files of rarer kinds


def mask_files(root, save):
    write_images(root / "photos", ".jpg")
    (root / "masks").mkdir()
    for number, stem, _ in scenes():
        save(root / "masks" / stem, label_map(number))
    return "LABELED: {IMAGES: photos, MASKS: masks}"


def png_masks(root):
    return mask_files(root, lambda path, labels: Image.fromarray(labels).save(f"{path}.png"))


def gif_masks(root):
    def save(path, labels):
        image = Image.fromarray(labels, mode="P")
        image.putpalette([channel for label in range(3) for channel in COLORS[label]])
        image.save(f"{path}.gif")

    return mask_files(root, save)


def npy_masks(root):
    return mask_files(root, lambda path, labels: np.save(f"{path}.npy", labels.astype(np.int64)))


def npy_per_class(root):
    per_class(root, "masks/{stem}_{name}.png")
    for path in (root / "masks").iterdir():
        np.save(path.with_suffix(".npy"), np.array(Image.open(path)) > 0)
        path.unlink()
    return "LABELED: {IMAGES: photos, MASKS: masks}"


def npy_stacks(root):
    def save(path, labels):
        np.save(f"{path}.npy", np.stack([labels == label for label in range(3)]))

    return mask_files(root, save)


def npy_stacks_of_objects(root):
    def save(path, labels):
        np.save(f"{path}.npy", np.stack([labels == label for label in (1, 2)], axis=2))

    return mask_files(root, save)


def float_tiff_masks(root):
    return mask_files(root, lambda path, labels: Image.fromarray(labels.astype(np.float32)).save(f"{path}.tif"))


def matlab_masks(root):
    from scipy.io import savemat

    return mask_files(root, lambda path, labels: savemat(f"{path}.mat", {"GTcls": {"Segmentation": labels, "x": 1.0}}))


EXPORTS = {
    function.__name__: function
    for function in (
        labelme_beside, labelme_apart, per_class_suffix, per_class_prefix, per_class_folder, per_class_image_folder,
        per_class_beside, label_studio_png, cvat,
        voc_colors, voc_palette, label_studio, label_studio_min, label_studio_csv,
        yolo, roboflow_masks, roboflow_coco, supervisely,
        via1, via2, png_masks, gif_masks, npy_masks, npy_per_class, npy_stacks, npy_stacks_of_objects,
        float_tiff_masks, matlab_masks,
    )
}  # fmt: skip
