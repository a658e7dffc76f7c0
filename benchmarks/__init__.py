"""Measurements, each run from the repository's root as ``python -m benchmarks.NAME``."""

import hiervl  # noqa: F401  prepares Detectron2 0.5 for today's packages, before a benchmark imports it
