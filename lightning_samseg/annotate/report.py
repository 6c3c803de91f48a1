"""``report WORKSPACE``: what the expert's work amounted to, as a table, figures and a page of text. Needs no torch."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lightning_samseg.annotate.effort import COLUMNS, totals
from lightning_samseg.annotate.journal import Journal
from lightning_samseg.errors import UserError
from lightning_samseg.io.files import atomic_write
from lightning_samseg.io.tables import write_table
from lightning_samseg.io.text import write_text
from lightning_samseg.online.columns import column_label
from lightning_samseg.reports.figures import start

RECENT = 10
MEANING = """\
* Changed pixels: where the accepted mask differs from what each column would have offered. Saved effort is
  1 - changed(SAM + AuxOL) / changed(SAM, clipped): clipping to the prompt's crop alone gains something, too.
* DSC is agreement with what was accepted, not with the truth. The expert starts from the fused mask, so that agreement
  with it is biased upwards. The rows "blind" are images that started from SAM's mask while the fused one was hidden:
  compare these where there are enough of them.
* Active seconds leave out pauses of more than 30 s. They hang on the expert, who learns, too, and on the images' order:
  a falling trend is no proof that the network helps. Nothing here is an experiment with a control group.
"""


def report_workspace(workspace: Path, out: Path) -> int:
    """Write ``effort.csv``, ``effort.png``, ``effort.pdf`` and ``effort.md``.

    Args:
        workspace: The folder; it may be in use.
        out: Folder of the report.

    Returns:
        Exit status 0.

    Raises:
        UserError: If nothing is accepted yet, or the journal is damaged.
    """
    accepts = [
        each for each in Journal(workspace / "journal.jsonl", read_only=True).events if each["event"] == "accept"
    ]
    if not accepts:
        raise UserError(f"Nothing is accepted in {workspace} yet.", fix="annotate some images first")
    write_table(out / "effort.csv", _HEADS, [_row(each) for each in accepts])
    figure = _figure(accepts)
    for ending in ("png", "pdf"):
        with atomic_write(out / f"effort.{ending}") as temporary:
            figure.savefig(temporary, dpi=200)
    settings = json.loads((workspace / "workspace.json").read_text(encoding="utf-8"))["settings"]
    write_text(out / "effort.md", _text(workspace, settings, accepts))
    print(_table(accepts))
    print(f"report    {out / 'effort.md'}")
    return 0


_HEADS = (
    *("position", "name", "blind", "prompts", "alpha", "learned", "lag", "seconds", "strokes", "undos"),
    *(f"{column}_dsc" for column in COLUMNS),
    *(f"{column}_changed" for column in (*COLUMNS, "empty")),
    "source",
    "author",
)


def _row(entry: dict[str, Any]) -> list[object]:
    effort, numbers = entry["effort"], entry["numbers"]
    return [
        *(entry["position"], entry["name"], int(entry["blind"]), len(entry["prompts"]), entry["alpha"]),
        *(entry["learned"], entry["lag"], *(effort.get(name) for name in ("seconds", "strokes", "undos"))),
        *(numbers["dsc"][column] for column in COLUMNS),
        *(numbers["changed"][column] for column in (*COLUMNS, "empty")),
        entry["source"],
        entry["author"],
    ]


def _table(accepts: Sequence[dict[str, Any]]) -> str:
    """Means over all images, thirds of the stream, and blind images, a line each."""
    thirds = [part.tolist() for part in np.array_split(np.arange(len(accepts)), 3)]
    parts: dict[str, list[dict[str, Any]]] = {"all": list(accepts)}
    for number, places in enumerate(thirds, 1):
        parts[f"third {number}"] = [accepts[place] for place in places]
    parts["blind"] = [each for each in accepts if each["blind"]]
    lines = [
        f"{'':<10}{'images':>7}"
        + "".join(f"{column_label(column):>26}" for column in COLUMNS)
        + f"{'saved %':>9}{'s':>7}"
    ]
    lines.append(f"{'':<17}" + f"{'DSC %':>13}{'changed px':>13}" * len(COLUMNS))
    for name, entries in parts.items():
        if not entries:
            continue
        sums = totals(entries)
        cells = "".join(
            f"{100 * sums['dsc'][column]:>13.2f}{sums['changed'][column] / len(entries):>13.1f}" for column in COLUMNS
        )
        saved = "-" if sums["saved_effort"] is None else f"{100 * sums['saved_effort']:.1f}"
        lines.append(f"{name:<10}{len(entries):>7}{cells}{saved:>9}{sums['seconds'] / len(entries):>7.1f}")
    return "\n".join(lines)


def _text(workspace: Path, settings: dict[str, Any], accepts: Sequence[dict[str, Any]]) -> str:
    lag = sum(each["lag"] > 0 for each in accepts)
    return (
        f"# {workspace.name}: {settings['class_name']}\n\n{len(accepts)} images accepted; of {lag} the prediction had "
        f"not seen every lesson before it.\n\n```\n{_table(accepts)}\n```\n\n![effort](effort.png)\n\n{MEANING}"
    )


def _figure(accepts: Sequence[dict[str, Any]]) -> Any:
    figure, (top, middle, bottom) = start(3, 1, 6.2)
    places = np.arange(1, len(accepts) + 1)
    for column, dash in zip(COLUMNS, ("--", ":", "-"), strict=True):
        dsc = np.array([100 * each["numbers"]["dsc"][column] for each in accepts])
        changed = np.array([each["numbers"]["changed"][column] for each in accepts], float)
        top.plot(places, _recent(dsc), dash, label=column_label(column))
        middle.plot(places, _recent(changed), dash, label=column_label(column))
    seconds = np.array([each["effort"].get("seconds", np.nan) for each in accepts], float)
    bottom.plot(places, seconds, ".", markersize=3)
    top.set(xlabel="image", ylabel=f"agreement, DSC in %,\nlast {RECENT}")
    middle.set(xlabel="image", ylabel=f"pixels to change,\nlast {RECENT}")
    bottom.set(xlabel="image", ylabel="active seconds")
    top.legend(frameon=False, fontsize=8)
    return figure


def _recent(values: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """Mean of each value and those before it, of ten at most."""
    return np.array([values[max(0, place - RECENT + 1) : place + 1].mean() for place in range(len(values))])
