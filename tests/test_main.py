"""What ends the program becomes one message; the traceback of what nobody foresaw goes into a log."""

import errno
import io
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from wandb.errors import AuthenticationError

from lightning_samseg import __main__
from lightning_samseg.errors import UserError, described, explained, first_line
from lightning_samseg.runs.error_log import keep_in
from tests.disks import disk, fill

GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:29073."
NCCL = "NCCL error: remote process exited or there was a network error, NCCL version 2.27.5"


def wrapped(error: BaseException) -> Exception:
    outer = RuntimeError("in a library")
    outer.__cause__ = error
    return outer


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (UserError("A folder is missing.", fix="make it"), "A folder is missing"),
        (MisconfigurationException("gradient clipping is not supported"), "gradient clipping is not supported"),
        (RuntimeError(GLOO), "Another process of this run has ended"),
        (RuntimeError(NCCL), "Another process of this run has ended"),
    ],
)
def test_mistakes_are_explained_wherever_they_are_wrapped(error: Exception, message: str) -> None:
    for each in (error, wrapped(error)):
        assert message in (explained(each) or "")


def raised(action: Any, *arguments: Any) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        action(*arguments)
    return caught.value


def interpolation() -> None:
    OmegaConf.to_container(OmegaConf.create({"root": "${HOME}/data"}), resolve=True)


@pytest.mark.parametrize(
    ("error", "parts"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "A file cannot be written; No space left; make space"),
        (RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"), "No space left"),
        (
            OSError(errno.EROFS, "Read-only file system", "/a/b"),
            "/a/b cannot be; Read-only file; another folder",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "/a/b"), "/a/b cannot be; Permission denied; who may"),
        (raised(Path("no/such/file").read_text), "no/such/file cannot be; No such file; check the path"),
        (raised(b"\xff".decode), "not UTF-8 text; save"),
        (raised("\udcf6".encode), "letters that cannot be written; PYTHONUTF8"),
        (raised(interpolation), "configuration; ${oc.env:NAME}; Interpolation key 'HOME' not found"),
        (AuthenticationError("API key must have 40+ characters, has 3."), "Weights & Biases; 40+; WANDB_API_KEY"),
        (ModuleNotFoundError("No module named 'nope.a'", name="nope.a"), "package nope is; pyproject.toml"),
        (MemoryError(), "not enough memory; MemoryError; smaller batch"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has"),
            "not enough memory; 2.00 GiB; precision bf16-mixed; checkpointing true; smaller batch",
        ),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: can't allocate memory: you tried to "
                "allocate 99 bytes. Error code 12 (Cannot allocate memory)"
            ),
            "not enough memory; 99 bytes; precision bf16-mixed; checkpointing true; num_workers",
        ),
        (RuntimeError("CUDA error: out of memory"), "not enough memory; smaller batch"),
        (RuntimeError("MPS backend out of memory (MPS allocated: 5 GB"), "not enough memory; smaller batch"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), "not enough memory; smaller batch"),
    ],
    ids=str,
)
def test_what_the_system_and_libraries_say(error: BaseException, parts: str) -> None:
    assert isinstance(error, OmegaConfBaseException) == ("oc.env" in parts)
    for each in (error, wrapped(error)):
        assert explained(each) is None
        for part in parts.split("; "):
            assert part in str(described(each))


def test_of_a_workers_text_the_last_line_counts() -> None:
    head = "Caught KeyError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):"
    text = f"{head}\n  x\nKeyError: 'a'"
    assert first_line(KeyError("a")) == "'a'"
    assert first_line(RuntimeError(text)) == "KeyError: 'a'"
    assert first_line(ValueError()) == ""


def test_what_is_no_mistake_stays_unknown() -> None:
    own = ModuleNotFoundError("No module named 'lightning_samseg.x'", name="lightning_samseg.x")
    for error in (RuntimeError("CUDA error"), RuntimeError("gloo: out of memory"), ConnectionError("by peer"), own):
        for each in (error, wrapped(error)):
            assert explained(each) is None
            assert described(each) is None


def ends_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> int:
    def fails(arguments: list[str]) -> int:
        raise error

    monkeypatch.setattr(__main__, "dispatch", fails)
    return __main__.main(["fit", "--config", "my file.yaml"])


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (AttributeError("no attribute 'x'"), 1, "found: AttributeError: no attribute 'x'\n  what to do: report it"),
        (OSError(errno.EROFS, "Read-only file system", "/a/b"), 2, "/a/b cannot be read or written"),
    ],
)
def test_the_traceback_goes_into_a_log(
    error: Exception, status: int, message: str, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert ends_with(error, monkeypatch) == status
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown
    (log,) = tmp_path.iterdir()
    assert shown.endswith(f"log: {log}\n")
    text = log.read_text()
    assert "python -m lightning_samseg fit --config 'my file.yaml'" in text
    assert f"{type(error).__name__}: " in text
    assert "in fails" in text

    run = tmp_path / "run"
    keep_in(error, run)
    ends_with(error, monkeypatch)
    assert not run.exists()  # no folder is made for it
    run.mkdir()
    for count in (1, 2):
        ends_with(error, monkeypatch)
        assert capsys.readouterr().err.endswith(f"log: {run / 'error.log'}\n")
        assert (run / "error.log").read_text().count("Traceback") == count


def test_a_full_disk_holds_no_half_of_a_log(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    with disk(tmp_path / "disk", 16) as place:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        error = ValueError("x")
        keep_in(error, place)
        fill(place, leave=100)
        ends_with(error, monkeypatch)
        assert not (place / "error.log").exists()
        assert f"log: {tmp_path}/lightning_samseg-" in capsys.readouterr().err


def test_a_log_that_cannot_be_written(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    assert ends_with(ValueError("x"), monkeypatch) == 1
    assert "log: none, it could not be written either" in capsys.readouterr().err


def test_a_mistake_needs_no_log_and_debugging_shows_the_traceback(monkeypatch: Any, capsys: Any) -> None:
    error = UserError("A folder is missing.", fix="make it")
    assert ends_with(error, monkeypatch) == 2
    assert capsys.readouterr().err == "error: A folder is missing.\n  what to do: make it\n"
    monkeypatch.setenv("SAMSEG_DEBUG", "1")
    assert ends_with(error, monkeypatch) == 2
    assert "in fails" in capsys.readouterr().err


def test_ctrl_c(monkeypatch: Any, capsys: Any) -> None:
    assert ends_with(KeyboardInterrupt(), monkeypatch) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_names_that_the_terminal_cannot_show(monkeypatch: Any) -> None:
    screen = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(__main__, "dispatch", lambda arguments: print(os.fsdecode(b"gr\xf6\xc3\x9fe")) or 0)
    assert __main__.main([]) == 0
    assert screen.buffer.getvalue() == b"gr\\udcf6\\xdfe\n"  # type: ignore[attr-defined]
