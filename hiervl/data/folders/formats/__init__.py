"""Readers of annotation formats, one file each, with one common contract (``source.py``)."""
