"""Helpers that every other package may use. They import none of the others."""
