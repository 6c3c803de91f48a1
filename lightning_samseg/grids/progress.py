"""Where every run of a grid stands: its folder and, where it was submitted, what Slurm says."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lightning_samseg.grids.grid import Run
from lightning_samseg.grids.submit import read_submissions
from lightning_samseg.runs import slurm
from lightning_samseg.runs.folder import Status, live_holder, read_status
from lightning_samseg.runs.slurm import WAITING, Task

Word = Literal["missing", "waiting", "running", "finished", "failed", "interrupted"]
TO_DO = ("missing", "failed", "interrupted")


@dataclass(frozen=True)
class Standing:
    """Where one run stands."""

    run: Run
    word: Word
    """``interrupted``: killed or cancelled; it goes on from its last checkpoint when it is started again."""
    detail: str = ""
    """Step and rate, why it waits, or the last line of the error."""
    task: str | None = None
    """``JOB_TASK`` where it waits or runs in Slurm."""
    requeued: int = 0
    """How often it was preempted or ran into its time limit, and went back into the queue."""


def standings(runs: Sequence[Run]) -> list[Standing]:
    """Look at every run.

    Args:
        runs: Runs of one grid.

    Returns:
        One each, in their order.

    Raises:
        UserError: If runs were submitted and Slurm does not answer.
    """
    known = _tasks(Path(runs[0].folder).parent)
    return [_standing(run, *known.get(run.name, (None, None))) for run in runs]


def last_error(log: Path) -> str:
    """The last line of a log that names an error, else its last line; empty without a log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 20_000))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    lines = [line.strip() for line in lines if line.strip()]
    errors = [line for line in lines if line.startswith("error:") or "Error" in line.partition(":")[0]]
    return (errors or lines or [""])[-1][:300]


def _tasks(folder: Path) -> dict[str, tuple[str, Task]]:
    """Run -> its newest task: its name, and what Slurm knows of it."""
    submissions = read_submissions(folder)
    if not submissions or not slurm.has_slurm():
        return {}
    answers = slurm.tasks([submission.job for submission in submissions])
    found: dict[str, tuple[str, Task]] = {}
    for submission in submissions:  # the newest comes last
        for number, name in enumerate(submission.runs):
            task = answers.get((submission.job, number))
            if task is not None:
                found[name] = f"{submission.job}_{number}", task
    return found


def _standing(run: Run, name: str | None, task: Task | None) -> Standing:
    folder = Path(run.folder)
    status = read_status(folder)
    noted = status.requeued + (status.state == "requeued") if status else 0
    requeued = max(task.restarts if task else 0, noted)
    if task is not None and task.is_live:
        leaves = task.state == "COMPLETING" and status is not None and status.state == "requeued"
        if task.state in WAITING or leaves:
            return Standing(run, "waiting", _waiting(task, status), name, requeued)
        return Standing(run, "running", _pace(status) or "starting", name, requeued)
    holder = live_holder(folder)
    if holder is not None:
        return Standing(run, "running", f"{_pace(status) or 'starting'} ({holder})", None, requeued)
    if status is None:
        if (folder / "metrics.json").is_file():  # finished before there was a status
            return Standing(run, "finished", "", None, requeued)
        if task is not None and task.state in ("FAILED", "OUT_OF_MEMORY", "TIMEOUT", "NODE_FAIL", "BOOT_FAIL"):
            return Standing(run, "failed", _ended(task, last_error(folder / "output.log")), None, requeued)
        return Standing(run, "missing", "", None, requeued)
    if status.state == "finished" and status.verb == run.verb:
        return Standing(run, "finished", "", None, requeued)
    if status.state == "failed":
        return Standing(run, "failed", status.error or "", None, requeued)
    if status.verb != run.verb:
        return Standing(run, "missing", f"the folder holds a {status.verb}", None, requeued)
    return Standing(run, "interrupted", _ended(task, _place(status)), None, requeued)


def _waiting(task: Task, status: Status | None) -> str:
    place = f"at {_place(status)}" if status and status.step else ""
    return ", ".join(part for part in (task.reason, place) if part)


def _ended(task: Task | None, text: str) -> str:
    how = f"{task.state}{', ' + task.reason if task.reason else ''}" if task and task.state != "COMPLETED" else ""
    return "; ".join(part for part in (how, text) if part)


def _pace(status: Status | None) -> str:
    """Step, rate and time left, of a run that is being worked on."""
    if status is None or status.state != "running" or not status.steps:
        return ""
    if not status.rate:
        return _place(status)
    left = (status.steps - status.step) / status.rate
    hours, minutes = divmod(int(left) // 60, 60)
    return f"{_place(status)}, {status.rate:.3g} it/s, {hours}:{minutes:02d} h left"


def _place(status: Status) -> str:
    return f"step {status.step} of {status.steps}" if status.steps else ""
