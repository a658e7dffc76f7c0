"""Every format as its tool exports it: read without conversion, and with the labels that were drawn."""

import annotation_exports as exports
import numpy as np
import pytest

from hiervl.__main__ import main
from hiervl.data.checking.check import check
from hiervl.engine.run_config import load_config, require_own_dataset


@pytest.mark.parametrize("name", exports.EXPORTS)
def test_export_is_read_as_it_is(tmp_path, name):
    layout = exports.open_export(tmp_path, name)
    samples = layout.labeled.samples
    assert len(samples) == len(exports.STEMS)
    for number, stem in enumerate(sorted(samples)):
        assert np.array_equal(layout.label(samples[stem]), exports.label_map(number)), stem
    report = check(layout)
    remarks = ["6 arrays hold a map per class, which are read in the order of the class file: look at the overlays."]
    assert [finding.sentence for finding in report.findings] == (remarks if name.startswith("npy_stacks") else [])
    instances = layout.label_files(samples[sorted(samples)[0]])[1]
    assert (instances is not None) == samples[sorted(samples)[0]].masks.has_instances


@pytest.mark.parametrize(
    "name", ["png_masks", "per_class_suffix", "per_class_prefix", "per_class_folder", "per_class_image_folder", "yolo"]
)
def test_zeros_in_front_of_numbers_may_differ(tmp_path, name):
    lines = exports.EXPORTS[name](tmp_path)
    files = [path for path in tmp_path.rglob("*shot *") if path.suffix != ".jpg"]
    for path in sorted(files, reverse=True):  # what lies in a folder before the folder
        path.rename(path.with_name(path.name.replace("shot ", "shot 00")))
    exports.write_own(tmp_path, lines)
    layout = exports.open_own(tmp_path)
    assert list(layout.labeled.samples) == list(exports.STEMS)
    for number, sample in enumerate(layout.labeled.samples.values()):
        assert np.array_equal(layout.label(sample), exports.label_map(number))
    (finding,) = check(layout).findings
    assert finding.level == "note" and "6 labelled images are paired" in finding.sentence
    (tmp_path / "classes.yaml").unlink()
    assert main(["init", str(tmp_path)]) == 0
    assert len(require_own_dataset(load_config(str(tmp_path / "my.yaml"))).labeled.samples) == 6
