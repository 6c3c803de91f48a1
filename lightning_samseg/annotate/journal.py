"""The journal: one line an event, appended and never changed; everything else in a workspace follows from it.

A line is a JSON object whose last entry is ``crc32``, the checksum of the line without it. Needs no torch.
"""

import json
import os
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_samseg.errors import UserError

_MARK = ',"crc32":"'
_TAIL = len(_MARK) + 8 + 2


class Journal:
    """Opens or starts a journal; a last line that a kill has cut short is removed.

    Args:
        path: The file.
        read_only: Leave the file as it is; another process may be writing.

    Raises:
        UserError: If a line before the last is damaged.
    """

    def __init__(self, path: str | Path, read_only: bool = False) -> None:
        self.path = Path(path)
        self.note: str | None = None
        """What was cut off when it was opened; None: nothing."""
        self.events: list[dict[str, Any]] = []
        """What was there when it was opened."""
        content = self.path.read_bytes() if self.path.is_file() else b""
        whole = content[: content.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), 1):
            self.events.append(self._parsed(line, number))
        self._size = len(whole)
        self.length = len(self.events)
        if len(whole) < len(content) and not read_only:
            self.note = (
                f"{self.path}: {len(content) - len(whole)} bytes of a line that was never finished are cut off; "
                "it was not confirmed to anybody."
            )
            os.truncate(self.path, self._size)

    def append(self, event: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Write an event and wait for the disk.

        Args:
            event: Its name.
            values: What belongs to it, in JSON's types.

        Returns:
            The line's content.

        Raises:
            OSError: If the disk does not take it; the journal is then as it was.
        """
        entry = {"seq": self.length, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "event": event, **values}
        body = json.dumps(entry, allow_nan=False, separators=(",", ":"))
        line = f'{body[:-1]}{_MARK}{zlib.crc32(body.encode()):08x}"}}\n'.encode()
        new = not self.path.exists()
        try:
            with self.path.open("ab") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            if self.path.exists():
                os.truncate(self.path, self._size)
            raise
        if new and os.name == "posix":
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        self._size += len(line)
        self.length += 1
        return entry

    def _parsed(self, line: bytes, number: int) -> dict[str, Any]:
        body, tail = line[:-_TAIL] + b"}", line[-_TAIL:].decode("ascii", "replace")
        try:
            if tail == f'{_MARK}{zlib.crc32(body):08x}"}}':
                entry: dict[str, Any] = json.loads(body)
                if entry["seq"] == number - 1:
                    return entry
                found = f"event {entry['seq']} where {number - 1} belongs: lines are missing or twice"
            else:
                found = "a line whose checksum does not fit: " + line[:60].decode("utf-8", "replace")
        except (ValueError, KeyError, TypeError):
            found = "no JSON"
        raise UserError(
            f"{self.path}, line {number}, is damaged: what came after it cannot be trusted.",
            expected="a line as it was written, with its checksum",
            found=found,
            fix=f"put the file back from a backup; or copy it, keep its first {number - 1} lines, remove checkpoints/ "
            "and the CSV files, and annotate the images after them again (masks/ still has their masks)",
        )
