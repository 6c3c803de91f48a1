"""Whatever ends a run, and wherever its folder lies: ``last.ckpt`` can be read, and the run says how it ended."""

import os
import random
import resource
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from lightning_samseg.__main__ import main
from lightning_samseg.adapters.checkpoints import read_checkpoint
from lightning_samseg.runs.folder import read_status
from tests.fakes import write_busi

pytestmark = pytest.mark.processes

CONFIG = """
trainer: {accelerator: cpu, max_steps: 1000, val_check_interval: 500, enable_progress_bar: false,
          enable_model_summary: false, log_every_n_steps: 1}
checkpoint_every: 1
model: {class_path: lightning_samseg.methods.SAMed, init_args: {sam: {backbone: tiny, pretrained: false}}}
data:
  class_path: data_modules.BusiDataModule
  init_args: {image_size: 32, split: random, num_labelled: 5, labelled_batch_size: 1}
"""
MEMORY = Path("/dev/shm")
"""A file system of its own on Linux."""


class Bench:
    """Types commands in processes that may be killed."""

    def __init__(self, folder: Path, data: Path) -> None:
        (folder / "config.yaml").write_text(CONFIG)
        self.common = ["fit", "--config", str(folder / "config.yaml"), "--data.root", str(data), "--ckpt_path", "last"]
        self.children: set[int] = set()

    def start(self, run: Path, *options: str, limit: int | None = None) -> int:
        """Id of a process that fits; it goes on where an earlier one was killed.

        Args:
            run: The run folder.
            options: More options.
            limit: Most bytes of a file.
        """
        child = os.fork()
        if child == 0:
            try:
                if limit is not None:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
                os._exit(main([*self.common, "--trainer.default_root_dir", str(run), *options]))
            finally:
                os._exit(70)
        self.children.add(child)
        return child

    def ended(self, child: int) -> bool:
        """Whether a process has ended, without waiting for it."""
        return bool(os.waitpid(child, os.WNOHANG)[0])

    def wait(self, child: int, signal_number: int | None = None) -> int:
        """Exit status of a process when it has ended, after a signal if one is given."""
        if signal_number is not None:
            os.kill(child, signal_number)
        self.children.discard(child)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    torch.set_num_threads(1)  # or a copy of this process waits for the threads that it has not got
    bench = Bench(tmp_path, write_busi(tmp_path / "data", benign=12, malignant=8))
    yield bench
    for child in [*bench.children]:  # of a test that has failed
        with suppress(ChildProcessError, ProcessLookupError):
            bench.wait(child, signal.SIGKILL)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system than the one for temporary files, where there is one."""
    folder = MEMORY / f"samseg_test_{uuid.uuid4().hex[:8]}" if os.access(MEMORY, os.W_OK) else tmp_path / "elsewhere"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def step_of(path: Path) -> int:
    """Of a checkpoint, every byte of which is read."""
    checkpoint = read_checkpoint(path)
    assert all(torch.isfinite(value).all() for value in checkpoint["state_dict"].values())
    return int(checkpoint["global_step"])


def kill_at_random(bench: Bench, run: Path, times: int) -> list[int]:
    """Steps of ``last.ckpt`` after each kill, which comes within two saves."""
    draw, last, steps = random.Random(0), run / "checkpoints" / "last.ckpt", [0]
    for _ in range(times):
        child = bench.start(run)
        changed, before = 0, last.stat().st_ino if last.exists() else 0
        while changed < 2:
            assert not bench.ended(child), "the run has ended"
            now = last.stat().st_ino if last.exists() else 0
            changed, before = changed + (now != before), now
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.6))
        bench.wait(child, signal.SIGKILL)
        steps.append(step_of(last))
        assert step_of(last.with_name("previous.ckpt")) in (steps[-1] - 1, steps[-1])
    return steps


def test_kill_9_at_random_moments(elsewhere: Path, bench: Bench) -> None:
    steps = kill_at_random(bench, elsewhere / "run", 2)
    assert steps == sorted(set(steps))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_kill_9_at_50_random_moments(elsewhere: Path, bench: Bench) -> None:
    run = elsewhere / "run"
    steps = kill_at_random(bench, run, 50)
    assert steps == sorted(set(steps))
    assert bench.wait(bench.start(run, "--trainer.max_steps", str(steps[-1] + 2))) == 0
    assert step_of(run / "checkpoints" / "last.ckpt") == steps[-1] + 2
    assert not list(run.rglob(".*.part*"))


def test_a_full_disk_and_a_damaged_file_cost_nothing(
    bench: Bench, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    last = run / "checkpoints" / "last.ckpt"

    def fit(steps: int, limit: int | None = None) -> int:
        return bench.wait(bench.start(run, "--trainer.max_steps", str(steps), limit=limit))

    assert fit(2) == 0
    assert fit(4, limit=1_000_000) == 2
    message = capfd.readouterr().err
    assert "last.ckpt could not be written" in message
    assert "Traceback" not in message
    status = read_status(run)
    assert status is not None
    assert (status.state, status.step) == ("failed", 3)
    assert "last.ckpt could not be written" in str(status.error)
    assert step_of(last) == 2
    assert not list(run.rglob(".*.part*"))

    last.write_bytes(last.read_bytes()[:1000])
    assert fit(3) == 0
    assert "last.ckpt cannot be read: going on from previous.ckpt, of step 1." in capfd.readouterr().out
    assert step_of(last) == 3


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_kill_9_on_a_full_disk(bench: Bench, tmp_path: Path) -> None:
    """A small file system that something else fills to the last byte while the run writes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("mounting needs root")
    run, draw, states = disk / "run", random.Random(0), set()
    last = run / "checkpoints" / "last.ckpt"
    try:
        for number in range(20):
            child = bench.start(run)
            while not last.exists() or read_state(run) != "running":
                assert not bench.ended(child), "the run has ended"
                time.sleep(0.01)
            before = last.stat().st_ino
            while last.stat().st_ino == before:
                assert not bench.ended(child), "the run has ended"
                time.sleep(0.01)
            time.sleep(draw.uniform(0, 0.5))
            fill(disk / "filler")
            time.sleep(draw.uniform(0, 1))
            bench.wait(child, signal.SIGKILL if number % 2 else None)
            step_of(last)
            if not number % 2:
                states.add(read_state(run))
            (disk / "filler").unlink()
        assert states == {"failed"}
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(path: Path) -> None:
    try:
        with path.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
    except OSError:
        pass


def read_state(run: Path) -> str | None:
    status = read_status(run)
    return None if status is None else status.state
