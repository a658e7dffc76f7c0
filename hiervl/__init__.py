"""HierVL: semi-supervised semantic segmentation guided by a vision-language model."""

from hiervl.utils import compat

__version__ = "0.1.0"

compat.apply()  # before anything imports detectron2
