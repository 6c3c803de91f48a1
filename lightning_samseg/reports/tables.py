"""The report's tables as text: results, comparisons, sets of a stream, and the papers' tables with ours in them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lightning_samseg.reports.groups import Block, labelled
from lightning_samseg.reports.paper import paper_tables
from lightning_samseg.reports.results import Comparison, FilledCell, Result, block_results, scale
from lightning_samseg.reports.runs import FRACTIONS
from lightning_samseg.reports.statistics import standard_deviation

METRIC_NAMES = {"dsc": "DSC", "jc": "JC", "hd95": "HD95", "asd": "ASD", "hd": "HD"}
NOTHING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
MEAN_NOTE = (
    "Mean over the runs; in brackets the standard deviation over cases (scores averaged over seeds) and over seeds."
)
PAPER_NOTE = "Ours, ± standard deviation over seeds; in brackets the paper's value and the difference."


@dataclass(frozen=True)
class Table:
    """Text to be set as Markdown, LaTeX or HTML. A line break in a cell separates a number from what explains it."""

    title: str
    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    """As long as the header; the first ``text_columns`` are text, the others numbers."""
    text_columns: int = 1
    groups: tuple[tuple[str, int], ...] = ()
    """Heads above the number columns: text and how many columns it spans; together all of them."""


def results_table(block: Block, results: Sequence[Result]) -> Table:
    """A row per variant: seeds, cases, every metric, empty masks and missing distances.

    Args:
        block: The variants.
        results: Of all cases, from :func:`block_results`.
    """
    rows = []
    counts = [labelled(variant.runs[0]) for variant in block.variants]
    differ = block.kind == "cases" and len(set(counts)) > 1
    for index, variant in enumerate(block.variants):
        part = results[index * len(block.metrics) : (index + 1) * len(block.metrics)]
        first = variant.scores[0]
        pairs = sum(scores.values["dsc"].size for scores in variant.scores)
        empty = [scores.empty_predictions for scores in variant.scores]
        rows.append(
            (
                variant.name,
                *([counts[index]] if differ else []),
                str(len(variant.runs)),
                str(len(first.cases)),
                *(f"{number(r.mean)}\n({number(r.sd_cases)}; {number(r.sd_seeds)})" for r in part),
                NOTHING if None in empty else f"{sum(e or 0 for e in empty)} of {pairs}",
                f"{sum(scores.empty_references for scores in variant.scores)} of {pairs}",
                str(max((r.dropped for r in part if r.metric not in FRACTIONS), default=0)),
            )
        )
    heads = [metric_head(metric, block.facts["unit"]) for metric in block.metrics]
    shown = ("labelled",) if differ else ()
    header = ("method", *shown, "seeds", "cases", *heads, "empty predictions", "empty references", "distances left out")
    caption = (
        f"Convention {block.facts['convention']}. {MEAN_NOTE} Empty masks and distances left out are counted over all "
        "pairs of case and class of all runs."
    )
    return Table(block.title, caption, header, tuple(rows))


def comparison_table(block: Block, results: Sequence[Result]) -> Table | None:
    """A row per variant that has a baseline, two columns per metric; None without any.

    Args:
        block: The variants.
        results: Of all cases, from :func:`block_results`.
    """
    width = len(block.metrics)
    rows = []
    for index, variant in enumerate(block.variants):
        part = [r.comparison for r in results[index * width : (index + 1) * width]]
        compared = [c for c in part if c is not None]
        if compared:
            pairs = sorted({c.pairs for c in compared})
            shown = str(pairs[0]) if len(pairs) == 1 else f"{pairs[0]} to {pairs[-1]}"
            cells = [cell for c in compared for cell in _comparison_cells(c)]
            rows.append((variant.name, compared[0].baseline, shown, *cells))
    if not rows:
        return None
    caption = (
        "Mean difference over cases (variant minus baseline, scores averaged over seeds) with its bootstrap 95 % "
        f"interval (10,000 draws of cases); p of the two-sided Wilcoxon signed-rank test after Holm's correction for "
        f"the {len(rows)} comparison{'s' * (len(rows) != 1)} of each metric, in brackets before it. DSC and JC in "
        "percentage points."
    )
    groups = tuple(
        (METRIC_NAMES[m] if m in FRACTIONS else metric_head(m, block.facts["unit"]), 2) for m in block.metrics
    )
    header = ("method", "baseline", "pairs", *("difference", "p") * width)
    return Table(f"{block.title}: compared", caption, header, tuple(rows), text_columns=3, groups=groups)


def sets_table(block: Block) -> Table | None:
    """Means of each set of a stream, sets as columns; None where there is one set."""
    if not block.sets:
        return None
    parts = [block_results(block, None, name) for name in block.sets]
    width = len(block.metrics)
    rows = []
    for index, variant in enumerate(block.variants):
        cells = [number(r.mean) for part in parts for r in part[index * width : (index + 1) * width]]
        rows.append((variant.name, *cells))
    heads = [metric_head(metric, block.facts["unit"]) for metric in block.metrics] * len(block.sets)
    caption = f"Means of each set, over the runs. Convention {block.facts['convention']}."
    groups = tuple((name, width) for name in block.sets)
    return Table(f"{block.title}: sets", caption, ("method", *heads), tuple(rows), groups=groups)


def classes_table(block: Block) -> Table | None:
    """Means of each class, classes as columns; None where there is one class."""
    names = block.variants[0].runs[0].class_names
    if len(names) < 2:
        return None
    rows = []
    for variant in block.variants:
        # (metrics, runs, classes)
        means = [[scale(metric) * part.per_class(metric) for part in variant.scores] for metric in block.metrics]
        cells = [_spread([run[i] for run in runs]) for i in range(len(names)) for runs in means]
        rows.append((variant.name, *cells))
    heads = [metric_head(metric, block.facts["unit"]) for metric in block.metrics] * len(names)
    caption = (
        "Means of each class over the cases and the runs, ± standard deviation over seeds. "
        f"Convention {block.facts['convention']}."
    )
    groups = tuple((name, len(block.metrics)) for name in names)
    return Table(f"{block.title}: classes", caption, ("method", *heads), tuple(rows), groups=groups)


def paper_layouts(cells: Iterable[FilledCell]) -> list[Table]:
    """The papers' tables with every row that is printed, for the columns (data sets) in which runs fill a cell."""
    ours = {(*entry.cell, entry.metric): entry for entry in cells}
    tables = []
    for paper, content in paper_tables().items():
        for name, table in content["tables"].items():
            columns = [c for c in table["columns"] if any(key[:3] == (paper, name, c) for key in ours)]
            # Columns whose rows have the same names stand side by side, as printed.
            by_rows: dict[tuple[str, ...], list[str]] = {}
            for column in columns:
                by_rows.setdefault(tuple(table["columns"][column]["rows"]), []).append(column)
            for rows, side_by_side in by_rows.items():
                tables.append(_paper_table((paper, name), table, rows, side_by_side, ours))
    return tables


def metric_head(metric: str, unit: str) -> str:
    """Name of a metric with its unit, which is % for a fraction."""
    return f"{METRIC_NAMES[metric]} {'%' if metric in FRACTIONS else unit}"


def number(value: float, sign: bool = False) -> str:
    """Two decimals with a true minus, or a dash."""
    return NOTHING if math.isnan(value) else f"{value:{'+' if sign else ''}.2f}".replace("-", MINUS)


def p_text(p: float) -> str:
    """A p value as it is printed."""
    return NOTHING if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _spread(means: Sequence[float]) -> str:
    """Mean ± standard deviation of the means of several runs."""
    spread = standard_deviation(means)
    return number(float(np.mean(means))) + ("" if math.isnan(spread) else f" ± {number(spread)}")


def _comparison_cells(c: Comparison) -> tuple[str, str]:
    interval = f"[{number(c.low, sign=True)}, {number(c.high, sign=True)}]"
    return f"{number(c.difference, sign=True)}\n{interval}", f"{p_text(c.p_holm)}\n({p_text(c.p)})"


def _paper_table(
    place: tuple[str, str],
    table: dict[str, object],
    rows: Sequence[str],
    columns: Sequence[str],
    ours: Mapping[tuple[str, str, str, str, str], FilledCell],
) -> Table:
    paper, name = place
    content = paper_tables()[paper]
    entries = content["tables"][name]["columns"]
    printed = content["tables"][name]["metrics"]
    metrics = printed or list(dict.fromkeys(key[4] for key in ours if key[:2] == (paper, name)))
    lines = []
    for row in rows:
        line = [row]
        for column in columns:
            values = dict(zip(printed, entries[column]["rows"][row], strict=True))
            line += [_paper_cell(ours.get((paper, name, column, row, m)), values.get(m, math.nan)) for m in metrics]
        lines.append(tuple(line))
    heads = [metric_head(metric, str(entries[column]["unit"])) for column in columns for metric in metrics]
    groups = tuple((column, len(metrics)) for column in columns)
    note = PAPER_NOTE if printed else "Ours, ± standard deviation over seeds; the paper prints no numbers."
    caption = f"{table['caption']} {note} A dash: no run. Convention {paper}."
    return Table(f"{content['venue']}: {name}", caption, ("", *heads), tuple(lines), groups=groups)


def _paper_cell(entry: FilledCell | None, paper: float) -> str:
    known = not math.isnan(paper)
    if entry is None:
        return f"{NOTHING}\n({number(paper)})" if known else NOTHING
    spread = "" if math.isnan(entry.sd_seeds) else f" ± {number(entry.sd_seeds)}"
    beside = f"\n({number(paper)}, {number(entry.difference, sign=True)})" if known else ""
    return f"{number(entry.mean)}{spread}{beside}"
