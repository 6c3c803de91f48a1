"""Files of a stream's rows, ``cases.csv`` and ``prompts.csv``: appended as they come, cut back, read again."""

import csv
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_samseg.errors import UserError
from lightning_samseg.io.tables import read_table, table_text, write_table
from lightning_samseg.online.columns import learned_column
from lightning_samseg.online.scores import ImageRow


def image_fields(column: str) -> list[str]:
    """Heads of ``cases.csv``: the fields of an ``ImageRow``, what learned under the name of its column."""
    return [f"{column}_{name[8:]}" if name.startswith("learned_") else name for name in ImageRow._fields]


class RowFile:
    """A CSV file that grows row by row and can be cut back to where a checkpoint left it.

    A file that an earlier version began keeps its columns: later ones are added at the end only.

    Args:
        path: The file; its folder is made.
        fields: Names of the columns.
        size: Bytes to keep of a file that is there; None starts a new one.

    Raises:
        UserError: If the file is shorter than it was.
    """

    def __init__(self, path: str | Path, fields: Sequence[str], size: int | None = None) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._columns = len(fields)
        if size is None:
            write_table(self.path, fields, [])
            return
        found = self.path.stat().st_size if self.path.is_file() else 0
        if found < size:
            raise UserError(
                f"{self.path} lacks rows that the checkpoint counts on.",
                expected=f"at least {size} bytes",
                found=f"{found} bytes",
                fix="put the file back, or start the stream anew in another folder",
            )
        os.truncate(self.path, size)
        with self.path.open(encoding="utf-8", newline="") as file:
            self._columns = len(next(csv.reader(file), fields))

    @property
    def size(self) -> int:
        """Bytes of the file, once the disk has them: a checkpoint counts on them."""
        with self.path.open("rb") as file:
            os.fsync(file.fileno())
            return os.fstat(file.fileno()).st_size

    def append(self, rows: Sequence[Sequence[object]]) -> None:
        """Write rows at the end, in one piece; full float precision, an empty cell for NaN and None."""
        with self.path.open("a", encoding="utf-8", newline="") as file:
            file.write(table_text([row[: self._columns] for row in rows]))


def read_rows(path: str | Path) -> list[ImageRow]:
    """Read ``cases.csv`` back, whichever method's.

    Args:
        path: The file.

    Returns:
        Its rows in order.
    """
    rows = []
    for row in read_table(path):
        column = learned_column(name.removesuffix("_dsc") for name in row.cells if name.endswith("_dsc"))
        assert column is not None, f"{path} has no column of what learned"
        cells = (row.cells[name] for name in image_fields(column))
        kinds = ImageRow.__annotations__.values()
        rows.append(ImageRow(*(_value(cell, kind) for cell, kind in zip(cells, kinds, strict=True))))
    return rows


def read_prompt_alphas(path: str | Path) -> list[float]:
    """Read the weights used at each prompt from ``prompts.csv``, in order."""
    return [float(row.cells["alpha"]) for row in read_table(path)]


def read_updates(path: str | Path) -> dict[tuple[int, int], int]:
    """Read how many updates followed each prompt from ``prompts.csv``, also from one that was cut off in a row.

    Args:
        path: The file, of this or an earlier version; it may be missing.

    Returns:
        Number of updates by position of the image and number of the prompt, of the whole rows that have one.
    """
    if not Path(path).is_file():
        return {}
    return {
        (int(row.cells["position"]), int(row.cells["prompt"])): int(row.cells["updates"])
        for row in read_table(path, skip_broken=True)
        if "updates" in row.cells
    }


def _value(text: str, kind: type) -> Any:
    return math.nan if kind is float and text == "" else kind(text)
