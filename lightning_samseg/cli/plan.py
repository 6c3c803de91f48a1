"""``python -m lightning_samseg plan``: what a run or a grid will need, before anything is rented or queued.

Parameters, operations of a step, peak memory of training and prediction in each precision, disk, hours. Nothing of it
needs a GPU, the weights or the data: two real training steps run on tensors that have a shape and no content.
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_samseg.cli.arguments import Parser
from lightning_samseg.errors import UserError
from lightning_samseg.io.yaml_files import read_yaml
from lightning_samseg.models.backbones import BACKBONES
from lightning_samseg.planning.gpus import Gpu, read_gpus

if TYPE_CHECKING:
    from lightning_samseg.cli.planned import Planned  # starts torch


def main(argv: Sequence[str] | None = None) -> int:
    """Print a plan.

    Args:
        argv: Arguments after ``plan``; those of the process if None.

    Returns:
        Exit status: 0, or 1 where nothing fits into the memory that was given.

    Raises:
        UserError: If the run would not start for a mistake in its options, or an option of the plan is wrong.
    """
    arguments = _parser().parse_args(argv)
    _check_memory(arguments.memory)
    if arguments.table:
        from lightning_samseg.planning.table import table

        for line in table(arguments.backbone, arguments.size):
            print(line, flush=True)
        return 0
    if not arguments.config:
        raise UserError("There is nothing to plan.", fix="give a configuration or a grid file with --config FILE")
    gpus = _chosen(arguments.gpu)
    if len(arguments.config) == 1 and _is_grid(arguments.config[0]):
        return _plan_grid(arguments, gpus)
    return _plan_run(arguments, gpus)


def _parser() -> Parser:
    parser = Parser(prog="python -m lightning_samseg plan", description=__doc__)
    parser.add_argument(
        "--config", action="append", default=[], metavar="FILE", help="of a run, several as for fit; or a grid file"
    )
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="an option over the config's")
    parser.add_argument("--memory", type=float, metavar="GB", help="say what makes it fit into a GPU of so many GiB")
    parser.add_argument(
        "--gpu", action="append", default=[], metavar="NAME", help=f"hours on this one: {', '.join(read_gpus())}"
    )
    parser.add_argument("--table", action="store_true", help="print the table of the README: all backbones and sizes")
    parser.add_argument(
        "--backbone", action="append", choices=[*BACKBONES], metavar="NAME", help="only this one in the table"
    )
    parser.add_argument("--size", action="append", type=int, metavar="PX", help="only this image size in the table")
    return parser


def _is_grid(path: str) -> bool:
    """Whether a file is one of a grid, not of a run.

    Raises:
        UserError: If it is not there, or not YAML.
    """
    if not Path(path).is_file():
        raise UserError(f"There is no file {path}.", fix="check the path; see experiments for configurations and grids")
    content = read_yaml(path, "options of a run, such as trainer:, model: and data:, or a grid")
    return isinstance(content, dict) and bool({"axes", "configs", "seeds"} & set(content))


def _check_memory(memory: float | None) -> None:
    if memory is not None and not (math.isfinite(memory) and memory > 0):
        raise UserError(
            "A GPU's memory is a number of GiB above 0.",
            expected="--memory 12, or 24",
            found=f"--memory {memory:g}",
            fix="correct it, or leave it out",
        )


def _chosen(names: Sequence[str]) -> list[Gpu]:
    known = read_gpus()
    for name in names:
        if name not in known:
            raise UserError(f"Nothing is known of a GPU {name!r}.", expected=", ".join(known), fix="use one of these")
    return [known[name] for name in names or known]


def _plan_run(arguments: argparse.Namespace, gpus: Sequence[Gpu]) -> int:
    from lightning_samseg.cli.grid import assignments
    from lightning_samseg.cli.planned import Planned

    options = [f"--{name}={value}" for name, value in assignments(arguments.set).items()]
    files = [part for file in arguments.config for part in ("--config", file)]
    run = Planned(["fit", *files, *options])
    print(f"{', '.join(arguments.config)}: {run.title}")
    if run.missing is not None:
        classes = run.arguments["num_classes"]
        print(f"data        not here: {run.missing} Planned with {classes} foreground class{'es' * (classes > 1)}.")
    cost = run.cost()
    print(f"parameters  {cost.parameters / 1e6:,.1f} M, of which {cost.trained / 1e6:,.2f} M are trained")
    sam = f", {cost.sam_gflop:,.0f} of them SAM's, which the cache of its logits saves" if cost.sam_gflop else ""
    print(f"{'an image' if run.streams else 'a step':<11} {cost.gflop:,.1f} GFLOP{sam}")
    pictures = "one picture" if run.streams else f"{run.change.load.predicted} images"
    print(f"memory      peak of training and of a prediction of {pictures}")
    for precision in run.precisions:
        each = run.cost(replace(run.change, precision=precision))
        mark = "  as configured" if precision == run.precision else ""
        print(f"            {precision:<10} {_gib(each.training)}  {_gib(each.prediction)}{mark}")
    print("            beside it about 1 GiB for the GPU's context, work spaces of kernels and gaps")
    for number, line in enumerate(run.disk()):
        print(f"{'' if number else 'disk':<11} {line}")
    for number, line in enumerate(_hours_of(run, gpus)):
        print(f"{'' if number else 'hours':<11} {line}")
    return _fits(run, arguments.memory) if arguments.memory is not None else 0


def _fits(run: "Planned", memory: float) -> int:
    from lightning_samseg.planning.fitting import first_that_fits

    found = first_that_fits(memory, run.change, run.cost, can_checkpoint=run.can_checkpoint, streams=run.streams)
    if found is None:
        print(f"fits        not into {memory:g} GiB, whatever is changed: use a smaller --data.image_size or backbone")
        return 1
    change, cost = found
    how = f"with {' '.join(change.options)}" if change.options else "as it is"
    print(f"fits        into {memory:g} GiB {how}: {_gib(cost.training).strip()} and the 1 GiB beside it")
    return 0


def _hours_of(run: "Planned", gpus: Sequence[Gpu]) -> list[str]:
    """Lines that say how long a run takes."""
    if run.iterations is None:
        return ["unknown: the data, which say how long the stream is, are not here"]
    known = [(gpu, found) for gpu in gpus if (found := run.hours(gpu)) is not None]
    texts = [f"{gpu.name} {_hours(found[0])}{'' if found[1] else '*'}" for gpu, found in known]
    share = next((share for gpu, _ in known for each, share, _ in gpu.shares if each == run.precision), 0.0)
    why = (
        f"* estimates: GFLOP over {share:.0%} of the GPU's peak in {run.precision}, an assumption; no GPU has been "
        "measured. Validation and waiting for data come on top"
    )
    return [", ".join(texts) or f"none of these GPUs computes in {run.precision}", why]


def _plan_grid(arguments: argparse.Namespace, gpus: Sequence[Gpu]) -> int:
    from lightning_samseg.cli.grid import assignments
    from lightning_samseg.cli.planned_grid import PlannedGrid
    from lightning_samseg.grids.grid import read_grid

    runs = read_grid(arguments.config[0], assignments(arguments.set))
    plan = PlannedGrid(runs, memory=arguments.memory)
    print("\n".join(plan.lines(gpus)))
    return int(arguments.memory is not None and not plan.fits)


def _gib(size: int) -> str:
    return f"{size / 2**30:6.2f} GiB"


def _hours(hours: float) -> str:
    return f"{hours:,.1f} h" if hours >= 1 else f"{max(1, math.ceil(60 * hours))} min"
