"""Common code of the scripts in ``datasets/``, and the survey of ``init``."""
