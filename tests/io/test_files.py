import errno
import os
import sys
from pathlib import Path

import pytest

from lightning_samseg.io.files import atomic_folder, atomic_write, cache_dir, remove_leftovers
from tests.disks import disk, fill, make_read_only


def write_half(path):
    path.write_text("half")
    raise OSError("disk full after half")


def test_atomic_write_replaces_at_once(tmp_path):
    path = tmp_path / "new" / "table.csv"
    for text in ("first", "second"):
        with atomic_write(path) as temporary:
            temporary.write_text(text)
            assert temporary.suffix == ".csv"
            assert temporary.parent == path.parent
            assert not path.exists() or path.read_text() == "first"
        assert path.read_text() == text
    assert list(path.parent.iterdir()) == [path]


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(OSError, match="half"), atomic_write(path) as temporary:
        write_half(temporary)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_errors_name_the_file_that_was_to_be_written(tmp_path):
    with disk(tmp_path / "disk", 16) as place:
        fill(place)
        for write in (write_file, write_folder):
            with pytest.raises(OSError, match="No space left") as caught:
                write(place / "a" / "table.csv")
            assert str(caught.value.filename).startswith(str(place / "a" / "table.csv"))
        make_read_only(place)
        for write in (write_file, write_folder):
            with pytest.raises(OSError, match="Read-only") as caught:
                write(place / "a" / "table.csv")
            assert caught.value.filename == str(place / "a" / "table.csv")


def write_file(path):
    with atomic_write(path) as temporary:
        temporary.write_text("some text")


def write_folder(path):
    with atomic_folder(path) as temporary:
        (temporary / "table.csv").write_text("some text")


def test_any_name_that_a_file_can_have(tmp_path):
    for name in ("x" * 251 + ".png", "\N{CJK UNIFIED IDEOGRAPH-56F3}" * 84 + ".h5"):
        with atomic_write(tmp_path / name) as temporary:
            temporary.write_text("whole")
            assert temporary.suffix == (tmp_path / name).suffix
        assert (tmp_path / name).read_text() == "whole"


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_the_previous_file_is_kept(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", lambda *names: (_ for _ in ()).throw(OSError(errno.EPERM, "no links")))
    path, previous = tmp_path / "last.ckpt", tmp_path / "previous.ckpt"
    for number in range(4):
        with atomic_write(path, previous=previous) as temporary:
            temporary.write_text(str(number))
        assert path.read_text() == str(number)
        assert not number or previous.read_text() == str(number - 1)
    previous.unlink()
    if links:
        os.link(path, previous)  # as after a kill between the two renames: both are one file
        with atomic_write(path, previous=previous) as temporary:
            temporary.write_text("new")
        assert (path.read_text(), previous.read_text()) == ("new", "3")
    assert not [name for name in tmp_path.iterdir() if name not in (path, previous)]


def test_the_disk_has_the_file_before_the_name_and_the_name_before_the_end(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(os, "fsync", lambda number: done.append(Path(f"/proc/self/fd/{number}").resolve()))
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, target: (done.append("rename"), replace(self, target)))
    with atomic_write(tmp_path / "a.txt") as temporary:
        temporary.write_text("a")
    assert done == [temporary.resolve(), "rename", tmp_path.resolve()]
    del done[:]
    with atomic_write(tmp_path / "a.txt", durable=False) as temporary:
        temporary.write_text("b")
    assert done == ["rename"]


def test_a_disk_that_fails_is_no_file_system_that_cannot_wait(tmp_path, monkeypatch):
    def fails(code):
        def fsync(number):
            raise OSError(code, os.strerror(code))

        return fsync

    path = tmp_path / "a.txt"
    monkeypatch.setattr(os, "fsync", fails(errno.EINVAL))
    with atomic_write(path) as temporary:
        temporary.write_text("old")
    monkeypatch.setattr(os, "fsync", fails(errno.EIO))
    with pytest.raises(OSError, match=os.strerror(errno.EIO)), atomic_write(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_leftovers_of_a_kill_are_removed_and_nothing_else(tmp_path):
    kept = [tmp_path / name for name in ("last.ckpt", ".hidden", ".party.csv", "a.part.csv", ".x.part")]
    with atomic_write(tmp_path / "last.ckpt") as temporary:
        temporary.write_text("new")
        left = tmp_path / temporary.name.replace(temporary.name.split(".")[2], "0123456789ab")
        left.write_text("half")
    for path in kept:
        path.touch()
    remove_leftovers(tmp_path)
    remove_leftovers(tmp_path / "no folder")
    assert sorted(tmp_path.iterdir()) == sorted(kept)


def test_atomic_folder_is_complete_or_absent(tmp_path):
    target = tmp_path / "deep" / "data"
    with pytest.raises(OSError, match="half"), atomic_folder(target) as temporary:
        write_half(temporary / "a")
    assert list(target.parent.iterdir()) == []
    with atomic_folder(target) as temporary:
        (temporary / "a").touch()
        assert not target.exists()
    assert [path.name for path in target.iterdir()] == ["a"]
    assert list(target.parent.iterdir()) == [target]


def test_the_first_process_wins(tmp_path):
    target = tmp_path / "data"
    with atomic_folder(target) as slow:
        (slow / "slow").touch()
        with atomic_folder(target) as fast:
            (fast / "fast").touch()
    assert [path.name for path in target.iterdir()] == ["fast"]
    assert list(tmp_path.iterdir()) == [target]


def test_cache_dir(monkeypatch, tmp_path):
    monkeypatch.setenv("SAMSEG_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("SAMSEG_CACHE")
    if sys.platform == "linux":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        assert cache_dir() == tmp_path / "xdg" / "lightning_samseg"
        monkeypatch.delenv("XDG_CACHE_HOME")
        assert cache_dir() == Path.home() / ".cache" / "lightning_samseg"
