"""Text in files: one way to read what users and other programs wrote, one way to write, and names that are no text.

All text is UTF-8; a byte order mark may stand at its beginning. A file name is bytes, which Python gives as text with
lone surrogates where they are no UTF-8. In everything we write, :func:`escape` makes such names readable.
"""

import re
import unicodedata
from pathlib import Path

from lightning_samseg.errors import UserError
from lightning_samseg.io.files import atomic_write

_SAVE = "save it as UTF-8 (PowerShell: Get-Content OLD | Set-Content -Encoding utf8 NEW; Excel: CSV UTF-8)"
_WINDOWS = "UTF-16, as Windows' Notepad and PowerShell write it"
_BINARY = {
    b"\xff\xfe": _WINDOWS,
    b"\xfe\xff": _WINDOWS,
    b"PK\x03\x04": "a ZIP archive, as the tables of Excel and LibreOffice are",
    b"\xd0\xcf\x11\xe0": "a file of an old Excel or Word",
    b"\x1f\x8b": "a file that gzip has packed",
    b"\x89PNG": "a PNG picture",
    b"%PDF": "a PDF file",
}
# What cannot stand in a text as it is: control characters, bytes that are no UTF-8 (as Python passes them on), and a
# backslash that would look as if it began such a mark.
_ESCAPED = re.compile(r"[\x00-\x1f\x7f\udc80-\udcff]|\\(?=x[0-9a-f]{2})")


def read_text(path: str | Path, *, names: bool = False) -> str:
    """Read a text file.

    Args:
        path: The file. That it is there is for the caller to check.
        names: It holds names of files, which may be any bytes: those that are no UTF-8 come as Python passes such
            names on, as lone surrogates.

    Returns:
        The text with its line ends as they are, without byte order marks, also those that ``cat`` leaves inside.

    Raises:
        UserError: If it is UTF-16, no text at all, or not UTF-8; the message names the line.
    """
    data = Path(path).read_bytes()
    kind = next((text for start, text in _BINARY.items() if data.startswith(start)), None)
    if kind is None and b"\x00" in data[:4096]:
        kind = "bytes of a binary file"
    if kind is not None:
        raise UserError(f"{path} is not UTF-8 text.", found=kind, fix=_SAVE)
    try:
        text = data.decode("utf-8", "surrogateescape" if names else "strict")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        begin, end = data.rfind(b"\n", 0, error.start) + 1, data.find(b"\n", error.start)
        around = data[begin : end if end > 0 else None].strip()[:60]
        raise UserError(
            f"{path}, line {line}: not UTF-8 text.",
            found=around.decode("utf-8", "backslashreplace"),
            fix=_SAVE,
        ) from error
    return re.sub(r"(^|\n|\r)\ufeff", r"\1", text)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file: UTF-8, complete or not at all. What is no UTF-8 even so comes out as a backslash sequence."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))


def nfc(name: str) -> str:
    """Give a name as Unicode composes it: macOS stores ä as a and ¨, others as one character; they look the same."""
    return unicodedata.normalize("NFC", name)


def escape(name: str) -> str:
    r"""Make any name of a file readable: what is no UTF-8 and control characters become ``\xNN``, of their bytes.

    So do accents behind such a mark, which :func:`nfc` would compose with its last digit. A backslash in front of
    ``x`` and two hexadecimal digits becomes ``\x5c``, so that the bytes can be had back::

        re.sub(rb"\\x([0-9a-f]{2})", lambda m: bytes.fromhex(m[1].decode()), text.encode())

    Args:
        name: As Python gives it.

    Returns:
        Text that every program can read; ``name`` itself where it is such a text.
    """
    parts, place = [], 0
    for found in _ESCAPED.finditer(name):
        parts += [name[place : found.start()], f"\\x{ord(found[0]) & 0xFF:02x}"]
        place = found.end()
        while place < len(name) and unicodedata.combining(name[place]):
            parts += [f"\\x{byte:02x}" for byte in name[place].encode()]
            place += 1
    return "".join([*parts, name[place:]])


def file_name(case_id: str) -> str:
    """Name of a file for a case: its id, in which ``_`` stands for a slash, and %XX for what a file system refuses."""
    return re.sub(r'[%<>:"|?*\\]', lambda found: f"%{ord(found[0]):02x}", case_id).replace("/", "_")
