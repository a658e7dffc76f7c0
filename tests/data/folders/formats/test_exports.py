"""Every format as its tool exports it: read without conversion, and with the labels that were drawn."""

import annotation_exports as exports
import numpy as np
import pytest

from hiervl.data.checking.check import check


@pytest.mark.parametrize("name", exports.EXPORTS)
def test_export_is_read_as_it_is(tmp_path, name):
    layout = exports.open_export(tmp_path, name)
    samples = layout.labeled.samples
    assert len(samples) == len(exports.STEMS)
    for number, stem in enumerate(sorted(samples)):
        assert np.array_equal(layout.label(samples[stem]), exports.label_map(number)), stem
    report = check(layout)
    assert [finding.sentence for finding in report.findings] == []
    instances = layout.label_files(samples[sorted(samples)[0]])[1]
    assert (instances is not None) == samples[sorted(samples)[0]].masks.has_instances
