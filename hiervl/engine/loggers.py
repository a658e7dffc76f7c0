"""The writers of ``LOGGERS`` (beside TensorBoard and metrics.json), and logs without repetitions after a resume."""

import abc
import csv
import io
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from detectron2.utils.events import EventWriter, get_event_storage

from hiervl.engine.run_record import read_record
from hiervl.utils.errors import UserError
from hiervl.utils.files import write_text

JSON_LOG, CSV_LOG = "metrics.json", "metrics.csv"
ITERATION = "iteration"
SMOOTHING_WINDOW = 20  # iterations, as Detectron2's own writers
WANDB_PROJECT = "hiervl"  # unless the environment variable WANDB_PROJECT names another


def build_loggers(cfg) -> list[EventWriter]:
    """The writers that ``LOGGERS`` names."""
    builders: dict[str, Callable[[], EventWriter]] = {
        "csv": lambda: CsvWriter(Path(cfg.OUTPUT_DIR) / CSV_LOG),
        "wandb": lambda: WandbWriter(cfg.OUTPUT_DIR, yaml.safe_load(cfg.dump())),
    }
    return [builders[name]() for name in cfg.LOGGERS]


def drop_logged(folder: str, first_iteration: int) -> None:
    """Drop the lines of ``first_iteration`` and later from the logs in ``folder``, because these iterations will run
    again; also drop a cut-off last line. The files are changed in place, because a writer may have them open.
    """
    iteration_of = {JSON_LOG: _iteration_of_json, CSV_LOG: _iteration_of_csv}
    for name, read in iteration_of.items():
        path = Path(folder) / name
        if path.is_file():
            _keep_lines(path, read, first_iteration)


def _keep_lines(path: Path, iteration_of: Callable[[str], float], first_dropped: int) -> None:
    content = path.read_text(encoding="utf-8", errors="replace")  # a power failure may leave any content
    lines = (line for line in content.splitlines(keepends=True) if line.endswith("\n"))
    kept = "".join(line for line in lines if iteration_of(line) < first_dropped)
    if kept == content:
        return
    with open(path, "r+", encoding="utf-8", newline="") as file:
        if not content.startswith(kept):
            file.write(kept)
        file.truncate(len(kept.encode("utf-8")))


def _iteration_of_json(line: str) -> float:
    try:
        return json.loads(line).get(ITERATION, -1)
    except (ValueError, AttributeError):
        return float("inf")  # not a row: drop it


def _iteration_of_csv(line: str) -> float:
    first = line.partition(",")[0].strip()
    if first == ITERATION:
        return -1  # the head
    return int(first) if first.isdigit() else float("inf")


class ScalarWriter(EventWriter, abc.ABC):
    """Passes the scalars of every iteration, smoothed as in Detectron2, to :meth:`write_row` once."""

    def __init__(self):
        self._last_written = -1

    def write(self) -> None:
        rows: dict[int, dict[str, float]] = {}
        latest = get_event_storage().latest_with_smoothing_hint(SMOOTHING_WINDOW)
        for name, (value, iteration) in latest.items():
            if iteration > self._last_written:
                rows.setdefault(iteration, {})[name] = float(value)
        for iteration in sorted(rows):
            self.write_row(iteration, rows[iteration])
            self._last_written = iteration

    @abc.abstractmethod
    def write_row(self, iteration: int, values: dict[str, float]) -> None:
        """Log the scalars of one iteration."""


class CsvWriter(ScalarWriter):
    """metrics.csv: a line per logged iteration, a column per scalar, empty where an iteration has none.

    Some scalars come later, for example those of evaluations. Then the file is written again with more columns, under
    another name first, so that it is complete at any moment.
    """

    def __init__(self, path: Path):
        super().__init__()
        self._path = path
        self._columns: list[str] | None = None  # of the file; read at the first row, because a resume may cut it

    def write_row(self, iteration: int, values: dict[str, float]) -> None:
        row = {ITERATION: iteration, **values}
        if self._columns is None:
            self._columns = self._file_columns()
        missing = [ITERATION, *sorted(values)] if not self._columns else sorted(row.keys() - set(self._columns))
        if missing:
            self._widen([*self._columns, *missing])
        with open(self._path, "a", encoding="utf-8", newline="") as file:
            file.write(self._line(row))

    def _file_columns(self) -> list[str]:
        if not self._path.is_file():
            return []
        with open(self._path, encoding="utf-8", newline="") as file:
            return next(csv.reader(file), [])

    def _widen(self, columns: list[str]) -> None:
        rows = []
        if self._path.is_file():
            with open(self._path, encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
        self._columns = columns
        lines = [self._line(dict(zip(columns, columns))), *map(self._line, rows)]
        write_text(self._path, "".join(lines))

    def _line(self, row: Mapping[str, object]) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow([row.get(name, "") for name in self._columns or []])
        return text.getvalue()


class WandbWriter(ScalarWriter):
    """Weights & Biases: one run per training; a resumed training continues its run. Login and network are set by
    wandb's environment variables (``WANDB_MODE=offline``).
    """

    def __init__(self, folder: str, config: dict):
        """folder: OUTPUT_DIR, where run.json has the run's identity; config: shown with the run."""
        super().__init__()
        self._folder = folder
        self._config = config
        self._run: Any = None  # of wandb

    def write_row(self, iteration: int, values: dict[str, float]) -> None:
        if self._run is None:
            self._run = self._start()
        self._run.log(values, step=iteration)

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()
            self._run = None

    def _start(self):
        import wandb

        record = read_record(self._folder)
        try:
            return wandb.init(
                project=os.environ.get("WANDB_PROJECT", WANDB_PROJECT),
                name=Path(self._folder).absolute().name,
                id=record and record["run"],
                resume="allow",
                dir=self._folder,
                config=self._config,
            )
        except wandb.Error as error:
            raise UserError(
                f"LOGGERS: Weights & Biases could not start ({' '.join(str(error).split())[:200]}); run `wandb login`, "
                "set WANDB_MODE=offline, or take 'wandb' out of LOGGERS."
            ) from error
