#!/usr/bin/env python3
"""The same as ``hiervl install-detectron2``, for a checkout in which HierVL is not installed yet."""

import runpy
from pathlib import Path

COMMAND = Path(__file__).resolve().parent.parent / "hiervl" / "commands" / "install_detectron2.py"

if __name__ == "__main__":
    runpy.run_path(str(COMMAND), run_name="__main__")
