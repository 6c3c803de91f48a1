"""Run folders: what a finished one scored, and why another one cannot be reported. Needs no torch."""

import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import yaml

from lightning_samseg.errors import MissingFileError, UserError
from lightning_samseg.io.tables import read_table
from lightning_samseg.io.text import read_text
from lightning_samseg.online.columns import CLIPPED, SAM, learned_column, scored_columns

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
METRICS = {"cases": ("dsc", "jc", "hd95", "asd"), "stream": ("dsc", "hd")}
"""What is reported of each kind of run."""
FRACTIONS = ("dsc", "jc")
REPORT_MARK = "report.json"
"""Marks a folder that a report may replace, and that is never searched for runs."""
_NOT_SEARCHED = {"checkpoints", "logs", "figures", "overlays", "predictions", "wandb", "__pycache__"}
_NO_TEST = re.compile(r"(validate|predict)-\d+")
"""Folders in a run folder that have a configuration, and never scores of test images."""


@dataclass(frozen=True)
class Scores:
    """What one method scored on the cases of one run."""

    cases: tuple[str, ...]
    """Unit of evaluation: an image, a slice of a stream, or a volume; sorted."""
    sets: tuple[str, ...]
    """Set that each case counts in; empty text where the data has no sets."""
    values: Mapping[str, FloatArray]
    """Metric -> ``(cases, classes)``: ``dsc`` and ``jc`` as fractions, distances in the run's unit, NaN = none."""
    empty_predictions: int | None
    """Pairs of case and class; None where the run did not record it."""
    empty_references: int
    empty: tuple[BoolArray, BoolArray] | None = None
    """Empty predictions and references, each ``(cases, classes)``; None for a stream."""
    diagonals: FloatArray | None = None
    """``(cases, classes)``: of each image or volume in the run's unit; None where the run did not record them."""

    def of_set(self, name: str | None) -> "Scores":
        """The part of one set; everything for None. Empty predictions are then unknown."""
        if name is None:
            return self
        kept = [i for i, known in enumerate(self.sets) if known == name]
        return Scores(
            tuple(self.cases[i] for i in kept),
            tuple(self.sets[i] for i in kept),
            {metric: array[kept] for metric, array in self.values.items()},
            None,
            0,
        )

    def per_case(self, metric: str) -> FloatArray:
        """``(cases,)``: mean over the classes that have a value."""
        return nanmean(self.values[metric], axis=1)

    def per_class(self, metric: str) -> FloatArray:
        """``(classes,)``: mean over the cases that have a value; NaN where a class has none."""
        return nanmean(self.values[metric], axis=0)

    def mean(self, metric: str) -> float:
        """Mean over cases of each class, then over classes, as in ``metrics.json``; NaN as soon as a class has none."""
        return float(np.mean(self.per_class(metric)))

    def dropped(self, metric: str) -> int:
        """Pairs of case and class without a value, which the mean leaves out."""
        return int(np.isnan(self.values[metric]).sum())


@dataclass(frozen=True)
class RunRecord:
    """A finished run."""

    folder: Path
    kind: Literal["cases", "stream"]
    """Scores per case and class, or the three methods of a stream."""
    config: Mapping[str, Any]
    """``config.yaml``."""
    metrics: Mapping[str, Any]
    """``metrics.json``."""
    scores: Mapping[str, Scores]
    """Method -> scores: one entry called ``""``, or those of ``online.columns``."""

    @property
    def seed(self) -> int | None:
        """``seed_everything`` of the run."""
        return self.metrics.get("seed", self.config.get("seed_everything"))

    @property
    def class_names(self) -> list[str]:
        """Of the foreground classes, in the order of the scores; numbered where the run did not record them."""
        count = next(iter(self.scores.values())).values["dsc"].shape[1]
        known = self.metrics.get("class_names") or ()
        return [str(known[i]) if len(known) == count else f"class {i + 1}" for i in range(count)]

    @property
    def method(self) -> str:
        """Name of its class."""
        return str(self.metrics.get("method") or self.config["model"]["class_path"]).rpartition(".")[2]


@dataclass(frozen=True)
class Problem:
    """Why a folder, or a part of it, is not in the tables."""

    kind: Literal["broken", "unfinished", "duplicate", "refused"]
    folder: Path
    reason: str


def find_runs(paths: Sequence[Path]) -> tuple[list[RunRecord], list[Problem]]:
    """Read every run in and below the given folders.

    Args:
        paths: Run folders or folders of them.

    Returns:
        The finished runs in the order of their folders, and the broken and unfinished ones.

    Raises:
        UserError: If a path is no folder.
    """
    runs: list[RunRecord] = []
    problems: list[Problem] = []
    for folder in _run_folders(paths):
        try:
            runs.append(read_run(folder))
        except _UnfinishedError as reason:
            problems.append(Problem("unfinished", folder, str(reason)))
        except _BrokenError as reason:
            problems.append(Problem("broken", folder, str(reason)))
    return runs, problems


def read_run(folder: Path) -> RunRecord:
    """Read one finished run; its two files must agree.

    Args:
        folder: With ``config.yaml``, ``metrics.json`` and ``cases.csv``.

    Returns:
        The run.
    """
    config = _read(folder / "config.yaml", yaml.safe_load)
    parts = [config.get(name) for name in ("model", "data")]
    if not all(isinstance(part, dict) and isinstance(part.get("class_path"), str) for part in parts):
        raise _BrokenError("config.yaml has no model or no data")
    if not (folder / "metrics.json").is_file():
        raise _UnfinishedError(_progress(folder, config))
    metrics = _read(folder / "metrics.json", json.loads)
    summary = metrics.get("summary")
    if not isinstance(summary, dict):
        raise _BrokenError("metrics.json has no summary")
    if not_finite := [
        name for name, value in _leaves(metrics) if isinstance(value, float) and not math.isfinite(value)
    ]:
        raise _BrokenError(f"metrics.json: {not_finite[0]} is not a finite number")
    learned = learned_column(scored_columns(summary))
    kind: Literal["cases", "stream"] = "stream" if learned else "cases"
    try:
        rows = _rows(folder / "cases.csv")
        scores = _stream_scores(rows, (SAM, CLIPPED, learned)) if learned else {"": _case_scores(rows)}
    except UserError as error:
        raise _BrokenError(" ".join(str(error).partition("  what to do")[0].split())) from error
    except (KeyError, ValueError, TypeError, OSError) as error:
        raise _BrokenError(f"cases.csv cannot be read ({type(error).__name__}: {error})") from error
    try:
        _check_agreement(kind, scores, summary)
    except (KeyError, ValueError, TypeError) as error:
        raise _BrokenError(f"metrics.json has no such summary ({type(error).__name__}: {error})") from error
    return RunRecord(folder, kind, config, metrics, scores)


def nanmean(values: FloatArray, axis: int) -> FloatArray:
    """Mean along an axis without the missing values; NaN where all are missing, and no warning."""
    known = ~np.isnan(values)
    count = known.sum(axis=axis)
    mean = np.where(known, values, 0.0).sum(axis=axis) / np.maximum(count, 1)
    return np.where(count > 0, mean, np.nan)


class _BrokenError(Exception):
    """The run's files are missing, unreadable or contradict each other."""


class _UnfinishedError(Exception):
    """The run has no results yet."""


def _run_folders(paths: Sequence[Path]) -> Iterator[Path]:
    seen: set[Path] = set()
    for path in paths:
        if not path.is_dir():
            raise MissingFileError(f"There is no folder {path}.", fix="name run folders, or folders that hold them")
        for place, folders, files in os.walk(path):
            if REPORT_MARK in files:
                folders.clear()
                continue
            folders[:] = sorted(
                name
                for name in folders
                if name not in _NOT_SEARCHED and not name.startswith(".") and not _NO_TEST.fullmatch(name)
            )
            folder = Path(place)
            if ("config.yaml" in files or "metrics.json" in files) and folder.resolve() not in seen:
                seen.add(folder.resolve())
                yield folder


def _read(path: Path, parse: Any) -> dict[str, Any]:
    if not path.is_file():
        raise _BrokenError(f"there is no {path.name}")
    try:
        content = parse(read_text(path))
    except (ValueError, yaml.YAMLError, OSError, UserError, RecursionError) as error:
        raise _BrokenError(f"{path.name} cannot be read ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise _BrokenError(f"{path.name} is not a mapping")
    return content


def _leaves(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        raise _BrokenError("there is no cases.csv")
    rows = [row.cells for row in read_table(path)]
    if not rows:
        raise _BrokenError("cases.csv has no rows")
    return rows


def _case_scores(rows: Sequence[Mapping[str, str]]) -> Scores:
    by_place = {(row["case_id"], int(row["class_id"])): row for row in rows}
    cases = sorted({case for case, _ in by_place})
    classes = sorted({class_id for _, class_id in by_place})
    if not len(rows) == len(by_place) == len(cases) * len(classes):
        raise _BrokenError("cases.csv has not one row per case and class")

    def column(name: str) -> FloatArray:
        return np.array([[_number(by_place[case, class_id][name]) for class_id in classes] for case in cases])

    empty = column("empty_prediction") > 0, column("empty_reference") > 0
    return Scores(
        tuple(cases),
        ("",) * len(cases),
        {metric: column(metric) for metric in METRICS["cases"]},
        int(empty[0].sum()),
        int(empty[1].sum()),
        empty,
        column("diagonal") if all(row.get("diagonal") for row in rows) else None,
    )


def _stream_scores(rows: Sequence[Mapping[str, str]], columns: Sequence[str]) -> dict[str, Scores]:
    # Not the position: the order of a stream may depend on the seed.
    by_case = {f"{row['set_name']}/{row['case_id']}#{int(row['slice_index']):04d}": row for row in rows}
    if len(by_case) < len(rows):
        raise _BrokenError("cases.csv has an image twice")
    cases = tuple(sorted(by_case))
    sets = tuple(by_case[case]["set_name"] for case in cases)
    empty = sum(int(row["empty_reference"]) for row in rows)
    missed = {column: [row.get(f"{column}_empty") for row in rows] for column in columns}
    return {
        column: Scores(
            cases,
            sets,
            {m: np.array([[_number(by_case[case][f"{column}_{m}"])] for case in cases]) for m in METRICS["stream"]},
            None if None in missed[column] else sum(int(cell) for cell in missed[column] if cell is not None),
            empty,
        )
        for column in columns
    }


def _number(text: str) -> float:
    if not text:
        return math.nan
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is not finite")
    return value


def _check_agreement(kind: str, scores: Mapping[str, Scores], summary: Mapping[str, Any]) -> None:
    for column, part in scores.items():
        if np.isnan(part.values["dsc"]).any():
            raise _BrokenError("cases.csv has a case without a DSC")
        written = summary[column] if column else summary
        for metric in METRICS[kind]:
            mean = part.mean(metric)
            stated = math.nan if written[metric] is None else float(written[metric])
            if not math.isclose(mean, stated, rel_tol=1e-6, abs_tol=1e-9) and not (
                math.isnan(mean) and math.isnan(stated)
            ):
                raise _BrokenError(
                    f"metrics.json says {' '.join([column, metric]).strip()} {stated:.6g}, cases.csv {mean:.6g}"
                )


def _progress(folder: Path, config: Mapping[str, Any]) -> str:
    """How far a run without results came, from its status, its logs or the rows of its stream."""
    try:
        status = json.loads((folder / "status.json").read_text(encoding="utf-8"))
        of = f" of {status['steps']}" if status["steps"] else ""
        error = f": {status['error']}" if status.get("error") else ""
        return f"no metrics.json yet; {status['verb']} {status['state']} at step {status['step']}{of}{error}"
    except (OSError, ValueError, KeyError, TypeError):
        pass  # an older run
    steps = []
    for path in [*folder.glob("logs/metrics.csv"), *folder.glob("logs/version_*/metrics.csv")]:
        try:
            steps += [int(step) + 1 for row in read_table(path, skip_broken=True) if (step := row.cells.get("step"))]
        except (OSError, ValueError, UserError):
            continue
    asked = (config.get("trainer") or {}).get("max_steps")
    of = f" of {asked}" if isinstance(asked, int) and asked > 0 else ""
    if (folder / "prompts.csv").is_file() and (folder / "cases.csv").is_file():
        with (folder / "cases.csv").open(encoding="utf-8") as file:
            return f"no metrics.json yet; {max(0, sum(1 for _ in file) - 1)} images of its stream are done"
    if steps:
        return f"no metrics.json yet; its log ends at step {max(steps)}{of}"
    return "no metrics.json yet, and no log says how far it came"
