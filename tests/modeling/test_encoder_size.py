"""The estimate of the memory that encoders keep, compared with the count of ``benchmarks/memory.py``."""

import json

import pytest

from benchmarks.timing import RESULTS
from hiervl.config.files import SHIPPED
from hiervl.engine.run_config import load_config
from hiervl.modeling.encoder_size import VIT_B16, encoder_size

COUNTED = json.loads((RESULTS / "memory_estimate.json").read_text())
DELTAS = [name.partition("+")[2] for name in COUNTED if "+" in name]


def size_with(*deltas):
    return encoder_size(
        load_config("pascal_92.yaml", (), [str(SHIPPED / "encoders" / f"{name}.yaml") for name in deltas])
    )


def counted(name):
    """GiB of the unlabelled images, nothing recomputed, by part, and the crop."""
    row = next(row for row in COUNTED[name]["rows"] if not row["recompute"] and row["crop"] < 600)
    return row["kept_gib"][1], row["crop"], row["fixed_gib"]


def test_what_the_others_are_compared_with():
    size = size_with()
    assert (size.unit, size.positions) == (VIT_B16.unit, VIT_B16.positions)
    assert size.activations == pytest.approx(1, abs=0.01) and size.weight_gib == pytest.approx(
        VIT_B16.weight_gib, abs=0.01
    )


@pytest.mark.parametrize("delta", DELTAS)
def test_scaled_memory_is_what_was_counted(delta):
    base, base_crop, base_fixed = counted("pascal_92")
    kept, crop, fixed = counted(f"pascal_92+{delta}")
    size = size_with(delta)
    area = (-(-crop // size.unit) * size.unit / base_crop) ** 2
    assert size.activations * area == pytest.approx(kept["backbone"] / base["backbone"], rel=0.2)
    assert size.positions * area == pytest.approx(kept["pixel_decoder"] / base["pixel_decoder"], rel=0.05)
    assert size.weight_gib - VIT_B16.weight_gib == pytest.approx(
        fixed - base_fixed, abs=0.4
    )  # text encoders differ, too
