import os
import re
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_samseg.errors import UserError
from lightning_samseg.io.text import escape, file_name, nfc, read_text, write_text


def unescape(text: str) -> bytes:
    """As `escape` documents it."""
    return re.sub(rb"\\x([0-9a-f]{2})", lambda m: bytes.fromhex(m[1].decode()), text.encode())


@given(st.binary(min_size=1, max_size=20) | st.text(alphabet="ä\\x5cf6 #\n", max_size=12).map(str.encode))
def test_any_name_of_a_file_becomes_text_and_can_be_had_back(name: bytes) -> None:
    text = escape(name.decode("utf-8", "surrogateescape"))
    text.encode("utf-8")
    assert not re.search(r"[\x00-\x1f\x7f]", text)
    assert unescape(text) == name


@given(st.text(st.sampled_from("\udcaa\udcf6\x01\\xaf\u0300\u05b0\u0327"), max_size=8))
def test_a_readable_name_stays_composed(name: str) -> None:
    text = escape(nfc(name))
    assert nfc(text) == text
    assert unescape(text) == nfc(name).encode("utf-8", "surrogateescape")


def test_readable_names_stay() -> None:
    for name in ("läsion_0.png", "図 1", "C:\\data\\xray.png", "a\\x5", "ON", "#1"):
        assert escape(name) == name
    assert escape("gr\udcf6sse.png") == r"gr\xf6sse.png"
    assert escape(r"a\xf6") == r"a\x5cxf6"
    assert escape("\udcaa\u0300b\u0301") == r"\xaa\xcc\x80" + "b\u0301"


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are Unicode there")
def test_names_as_the_system_gives_them(tmp_path) -> None:
    name = "größe".encode("latin-1")
    (tmp_path / os.fsdecode(name)).touch()
    listed = next(tmp_path.iterdir()).name
    assert escape(listed) == r"gr\xf6\xdfe"
    assert unescape(escape(listed)) == name


def test_composed_names() -> None:
    apart = unicodedata.normalize("NFD", "läsion")
    assert apart != "läsion"
    assert nfc(apart) == nfc("läsion") == "läsion"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\xef\xbb\xbfa\r\n", "a\r\n"),
        (b"a\n\xef\xbb\xbfb\n", "a\nb\n"),  # two files with a mark, put together
        ("ä\n".encode(), "ä\n"),
        (b"", ""),
    ],
)
def test_utf_8_with_and_without_a_mark(tmp_path, data, text) -> None:
    (tmp_path / "a").write_bytes(data)
    assert read_text(tmp_path / "a") == text


def test_names_of_files_may_be_any_bytes(tmp_path) -> None:
    (tmp_path / "a").write_bytes("größe\n".encode("latin-1"))
    assert read_text(tmp_path / "a", names=True).encode("utf-8", "surrogateescape") == "größe\n".encode("latin-1")
    with pytest.raises(UserError, match=r"a, line 1: not UTF-8 text\.\n  found: gr\\xf6\\xdfe"):
        read_text(tmp_path / "a")


@pytest.mark.parametrize(
    ("data", "found"),
    [
        ("s00\n".encode("utf-16"), "UTF-16, as Windows"),
        ("s00\n".encode("utf-16-be"), "binary"),
        (b"PK\x03\x04rest", "Excel"),
        (b"\x1f\x8brest", "gzip"),
        (b"abc\0\0", "binary"),
    ],
)
def test_what_is_no_text(tmp_path, data, found) -> None:
    (tmp_path / "list.txt").write_bytes(data)
    for names in (False, True):
        with pytest.raises(
            UserError, match=rf"list\.txt is not UTF-8 text(.|\n)*{found}(.|\n)*what to do: save it as UTF-8"
        ):
            read_text(tmp_path / "list.txt", names=names)


def test_writing_never_fails_because_of_a_letter(tmp_path) -> None:
    write_text(tmp_path / "new" / "a", "ä \udcf6\n")
    assert (tmp_path / "new" / "a").read_bytes() == "ä \\udcf6\n".encode()


def test_no_two_cases_share_a_file() -> None:
    cases = ["case #1", "case 1", "case_1", "a:b", "a_b", "a%3ab", "100%", "läsion", r"gr\xf6sse", " lead", "a.tif"]
    names = [file_name(case) for case in cases]
    assert len({name.casefold() for name in names}) == len(cases)
    assert not any(set(name) & set('<>:"/|?*\\') for name in names)
    assert file_name("CVC-300/benign (1)") == "CVC-300_benign (1)"
