"""What we ask of Slurm, and what it answers. Works without accounting (sacct), and uses it where there is one."""

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lightning_samseg.errors import UserError

PATIENCE = 60
"""Seconds that one question may take."""
WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "SUSPENDED", "STOPPED", "CONFIGURING")
ENDED = (
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "REVOKED",
    "TIMEOUT",
)


@dataclass(frozen=True)
class Task:
    """One task of an array, as Slurm sees it."""

    state: str
    """In Slurm's words: PENDING, RUNNING, COMPLETING, COMPLETED, FAILED, TIMEOUT, CANCELLED, ..."""
    reason: str = ""
    """Why it waits or how it ended; empty where Slurm gives none."""
    restarts: int = 0
    """How often it was put back into the queue."""

    @property
    def is_live(self) -> bool:
        """Whether it waits or runs."""
        return self.state not in ENDED


def has_slurm() -> bool:
    """Whether Slurm's commands are on this machine."""
    return shutil.which("sbatch") is not None and shutil.which("squeue") is not None


def submit(script: str) -> str:
    """Hand a batch script to Slurm.

    Returns:
        The job's id.

    Raises:
        UserError: If Slurm is missing or refuses.
    """
    require_slurm()
    answer = _ask(["sbatch", "--parsable"], stdin=script)
    if answer.returncode:
        raise UserError(
            "Slurm refused the job.",
            found=" ".join(answer.stderr.split()),
            fix="correct the profile; sinfo shows partitions, sacctmgr show assoc accounts; --dry-run shows the script",
        )
    return answer.stdout.strip().partition(";")[0]


def require_slurm() -> None:
    """Raise UserError unless Slurm's commands are there."""
    if not has_slurm():
        raise UserError(
            "Slurm is not on this machine.",
            expected="the commands sbatch and squeue on the PATH",
            fix="submit from a login node of the cluster, or work the grid off here with `grid run`; "
            "--dry-run shows the job without Slurm",
        )


def job_state(job: str) -> str | None:
    """State of a job in the queue.

    Args:
        job: Its id, ``SLURM_JOB_ID``.

    Returns:
        Slurm's word; empty where the job is no longer in the queue; None where Slurm cannot be asked.
    """
    try:
        answer = _ask(["squeue", "--noheader", "--jobs", job, "--format", "%T", "--states", "all"])
    except (OSError, UserError):
        return None
    if answer.returncode:
        return "" if "Invalid job id" in answer.stderr else None
    state = answer.stdout.strip().partition("\n")[0].strip()
    return "" if state in ENDED else state


def tasks(jobs: Sequence[str]) -> dict[tuple[str, int], Task]:
    """Ask for the tasks of arrays: the queue first, for what has left it accounting, else the controller's memory.

    Args:
        jobs: Ids of the arrays.

    Returns:
        (job, task number) -> what Slurm knows. Tasks that it has forgotten are missing.

    Raises:
        UserError: If the controller does not answer.
    """
    found: dict[tuple[str, int], Task] = {}
    queued = _queued(jobs)
    for job in jobs:
        remembered = _remembered(job)
        for number, task in {**remembered, **_accounted(job), **queued.get(job, {})}.items():
            restarts = remembered[number].restarts if number in remembered else 0
            found[job, number] = replace(task, restarts=restarts)
    return found


def cancel(names: Sequence[str]) -> None:
    """End jobs or tasks.

    Args:
        names: ``JOB`` or ``JOB_TASK``.

    Raises:
        UserError: If Slurm refuses.
    """
    answer = _ask(["scancel", *names])
    if answer.returncode:
        raise UserError("Slurm did not cancel the jobs.", found=" ".join(answer.stderr.split()), fix="see squeue --me")


def _queued(jobs: Sequence[str]) -> dict[str, dict[int, Task]]:
    """Tasks that wait or run, from the queue."""
    found: dict[str, dict[int, Task]] = {}
    answer = _ask(["squeue", "--noheader", "--array", "--jobs", ",".join(jobs), "--format", "%F|%K|%T|%r"])
    if answer.returncode and "Invalid job id" not in answer.stderr:
        raise UserError(
            "Slurm's controller does not answer.",
            found=" ".join(answer.stderr.split()),
            fix="try again later; the runs themselves go on",
        )
    for line in answer.stdout.splitlines():
        job, number, state, reason = line.strip().split("|", 3)
        if number.isdigit():
            found.setdefault(job, {})[int(number)] = Task(state, "" if reason == "None" else reason)
    return found


def _accounted(job: str) -> dict[int, Task]:
    """Ended and other tasks from sacct; none where there is no accounting."""
    try:
        answer = _ask(["sacct", "-n", "-X", "-P", "--array", "-j", job, "-o", "JobID,State,ExitCode"])
    except (OSError, UserError):
        return {}
    found = {}
    for line in answer.stdout.splitlines() if answer.returncode == 0 else []:
        name, state, code = [*line.strip().split("|"), "", ""][:3]
        number = name.partition("_")[2]
        if number.isdigit() and state:
            found[int(number)] = Task(state.split()[0], "" if code in ("", "0:0") else f"exit code {code}")
    return found


def _remembered(job: str) -> dict[int, Task]:
    """From ``scontrol show job``, which knows ended jobs for a while (``MinJobAge``)."""
    answer = _ask(["scontrol", "--oneliner", "show", "job", job])
    found = {}
    for line in answer.stdout.splitlines() if answer.returncode == 0 else []:
        fields = dict(part.split("=", 1) for part in line.split() if "=" in part)
        number = fields.get("ArrayTaskId", "")
        if number.isdigit():
            reason = fields.get("Reason", "None")
            code = fields.get("ExitCode", "0:0")
            if reason in ("None", "NonZeroExitCode"):
                reason = "" if code == "0:0" else f"exit code {code}"
            restarts = fields.get("Restarts", "0")
            found[int(number)] = Task(fields.get("JobState", ""), reason, int(restarts) if restarts.isdigit() else 0)
    return found


def _ask(command: Sequence[str], stdin: str | None = None) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired as error:
        raise UserError(
            "Slurm's controller does not answer.",
            found=f"nothing from {command[0]} within {PATIENCE} s",
            fix="try again later; the runs themselves go on",
        ) from error
