"""Datasets: registration, augmentation and loading. Importing this package registers the names in Detectron2."""

from hiervl.data.registered.benchmarks import register_benchmarks
from hiervl.data.registered.datasets import register_all

register_all()
register_benchmarks()
