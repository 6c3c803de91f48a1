"""``python -m lightning_samseg grid``: many runs from one file. Starts without torch."""

import argparse
import contextlib
import io
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_samseg.errors import UserError
from lightning_samseg.launch.grid import Run, read_grid
from lightning_samseg.reports.paper import Cell, paper_values


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the verbs.

    Args:
        argv: Arguments after ``grid``; those of the process if None.

    Returns:
        Exit status 0.

    Raises:
        UserError: For mistakes in the grid file, a cell that the papers do not have, or, with ``--check``, options
            that the runs would refuse.
    """
    parser = argparse.ArgumentParser(
        prog="python -m lightning_samseg grid", description="Many runs from one file; see experiments/README.md."
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    listing = verbs.add_parser("list", help="show the runs of a grid and the table cells they fill")
    listing.add_argument("file", type=Path, metavar="FILE", help="grid file, for example of experiments/grids")
    listing.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="an option for every run")
    listing.add_argument("--check", action="store_true", help="also parse every run as it would be started (slower)")
    form = listing.add_mutually_exclusive_group()
    form.add_argument("--commands", action="store_true", help="print the commands alone, one a line")
    form.add_argument("--json", action="store_true", help="print everything as JSON")
    arguments = parser.parse_args(argv)
    runs = read_grid(arguments.file, _assignments(arguments.set))
    values = [paper_values(Cell(**run.cell)) if run.cell else {} for run in runs]
    if arguments.check:
        check_runs(runs)
    if arguments.json:
        print(json.dumps([_as_json(run, value) for run, value in zip(runs, values, strict=True)], indent=2))
    elif arguments.commands:
        print("\n".join(_command(run) for run in runs))
    else:
        print(_table(runs, values))
    return 0


def check_runs(runs: Sequence[Run]) -> None:
    """Parse every run with the parser that would start it; nothing is built, no folder is touched. Imports torch.

    Raises:
        UserError: At the first run whose configs or options do not parse.
    """
    from lightning_samseg.cli import parse

    for run in runs:
        complaint = io.StringIO()
        try:
            with contextlib.redirect_stderr(complaint):
                parse(run.argv)
        except SystemExit as error:
            raise UserError(
                f"Run {run.name} would not start.",
                expected="options of its method, data module and trainer, with values of their types",
                found=complaint.getvalue().rpartition("error: ")[2].strip(),
                fix=f"correct the grid file or its configs; options: python -m lightning_samseg {run.verb} --help",
            ) from error


def _assignments(texts: Sequence[str]) -> dict[str, str]:
    for text in texts:
        if "=" not in text:
            raise UserError("--set takes a name and a value.", expected="--set data.root=DIR", found=text, fix="add =")
    return {name: value for name, _, value in (text.partition("=") for text in texts)}


def _command(run: Run) -> str:
    return shlex.join(["python", "-m", "lightning_samseg", *run.argv])


def _as_json(run: Run, paper: dict[str, float]) -> dict[str, Any]:
    keys = ("name", "folder", "verb", "argv", "configs", "overrides", "choices", "seed", "cell")
    return {**{key: getattr(run, key) for key in keys}, "paper": paper or None}


def _table(runs: Sequence[Run], values: Sequence[dict[str, float]]) -> str:
    """One line a run; the papers' values under their metrics."""
    metrics = list(dict.fromkeys(metric for value in values for metric in value))
    rows = [["run folder", "fills", *(metric.upper() for metric in metrics)]]
    for run, value in zip(runs, values, strict=True):
        cell = "{table}, {column}, {row}".format(**run.cell) if run.cell else "- (not in the paper)"
        rows.append([run.folder, cell, *(f"{value[metric]:.2f}" if metric in value else "" for metric in metrics)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        texts = [
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(texts).rstrip())
    note = "The numbers are the paper's." if metrics else "The runs are in no paper."
    return "\n".join([*lines, f"{len(runs)} runs. {note} --commands shows how to start them."])
