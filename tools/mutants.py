"""Mutation tests of one room of hiervl/: which small faults would no test notice? (``make mutants ROOM=losses``)

mutmut changes one operator, number, name or argument at a time, and runs the tests that reach the function. A change
that no test notices survives: either a test is missing, or the change means nothing. The latter are in
tests/mutants.md with the reason, and are left out of the share that is reported.

The work is done on a copy of the checkout below mutants/, so that nobody meets a changed file. A second run goes on
where the first one was interrupted, and forgets what it knew of functions that have changed since. Functions or mutants
that are named are tried again, with the tests as they are now; --again starts anew.

A room of thousands of mutants takes hours. --sample 100 draws so many at random; the same --seed draws the same ones.
"""

import argparse
import filecmp
import fnmatch
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EQUIVALENT = ROOT / "tests" / "mutants.md"
# Room: the files that are changed, and the tests that may notice it.
ROOMS = {
    "losses": ("hiervl/losses/*", ["tests/losses"]),
    "modeling": ("hiervl/modeling/*", ["tests/modeling"]),
    "semi_supervised": ("hiervl/semi_supervised/*", ["tests/semi_supervised"]),
    "evaluation": ("hiervl/evaluation/*", ["tests/evaluation"]),
    "augmentation": ("hiervl/data/loading/augmentation.py", ["tests/data/loading"]),
}
KILLED = (1, 3)  # exit statuses of pytest: a test failed, or could not even begin
SURVIVED = (0, 33)  # all tests passed, or none reaches the function
NOT_RUN = None
# What mutmut does before it asks which mutants to run. Their names are known afterwards, and not before.
GENERATE = """
import pathlib
from mutmut import __main__ as mutmut
pathlib.Path("mutants").mkdir(exist_ok=True)
mutmut.set_mutant_under_test("mutant_generation")
mutmut.copy_src_dir()
mutmut.copy_also_copy_files()
mutmut.setup_source_paths()
mutmut.create_mutants(1)
"""
# Messages to people are not held word by word, and what is logged least of all.
IGNORED_LINES = (r"raise \w+", r"logger\.")


def main() -> int:
    arguments = parse()
    folder = ROOT / "mutants" / arguments.room
    if arguments.again:
        shutil.rmtree(folder, ignore_errors=True)
    copy_checkout(folder)
    write_settings(folder, arguments.room, arguments.patience)
    names, to_run = arguments.names, arguments.names
    if arguments.sample:
        names = sample(folder, arguments.names, arguments.sample, arguments.seed)
        to_run = [name for name, status in read_results(folder, names).items() if status == NOT_RUN]
    status = 0
    if to_run or not arguments.sample:
        command = [sys.executable, "-m", "mutmut", "run", "--max-children", str(arguments.processes), *to_run]
        status = subprocess.run(command, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode
    results = read_results(folder, names)
    report(results, changes(folder, [name for name, result in results.items() if result in SURVIVED]))
    if status:
        print(f"mutmut ended early, with status {status}: run the same again, without --again, to go on.")
    return status


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("room", choices=ROOMS)
    parser.add_argument("names", nargs="*", help="only these functions, such as 'hiervl.losses.targets*'")
    parser.add_argument("--processes", type=int, default=1, help="so many mutants at a time")
    parser.add_argument(
        "--patience", type=float, default=1, metavar="SECONDS",
        help="a mutant counts as noticed if its tests take 15 times as long as without it and as these seconds; more "
        "than 1 where other programs may slow them down",
    )  # fmt: skip
    parser.add_argument("--again", action="store_true", help="forget earlier results, and copy the checkout anew")
    parser.add_argument("--sample", type=int, default=0, metavar="N", help="so many mutants, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="of --sample")
    return parser.parse_intermixed_args()  # names may stand on both sides of an option


def sample(folder: Path, names: list[str], size: int, seed: int) -> list[str]:
    """Names of ``size`` mutants, of those that match ``names`` if there are any."""
    subprocess.run([sys.executable, "-c", GENERATE], cwd=folder, check=True)
    known = sorted(read_results(folder, names))
    return random.Random(seed).sample(known, min(size, len(known)))


def copy_checkout(folder: Path) -> None:
    """All files that git knows or could be given, if they differ: mutmut goes by their dates."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        source, target = ROOT / name, folder / name
        if source.is_file() and not (target.is_file() and filecmp.cmp(source, target, shallow=False)):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)


def write_settings(folder: Path, room: str, patience: float) -> None:
    """mutmut's own are read from setup.cfg where pyproject.toml has none."""
    changed, tests = ROOMS[room]
    besides = sorted(path.name for path in folder.iterdir() if path.name not in ("hiervl", "tests", "mutants"))
    settings = {
        "source_paths": ["hiervl"],
        "only_mutate": [changed],
        "also_copy": besides,
        "do_not_mutate_patterns": IGNORED_LINES,
        "pytest_add_cli_args": ["-p", "no:cacheprovider", "--timeout=0"],
        "pytest_add_cli_args_test_selection": tests,
    }
    lines = ["[mutmut]", f"timeout_constant = {patience}"]
    for key, values in settings.items():
        lines += [f"{key} =", *(f"    {value}" for value in values)]
    (folder / "setup.cfg").write_text("\n".join(lines) + "\n")


def read_results(folder: Path, names: list[str]) -> dict[str, int | None]:
    """Exit status of every mutant, by its name."""
    found = {}
    for path in sorted((folder / "mutants" / "hiervl").rglob("*.meta")):
        found.update(json.loads(path.read_text())["exit_code_by_key"])
    return {
        name: status
        for name, status in found.items()
        if not names or any(fnmatch.fnmatch(name, pattern) for pattern in names)
    }


def changes(folder: Path, names: list[str]) -> dict[str, tuple[str, str, str]]:
    """Of mutants: the function, and what was there and what came in its place, as one line each."""
    found = {}
    for name in names:
        shown = subprocess.run(
            [sys.executable, "-m", "mutmut", "show", name], cwd=folder, capture_output=True, text=True
        ).stdout.splitlines()
        sides = [
            " ".join(line[1:].strip() for line in shown if line.startswith(sign) and not line.startswith(sign * 3))
            for sign in "-+"
        ]
        found[name] = (function_of(name), *sides)
    return found


def function_of(name: str) -> str:
    """``hiervl.losses.targets.xǁImageTargetsǁto__mutmut_2`` → ``losses.targets.ImageTargets.to``"""
    name = re.sub(r"__mutmut_\d+$", "", name).removeprefix("hiervl.")
    module, _, function = name.rpartition(".")
    return f"{module}.{function.removeprefix('xǁ').removeprefix('x_').replace('ǁ', '.')}"


def read_equivalent() -> set[tuple[str, str, str]]:
    """Function, old and new line of the table in tests/mutants.md."""
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in EQUIVALENT.read_text().splitlines() if line[:3] == "| `"]
    return {tuple(cell.strip().strip("`").replace(r"\|", "|") for cell in row[:3]) for row in cells}


def report(results: dict[str, int | None], survivors: dict[str, tuple[str, str, str]]) -> None:
    """The share of killed mutants, then every survivor that has no excuse."""
    equivalent = read_equivalent()
    left = {name: change for name, change in survivors.items() if change not in equivalent}
    for name, (function, old, new) in left.items():
        print(f"\n{function}{'  (no test reaches it)' if results[name] == 33 else ''}\n  - {old}\n  + {new}")
    statuses = Counter(results.values())
    killed = sum(statuses[status] for status in KILLED)
    not_run = statuses[NOT_RUN]
    slow = len(results) - not_run - killed - len(survivors)
    tested = killed + slow + len(left)
    print(
        f"\n{killed} killed, {slow} by taking too long or crashing, {len(left)} survived, "
        f"{len(survivors) - len(left)} mean nothing (tests/mutants.md), {not_run} not run: "
        f"{100 * (killed + slow) / max(tested, 1):.1f} % of those that mean something are noticed."
    )


if __name__ == "__main__":
    sys.exit(main())
