"""Kill -9 at every step of an accept: nothing that was answered is lost, and the end has the bits of ``fit``."""

import importlib
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_samseg.annotate import learning, rle
from lightning_samseg.annotate.journal import Journal
from lightning_samseg.io.images import read_image
from tests.annotate.conftest import annotate
from tests.annotate.test_parity import assert_same

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("one_thread")]

PROCESSES = multiprocessing.get_context("forkserver")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def dying(target: str, call: int, after: bool = False) -> None:
    """Replace a function by one that ends the process in its ``call``-th call, before or after its work."""
    place, _, name = target.rpartition(".")
    module, _, owner = place.partition(":")
    holder = getattr(importlib.import_module(module), owner) if owner else importlib.import_module(module)
    real, count = getattr(holder, name), 0

    def replacement(*arguments: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        if count == call and not after:
            die()
        result = real(*arguments, **options)
        if count == call:
            die()
        return result

    setattr(holder, name, replacement)


def torn_line() -> None:
    """Let the second line of the journal be written by half."""
    append = Journal.append

    def half(self: Journal, event: str, values: Any) -> Any:
        if self.length < 1:
            return append(self, event, values)
        with self.path.open("ab") as file:
            file.write(b'{"seq":1,"time":"2026')
            file.flush()
            die()
        return None

    Journal.append = half  # type: ignore[method-assign]


PACKAGE = "lightning_samseg.annotate"
STEPS: dict[str, Callable[[], None]] = {
    "before the lesson": lambda: dying(f"{PACKAGE}.engine.save_record", 2),
    "between lesson and journal": lambda: dying(f"{PACKAGE}.engine.save_record", 2, after=True),
    "in the middle of the journal's line": torn_line,
    "between journal and answer": lambda: dying(f"{PACKAGE}.workspace:Journal.append", 2, after=True),
    "before the mask": lambda: dying(f"{PACKAGE}.workspace.write_mask", 2),
    "in the middle of the mask": lambda: dying("lightning_samseg.io.images.to_stored", 2, after=True),
    "before learning": lambda: dying(f"{PACKAGE}.learning:LearningStream._learn", 2),
    "between the tables": lambda: dying("lightning_samseg.online.row_files:RowFile.append", 3, after=True),
    "after the tables": lambda: dying("lightning_samseg.online.row_files:RowFile.append", 4, after=True),
    "before the checkpoint": lambda: dying(f"{PACKAGE}.learning:CheckpointFiles.save_checkpoint", 3),
    "in the middle of the checkpoint": lambda: dying("torch.save", 5),
    "after the checkpoint": lambda: dying(f"{PACKAGE}.learning:CheckpointFiles.save_checkpoint", 3, after=True),
    "in the middle of a draft": lambda: dying("json.dumps", 3),
}


@pytest.fixture(scope="session", autouse=True)
def server() -> None:
    """The process whose forks the children are; it has computed nothing, and stays to the end of the session.

    A fork of this one would be taken while a thread of an engine that was just closed ends: Python has joined it, but
    MKL still gives back its memory, and a lock that is held in that moment is held in the child for ever.
    """
    PROCESSES.set_forkserver_preload([__name__])
    forkserver.ensure_running()


def annotate_all(opened: Any, folder: Path, data: Path, step: str | None) -> None:
    """Annotate to the end, or to the step that kills the process, and note what was answered."""
    torch.set_num_threads(1)
    if step is not None:
        STEPS[step]()
    learning.CHECKPOINT_EVERY = 0.0
    with opened(folder) as engine:
        image_id = engine.board.next_image()
        while image_id is not None:
            answered = annotate(engine, data, image_id)
            with (folder / "answered").open("a") as file:
                file.write(f"{image_id} {answered['position']}\n")
            image_id = answered["next"]
        engine.finish()


def start(*arguments: Any) -> Any:
    """:func:`annotate_all` in a process of its own."""
    process = PROCESSES.Process(target=annotate_all, args=arguments, daemon=True)
    process.start()
    return process


def status_of(process: Any) -> int:
    """0, or the signal that has ended a process, with a minus."""
    process.join()
    status = int(process.exitcode)
    process.close()
    return status


def check_nothing_lost(opened: Any, folder: Path) -> None:
    """Every answered accept is known after a start, and its mask is the drawn one, in the journal and on the disk."""
    answered = (folder / "answered").read_text().split() if (folder / "answered").exists() else []
    with opened(folder) as engine:
        known = {each["id"]: each for each in engine.workspace.accepts}
        assert set(answered[::2]) <= set(known)
        for image_id, entry in known.items():
            mask = rle.decode(entry["mask"], (40, 56))
            path = folder / "masks" / f"{engine.workspace.images[image_id].name}.png"
            assert np.array_equal(read_image(path), mask)
        leftovers = [path for path in folder.rglob("*.part*") if path.is_file()]
        assert leftovers == []


@pytest.mark.parametrize("step", STEPS)
def test_every_step(workspace_engine: Any, data: Path, fitted: Path, tmp_path: Path, step: str) -> None:
    folder = tmp_path / "w"
    assert status_of(start(workspace_engine, folder, data, step)) == -signal.SIGKILL
    check_nothing_lost(workspace_engine, folder)
    assert status_of(start(workspace_engine, folder, data, None)) == 0
    check_nothing_lost(workspace_engine, folder)
    assert_same(folder, fitted)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fifty_random_moments(workspace_engine: Any, data: Path, fitted: Path, tmp_path: Path) -> None:
    chance, kills, streams = random.Random(0), 0, 0
    while kills < 50:
        folder = tmp_path / f"w{streams}"
        while True:
            process = start(workspace_engine, folder, data, None)
            time.sleep(chance.uniform(0.05, 4))
            process.kill()
            status = status_of(process)
            if status == 0:
                break
            assert status == -signal.SIGKILL
            kills += 1
            check_nothing_lost(workspace_engine, folder)
        assert_same(folder, fitted)
        streams += 1
