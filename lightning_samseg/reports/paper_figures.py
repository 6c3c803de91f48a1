"""The papers' figures with ours in them: bars, or curves where the rows are numbers."""

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_samseg.reports.figures import COLOURS, DASHES, axis_label, start
from lightning_samseg.reports.paper import paper_tables
from lightning_samseg.reports.results import FilledCell

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def paper_figures(cells: Sequence[FilledCell]) -> "list[tuple[str, Figure]]":
    """Draw every figure of the papers in which a cell is filled.

    Args:
        cells: Of any tables and figures.

    Returns:
        Caption and figure: one with a line per column where the rows are numbers, else one with bars per column.
    """
    figures = []
    for paper, name in dict.fromkeys(entry.cell[:2] for entry in cells if entry.cell.table.startswith("Fig")):
        own = [entry for entry in cells if entry.cell[:2] == (paper, name) and entry.metric == "dsc"]
        content = paper_tables()[paper]["tables"][name]
        printed = "with the paper's values" if content["metrics"] else "ours alone: the paper prints no numbers"
        text = f"{paper_tables()[paper]['venue']}, {name}, {printed}"
        columns = list(dict.fromkeys(entry.cell.column for entry in own))
        rows = content["columns"][columns[0]]["rows"]
        if not content["metrics"] and all(_value(row) is not None for row in rows):
            figures.append((f"{text}.", _curves(own, columns)))
        else:
            figures += [(f"{text}: {c}.", _bars([e for e in own if e.cell.column == c], content, c)) for c in columns]
    return figures


def _bars(own: Sequence[FilledCell], content: dict[str, Any], column: str) -> "Figure":
    """Ours with the standard deviation over seeds, beside it the paper's value."""
    rows = content["columns"][column]["rows"]
    ours = {entry.cell.row: entry for entry in own}
    papers = [dict(zip(content["metrics"], row, strict=True)).get("dsc", math.nan) for row in rows.values()]
    means = [ours[row].mean if row in ours else math.nan for row in rows]
    spread = [0.0 if row not in ours or math.isnan(ours[row].sd_seeds) else ours[row].sd_seeds for row in rows]
    figure, (axes,) = start(1, 1, 3.0)
    places = np.arange(len(rows))
    both = bool(content["metrics"])
    axes.bar(
        places - 0.19 * both, means, 0.36, yerr=spread, color=COLOURS[0], capsize=3, label="ours (± sd over seeds)"
    )
    _label(axes, places - 0.19 * both, means, spread)
    if both:
        axes.bar(places + 0.19, papers, 0.36, color="white", edgecolor="black", hatch="//", label="paper")
        _label(axes, places + 0.19, papers, [0.0] * len(papers))
    values = [value for value in (*means, *papers) if not math.isnan(value)]
    # Bars of close values start above zero, as the papers' own do; the label says where.
    bottom = 0.0 if min(values) < 40 else 5 * math.floor((min(values) - 5) / 5)
    axes.set_ylim(bottom, max(values) + 0.15 * (max(values) - bottom))
    axes.set_xticks(places, [row.replace(" ", "\n", 1) if len(row) > 18 else row for row in rows])
    axes.set_ylabel("DSC in %" + (f" (from {bottom:g})" if bottom else ""))
    axes.legend(frameon=False, fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


def _curves(own: Sequence[FilledCell], columns: Sequence[str]) -> "Figure":
    """A line per column over the numbers of the rows, with the standard deviation over seeds."""
    figure, (axes,) = start(1, 1, 3.2)
    for index, column in enumerate(columns):
        points = sorted(
            (_value(e.cell.row) or 0.0, e.mean, 0.0 if math.isnan(e.sd_seeds) else e.sd_seeds)
            for e in own
            if e.cell.column == column
        )
        x, mean, spread = zip(*points, strict=True)
        dash = DASHES[index % len(DASHES)]
        axes.errorbar(
            x,
            mean,
            yerr=spread,
            color=COLOURS[index],
            linestyle=dash,
            marker="o",
            markersize=4,
            capsize=3,
            label=column,
        )
    rows = {_value(entry.cell.row): entry.cell.row for entry in own}
    axes.set_xticks([value for value in rows if value is not None], list(rows.values()))
    axes.set(xlabel="images that the expert rectifies", ylabel=f"{axis_label('dsc', '%')} (bars: sd over seeds)")
    axes.legend(frameon=False, fontsize=8)
    return figure


def _label(axes: "Axes", places: "np.typing.NDArray[Any]", values: Sequence[float], spread: Sequence[float]) -> None:
    for x, value, above in zip(places, values, spread, strict=True):
        if not math.isnan(value):
            axes.annotate(
                f"{value:.2f}",
                (x, value + above),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=7,
            )


def _value(row: str) -> float | None:
    """The number in a row's name, as of ``50 %`` and ``below 0.85``."""
    found = re.fullmatch(r"(?:below )?(\d+(?:\.\d+)?)(?: %)?", row)
    return float(found[1]) if found else None
