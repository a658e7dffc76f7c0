"""Exports that list images of which only the first ones have an object, a triangle of the class cap.

Every function writes the annotations of ``stems`` below a folder and returns what MASKS has to name; the first ``full``
images have an object.
"""

import json

import numpy as np

POINTS = [[4, 6], [12, 6], [12, 10]]


def coco(root, stems, full):
    images = [{"id": number, "file_name": f"{stem}.jpg"} for number, stem in enumerate(stems)]
    flat = [value for point in POINTS for value in point]
    annotations = [{"id": n, "image_id": n, "category_id": 1, "segmentation": [flat]} for n in range(full)]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cap"}]}
    (root / "labels.json").write_text(json.dumps(content))
    return "labels.json"


def cvat(root, stems, full):
    polygon = '<polygon label="cap" z_order="0" points="' + ";".join(f"{x},{y}" for x, y in POINTS) + '"/>'
    images = [
        f'<image id="{number}" name="{stem}.jpg" width="32" height="24">{polygon * (number < full)}</image>'
        for number, stem in enumerate(stems)
    ]
    (root / "labels.xml").write_text(f"<annotations><version>1.1</version>{''.join(images)}</annotations>")
    return "labels.xml"


def via(root, stems, full):
    xs, ys = map(list, zip(*POINTS))
    outline = {"name": "polygon", "all_points_x": xs, "all_points_y": ys}
    region = {"shape_attributes": outline, "region_attributes": {"kind": "cap"}}
    entries = {
        stem: {"filename": f"{stem}.jpg", "regions": [region] * (number < full)} for number, stem in enumerate(stems)
    }
    (root / "labels.json").write_text(json.dumps(entries))
    return "labels.json"


def label_studio(root, stems, full):
    value = {"points": (np.array(POINTS) * 100 / (32, 24)).tolist(), "polygonlabels": ["cap"]}
    region = {"type": "polygonlabels", "original_width": 32, "original_height": 24, "value": value}
    tasks = [
        {"id": n, "data": {"image": f"{stem}.jpg"}, "annotations": [{"id": n, "result": [region] * (n < full)}]}
        for n, stem in enumerate(stems)
    ]
    (root / "labels.json").write_text(json.dumps(tasks))
    return "labels.json"


def yolo(root, stems, full):
    (root / "labels").mkdir()
    (root / "data.yaml").write_text("names: [cap]\nnc: 1\n")
    line = "0 " + " ".join(f"{x / 32} {y / 24}" for x, y in POINTS)
    for number, stem in enumerate(stems):
        (root / f"labels/{stem}.txt").write_text(line * (number < full))
    return "labels"
