"""``python -m lightning_samseg benchmark gpu --out FILE.md``: the questions that only a GPU answers, in one call.

Each row of the table is in the file as soon as it is known. No network and no weights are needed: they are random, of
the right shape. What no longer fits into the time is skipped, and says so.
"""

import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch

from lightning_samseg.cli.arguments import Parser
from lightning_samseg.cli.gpu_checks import CHECKS, LARGEST_DIFFERENCE, check, waits
from lightning_samseg.errors import UserError
from lightning_samseg.io.files import atomic_write
from lightning_samseg.methods import AuxOl, CpcSam, Method
from lightning_samseg.methods.benchmark_online import PARTS, WAYS, merged, noise, ready, timed_parts
from lightning_samseg.methods.timing import StepTimer, matmul_gflops, now
from lightning_samseg.planning.cost import build, dry_run
from lightning_samseg.planning.steps import Load, Steps
from lightning_samseg.planning.table import LOAD
from lightning_samseg.prompts.points import class_points

Measured = Sequence[Any]
"""The cells of a row after its name."""


@dataclass(frozen=True)
class Row:
    """A row that is to be measured."""

    name: str
    seconds: float
    """How long it is likely to take, on a GPU."""
    measure: Callable[[], Measured]


@dataclass(frozen=True)
class Section:
    """A part of the table."""

    title: str
    columns: tuple[str, ...]
    """Heads of the columns after the row's name."""
    rows: Callable[[], Iterator[Row]]


@dataclass
class Report:
    """A Markdown file that is whole after every row.

    Args:
        path: The file.
        budget: Seconds; a row that is likely to take longer than what is left is skipped.
    """

    path: Path
    budget: float
    lines: list[str] = field(default_factory=list)
    start: float = field(default_factory=time.monotonic)

    def add(self, *lines: str) -> None:
        """Append lines, and let the file have them."""
        self.lines += lines
        with atomic_write(self.path) as temporary:
            temporary.write_text("\n".join(self.lines) + "\n", encoding="utf-8")

    def fill(self, section: Section) -> None:
        """Measure a section, row after row; a row that fails says why, and the next one is measured."""
        width = len(section.columns)
        self.add("", f"## {section.title}", "", *table_head(section.columns))
        for row in section.rows():
            left = self.budget - (time.monotonic() - self.start)
            if row.seconds > left:
                cells: Measured = [f"skipped: {left:.0f} s left, about {row.seconds:.0f} s needed", *[""] * (width - 1)]
            else:
                cells = self._measured(row, width)
            self.add(f"| {row.name} | {' | '.join(map(str, cells))} |")

    def _measured(self, row: Row, width: int) -> Measured:
        try:
            return row.measure()
        except Exception as error:  # whatever a device throws is what was found
            text = str(error).partition("\n")[0].replace("|", "/")[:160]
            return [f"fails: {type(error).__name__}: {text}", *[""] * (width - 1)]


def table_head(columns: Sequence[str]) -> list[str]:
    """The first two lines of a Markdown table."""
    return [f"| | {' | '.join(columns)} |", f"|---{'|---' * len(columns)}|"]


def main(argv: Sequence[str]) -> int:
    """Measure and write.

    Args:
        argv: Arguments after ``benchmark gpu``.

    Raises:
        UserError: If there is no GPU, or the file cannot be written.
    """
    parser = Parser(prog="python -m lightning_samseg benchmark gpu", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.md")
    parser.add_argument("--budget", type=float, default=400.0, metavar="S", help="seconds at most (400)")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu tries the benchmark itself out")
    parser.add_argument(
        "--small", action="store_true", help="tiny networks and images, to try the benchmark itself out"
    )
    arguments = parser.parse_args(argv)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "There is no GPU here that PyTorch can use.",
            found=f"torch {torch.__version__}",
            fix="run it on a machine with one; --device cpu --small tries the benchmark itself out",
        )
    report = Report(arguments.out, arguments.budget)
    report.add(*head(arguments.device))
    for section in sections(Bench(arguments.device, arguments.small)):
        report.fill(section)
    report.add("", f"{time.monotonic() - report.start:.0f} s in all.")
    print(f"Written: {report.path}")
    return 0


def head(device: str) -> list[str]:
    """What was measured on, when and with what."""
    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    memory = f", {torch.cuda.get_device_properties(0).total_memory / 2**30:.0f} GiB" if device == "cuda" else ""
    versions = f"torch {torch.__version__}, CUDA {torch.version.cuda}, lightning {lightning.__version__}"
    return [
        f"# Benchmark of {name}",
        "",
        f"{name}{memory}; {time.strftime('%Y-%m-%d')}; {versions}, Python {platform.python_version()}. Random weights.",
    ]


class Bench:
    """What is measured, at the papers' sizes or at tiny ones.

    Args:
        device: ``cuda`` or ``cpu``.
        small: Whether at tiny sizes.
    """

    def __init__(self, device: str, small: bool) -> None:
        self.device, self.small = device, small
        self.accelerator = "gpu" if device == "cuda" else "cpu"
        self.load = Load(2, 2, 2) if small else LOAD
        self.backbones = ("tiny",) if small else ("sam_vit_b", "sam_vit_l", "sam_vit_h")
        self.cpc = {"image_size": 64 if small else 512, "num_classes": 3}
        self.aux = (
            {"sam": {"backbone": "tiny"}, "auxiliary": {"width": 1 / 16}, "crop": {"size": 32}, "cache_gb": 0}
            if small
            else {"sam": {"backbone": "sam_vit_h"}, "cache_gb": 0}
        )

    def steps(self, kind: type[Method], arguments: dict[str, Any], precision: str) -> Steps:
        """A method on its device."""
        torch.manual_seed(0)
        return Steps(build(kind, arguments), self.load, precision, self.accelerator)

    def timed(self, kind: type[Method], arguments: dict[str, Any], precision: str, steps: int = 4) -> tuple[float, int]:
        """Median seconds of the steps after the first, and the peak in bytes (0 on a CPU)."""
        if self.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        timer = StepTimer()
        self.steps(kind, arguments, precision).fit(timer, steps=steps)
        peak = torch.cuda.max_memory_allocated() if self.device == "cuda" else 0
        return statistics.median(wall for wall, _ in timer.seconds[1:]), peak

    def rate(self, precision: str) -> float:
        """10^9 operations per second of a large product of matrices."""
        kind = torch.float32 if precision == "32-true" else torch.bfloat16
        return matmul_gflops(kind, 512 if self.small else 8192, self.device)


def sections(bench: Bench) -> list[Section]:
    """All parts, the most important first."""
    return [
        Section("Equal to the CPU", ("float32", "bf16-mixed", "16-mixed"), lambda: _equal(bench)),
        Section(
            "CPC-SAM, a step at the paper's setting",
            ("s", "peak GiB", "forecast GiB", "GFLOP", "share of matmul"),
            lambda: _cpc_sam(bench),
        ),
        Section("Waits for the device in a step of CPC-SAM", ("times",), lambda: _waits(bench)),
        Section("AuxOL, an image with one prompt", ("s", "peak GiB", "forecast GiB"), lambda: _aux_ol(bench)),
        Section(
            "AuxOL, the parts of an image with one prompt in s",
            (*PARTS, "prompt"),
            lambda: _parts(bench),
        ),
        Section("Points on the host", ("s",), lambda: _points(bench)),
    ]


def _equal(bench: Bench) -> Iterator[Row]:
    for name in CHECKS:
        yield Row(name, 4, partial(_checked, name, bench))


def _checked(name: str, bench: Bench) -> Measured:
    difference = check(name, bench.device, "32-true")
    for precision in ("bf16-mixed", "16-mixed"):
        check(name, bench.device, precision)
    return [f"{difference:.1e}{'' if difference <= LARGEST_DIFFERENCE else ' DIFFERS'}", "finite", "finite"]


def _cpc_sam(bench: Bench) -> Iterator[Row]:
    for backbone in bench.backbones:
        for update in ("joint", "sequential"):
            for precision in ("bf16-mixed", "32-true"):
                for compiled in (False, True):
                    arguments = {**bench.cpc, "sam": {"backbone": backbone}, "update": update, "compile": compiled}
                    name = f"{backbone}, {update}, {precision}{', compiled' * compiled}"
                    needed = 60.0 if compiled else 15.0
                    yield Row(name, needed, partial(_cpc_row, bench, arguments, precision))


def _cpc_row(bench: Bench, arguments: dict[str, Any], precision: str) -> Measured:
    seconds, peak = bench.timed(CpcSam, arguments, precision)
    cost = dry_run(CpcSam, arguments, bench.load, precision)
    share = cost.gflop / seconds / bench.rate(precision)
    return [f"{seconds:.3f}", _gib(peak), _gib(cost.training), f"{cost.gflop:,.0f}", f"{share:.0%}"]


def _waits(bench: Bench) -> Iterator[Row]:
    if bench.device != "cuda":
        yield Row("none on a CPU", 0, lambda: ["-"])
        return
    steps = bench.steps(CpcSam, {**bench.cpc, "sam": {"backbone": bench.backbones[0]}}, "bf16-mixed")
    for place, count in waits(steps).items():
        yield Row(place, 0, partial(list, [count]))


def _aux_ol(bench: Bench) -> Iterator[Row]:
    for batch in (1, 2, 4, 8):
        arguments = {**bench.aux, "sam_batch": batch}
        yield Row(f"sam_batch {batch}", 20, partial(_aux_row, bench, arguments))


def _aux_row(bench: Bench, arguments: dict[str, Any]) -> Measured:
    seconds, peak = bench.timed(AuxOl, arguments, "32-true")
    return [f"{seconds:.3f}", _gib(peak), _gib(dry_run(AuxOl, arguments, bench.load).training)]


def _parts(bench: Bench) -> Iterator[Row]:
    for name, changes in WAYS.items():
        if name != "before":  # the GPU's AdamW was never parameter by parameter
            small = {"sam": {"backbone": "tiny"}} if bench.small else {}
            arguments = merged(merged(bench.aux, changes), small)
            yield Row(f"preset {name}" if name == "fast" else name, 20, partial(_parts_row, bench, arguments))


def _parts_row(bench: Bench, arguments: dict[str, Any]) -> Measured:
    method = ready(arguments, bench.device)
    every = [timed_parts(method, noise((48, 64) if bench.small else (528, 620), number)) for number in range(4)]
    walls = [statistics.median(each[part][0] for each in every[1:]) for part in range(len(PARTS))]
    return [f"{wall:.3f}" for wall in (*walls, sum(walls))]


def _points(bench: Bench) -> Iterator[Row]:
    side, count = bench.cpc["image_size"], bench.load.labelled + bench.load.unlabelled
    labels = torch.randint(0, 4, (count, 8, 8)).repeat_interleave(side // 8, 1).repeat_interleave(side // 8, 2)

    def chosen() -> Measured:
        start = now()[0]
        class_points(labels.to(bench.device), 4, [np.random.default_rng(i) for i in range(count)])
        return [f"{now()[0] - start:.4f}"]

    yield Row(f"{count} images of {side} px, 4 classes, {torch.get_num_threads()} threads", 2, chosen)


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f}" if size else "-"
