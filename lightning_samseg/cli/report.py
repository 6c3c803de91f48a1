"""``python -m lightning_samseg report``: finished runs as tables, figures and a page. Starts without torch."""

from collections.abc import Sequence
from pathlib import Path

from lightning_samseg.cli.arguments import Parser
from lightning_samseg.errors import UserError
from lightning_samseg.grids.grid import read_grid
from lightning_samseg.reports.build import build_report


def main(argv: Sequence[str] | None = None) -> int:
    """Collect runs and write the report.

    Args:
        argv: Arguments after ``report``; those of the process if None.

    Returns:
        Exit status 0 if at least one finished run is in the tables.

    Raises:
        UserError: See :func:`lightning_samseg.reports.build.build_report`.
    """
    parser = Parser(
        prog="python -m lightning_samseg report",
        description="Finished runs as tables (CSV, Markdown, LaTeX), figures (PNG, PDF) and one HTML page, beside the "
        "papers' numbers where the runs fill their cells. Broken, unfinished and duplicate runs are listed.",
    )
    parser.add_argument(
        "paths",
        nargs="*",
        type=Path,
        metavar="RUN_OR_FOLDER",
        help="run folders, or folders of them; or one workspace of annotate",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the report")
    parser.add_argument("--baseline", metavar="NAME", help="method that the others are compared with, as in the table")
    parser.add_argument(
        "--group",
        action="store_true",
        help="runs that differ in data, split, convention or weights get tables of their own instead of being refused",
    )
    parser.add_argument(
        "--grid",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="grid file whose runs fill cells of the papers; not needed where `grid run` or `grid submit` started them",
    )
    arguments = parser.parse_args(argv)
    if len(arguments.paths) == 1 and (arguments.paths[0] / "workspace.json").is_file():
        from lightning_samseg.annotate.report import report_workspace  # late: few reports are about one

        return report_workspace(arguments.paths[0], arguments.out)
    cells: dict[Path, list[dict[str, str]]] = {}
    for file in arguments.grid:
        for run in read_grid(file):
            cells.setdefault(Path(run.folder), []).extend([run.cell] if run.cell else [])
    paths = arguments.paths or [folder for folder in cells if folder.is_dir()]
    if not paths:
        raise UserError("There is nothing to report.", fix="name run folders, folders of them, or --grid with its runs")
    return build_report(paths, arguments.out, baseline=arguments.baseline, group=arguments.group, cells=cells)
