"""Checks of a dataset before training (``check-data``)."""
