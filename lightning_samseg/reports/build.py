"""Finished runs in; a folder with tables, figures and a page out."""

import json
import shlex
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from lightning_samseg.errors import UserError
from lightning_samseg.io.text import write_text
from lightning_samseg.log import logger
from lightning_samseg.reports.conventions import under, under_other
from lightning_samseg.reports.groups import Block, group_runs
from lightning_samseg.reports.origins import find_origins
from lightning_samseg.reports.page import write_page
from lightning_samseg.reports.results import FilledCell, block_results, check_baseline, filled_cells
from lightning_samseg.reports.runs import REPORT_MARK, Problem, find_runs
from lightning_samseg.reports.sections import (
    block_section,
    members_of,
    methods,
    overview,
    paper_section,
    problem_section,
    repeat,
)
from lightning_samseg.reports.text import latex, markdown, write_paper_cells, write_problems, write_results

FILES = {
    *("report.html", "report.md", "tables.tex", "results.csv", "paper.csv", "problems.csv", "figures"),
    REPORT_MARK,
}
"""What a report consists of."""
KINDS = ("refused", "broken", "unfinished", "duplicate")


def build_report(
    paths: Sequence[Path],
    out: Path,
    *,
    baseline: str | None = None,
    group: bool = False,
    cells: Mapping[Path, Mapping[str, str] | Sequence[Mapping[str, str]]] | None = None,
) -> int:
    """Report the finished runs in and below some folders, and list the others.

    Args:
        paths: Run folders, or folders of them; ``grid*.json`` in them say which cells of the papers their runs fill.
        out: Folder of the report, new or an earlier report: ``report.html``, ``report.md``, ``tables.tex``,
            ``results.csv``, ``paper.csv``, ``problems.csv``, ``figures/``, ``report.json``.
        baseline: Name of the variant to compare the others with; None compares only the streams, with their SAM.
        group: Give runs that differ in data, split, convention or weights rows and tables of their own instead of
            refusing them.
        cells: Run folder -> the cell or cells that it fills (``paper``, ``table``, ``column``, ``row``), none for an
            empty mapping; over what ``grid*.json`` says.

    Returns:
        0: at least one finished run is in the tables, whatever else was listed.

    Raises:
        UserError: If a path is no folder, no finished run can be reported, ``out`` holds something else, the baseline
            is unknown, or a cell is in no paper.
    """
    _check_out(out)
    runs, problems = find_runs(paths)
    origins = find_origins(paths, cells or {})
    blocks, more = group_runs(runs, origins, group)
    problems = sorted([*problems, *more], key=lambda p: (KINDS.index(p.kind), str(p.folder)))
    for problem in problems:
        logger.info(f"{problem.kind:<11}{problem.folder}: {problem.reason}")
    if not blocks:
        raise UserError(
            f"No finished run to report in {', '.join(map(str, paths))}.",
            expected="folders with config.yaml, metrics.json and cases.csv",
            found=f"{len(problems)} folders that cannot be used, listed above" if problems else "none",
            fix="wait for a run to finish, name other folders, or add --group where runs were refused",
        )
    check_baseline(blocks, baseline)
    # A paper's convention has the paper's name; of the two that a test gives, it takes its own.
    filled, notes = filled_cells([under(block, "cpc_sam") for block in blocks])
    with _replaced(out) as folder:
        _write(folder, blocks, problems, filled, notes, baseline, _command(paths, out, baseline, group))
    reported = {run.folder for block in blocks for variant in block.variants for run in variant.runs}
    counts = ", ".join(f"{sum(p.kind == kind for p in problems)} {kind}" for kind in KINDS)
    logger.info(f"{len(reported)} runs reported; {counts}\npage      {out / 'report.html'}")
    return 0


def _write(
    folder: Path,
    blocks: Sequence[Block],
    problems: Sequence[Problem],
    filled: Sequence[FilledCell],
    notes: Sequence[str],
    baseline: str | None,
    command: str,
) -> None:
    results = [block_results(block, baseline) for block in blocks]
    others = [under_other(block) for block in blocks]
    other_results = [[] if other is None else block_results(other, baseline) for other in others]
    of_sets = [(block, block_results(block, baseline, name)) for block in blocks for name in block.sets]
    also = [(other, part) for other, part in zip(others, other_results, strict=True) if other is not None]
    write_results(folder / "results.csv", [*zip(blocks, results, strict=True), *also, *of_sets])
    write_paper_cells(folder / "paper.csv", filled)
    write_problems(folder / "problems.csv", problems)
    sections = [
        overview(blocks),
        *(block_section(folder, *parts) for parts in zip(blocks, results, others, other_results, strict=True)),
        paper_section(folder, filled, notes),
        problem_section(problems),
        methods(),
        repeat(blocks, command),
    ]
    tables = [table for section in sections for table in section.tables]
    parts = [[f"## {s.title}", *s.text, *map(markdown, s.tables)] for s in sections if s.text or s.tables]
    text = "\n\n".join("\n\n".join(part) for part in parts)
    write_text(folder / "report.md", f"# Results\n\n{text}")
    tex = [latex(table, f"tab:{number}") for number, table in enumerate(tables, start=1)]
    write_text(folder / "tables.tex", "% needs \\usepackage{booktabs}\n\n" + "\n".join(tex))
    members = members_of(blocks)
    seeds = {run.seed for run in members}
    left_out = f"; {len(problems)} folder{'s are' if len(problems) > 1 else ' is'} left out" if problems else ""
    lead = (
        f"{len({run.folder for run in members})} finished runs under {len(seeds)} seed{'s' * (len(seeds) != 1)} in "
        f"{len(blocks)} table{'s' * (len(blocks) != 1)}{left_out}. Made on {datetime.now(timezone.utc):%d %B %Y}."
    )
    write_page(folder / "report.html", "Segmentation results", lead, sections)
    mark = {"command": command, "runs": [str(run.folder) for run in members], "baseline": baseline}
    write_text(folder / REPORT_MARK, json.dumps(mark, indent=2) + "\n")


def _command(paths: Sequence[Path], out: Path, baseline: str | None, group: bool) -> str:
    options = [*(["--baseline", baseline] if baseline else []), *(["--group"] if group else [])]
    return shlex.join(["python", "-m", "lightning_samseg", "report", *map(str, paths), "--out", str(out), *options])


def _check_out(out: Path) -> None:
    if not out.exists():
        return
    found = {path.name for path in out.iterdir()} if out.is_dir() else {out.name}
    if not out.is_dir() or (found and (REPORT_MARK not in found or found - FILES)):
        raise UserError(
            f"{out} is there and is no report.",
            expected="a new or empty folder, or one with an earlier report and nothing else, which is replaced",
            found=", ".join(sorted(found - FILES)[:5]) or f"no {REPORT_MARK}",
            fix="give --out another folder",
        )


@contextmanager
def _replaced(out: Path) -> Iterator[Path]:
    """A new folder that takes the place of ``out`` when it is complete; an error leaves the earlier report."""
    out.parent.mkdir(parents=True, exist_ok=True)
    token = uuid.uuid4().hex[:8]
    new, old = out.with_name(f".{out.name}.{token}.part"), out.with_name(f".{out.name}.{token}.old")
    new.mkdir()
    try:
        yield new
        if out.exists():
            out.rename(old)
        new.rename(out)
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
