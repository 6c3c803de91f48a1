"""Disks that are full or can only be read, for tests; only root can have them, others skip."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def disk(place: Path, kilobytes: int) -> Iterator[Path]:
    """A file system of its own, with so much space."""
    place.mkdir(parents=True, exist_ok=True)
    _mount("-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(place))
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def make_read_only(place: Path) -> None:
    _mount("-o", "remount,ro", str(place))


def fill(place: Path, leave: int = 0) -> Path:
    """Write until nothing fits in, then give back some bytes."""
    ballast = place / "ballast"
    with ballast.open("ab", buffering=0) as file:
        try:
            while file.write(b"\1" * 4096):
                pass
        except OSError:
            file.truncate(max(0, file.tell() - leave))
    return ballast


def _mount(*arguments: str) -> None:
    try:
        done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"no disks of our own here: {error}")
    if done.returncode:
        pytest.skip(f"no disks of our own here: {done.stderr.strip()}")
