"""Who may write into a run folder, and what it says about the run."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from lightning_samseg.errors import UserError
from lightning_samseg.io.files import atomic_write
from lightning_samseg.runs import folder as run_folder
from lightning_samseg.runs.folder import Claim, Holder, live_holder, read_status, results_folder
from lightning_samseg.runs.requeue import Requeued
from tests.disks import disk, fill

ELSEWHERE = Holder("another-host", 1, None, None, 0, "2026-01-01T00:00:00+0000", "theirs")


def write_lock(folder: Path, holder: Holder, silent: float = 0) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "run.lock").write_text(json.dumps(asdict(holder)))
    then = time.time() - silent
    os.utime(folder / "run.lock", (then, then))


def test_a_run_says_how_far_it_is_and_how_it_ended(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with Claim(folder, "fit") as claim:
        holder = live_holder(folder)
        assert holder is not None
        assert (holder.pid, holder.host) == (os.getpid(), socket.gethostname())
        claim.progress = lambda: (3, 10)
    status = read_status(folder)
    assert status is not None
    assert (status.state, status.verb, status.step, status.steps, status.starts) == ("finished", "fit", 3, 10, 1)
    assert not (folder / "run.lock").exists()

    ends = {
        "failed": UserError("No such thing.", fix="none"),
        "interrupted": KeyboardInterrupt(),
        "requeued": Requeued(),
    }
    for state, error in ends.items():
        with pytest.raises(type(error)), Claim(folder, "fit"):
            raise error
        status = read_status(folder)
        assert status is not None
        assert status.state == state
        assert live_holder(folder) is None
    with Claim(folder, "fit"):
        pass
    status = read_status(folder)
    assert status is not None
    assert (status.starts, status.requeued, status.error) == (5, 1, None)


def test_the_reason_of_a_failure_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), Claim(tmp_path, "fit"):
        raise RuntimeError("CUDA error: device-side assert triggered\nCompile with TORCH_USE_CUDA_DSA")
    status = read_status(tmp_path)
    assert status is not None
    assert status.error == "RuntimeError: CUDA error: device-side assert triggered"


def _write_on_a_full_disk(disk: Path, path: Path) -> None:
    fill(disk)
    with atomic_write(path) as temporary:
        temporary.write_text("some text")


def test_a_full_disk_is_what_the_status_says(tmp_path: Path) -> None:
    with disk(tmp_path / "disk", 64) as place:
        folder = place / "run"
        with pytest.raises(OSError, match="No space left"), Claim(folder, "fit"):
            _write_on_a_full_disk(place, folder / "table.csv")
        status = read_status(folder)
        assert status is not None
        assert (status.state, status.steps) == ("failed", 0)
        assert status.error == f"{folder / 'table.csv'} cannot be written. found: No space left on device"
        assert sorted(path.name for path in folder.iterdir()) == ["status.json"]
        fill(place)
        with pytest.raises(OSError, match="No space left"), Claim(place / "another", "fit"):
            pass
        assert list((place / "another").iterdir()) == []


def test_the_second_process_is_refused(tmp_path: Path) -> None:
    with Claim(tmp_path, "fit"), pytest.raises(UserError, match="is in use") as caught, Claim(tmp_path, "fit"):
        pass
    assert str(os.getpid()) in str(caught.value)
    assert "delete" in str(caught.value)


def test_the_lock_of_a_dead_process_is_stale(tmp_path: Path) -> None:
    program = (
        "import os, sys; from lightning_samseg.runs.folder import Claim\n"
        f"with Claim({str(tmp_path)!r}, 'fit'): print('in', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(UserError, match="is in use"), Claim(tmp_path, "fit"):
            pass
        process.send_signal(signal.SIGKILL)
    assert (tmp_path / "run.lock").exists()
    assert live_holder(tmp_path) is None
    with Claim(tmp_path, "fit"):
        status = read_status(tmp_path)
        assert status is not None
        assert status.starts == 2


def test_a_recycled_process_id_is_another_process(tmp_path: Path) -> None:
    with Claim(tmp_path, "fit"):
        mine = live_holder(tmp_path)
    assert mine is not None
    write_lock(tmp_path, mine)
    assert live_holder(tmp_path) == mine
    write_lock(tmp_path, replace(mine, pid_started="1"))
    assert live_holder(tmp_path) is None


def test_another_machine_counts_as_alive_until_it_is_silent_for_long(tmp_path: Path) -> None:
    write_lock(tmp_path, ELSEWHERE, silent=60)
    with pytest.raises(UserError, match="is in use"), Claim(tmp_path, "fit"):
        pass
    assert live_holder(tmp_path) == ELSEWHERE
    write_lock(tmp_path, ELSEWHERE, silent=run_folder.SILENT_AFTER + 60)
    with Claim(tmp_path, "fit"):
        assert live_holder(tmp_path) != ELSEWHERE


def test_slurm_knows_whether_a_job_on_another_machine_lives(tmp_path: Path, slurm: Path) -> None:
    run = tmp_path / "run"
    write_lock(run, replace(ELSEWHERE, job="41"), silent=1e6)
    (slurm / "squeue").write_text("RUNNING\n")
    assert live_holder(run) is not None
    (slurm / "squeue").write_text("COMPLETED\n")
    assert live_holder(run) is None
    (slurm / "squeue").unlink()  # no longer known
    assert live_holder(run) is None
    (slurm / "down").touch()  # cannot be asked: signs of life decide
    assert live_holder(run) is None
    write_lock(run, replace(ELSEWHERE, job="41"))
    assert live_holder(run) is not None


def test_the_same_job_after_its_restart_takes_over(
    tmp_path: Path, slurm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    monkeypatch.setattr(run_folder, "LOOK_EVERY", 0.05)
    (slurm / "squeue").write_text("RUNNING\n")
    write_lock(run, replace(ELSEWHERE, job="41", restart=1))
    monkeypatch.setenv("SLURM_JOB_ID", "41")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with pytest.raises(UserError, match="job 41"), Claim(run, "fit"):  # a second step of the same start
        pass
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    with Claim(run, "fit"):
        holder = live_holder(run)
        assert holder is not None
        assert holder.restart == 2


def test_who_has_lost_the_lock_stops_at_once(tmp_path: Path) -> None:
    """Such as a node that Slurm has given up, which works on."""
    program = (
        "import time; from lightning_samseg.runs import folder as run_folder\n"
        "run_folder.LOOK_EVERY = 0.05\n"
        f"with run_folder.Claim({str(tmp_path)!r}, 'fit'): print('in', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        write_lock(tmp_path, ELSEWHERE)
        assert process.wait(timeout=300) == 3
    assert json.loads((tmp_path / "run.lock").read_text())["token"] == "theirs"


def test_a_job_that_waits_to_go_on_keeps_its_folder(tmp_path: Path, slurm: Path) -> None:
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_JOB_ID", "41")
        with pytest.raises(Requeued), Claim(run, "fit"):
            raise Requeued
    (slurm / "squeue").write_text("PENDING\n")
    with pytest.raises(UserError, match="belongs to job 41"), Claim(run, "fit"):
        pass
    (slurm / "squeue").write_text("CANCELLED\n")
    with Claim(run, "fit"):
        pass


def test_fit_never_mixes_two_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    assert results_folder(run, "fit", resumes=False) == run
    (run / "checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match="holds an earlier run"):
        results_folder(run, "fit", resumes=False)
    assert results_folder(run, "fit", resumes=True) == run
    assert results_folder(run, "test", resumes=False) == run / "test-1"
    (run / "hpc_ckpt_3.ckpt").touch()
    assert results_folder(run, "fit", resumes=True) == run  # Lightning takes it under Slurm alone
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    with pytest.raises(UserError, match="hpc_ckpt_3"):
        results_folder(run, "fit", resumes=True)
