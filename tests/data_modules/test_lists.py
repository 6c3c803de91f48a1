"""Lists of images: what a line means, and that what is written is read."""

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data_modules.layouts.base import Item
from data_modules.layouts.lists import list_text, listed_splits, read_list, spellings
from lightning_samseg.errors import UserError
from lightning_samseg.io.volumes import case_name
from tests.data_modules.test_layouts import items


def test_lists(tmp_path):
    there = items({"a": 6})
    for name, text in {
        "train": "a (0)\na (1).png  # ending\n\n# note\na (2)\n",
        "val": "a (3)",
        "test": "a (4)",
    }.items():
        (tmp_path / f"{name}.txt").write_text(text)
    splits = listed_splits(there, tmp_path, tmp_path, "mend it")
    assert splits == ([there[0], there[1], there[2]], [there[3]], [there[4]], ())
    (tmp_path / "labelled.txt").write_text("a (2)\na (0)")
    assert listed_splits(there, tmp_path, tmp_path, "")[0] == [there[2], there[0], there[1]]
    (tmp_path / "labelled.txt").write_text("a (4)")
    with pytest.raises(UserError, match=r"names a \(4\), which is not in train"):
        listed_splits(there, tmp_path, tmp_path, "")
    (tmp_path / "labelled.txt").unlink()
    with pytest.raises(UserError, match=r"2 of the 5 images .* missing(.|\n)*no a \(3\), no a \(4\)\n(.|\n)*mend it"):
        listed_splits(there[:3], tmp_path, tmp_path, "mend it")
    (tmp_path / "val.txt").write_text("a (1)")
    with pytest.raises(UserError, match=r"a \(1\) is listed twice, in train.txt and val.txt"):
        listed_splits(there, tmp_path, tmp_path, "")
    (tmp_path / "val.txt").write_text("case#3  # a name\n # no name\n#4\n")
    assert read_list(tmp_path / "val.txt") == ["case#3"]
    (tmp_path / "val.txt").write_text("# nothing")
    with pytest.raises(UserError, match="names no image"):
        read_list(tmp_path / "val.txt")
    with pytest.raises(UserError, match="no list"):
        read_list(tmp_path / "absent.txt")


def images(*names: str, root: Path = Path("data")) -> list[Item]:
    return [Item(case_name(name), root / "images" / name) for name in names]


def read(folder: Path, text: str | bytes, there: list[Item], root: Path = Path("data")) -> list[str]:
    path = folder / "list.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_list(path, spellings(there, root))


NAMES = (
    *("plain.png", "scan_00.tif.png", "case #1.png", "#2.png", " blanks .png", "läsion.png", "la\u0308sion 2.png"),
    *("gr\udcf6sse.png", r"back\xf6slash.png", "a.b.nii.gz", "line\u2028end.png", "tab\there.png", '"quoted".png'),
)


def test_lists_give_back_what_was_written(tmp_path) -> None:
    there = images(*NAMES)
    ids = [item.case_id for item in there]
    assert read(tmp_path, list_text("all of them", ids), there) == ids


@given(st.lists(st.binary(min_size=1, max_size=12).filter(lambda b: not b.isspace()), max_size=5, unique=True))
@example([b"\xaa\xcc\x80"])
def test_whatever_the_names_are(tmp_path_factory, names) -> None:
    stems = [b"x.png", *(name.replace(b"/", b"").replace(b"\0", b"") + b".png" for name in names)]
    there = {item.case_id: item for item in images(*(stem.decode("utf-8", "surrogateescape") for stem in stems))}
    ids = [case for case in there if case.strip()]
    folder = tmp_path_factory.mktemp("lists")
    assert read(folder, list_text("x", ids), list(there.values())) == ids


@pytest.mark.parametrize(
    ("line", "case"),
    [
        ("plain", "plain"),
        ("plain.png  # a note", "plain"),
        ("  plain\t", "plain"),
        ("images/plain.png", "plain"),
        ("images\\plain.png", "plain"),
        ("data/images/plain.png", "plain"),
        (str(Path("data/images/plain.png").absolute()), "plain"),
        ("scan_00.tif", "scan_00.tif"),
        ("scan_00.tif.png", "scan_00.tif"),
        ("case #1.png", "case #1"),
        ("la\u0308sion", "läsion"),
        ("läsion 2.png", "läsion 2"),
        ("größe.png".encode("latin-1").replace(b"\xdf", b"ss"), r"gr\xf6sse"),
        (r"gr\xf6sse", r"gr\xf6sse"),
        (r"back\xf6slash", r"back\x5cxf6slash"),
        ("\ufeffplain", "plain"),
        ("plain\r\n\r\n", "plain"),
    ],
)
def test_ways_to_name_an_image(tmp_path, line, case) -> None:
    assert read(tmp_path, line, images(*NAMES)) == [case]


def test_a_file_name_that_several_have_means_none(tmp_path) -> None:
    there = [Item(f"{name}/1", Path("data") / name / "1.png") for name in ("Kvasir", "ETIS")]
    assert read(tmp_path, "Kvasir/1\nETIS/1.png\n", there) == ["Kvasir/1", "ETIS/1"]
    assert read(tmp_path, "1.png\n", there) == ["1"]


def test_mistakes_name_the_list(tmp_path) -> None:
    there = images("a.png", "b.png")
    with pytest.raises(UserError, match=r"list\.txt names a twice(.|\n)*lines 1 and 4"):
        read(tmp_path, "a\nb\n\na.png\n", there)
    with pytest.raises(UserError, match=r"list\.txt is not UTF-8 text(.|\n)*UTF-16"):
        read(tmp_path, "a\n".encode("utf-16"), there)
    for part in ("train", "val", "test"):
        (tmp_path / f"{part}.txt").write_text("/old/place/images/c.png\n" if part == "val" else f"{part[1]}\n")
    with pytest.raises(UserError, match=r"case ids such as a, b\n  found: no r, no /old/place/images/c, no e"):
        listed_splits(there, tmp_path, tmp_path, "mend it")
