"""Predictors of the small network."""

import pytest


@pytest.fixture
def predictor(save_run):
    """→ function from options to a predictor of such a checkpoint."""
    from hiervl.inference.predictor import HierVLPredictor

    def make(*overrides, **options):
        _, folder = save_run(*overrides)
        return HierVLPredictor.from_checkpoint(folder, device="cpu", **options)

    return make
