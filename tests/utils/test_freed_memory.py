"""Freed memory: whether the process keeps it, told from the page faults of a child that needs it again and again."""

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, torch
from hiervl.utils.freed_memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
for iteration in range(120):
    if iteration == 20:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(8, 2**18)  # 8 MB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(mode: str) -> int:
    # By itself the C library adapts to what was freed so far; these values make it return all that is this large.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
    command = [sys.executable, "-c", PROGRAM, mode]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return int(found.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_tensors_of_the_next_iteration_get_the_same_memory():
    # Which freed blocks fit the next aligned one differs between builds of the C library; without it both are equal.
    assert page_faults("keep") * 2 < page_faults("return")
