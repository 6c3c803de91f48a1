import csv
import math

import numpy as np
import pytest

from lightning_samseg.errors import UserError
from lightning_samseg.io.tables import mapped, read_table, table_text, write_table


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


def test_what_is_written_can_be_read(tmp_path) -> None:
    path = tmp_path / "new" / "table.csv"
    rows = [[" a,b ", 'say "x"', 0.1 + 0.2], ["two\nlines", "ä", 1]]
    write_table(path, ("name", "text", "value"), rows)
    assert [list(row.cells.values()) for row in read_table(path)] == [[str(cell) for cell in row] for row in rows]
    assert [row.line for row in read_table(path)] == [2, 4]
    with path.open(newline="", encoding="utf-8") as file:
        assert [list(row.values()) for row in csv.DictReader(file)] == [[str(cell) for cell in row] for row in rows]
    assert list(path.parent.iterdir()) == [path]


def test_cells() -> None:
    assert table_text([[math.nan, None, True, False, np.float64(0.1), np.float32(0.5), 7]]) == ",,1,0,0.1,0.5,7\n"
    assert mapped([{"a": 1}, {"b": 2}], ("a", "b")) == [[1, None], [None, 2]]


@pytest.mark.parametrize(
    "text",
    [
        "image,x,y\na b.png,1,2\n",
        "\ufeffimage,x,y\r\na b.png,1,2\r\n",
        "image;x;y\na b.png;1;2\n",
        "image\tx\ty\na b.png\t1\t2",
        "\n\nimage, x, y\n\n a b.png , 1, 2\n,,\n",
        "Y,Image,X\n2,a b.png,1\n",
        'image,x,y\n"a b.png","1","2"\n',
        'image, x, y\n"a b.png", "1", "2"\n',
    ],
)
def test_tables_of_other_programs(tmp_path, text) -> None:
    (row,) = read_table(write(tmp_path / "a.csv", text), ("image", "x", "y"))
    assert row.cells == {"image": "a b.png", "x": "1", "y": "2"}


def test_lines_are_those_of_the_file(tmp_path) -> None:
    path = write(tmp_path / "a.csv", "image,x\n\n\na,1\n\nb\n")
    with pytest.raises(UserError, match=r"a\.csv, line 6 has not as many cells(.|\n)*2: image,x(.|\n)*found: 1: b"):
        read_table(path, ("image",))
    assert [row.line for row in read_table(path, skip_broken=True)] == [4]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"no column image(.|\n)*a first line with image,x(.|\n)*an empty file"),
        ("a.png,1\n", r"no column image(.|\n)*found: a\.png,1"),
        ("image,x,x\n", "two columns 'x'"),
        ('image,x\n"a,1\n', "line 2: no line of a table"),
    ],
)
def test_mistakes(tmp_path, text, message) -> None:
    with pytest.raises(UserError, match=message):
        read_table(write(tmp_path / "a.csv", text), ("image", "x"))


def test_names_that_are_no_utf_8(tmp_path) -> None:
    (row,) = read_table(write(tmp_path / "a.csv", "image\ngröße.png\n", "latin-1"), ("image",))
    assert row.cells["image"] == "gr\udcf6\udcdfe.png"
