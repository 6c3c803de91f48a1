"""Numbers of the tables: means, deviations, comparisons with a baseline, and the papers' cells that runs fill."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lightning_samseg.errors import UserError
from lightning_samseg.online.columns import CLIPPED, SAM, is_learned
from lightning_samseg.reports.groups import Block, Variant, labelled, method_label
from lightning_samseg.reports.paper import EVERY_COLUMN, Cell, filled_by, paper_tables, paper_values
from lightning_samseg.reports.runs import FRACTIONS, FloatArray, nanmean
from lightning_samseg.reports.statistics import (
    bootstrap_interval,
    holm,
    mean_over_seeds,
    standard_deviation,
    wilcoxon_p,
)


@dataclass(frozen=True)
class Comparison:
    """A variant against the baseline, paired by case, scores averaged over seeds."""

    baseline: str
    pairs: int
    """Cases with at least one class that has a score in both."""
    difference: float
    """Mean over cases of variant - baseline, in percentage points or the unit of distances."""
    low: float
    """Bootstrap interval of the mean difference."""
    high: float
    p: float
    """Wilcoxon's, before correction."""
    p_holm: float
    """Corrected for all comparisons of this table and metric."""


@dataclass(frozen=True)
class Result:
    """One metric of one row of a table. DSC and JC in percent, distances in the table's unit."""

    variant: Variant
    set_name: str | None
    """Set of a stream; None for all cases."""
    metric: str
    mean: float
    """Mean over the runs of their means; NaN where a run has none."""
    sd_cases: float
    """Standard deviation over cases of the scores averaged over seeds."""
    sd_seeds: float
    """Standard deviation over runs of their means; NaN of one run."""
    cases: int
    dropped: int
    """Pairs of case and class without a value, over all runs."""
    comparison: Comparison | None


@dataclass(frozen=True)
class FilledCell:
    """A cell of a paper's table and what stands in it."""

    cell: Cell
    variant: Variant
    metric: str
    mean: float
    """Ours, in the paper's units."""
    sd_seeds: float
    paper: float
    """NaN in a figure that prints no numbers."""

    @property
    def difference(self) -> float:
        """Ours minus the paper's."""
        return self.mean - self.paper


def variant_names(blocks: Sequence[Block]) -> list[str]:
    """Names that a baseline may have."""
    return list(dict.fromkeys(variant.name for block in blocks for variant in block.variants))


def check_baseline(blocks: Sequence[Block], baseline: str | None) -> None:
    """Refuse a baseline that no table has.

    Raises:
        UserError: With the known names.
    """
    variants = [variant for block in blocks for variant in block.variants]
    if baseline is not None and all(_named(block, baseline) is None for block in blocks):
        methods = {method_label(variant.runs[0]) for variant in variants if variant.column == ""}
        if any(method.casefold() == baseline.casefold() for method in methods):
            return
        raise UserError(
            f"No reported variant is called {baseline!r}.",
            expected="one of: " + "; ".join(dict.fromkeys([*variant_names(blocks), *sorted(methods)])),
            fix="give --baseline one of these names",
        )


def find_baseline(block: Block, variant: Variant, baseline: str | None) -> Variant | None:
    """What a variant is compared with: the named one; where there is none in its table, SAM of the same stream.

    The name of a method stands for its only variant in the table, or for the one with as many labelled images.
    """
    named = None if baseline is None else _named(block, baseline) or _of_method(block, variant, baseline)
    return named or next((v for v in block.variants if v.runs == variant.runs and v.column == SAM), None)


def _named(block: Block, baseline: str) -> Variant | None:
    """By its name in any case; by that of a stream's configuration, what learned in it."""
    wanted = baseline.casefold()
    named = next((v for v in block.variants if v.name.casefold() == wanted), None)
    return named or next(
        (v for v in block.variants if is_learned(v.column) and v.name.casefold().startswith(f"{wanted}: ")), None
    )


def _of_method(block: Block, variant: Variant, method: str) -> Variant | None:
    wanted = method.casefold()
    known = [v for v in block.variants if v.column == "" and method_label(v.runs[0]).casefold() == wanted]
    if len(known) > 1:
        known = [v for v in known if labelled(v.runs[0]) == labelled(variant.runs[0])]
    return known[0] if len(known) == 1 else None


def block_results(block: Block, baseline: str | None, set_name: str | None = None) -> list[Result]:
    """Compute one table.

    Args:
        block: Its variants.
        baseline: Name of the variant to compare with, if any; see :func:`find_baseline`.
        set_name: One set of a stream; None for all cases.

    Returns:
        One entry per variant and metric, variants outermost.
    """
    by_metric = {metric: _metric_results(block, metric, baseline, set_name) for metric in block.metrics}
    return [by_metric[metric][i] for i in range(len(block.variants)) for metric in block.metrics]


def scale(metric: str) -> float:
    """From the files' numbers to the tables': fractions become percent."""
    return 100.0 if metric in FRACTIONS else 1.0


def case_scores(variant: Variant, metric: str, set_name: str | None = None) -> FloatArray:
    """``(cases,)``: mean over classes, then over seeds; in the tables' units."""
    return scale(metric) * mean_over_seeds([part.of_set(set_name).per_case(metric) for part in variant.scores])


def _metric_results(block: Block, metric: str, baseline: str | None, set_name: str | None) -> list[Result]:
    comparisons = [_compare(block, variant, metric, baseline, set_name) for variant in block.variants]
    corrected = holm([math.nan if c is None else c.p for c in comparisons])
    results = []
    for variant, comparison, p_holm in zip(block.variants, comparisons, corrected, strict=True):
        parts = [part.of_set(set_name) for part in variant.scores]
        means = [scale(metric) * part.mean(metric) for part in parts]
        results.append(
            Result(
                variant=variant,
                set_name=set_name,
                metric=metric,
                mean=float(np.mean(means)),
                sd_cases=standard_deviation(case_scores(variant, metric, set_name)),
                sd_seeds=standard_deviation(means),
                cases=len(parts[0].cases),
                dropped=sum(part.dropped(metric) for part in parts),
                comparison=None if comparison is None else Comparison(**{**comparison.__dict__, "p_holm": p_holm}),
            )
        )
    return results


def _compare(
    block: Block, variant: Variant, metric: str, baseline: str | None, set_name: str | None
) -> Comparison | None:
    reference = find_baseline(block, variant, baseline)
    if reference is None or reference is variant:
        return None
    ours, theirs = (
        mean_over_seeds([part.of_set(set_name).values[metric] for part in v.scores]) for v in (variant, reference)
    )
    # Class by class: a case mean of fewer classes, as after a miss without a distance, is no mean of the same thing.
    differences = scale(metric) * nanmean(ours - theirs, axis=1)
    paired = differences[~np.isnan(differences)]
    low, high = bootstrap_interval(paired)
    return Comparison(
        baseline=reference.name,
        pairs=paired.size,
        difference=float(paired.mean()) if paired.size else math.nan,
        low=low,
        high=high,
        p=wilcoxon_p(paired),
        p_holm=math.nan,
    )


def filled_cells(blocks: Sequence[Block]) -> tuple[list[FilledCell], list[str]]:
    """Find the papers' cells that the runs fill.

    A run of a stream fills its cell by SAM + AuxOL, and the row of the same name without ``, AuxOL`` by its SAM; where
    its column is ``all``, each set of the stream fills its own.

    Args:
        blocks: All tables.

    Returns:
        The cells, and one line for each that stays empty because convention, unit or claims contradict.
    """
    filled: dict[tuple[Cell, str], FilledCell] = {}
    notes: list[str] = []
    for block in blocks:
        for variant in block.variants:
            places = [place for cell in variant.cells for place in _places(cell, block, variant)]
            for cell, set_name in places:
                for entry in _fill(cell, set_name, block, variant, notes):
                    other = filled.setdefault((cell, entry.metric), entry)
                    if other.variant is not variant:
                        names = f"{other.variant.name} and {variant.name}"
                        notes.append(f"{', '.join(cell)}: both {names} fill it; {other.variant.name} is shown")
    return list(filled.values()), list(dict.fromkeys(notes))


def _places(named: Mapping[str, str], block: Block, variant: Variant) -> list[tuple[Cell, str | None]]:
    """The cells that a variant fills, given what its grid names, each with its set."""
    cells = filled_by(named)
    if variant.column == "":
        return [(cell, None) for cell in cells]
    row = named["row"]
    if variant.column == SAM:  # `SAM-H, box` beside `SAM-H, box, AuxOL`; in Fig. 5 beside `AuxOL`
        row = row.removesuffix("AuxOL").removesuffix(", ") or "adapted SAM"
    if variant.column == CLIPPED or (variant.column == SAM and row == named["row"]):
        return []
    columns = paper_tables()[named["paper"]]["tables"][named["table"]]["columns"]
    cells = [cell._replace(row=row) for cell in cells if row in columns[cell.column]["rows"]]
    if named["column"] != EVERY_COLUMN or not block.sets:
        return [(cell, None) for cell in cells if named["column"] != EVERY_COLUMN]
    return [(cell, name) for cell in cells for name in block.sets if _same_set(cell.column, name)]


def _same_set(column: str, set_name: str) -> bool:
    """Whether a paper's name of a set is that of the data: ``ETIS`` is ``ETIS-LaribPolypDB``."""
    short, long = (re.sub(r"[^a-z0-9]", "", name.casefold()) for name in (column, set_name))
    return bool(short) and bool(long) and (short in long or long in short)


def _fill(cell: Cell, set_name: str | None, block: Block, variant: Variant, notes: list[str]) -> list[FilledCell]:
    convention = block.facts["convention"]
    if convention != cell.paper:  # a paper's convention has the paper's name
        notes.append(
            f"{', '.join(cell)}: {variant.name} was scored under {convention}, the paper's under {cell.paper}; "
            "not compared"
        )
        return []
    unit = paper_tables()[cell.paper]["tables"][cell.table]["columns"][cell.column]["unit"]
    # A figure without printed numbers holds ours alone.
    values = paper_values(cell) or dict.fromkeys(block.metrics, math.nan)
    entries = []
    for metric in (metric for metric in values if metric in block.metrics):
        if metric not in FRACTIONS and unit != block.facts["unit"]:
            notes.append(
                f"{', '.join(cell)}: {metric} of {variant.name} is in {block.facts['unit']}, the paper's in {unit}; "
                "not compared"
            )
            continue
        means = [scale(metric) * part.of_set(set_name).mean(metric) for part in variant.scores]
        spread = standard_deviation(means)
        entries.append(FilledCell(cell, variant, metric, float(np.mean(means)), spread, values[metric]))
    return entries
