"""``python -m lightning_samseg grid``: many runs from one file. Starts without torch."""

import argparse
import dataclasses
import json
import math
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from lightning_samseg.cli.arguments import Parser
from lightning_samseg.errors import UserError
from lightning_samseg.grids.grid import Run, read_grid, write_grid_json
from lightning_samseg.grids.local import check_jobs, work_off
from lightning_samseg.grids.profile import Profile, read_profile
from lightning_samseg.grids.progress import TO_DO, standings
from lightning_samseg.grids.submit import manifest_text, next_manifest, script, submit
from lightning_samseg.planning.gpus import read_gpus
from lightning_samseg.reports.paper import Cell, filled_by, paper_values
from lightning_samseg.runs.folder import live_holder, locked
from lightning_samseg.runs.options import WITHOUT_INFLUENCE, changes, is_one_of
from lightning_samseg.runs.slurm import cancel, require_slurm


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the verbs.

    Args:
        argv: Arguments after ``grid``; those of the process if None.

    Returns:
        Exit status: 0, or 1 where runs failed.

    Raises:
        UserError: For mistakes in the grid file or the profile, a cell that the papers do not have, options that the
            runs would refuse, a run folder that is in use, or where Slurm is missing or refuses.
    """
    arguments = _parser().parse_args(argv)
    runs = read_grid(arguments.file, assignments(getattr(arguments, "set", [])), arguments.folder)
    return int(_VERBS[arguments.verb](arguments, runs))


def _parser() -> Parser:
    parser = Parser(
        prog="python -m lightning_samseg grid", description="Many runs from one file; see experiments/README.md."
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    given = Parser(add_help=False)
    given.add_argument("file", type=Path, metavar="FILE", help="grid file, for example of experiments/grids")
    given.add_argument("--folder", metavar="DIR", help="folder of the run folders, in the place of the file's")
    option = Parser(add_help=False, parents=[given])
    option.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="an option for every run")
    listing = verbs.add_parser("list", parents=[option], help="show the runs and the table cells they fill")
    listing.add_argument("--check", action="store_true", help="also parse every run as it would be started (slower)")
    form = listing.add_mutually_exclusive_group()
    form.add_argument("--commands", action="store_true", help="print the commands alone, one a line")
    form.add_argument("--json", action="store_true", help="print everything as JSON")
    running = verbs.add_parser("run", parents=[option], help="work the runs off on this machine")
    running.add_argument("--jobs", type=int, default=1, metavar="N", help="so many at a time, a GPU each")
    submitting = verbs.add_parser("submit", parents=[option], help="hand what is missing or failed to Slurm")
    submitting.add_argument(
        "--profile", type=Path, required=True, metavar="FILE", help="what a run needs; examples: experiments/slurm"
    )
    submitting.add_argument("--dry-run", action="store_true", help="show the job and its manifest, submit nothing")
    verbs.add_parser("status", parents=[given], help="show how far every run has come")
    collecting = verbs.add_parser("collect", parents=[given], help="report the finished runs")
    collecting.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the report")
    collecting.add_argument("--baseline", metavar="RUN", help="run that the others are compared with")
    collecting.add_argument(
        "--group", action="store_true", help="tables of their own for runs that differ in data, weights, …"
    )
    verbs.add_parser("cancel", parents=[given], help="take waiting and running runs out of Slurm")
    return parser


def _list(arguments: argparse.Namespace, runs: Sequence[Run]) -> int:
    values = [{cell: paper_values(cell) for cell in filled_by(run.cell)} if run.cell else {} for run in runs]
    if arguments.check:
        check_runs(runs)
    if arguments.json:
        print(json.dumps([_as_json(run, value) for run, value in zip(runs, values, strict=True)], indent=2))
    elif arguments.commands:
        print("\n".join(_command(run) for run in runs))
    else:
        print(_table(runs, values))
    return 0


def _run(arguments: argparse.Namespace, runs: Sequence[Run]) -> int:
    check_jobs(arguments.jobs)
    todo = _to_do(runs)
    if not todo:
        return 0
    check_runs(todo)
    write_grid_json(arguments.file, runs)
    failed = work_off(todo, arguments.jobs)
    if failed:
        names = ", ".join(run.name for run in failed)
        print(f"{len(failed)} of {len(todo)} runs failed: {names}. Started again, they go on.", file=sys.stderr)
    return 1 if failed else 0


def _submit(arguments: argparse.Namespace, runs: Sequence[Run]) -> int:
    profile = read_profile(arguments.profile)
    if not arguments.dry_run:
        require_slurm()
    todo = _to_do(runs)
    if not todo:
        return 0
    check_runs(todo, profile.trainer_options)
    profile, plan = _planned(todo, profile)
    name = arguments.file.stem
    if arguments.dry_run:
        manifest = next_manifest(Path(runs[0].folder).parent)
        print(script(todo, profile, manifest, name))
        print(f"# {manifest}\n{manifest_text(todo, profile)}", end="")
        print("".join(f"# {line}\n" for line in plan), end="")
        return 0
    print("".join(f"{line}\n" for line in plan), end="")
    write_grid_json(arguments.file, runs)
    done = submit(todo, profile, arguments.profile, name)
    print(f"Submitted {len(todo)} runs as job {done.job}, at most {profile.at_once} at a time.")
    print(f"Follow them with: python -m lightning_samseg grid status {arguments.file}")
    return 0


def _planned(runs: Sequence[Run], profile: Profile) -> tuple[Profile, list[str]]:
    """Give a profile that has a time limit, and lines that say what the runs will need. Imports torch.

    Runs on CPUs, which have a limit, are not planned.

    Raises:
        UserError: If there is neither a limit nor a way to tell how long the runs take.
    """
    if not profile.gpus and profile.time is not None:
        return profile, []
    gpu = read_gpus().get(profile.gpu_type or "") if profile.gpus else None
    if gpu is None and profile.time is None:
        raise _no_limit(profile)
    from lightning_samseg.cli.planned_grid import PlannedGrid

    plan = PlannedGrid(runs, further=profile.trainer_options)
    lines = plan.lines([] if gpu is None else [gpu])
    if gpu is None or profile.time is not None:
        return profile, lines
    hours = plan.longest(gpu)
    if hours is None:
        raise _no_limit(profile)
    limited = dataclasses.replace(profile, time=time_limit(hours))
    return limited, [*lines, f"The profile has no time: the limit is {limited.time}, twice the estimate and an hour."]


def _no_limit(profile: Profile) -> UserError:
    return UserError(
        "The profile has no time, and nobody can tell how long the runs take.",
        expected="a gpu_type of the table of `plan`, and runs whose length is known",
        found=f"gpus {profile.gpus}, gpu_type {profile.gpu_type}",
        fix="set time in the profile, such as '12:00:00'; sinfo lists partitions with their limits",
    )


def time_limit(hours: float) -> str:
    """Slurm's limit for a run that is estimated to take so many hours: twice that and an hour, in whole hours."""
    return f"{math.ceil(2 * hours) + 1}:00:00"


def _to_do(runs: Sequence[Run]) -> list[Run]:
    """Runs that are neither finished nor alive; says which are left out.

    Raises:
        UserError: If a run folder is in use by what the grid has not submitted, or a finished run is another
            experiment than the grid has now.
    """
    found = standings(runs)
    check_finished([standing.run for standing in found if standing.word == "finished"])
    for standing in found:
        holder = live_holder(standing.run.folder) if standing.word == "running" and standing.task is None else None
        if holder is not None:
            raise locked(Path(standing.run.folder), holder)
    left_out = Counter(standing.word for standing in found if standing.word not in TO_DO)
    if left_out:
        print(f"Left out: {', '.join(f'{count} {word}' for word, count in left_out.items())}.")
    todo = [standing.run for standing in found if standing.word in TO_DO]
    if not todo:
        print("There is nothing to do.")
    return todo


def _status(arguments: argparse.Namespace, runs: Sequence[Run]) -> int:
    found = standings(runs)
    width = max(len(run.folder) for run in runs)
    for standing in found:
        times = "once" if standing.requeued == 1 else f"{standing.requeued} times"
        preempted = f"preempted {times}" if standing.requeued else ""
        task = f"job {standing.task}" if standing.task else ""
        detail = "; ".join(part for part in (standing.detail, preempted, task) if part)
        print(f"{standing.run.folder.ljust(width)}  {standing.word:<11}  {detail}".rstrip())
    counts = Counter(standing.word for standing in found)
    print(f"{len(runs)} runs: {', '.join(f'{count} {word}' for word, count in counts.items())}.")
    return 0


def _collect(arguments: argparse.Namespace, runs: Sequence[Run]) -> int:
    from lightning_samseg.reports.build import build_report

    finished = [standing.run for standing in standings(runs) if standing.word == "finished"]
    if not finished:
        raise UserError(
            f"No run of {arguments.file} is finished.",
            fix=f"see how far they have come: python -m lightning_samseg grid status {arguments.file}",
        )
    if len(finished) < len(runs):
        print(f"{len(runs) - len(finished)} of {len(runs)} runs are not finished and not in the report.")
    return build_report(
        [Path(run.folder) for run in finished],
        arguments.out,
        baseline=arguments.baseline,
        group=arguments.group,
        cells={Path(run.folder): run.cell for run in finished if run.cell},
    )


def _cancel(arguments: argparse.Namespace, runs: Sequence[Run]) -> int:
    require_slurm()
    tasks = [standing.task for standing in standings(runs) if standing.task]
    if tasks:
        cancel(tasks)
    print(f"Cancelled: {', '.join(tasks)}." if tasks else "No run waits or runs in Slurm.")
    return 0


_VERBS = {
    "list": _list,
    "run": _run,
    "submit": _submit,
    "status": _status,
    "collect": _collect,
    "cancel": _cancel,
}


def check_runs(runs: Sequence[Run], further: Sequence[str] = ()) -> None:
    """Parse every run with the parser that would start it; nothing is built, no folder is touched. Imports torch.

    Args:
        runs: The runs.
        further: Options that a launcher adds to all of them.

    Raises:
        UserError: At the first run whose configs or options do not parse.
    """
    from lightning_samseg.cli.train import parse

    for run in runs:
        try:
            parse([*run.argv, *further])
        except UserError as error:
            raise UserError(
                f"Run {run.name} would not start.",
                expected="options of its method, data module and trainer, with values of their types",
                found=str(error).rpartition("\n  what to do: ")[0],
                fix=f"correct the grid file or its configs; options: python -m lightning_samseg {run.verb} --help",
            ) from error


def check_finished(runs: Sequence[Run]) -> None:
    """Compare finished runs with what the grid would start now: their results would stand for it.

    Args:
        runs: Those that are finished; one whose ``config.yaml`` cannot be read is left to the report.

    Raises:
        UserError: At the first run that was made with other options.
    """
    for run in runs:
        try:
            made = yaml.safe_load((Path(run.folder) / "config.yaml").read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            continue
        from lightning_samseg.cli.train import parse

        now = json.loads(json.dumps(parse(run.argv).as_dict(), default=str))  # as a file holds it
        differing = [each for each in changes(made, now) if not is_one_of(each.option, WITHOUT_INFLUENCE)]
        if differing:
            raise UserError(
                f"{run.folder} holds a finished run that was made with other options.",
                expected="the same as now",
                found="; ".join(map(str, differing[:5])),
                fix="give the runs another folder with --folder, or remove that one",
            )


def assignments(texts: Sequence[str]) -> dict[str, str]:
    """Options given as ``NAME=VALUE``.

    Raises:
        UserError: If one has no ``=``.
    """
    for text in texts:
        if "=" not in text:
            raise UserError("--set takes a name and a value.", expected="--set data.root=DIR", found=text, fix="add =")
    return {name: value for name, _, value in (text.partition("=") for text in texts)}


def _command(run: Run) -> str:
    return shlex.join(["python", "-m", "lightning_samseg", *run.argv])


def _as_json(run: Run, paper: dict[Cell, dict[str, float]]) -> dict[str, Any]:
    keys = ("name", "folder", "verb", "argv", "configs", "overrides", "choices", "seed", "cell")
    cells = [{**cell._asdict(), "values": values} for cell, values in paper.items()]
    return {**{key: getattr(run, key) for key in keys}, "paper": cells}


def _table(runs: Sequence[Run], values: Sequence[dict[Cell, dict[str, float]]]) -> str:
    """A line for every cell that a run fills, or one for a run without; the papers' values under their metrics."""
    metrics = list(dict.fromkeys(metric for cells in values for value in cells.values() for metric in value))
    rows = [["run folder", "fills", *(metric.upper() for metric in metrics)]]
    for run, cells in zip(runs, values, strict=True):
        if not cells:
            rows.append([run.folder, "- (not in the paper)", *[""] * len(metrics)])
        for cell, value in cells.items():
            numbers = [f"{value[metric]:.2f}" if metric in value else "" for metric in metrics]
            rows.append([run.folder, f"{cell.table}, {cell.column}, {cell.row}", *numbers])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        texts = [
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(texts).rstrip())
    printed = "The paper prints no numbers for them." if any(values) else "The runs are in no paper."
    note = "The numbers are the paper's." if metrics else printed
    return "\n".join([*lines, f"{len(runs)} runs. {note} --commands shows how to start them."])
