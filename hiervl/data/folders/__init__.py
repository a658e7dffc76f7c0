"""Datasets in the user's own folders."""
