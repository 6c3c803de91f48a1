"""A Slurm job that is told to make room saves its state, puts itself back into the queue, and stops. Needs no torch.

Lightning's own handler saves wherever the signal finds the program, also between two halves of an optimizer step, and
each rank at its own step. Here the signal is only taken note of; ``LastCheckpoint`` acts at the end of a step.
"""

import os
import signal
import subprocess
from typing import Any

from lightning_samseg.errors import UserError
from lightning_samseg.log import logger

_told = False


class Requeued(SystemExit):
    """Raised where a run stops for its job to go back into the queue; the process ends well."""

    def __init__(self) -> None:
        super().__init__(0)


def listen() -> None:
    """Take note of SIGUSR1 from now on, where this process is part of a Slurm job.

    Called before anything slow is imported: until then the signal would end the process. Lightning leaves a signal
    alone that has a handler.
    """
    if in_job() and hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, _take_note)


def in_job() -> bool:
    """Whether this process is part of a Slurm job."""
    return "SLURM_JOB_ID" in os.environ


def told_to_stop() -> bool:
    """Whether the signal has come."""
    return _told


def requeue() -> None:
    """Put this job back into the queue. The last thing that its main process does: Slurm then kills all of them.

    Raises:
        UserError: If Slurm refuses.
    """
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # which comes at once; what is left to do takes less than KillWait
    try:
        answer = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=60)
        problem = answer.stderr.strip() if answer.returncode else None
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = str(error)
    if problem is not None:
        raise UserError(
            f"Slurm did not take job {job} back into its queue.",
            found=problem,
            fix="submit the run again: it goes on from its last.ckpt, which was just written",
        )
    logger.info(f"Saved, and put job {job} back into the queue.")


def _take_note(signum: int, frame: Any) -> None:
    global _told
    _told = True
