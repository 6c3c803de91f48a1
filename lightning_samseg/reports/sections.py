"""The parts of the report's page, each with its tables and figures."""

import shlex
import shutil
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_samseg.online.columns import CLIPPED, SAM
from lightning_samseg.reports.groups import IGNORED, Block, labelled, weights_of
from lightning_samseg.reports.page import Picture, Section
from lightning_samseg.reports.results import FilledCell, Result
from lightning_samseg.reports.runs import Problem, RunRecord
from lightning_samseg.reports.tables import (
    NOTHING,
    Table,
    classes_table,
    comparison_table,
    paper_layouts,
    results_table,
    sets_table,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def overview(blocks: Sequence[Block]) -> Section:
    """What the tables compare: their data, and every run with weights, code and versions."""
    rows = []
    for name, runs in _variants(blocks):
        versions = _distinct(
            ", ".join(f"{key} {value}" for key, value in (run.metrics.get("versions") or {}).items()) for run in runs
        )
        rows.append(
            (
                name,
                ", ".join(str(run.seed) for run in runs if run.seed is not None) or NOTHING,
                labelled(runs[0]) if runs[0].kind == "cases" else NOTHING,
                _distinct(str((run.config["data"].get("init_args") or {}).get("image_size", NOTHING)) for run in runs),
                _distinct(str(run.metrics.get("iterations") or NOTHING) for run in runs),
                _distinct(weights_of(run)[:12] for run in runs),
                _distinct(_short(run.metrics.get("git_commit")) for run in runs),
                versions,
            )
        )
    header = ("method", "seeds", "labelled", "image size", "iterations", "weights (sha256)", "git commit", "versions")
    runs_table = Table(
        "Runs", "Every run in the tables; their folders stand under How to repeat.", header, tuple(rows), 8
    )
    keys = ("convention", "unit", "cases", "data fingerprint", "split")
    facts = tuple((block.title, *(block.facts[key] for key in keys)) for block in blocks)
    caption = "What the runs of each table have in common; cases with a hash of their ids."
    return Section("What was compared", tables=[Table("Data", caption, ("table", *keys), facts, 6), runs_table])


def block_section(
    folder: Path, block: Block, results: Sequence[Result], other: Block | None, other_results: Sequence[Result]
) -> Section:
    """Tables and figures of one block; the figures are written below ``folder``.

    Args:
        folder: Of the report.
        block: The table.
        results: Its numbers.
        other: The same runs under the other convention, where there is one.
        other_results: Its numbers.
    """
    from lightning_samseg.reports.figures import box_plots, stream_curves, sweeps
    from lightning_samseg.reports.pictures import qualitative_grid, stream_strips

    candidates = [
        *(results_table(block, results), comparison_table(block, results)),
        *((results_table(other, other_results), comparison_table(other, other_results)) if other else ()),
        *(classes_table(block), sets_table(block)),
    ]
    section = Section(block.title, tables=[table for table in candidates if table is not None])
    stem = "".join(c if c.isalnum() else "_" for c in block.title.casefold())
    if len(stem) > 40:  # tables that were grouped by long facts
        stem = f"{stem[:40]}_{sha256(stem.encode()).hexdigest()[:8]}"
    save = _Saver(folder / "figures", stem, section)
    save(
        "cases",
        box_plots(block),
        "Scores per case, averaged over seeds. Boxes: quartiles and median; whiskers: 1.5 times "
        "the interquartile range; dots: all cases.",
    )
    if block.kind == "stream":
        save(
            "stream",
            stream_curves(block),
            "Over the stream: running mean of the DSC, weight of SAM in the fusion at each prompt (as Fig. 6 of "
            "AuxOL), share of images that the expert rectified. Lines: mean over seeds; bands: from the lowest to the "
            "highest seed.",
        )
        for number, (caption, file) in enumerate(stream_strips(block)):
            save.copy(f"strip_{number}", file, f"{caption}: image, SAM, auxiliary network, fusion, reference.")
    for option, figure in sweeps(block):
        save(f"sweep_{option}", figure, f"DSC against {option}, all other options equal.")
    if (grid := qualitative_grid(block)) is not None:
        save(
            "qualitative",
            grid,
            "Cases from the lowest to the highest DSC of the first method, first seed. Of more than five methods: the "
            "first and those with the highest DSC. White: reference; coloured: the classes' outlines.",
        )
    return section


def paper_section(folder: Path, filled: Sequence[FilledCell], notes: Sequence[str]) -> Section:
    """The papers' tables with ours in them; bars for what is a figure in a paper."""
    from lightning_samseg.reports.paper_figures import paper_figures

    section = Section("Beside the papers", text=list(notes), tables=paper_layouts(filled))
    save = _Saver(folder / "figures", "paper", section)
    for number, (caption, figure) in enumerate(paper_figures(filled), start=1):
        save(f"figure_{number}", figure, caption)
    return section


def problem_section(problems: Sequence[Problem]) -> Section:
    """What could not be reported, and why."""
    rows = tuple((p.kind, str(p.folder), p.reason) for p in problems)
    table = Table("Left out", "Folders that are not in the tables.", ("what", "folder", "why"), rows, text_columns=3)
    return Section("Not in the tables", tables=[table] if rows else [])


def methods() -> Section:
    """How means, deviations and tests are made, in words."""
    return Section(
        "How the numbers are made",
        text=[
            "A case is an image or volume at its original size; its score is the mean over its classes. The mean of a "
            "run averages each class over the cases, then the classes, as metrics.json does; a distance that the "
            "convention does not define is left out and counted. The mean in a table is that of the runs. The standard "
            "deviation over cases is that of the case scores averaged over seeds; the standard deviation over "
            "seeds is that of the runs' means; both divide by n - 1.",
            "Comparisons pair the cases class by class, scores averaged over seeds; the difference of a case is the "
            "mean over the classes that have a score in both: Wilcoxon's signed-rank test, two-sided, zeros left "
            "out; Holm's correction over the comparisons of a table within a metric; percentile bootstrap of the "
            "mean difference over cases. Without a named baseline, streams are compared with their own SAM. Seeds and "
            "cases are not repeats of a study: the tests speak about these cases and these trainings.",
            "Runs are repeats, and averaged, where their configurations agree in everything but: "
            f"{', '.join(IGNORED)}. Of devices and nodes, the number of processes that trained counts: batch sizes are "
            "those of one process. Runs of one data module that differ in data, split or convention, or that name the "
            "same weights and had others, are neither averaged nor compared.",
        ],
    )


def repeat(blocks: Sequence[Block], command: str) -> Section:
    """Commands that make the report and the runs again."""
    commands = [command]
    for run in members_of(blocks):
        verb = "fit" if run.metrics.get("iterations") else "test"
        again = ["--config", str(run.folder / "config.yaml"), "--trainer.default_root_dir", f"{run.folder}-again"]
        if verb == "test" and run.metrics.get("checkpoint"):
            again += ["--ckpt_path", str(run.metrics["checkpoint"])]
        commands.append(shlex.join(["python", "-m", "lightning_samseg", verb, *again]))
    text = "The report, then every run, into a new folder. The same machine and versions give the same numbers."
    return Section("How to repeat", text=[text], commands=commands)


def members_of(blocks: Sequence[Block]) -> list[RunRecord]:
    """Every reported run once."""
    return [run for _, runs in _variants(blocks) for run in runs]


def _variants(blocks: Sequence[Block]) -> list[tuple[str, tuple[RunRecord, ...]]]:
    """Name and runs of every configuration; of a stream's methods the last one, which is what was trained."""
    return [(v.name, v.runs) for block in blocks for v in block.variants if v.column not in (SAM, CLIPPED)]


def _distinct(texts: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(texts)) or NOTHING


class _Saver:
    """Writes figures as PNG and PDF and puts them into a section."""

    def __init__(self, folder: Path, stem: str, section: Section) -> None:
        self.folder, self.stem, self.section = folder, stem, section

    def __call__(self, name: str, figure: "Figure", caption: str) -> None:
        self.folder.mkdir(exist_ok=True)
        path = self.folder / f"{self.stem}_{name}.png"
        figure.savefig(path, dpi=180)
        figure.savefig(path.with_suffix(".pdf"), metadata={"CreationDate": None})
        self.section.pictures.append(Picture(path, caption))

    def copy(self, name: str, file: Path, caption: str) -> None:
        """A picture that a run has drawn."""
        self.folder.mkdir(exist_ok=True)
        path = self.folder / f"{self.stem}_{name}.png"
        shutil.copyfile(file, path)
        self.section.pictures.append(Picture(path, caption))


def _short(commit: Any) -> str:
    if not isinstance(commit, str):
        return "unknown"
    return commit[:12] + ("-dirty" if commit.endswith("-dirty") else "")
