"""Tables as CSV: one writer and one reader for all of them."""

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from lightning_samseg.errors import UserError
from lightning_samseg.io.text import read_text, write_text

DELIMITERS = (",", ";", "\t")
"""Of tables from elsewhere; Excel writes semicolons where numbers have a decimal comma."""


class Row(NamedTuple):
    """A line of a table."""

    line: int
    """Number of its last line in the file, from 1; blank lines count."""
    cells: dict[str, str]
    """By column."""


def table_text(rows: Iterable[Sequence[object]]) -> str:
    """Rows as CSV: full float precision, an empty cell for NaN and None, 0 or 1 for flags."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue()


def write_table(path: str | Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table with a header line: UTF-8, complete or not at all; a missing folder is made.

    Args:
        path: Destination; an existing file is replaced.
        columns: Names of the columns.
        rows: Cells in that order, see :func:`table_text`. Names of files go through ``text.escape`` before.
    """
    write_text(path, table_text([columns, *rows]))


def read_table(path: str | Path, needs: Sequence[str] = (), *, fix: str = "", skip_broken: bool = False) -> list[Row]:
    """Read a table, ours or another program's: separated by comma, semicolon or tab, with a header line.

    Blank lines are skipped. With ``needs``, for tables from elsewhere, blanks around cells do not count, and neither do
    upper and lower case in the names of these columns.

    Args:
        path: The file.
        needs: Columns that must be there. They tell the separator, too; without them it is the comma.
        fix: What to do where a column is missing.
        skip_broken: Leave out lines that have not as many cells as the header: a kill or a full disk has cut them.

    Returns:
        Its rows in order.

    Raises:
        UserError: If it is no text, lacks a column, has a column twice, or a line has not as many cells as the header;
            the message names the line.
    """
    text = read_text(path, names=True)
    head, delimiter = _header(text, needs)
    known = {name.casefold(): name for name in needs}
    columns = [known.get(cell.casefold(), cell) for cell in head]
    missing = [name for name in needs if name not in columns]
    if missing or len(set(columns)) < len(columns):
        twice = next((name for name in columns if columns.count(name) > 1), "")
        raise UserError(
            f"{path} has no column {missing[0]}." if missing else f"{path} has two columns {twice!r}.",
            expected=f"a first line with {','.join(needs)}" if needs else "a name of its own for each column",
            found=",".join(head) if head else "an empty file",
            fix=fix or "add the line with the names of the columns, or correct it",
        )
    rows = []
    for line, cells in _lines(text, delimiter, path, stripped=bool(needs)):
        if skip_broken and len(cells) != len(columns):
            continue
        if len(cells) != len(columns):
            raise UserError(
                f"{path}, line {line} has not as many cells as the header.",
                expected=f"{len(columns)}: {','.join(columns)}",
                found=f"{len(cells)}: {delimiter.join(cells)}"[:200],
                fix="correct the line",
            )
        rows.append(Row(line, dict(zip(columns, cells, strict=True))))
    return rows[1:]


def _header(text: str, needs: Sequence[str]) -> tuple[list[str], str]:
    """Cells of the first line that is not blank, and what separates them."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    wanted = {name.casefold() for name in needs}

    def cells(delimiter: str) -> list[str]:
        return [cell.strip() for cell in next(csv.reader([first], delimiter=delimiter), [])]

    best = max(DELIMITERS, key=lambda each: len(wanted & {cell.casefold() for cell in cells(each)}))
    return cells(best), best


def _lines(text: str, delimiter: str, path: str | Path, stripped: bool) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=stripped, strict=True)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, [cell.strip() for cell in cells] if stripped else cells
    except csv.Error as error:
        raise UserError(
            f"{path}, line {reader.line_num}: no line of a table.", found=str(error), fix="look at the quotes there"
        ) from error


def mapped(rows: Iterable[Mapping[str, object]], columns: Sequence[str]) -> list[list[object]]:
    """Cells of rows that are given by column, None where one has no such cell."""
    return [[row.get(name) for name in columns] for row in rows]


def _cell(value: object) -> object:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float):
        return repr(float(value))  # NumPy's floats, too
    return int(value) if isinstance(value, bool) else value
