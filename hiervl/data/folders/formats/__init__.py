"""Readers of the annotation formats that people have, one file each, behind one contract (``source.py``)."""
