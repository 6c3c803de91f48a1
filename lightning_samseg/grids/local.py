"""The runs of a grid on this machine: one after the other or several at a time, each on a GPU of its own."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from lightning_samseg.errors import UserError
from lightning_samseg.grids.grid import Run
from lightning_samseg.grids.progress import last_error
from lightning_samseg.log import logger
from lightning_samseg.runs.folder import read_status


def visible_gpus() -> list[str]:
    """NVIDIA GPUs that a process started here may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    answer = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    count = sum(line.startswith("GPU ") for line in answer.stdout.splitlines()) if answer.returncode == 0 else 0
    return [str(number) for number in range(count)]


def check_jobs(jobs: int) -> None:
    """Raise UserError if so many runs at a time have no GPU each, on a machine with GPUs."""
    gpus = visible_gpus()
    if jobs < 1 or (gpus and jobs > len(gpus)):
        raise UserError(
            "--jobs is wrong.",
            expected=f"1 to {len(gpus)}, one run for each GPU" if gpus else "at least 1",
            found=str(jobs),
            fix=f"set --jobs {max(1, len(gpus))}, or hide the GPUs with CUDA_VISIBLE_DEVICES=",
        )


def work_off(runs: Sequence[Run], jobs: int = 1) -> list[Run]:
    """Start runs as processes of their own, ``jobs`` at a time; each writes to ``output.log`` in its folder.

    A training that was begun goes on from its last checkpoint. Each run sees one GPU, where there are any; a single
    one sees all of them if the grid sets ``trainer.devices``.

    Args:
        runs: What is to be done.
        jobs: How many at a time.

    Returns:
        The runs that failed; the others are finished.
    """
    gpus = visible_gpus()
    waiting, failed = list(reversed(runs)), []
    working: dict[int, tuple[Run, subprocess.Popen[bytes], float]] = {}
    done = 0
    try:
        while waiting or working:
            for slot in range(jobs):
                if slot not in working and waiting:
                    run = waiting.pop()
                    own = jobs > 1 or "trainer.devices" not in run.overrides
                    working[slot] = run, _start(run, gpus[slot] if gpus and own else None, jobs), time.monotonic()
            time.sleep(0.1)
            for slot, (run, process, since) in list(working.items()):
                if process.poll() is None:
                    continue
                del working[slot]
                done += 1
                seconds = time.monotonic() - since
                if process.returncode == 0:
                    found = _scores(run, time.time() - seconds)
                    logger.info(f"[{done}/{len(runs)}] {run.name}: finished after {seconds:.0f} s{found}")
                else:
                    failed.append(run)
                    logger.info(f"[{done}/{len(runs)}] {run.name}: failed after {seconds:.0f} s: {_why(run)}")
    finally:
        for _, process, _ in working.values():
            process.terminate()
        for _, process, _ in working.values():
            process.wait()
    return failed


def _start(run: Run, gpu: str | None, jobs: int) -> "subprocess.Popen[bytes]":
    folder = Path(run.folder)
    folder.mkdir(parents=True, exist_ok=True)
    environment = dict(os.environ)
    if gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = gpu
    if jobs > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    with (folder / "output.log").open("ab") as log:
        log.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode())
        log.flush()
        command = [sys.executable, "-u", "-m", "lightning_samseg", *run.resuming_argv]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)


def _scores(run: Run, since: float) -> str:
    """What the run's test has found, if it has ended with one."""
    path = Path(run.folder) / "metrics.json"
    if not path.is_file() or path.stat().st_mtime < since:
        return ""
    summary = json.loads(path.read_text())["summary"]
    return "".join(f", {name} {value:.4g}" for name, value in summary.items() if isinstance(value, float))


def _why(run: Run) -> str:
    status = read_status(run.folder)
    error = status.error if status and status.state == "failed" else None
    return f"{error or last_error(Path(run.folder) / 'output.log')} ({run.folder}/output.log)"
