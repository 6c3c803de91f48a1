"""Figures of a report: box plots per case, curves of streams and of swept options.

Every function returns a matplotlib figure; colours are Okabe and Ito's, told apart by colour-blind readers, and lines
also differ in their dashes. matplotlib is imported where something is drawn.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_samseg.io.tables import read_table
from lightning_samseg.online.columns import CLIPPED, SAM, column_colour, column_label, is_learned
from lightning_samseg.reports.groups import Block, Variant, repeat_key
from lightning_samseg.reports.results import case_scores
from lightning_samseg.reports.runs import FloatArray, RunRecord
from lightning_samseg.reports.tables import metric_head

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#000000")
DASHES = ("-", "--", "-.", ":")
WIDTH = 7.2
"""Inches, the text width of a page."""


def box_plots(block: Block) -> "Figure":
    """DSC and the first distance of every case and variant, averaged over seeds: Tukey's boxes, all cases as dots."""
    metrics = [block.metrics[0], next(m for m in block.metrics if m.startswith("hd"))]
    count = len(block.variants)
    figure, panels = start(1, 2, 0.9 + 0.42 * count, sharey=True)
    for axes, metric in zip(panels, metrics, strict=True):
        for row, variant in enumerate(block.variants):
            scores = case_scores(variant, metric)
            scores = scores[~np.isnan(scores)]
            colour = _colour(variant, row, count)
            # A fixed spread in the order of the scores, so that the same runs give the same picture.
            spread = 0.22 * np.sin(np.arange(scores.size) * 2.399963)
            axes.scatter(scores, row + spread, s=6, color=colour, alpha=0.45, linewidths=0)
            axes.boxplot(
                scores,
                positions=[row],
                orientation="horizontal",
                widths=0.6,
                showfliers=False,
                medianprops={"color": "black", "linewidth": 1.4},
                manage_ticks=False,
            )
        axes.set_xlabel(axis_label(metric, block.facts["unit"]))
        axes.grid(axis="x", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
    panels[0].set_yticks(range(count), [variant.name for variant in block.variants])
    panels[0].set_ylim(count - 0.5, -0.5)
    return figure


def stream_curves(block: Block) -> "Figure":
    """Running mean DSC, weight of SAM at each prompt (as Fig. 6 of AuxOL), share of rectified images over the stream.

    Lines are means over seeds; bands, where variants are few, go from the lowest to the highest seed; every prompt of
    every seed is a dot.
    """
    learners = [variant for variant in block.variants if is_learned(variant.column)]
    figure, (top, middle, bottom) = start(3, 1, 6.2, height_ratios=(2, 1.4, 1))
    shown = block.variants if len(learners) == 1 else [*learners, next(v for v in block.variants if v.column == SAM)]
    for index, variant in enumerate(shown):
        colour = _colour(variant, index, len(shown) if len(learners) > 1 else 3)
        dash = {SAM: "--", CLIPPED: ":"}.get(variant.column, DASHES[index // len(COLOURS) % len(DASHES)])
        traces = [_trace(run) for run in variant.runs]
        running = [_running_mean([100 * float(row[f"{variant.column}_dsc"]) for row in rows]) for rows, _ in traces]
        _band(top, running, variant.name, colour, dash, len(shown) <= 4)
        if is_learned(variant.column):
            for _, alphas in traces:
                middle.plot(np.arange(1, len(alphas) + 1), alphas, ".", markersize=3, color=colour, alpha=0.6)
            told = [_running_mean([100.0 * (row["feedback"] == "expert") for row in rows]) for rows, _ in traces]
            _band(bottom, told, variant.name, colour, dash, len(shown) <= 4)
    _mark_sets(top, learners[0].runs[0])
    top.set(xlabel="image", ylabel="mean DSC so far in %")
    middle.set(xlabel="prompt", ylabel="weight of SAM, $\\alpha$", ylim=(-0.03, 1.03))
    bottom.set(xlabel="image", ylabel="rectified in %", ylim=(-3, 103))
    if len(shown) <= 3:
        top.legend(frameon=False, fontsize=8, loc="best")
    else:
        figure.legend(*top.get_legend_handles_labels(), frameon=False, fontsize=8, ncols=2, loc="outside lower center")
    return figure


def sweeps(block: Block) -> "list[tuple[str, Figure]]":
    """Score against an option, where variants differ in that number alone (as Figs. 3 and 4 of AuxOL).

    Returns:
        Name of the option and its figure; an option needs three values.
    """
    figures = []
    shown = [variant for variant in block.variants if variant.column != CLIPPED]
    for option in _varying(shown):
        lines: dict[str, list[tuple[float, Variant]]] = defaultdict(list)
        for variant in shown:
            options = repeat_key(variant.runs[0])
            value = options.pop(option, None)
            if type(value) in (int, float):
                lines[json.dumps([variant.column, options], sort_keys=True, default=str)].append((value, variant))
        lines = {key: sorted(line, key=lambda point: point[0]) for key, line in lines.items() if len(line) >= 3}
        if lines:
            figures.append((option.rpartition(".")[2], _sweep(option, lines)))
    return figures


def _sweep(option: str, lines: Mapping[str, list[tuple[float, Variant]]]) -> "Figure":
    figure, (axes,) = start(1, 1, 3.0)
    others = [json.loads(key) for key in lines]  # column and the options that a line has in common
    differing = [name for name in others[0][1] if len({json.dumps(other[1].get(name)) for other in others}) > 1]
    for index, (line, (column, options)) in enumerate(zip(lines.values(), others, strict=True)):
        scores = [[100 * part.mean("dsc") for part in variant.scores] for _, variant in line]
        spread = [float(np.std(part, ddof=1)) if len(part) > 1 else 0.0 for part in scores]
        alone = column and not differing
        label = ", ".join([column_label(column) or "DSC", *(f"{n.rpartition('.')[2]} {options[n]}" for n in differing)])
        axes.errorbar(
            [value for value, _ in line],
            [float(np.mean(part)) for part in scores],
            yerr=spread,
            color=column_colour(column) if alone else COLOURS[index % len(COLOURS)],
            linestyle="--" if column == SAM else "-",
            marker="o",
            markersize=4,
            capsize=3,
            label=label,
        )
    values = sorted({value for line in lines.values() for value, _ in line})
    if values[0] > 0 and values[-1] / values[0] >= 30:
        axes.set_xscale("log")
    axes.set_xticks(values, [f"{value:g}" for value in values], minor=False)
    axes.set(xlabel=option, ylabel="DSC in % (bars: sd over seeds)")
    if len(lines) > 1:
        axes.legend(frameon=False, fontsize=8)
    return figure


def _varying(variants: Sequence[Variant]) -> list[str]:
    keys = [repeat_key(variant.runs[0]) for variant in variants]
    names = dict.fromkeys(name for options in keys for name in options)
    return [name for name in names if len({json.dumps(o.get(name), default=str) for o in keys}) >= 3]


def start(rows: int, columns: int, height: float, **options: Any) -> "tuple[Figure, list[Axes]]":
    """An empty figure of a page's width and ``height`` inches, and its panels row by row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    panels = list(np.atleast_1d(figure.subplots(rows, columns, **options)).ravel())
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.xaxis.label.set_size(9)
        axes.yaxis.label.set_size(9)
    return figure, panels


def axis_label(metric: str, unit: str) -> str:
    """As ``DSC in %``."""
    return " in ".join(metric_head(metric, unit).rsplit(" ", 1))


def _colour(variant: Variant, index: int, count: int) -> str:
    if (variant.column and count <= 3) or variant.column == CLIPPED:
        return column_colour(variant.column)
    return COLOURS[index % len(COLOURS)]


def _band(axes: "Axes", lines: Sequence[FloatArray], label: str, colour: str, dash: str, shaded: bool) -> None:
    length = min(line.size for line in lines)
    if length == 0:
        return
    stacked = np.stack([line[:length] for line in lines])
    x = np.arange(1, length + 1)
    axes.plot(x, stacked.mean(axis=0), color=colour, linestyle=dash, linewidth=1.5, label=label)
    if shaded and len(lines) > 1:
        axes.fill_between(x, stacked.min(axis=0), stacked.max(axis=0), color=colour, alpha=0.18, linewidth=0)


def _running_mean(values: Sequence[float]) -> FloatArray:
    return np.cumsum(values) / np.arange(1, len(values) + 1)


def _trace(run: RunRecord) -> tuple[list[dict[str, str]], list[float]]:
    """Images in the order of the stream, and the weight of SAM at each prompt."""
    rows = sorted((row.cells for row in read_table(run.folder / "cases.csv")), key=lambda row: int(row["position"]))
    prompts = run.folder / "prompts.csv"
    if not prompts.is_file():
        return rows, []
    return rows, [float(row.cells["alpha"]) for row in read_table(prompts) if row.cells["alpha"]]


def _mark_sets(axes: "Axes", run: RunRecord) -> None:
    """A line where one set of the stream ends and the next begins, and the sets' names."""
    rows, _ = _trace(run)
    names = [row["set_name"] for row in rows]
    starts = [0, *(i for i in range(1, len(names)) if names[i] != names[i - 1])]
    if len(starts) < 2 or len(starts) > 12:
        return
    for start, end in zip(starts, [*starts[1:], len(names)], strict=True):
        if start:
            axes.axvline(start + 0.5, color="#777777", linewidth=0.6, linestyle=":")
        axes.annotate(
            names[start],
            ((start + end + 1) / 2, 1.0),
            xycoords=("data", "axes fraction"),
            ha="center",
            va="bottom",
            fontsize=7,
            color="#555555",
        )
