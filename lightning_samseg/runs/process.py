"""Which of a run's processes this one is. Needs no torch."""

import os

from lightning_samseg.log import logger

RANKS = ("LOCAL_RANK", "NODE_RANK", "SLURM_PROCID", "RANK")
"""Variables by which Lightning, torchrun and Slurm number the processes."""


def is_main_process() -> bool:
    """Whether this process writes and speaks for the run; known before there is a trainer."""
    return not any(int(os.environ.get(name, "0") or 0) for name in RANKS)


def say(message: str) -> None:
    """Log on the main process."""
    if is_main_process():
        logger.info(message)
