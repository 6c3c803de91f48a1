"""A checkpoint is written whole or not at all; a file that is none says what it is, and the way on."""

import errno
import os
import pickle
import resource
import signal
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lightning_samseg.adapters import checkpoints
from lightning_samseg.adapters.checkpoints import CheckpointFiles, read_checkpoint, require
from lightning_samseg.errors import UserError
from lightning_samseg.io import files


def state(number: int) -> dict[str, Any]:
    return {
        "state_dict": {"weight": torch.full((20_000,), float(number))},
        "pytorch-lightning_version": "2.6.6",
        "global_step": number,
    }


def save(path: Path, number: int) -> None:
    CheckpointFiles().save_checkpoint(state(number), path)


def step_of(path: Path) -> int:
    checkpoint = read_checkpoint(path)
    assert (checkpoint["state_dict"]["weight"] == checkpoint["global_step"]).all()
    return int(checkpoint["global_step"])


def test_the_one_before_is_kept_of_last_alone(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        save(tmp_path / "last.ckpt", number)
        save(tmp_path / "best.ckpt", number)
    found = {path.name: step_of(path) for path in tmp_path.iterdir()}
    assert found == {"last.ckpt": 3, "previous.ckpt": 2, "best.ckpt": 3}


CALLS = ((torch, "save"), (os, "fsync"), (os, "link"), (Path, "replace"), (Path, "unlink"))


def test_a_kill_at_any_call_leaves_the_old_checkpoint_or_the_new(tmp_path: Path) -> None:
    """Before and after every call that touches the disk."""
    path = tmp_path / "last.ckpt"
    steps, moment, ended = [], 0, False
    while not ended:
        save(path, 1)
        save(path, 2)
        ended = ends_well(lambda moment=moment: save_and_die(path, moment))
        steps.append((step_of(tmp_path / "previous.ckpt"), step_of(path)))
        files.remove_leftovers(tmp_path)
        moment += 1
    assert moment > 12  # save, two fsync, link, two replace, two unlink; each before and after
    assert steps == sorted(steps)
    assert set(steps) == {(1, 2), (2, 2), (2, 3)}
    assert {name.name for name in tmp_path.iterdir()} == {"last.ckpt", "previous.ckpt"}


def ends_well(work: Callable[[], None]) -> bool:
    """Whether a copy of this process comes to the end of its work."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def save_and_die(path: Path, moment: int) -> None:
    """Save step 3 in a process that is killed at one of the moments around the calls."""
    calls = 0

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def with_kill(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            answer = None
            for part in (None, call):
                answer = part and part(*args, **kwargs)
                if calls == moment:
                    os.kill(os.getpid(), signal.SIGKILL)
                calls += 1
            return answer

        return with_kill

    for place, name in CALLS:
        setattr(place, name, counted(getattr(place, name)))
    save(path, 3)


@pytest.mark.parametrize("limit", [10_000, 50_000])
def test_a_full_disk_leaves_the_old_checkpoint_and_says_so(tmp_path: Path, limit: int) -> None:
    path = tmp_path / "last.ckpt"
    save(path, 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))  # Python ignores SIGXFSZ
    try:
        with pytest.raises(UserError, match=r"could not be written; .* still holds an earlier one") as caught:
            save(path, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.strerror(errno.EFBIG) in str(caught.value)
    assert "--ckpt_path last" in str(caught.value)
    assert step_of(path) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_mistake_that_is_not_of_the_disk_is_not_explained_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*args: Any) -> None:
        raise RuntimeError("no disk in it")

    monkeypatch.setattr(torch, "save", breaks)
    with pytest.raises(RuntimeError, match="no disk in it"):
        save(tmp_path / "last.ckpt", 1)


def write_module(path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), path)


def write_torchscript(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(str(path))


def write_safetensors(path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, path)


def write_cut(path: Path) -> None:
    torch.save(state(1), path)
    path.write_bytes(path.read_bytes()[:50_000])


def write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("word/document.xml", "<text/>")


FOREIGN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty": (lambda path: path.touch(), "an empty file"),
    "zeros": (lambda path: path.write_bytes(bytes(5000)), "a file of zeros"),
    "cut off": (write_cut, "a file that was cut off after 50000 bytes"),
    "web page": (lambda path: path.write_text("\n<!DOCTYPE html><html>Sign in</html>"), "a web page"),
    "git lfs": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid"), "a Git LFS pointer"),
    "text": (lambda path: path.write_text("model: unet\n"), ""),
    "zip": (write_zip, ""),
    "pickle": (lambda path: path.write_bytes(pickle.dumps({"state_dict": Path()})), ""),
    "module": (write_module, "Weights only load failed"),
    "torchscript": (write_torchscript, "a TorchScript archive"),
    "safetensors": (write_safetensors, "weights alone, in the safetensors format"),
    "state_dict": (lambda path: torch.save({"weight": torch.zeros(3)}, path), "weights alone (a state_dict)"),
    "old format": (
        lambda path: torch.save({"weight": torch.zeros(3)}, path, _use_new_zipfile_serialization=False),
        "",
    ),
    "tensor": (lambda path: torch.save(torch.zeros(3), path), "a Tensor"),
    "number": (lambda path: torch.save(3, path), "a int"),
    "other table": (lambda path: torch.save({"model": {}, "epoch": 3}, path), "a table of model, epoch"),
    "no tables": (
        lambda path: torch.save(state(1) | {"state_dict": [1]}, path),
        "a Lightning checkpoint whose weights or hyper_parameters are not tables",
    ),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_something_else_says_what_it_is(kind: str, tmp_path: Path) -> None:
    write, found = FOREIGN[kind]
    path = tmp_path / "last.ckpt"
    write(path)
    with pytest.raises(UserError, match="is not a checkpoint of a run") as caught:
        read_checkpoint(path)
    assert f"found: {found}" in str(caught.value)
    assert "--ckpt_path best" in str(caught.value)


def test_a_damaged_checkpoint_names_the_one_before(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").touch()
    save(tmp_path / "previous.ckpt", 1)
    with pytest.raises(UserError, match=f"--ckpt_path {tmp_path}/previous.ckpt"):
        read_checkpoint(tmp_path / "last.ckpt")


def test_a_missing_one_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no checkpoint"):
        read_checkpoint(tmp_path / "last.ckpt")
    with pytest.raises(UserError, match="found: a folder"):
        read_checkpoint(tmp_path)


def test_entries_of_ours_that_another_lightning_checkpoint_lacks(tmp_path: Path) -> None:
    require(state(1), "a.ckpt", "state_dict")
    with pytest.raises(UserError, match="a Lightning checkpoint without hyper_parameters, online"):
        require(state(1), "a.ckpt", "state_dict", "hyper_parameters", "online")
    assert checkpoints.LAST == "last.ckpt"
