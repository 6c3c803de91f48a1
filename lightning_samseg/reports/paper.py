"""The papers' numbers, by cell. They stand in ``paper_numbers.yaml`` beside this file."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lightning_samseg.errors import UserError

NUMBERS = Path(__file__).with_name("paper_numbers.yaml")
EVERY_COLUMN = "all"
"""Column of a run that fills its row in all of a table's columns, as one stream through five data sets does."""


class Cell(NamedTuple):
    """One place in a paper's table that one run fills, with all of its metrics."""

    paper: str
    """``cpc_sam`` or ``aux_ol``."""
    table: str
    """As printed: ``Table 1``, ``Fig. 3``."""
    column: str
    """Data set."""
    row: str
    """Method or variant."""


@lru_cache(maxsize=1)
def paper_tables() -> dict[str, Any]:
    """Everything in the file: paper -> ``title``, ``venue``, ``tables`` -> ``caption``, ``metrics``, ``columns``.

    A column has the ``unit`` of its distances, px or mm, and ``rows``, each a list with one number per metric. The
    result is shared: do not change it.
    """
    tables: dict[str, Any] = yaml.safe_load(NUMBERS.read_text(encoding="utf-8"))
    return tables


def filled_by(cell: Mapping[str, str]) -> list[Cell]:
    """The cells that a run of a grid fills.

    Args:
        cell: As the grid names it, with the column ``all`` for every column of the table.

    Returns:
        At least one cell.

    Raises:
        UserError: If there is no such paper or table.
    """
    named = Cell(**cell)
    if named.column != EVERY_COLUMN:
        return [named]
    tables = _entry(paper_tables(), named.paper, "paper", named)["tables"]
    return [named._replace(column=column) for column in _entry(tables, named.table, "table", named)["columns"]]


def paper_values(cell: Cell) -> dict[str, float]:
    """The numbers that a paper prints in a cell.

    Args:
        cell: Which one.

    Returns:
        Metric -> value as printed: ``dsc`` and ``jc`` in percent, ``hd95``, ``asd`` and ``hd`` in px or mm. Empty for a
        figure that prints no numbers.

    Raises:
        UserError: If there is no such cell.
    """
    paper = _entry(paper_tables(), cell.paper, "paper", cell)
    table = _entry(paper["tables"], cell.table, "table", cell)
    column = _entry(table["columns"], cell.column, "column", cell)
    return dict(zip(table["metrics"], _entry(column["rows"], cell.row, "row", cell), strict=True))


def _entry(entries: dict[str, Any], name: str, what: str, cell: Cell) -> Any:
    if name not in entries:
        raise UserError(
            f"No {what} of the papers is called {name!r} ({', '.join(cell)}).",
            expected="; ".join(entries),
            fix=f"write the {what} as in lightning_samseg/reports/{NUMBERS.name}",
        )
    return entries[name]
