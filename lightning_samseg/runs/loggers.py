"""Where a run's numbers and pictures go: CSV always, TensorBoard and Weights & Biases on request."""

import netrc
import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from lightning_samseg.errors import UserError
from lightning_samseg.io.files import atomic_write
from lightning_samseg.log import logger
from lightning_samseg.runs.csv_log import CsvLog


@dataclass
class Wandb:
    """Log to Weights & Biases, too.

    Args:
        project: Project the run belongs to.
        name: Shown name of the run; None for the run folder's.
        group: Group of runs, for example of one grid.
        job_type: Kind of run within its group; None for the verb.
        offline: True keeps the run on disk for `wandb sync`; None is offline when no key is set.
    """

    project: str = "lightning_samseg"
    name: str | None = None
    group: str | None = None
    job_type: str | None = None
    offline: bool | None = None


def build_loggers(
    folder: Path, name: str, job_type: str, wandb: Wandb | None, tensorboard: bool, is_main_process: bool
) -> list[Logger]:
    """Make the loggers of a run.

    Args:
        folder: Folder of the results; gets ``logs``, ``tensorboard`` and ``wandb``.
        name: Shown name in W&B where ``wandb`` gives none.
        job_type: Kind of run in W&B where ``wandb`` gives none.
        wandb: W&B's settings; None for no W&B.
        tensorboard: Whether to write TensorBoard's event files.
        is_main_process: Whether this process writes and speaks for all ranks.

    Returns:
        The loggers, the CSV one first.

    Raises:
        UserError: If TensorBoard is asked for and not installed.
    """
    loggers: list[Logger] = [CsvLog(folder)]
    if tensorboard:
        try:
            loggers.append(TensorBoardLogger(folder, name="tensorboard", version=""))
        except ModuleNotFoundError as error:
            raise UserError(
                "TensorBoard is not installed.",
                fix="python -m pip install tensorboard, or leave --tensorboard out",
            ) from error
    if wandb is not None:
        mode = wandb_mode(wandb.offline)
        if mode == "offline" and is_main_process:
            reason = "W&B is offline" if wandb.offline else "No W&B key"
            logger.info(f"{reason}: the run stays on disk; upload it with: wandb sync {folder}/wandb/offline-run-*")
        arguments: dict[str, Any] = {} if mode is None else {"mode": mode}
        folder.mkdir(parents=True, exist_ok=True)
        loggers.append(
            WandbLogger(
                name=wandb.name or name,
                save_dir=folder,
                project=wandb.project,
                group=wandb.group,
                job_type=wandb.job_type or job_type,
                id=run_id(folder, is_main_process),
                resume=None if mode == "offline" else "allow",  # W&B cannot ask for the run it is to go on with
                **arguments,
            )
        )
    return loggers


def wandb_mode(offline: bool | None) -> str | None:
    """Mode for ``wandb.init``.

    Args:
        offline: As in :class:`Wandb`.

    Returns:
        ``offline`` or ``online``; None leaves it to the variable ``WANDB_MODE``, which is set.
    """
    if offline is not None:
        return "offline" if offline else "online"
    if os.environ.get("WANDB_MODE"):
        return None
    return "online" if has_wandb_key() else "offline"


def has_wandb_key() -> bool:
    """Whether a key for W&B is at hand: ``WANDB_API_KEY``, ``WANDB_IDENTITY_TOKEN_FILE`` or ``wandb login``'s netrc."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    chosen = os.environ.get("NETRC")
    for path in [Path(chosen)] if chosen else [Path.home() / ".netrc", Path.home() / "_netrc"]:
        try:
            if netrc.netrc(str(path.expanduser())).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def finish_wandb(loggers: Iterable[Logger]) -> None:
    """End the W&B runs that loggers have begun: the next one in this process would go on in them."""
    for each in loggers:
        if isinstance(each, WandbLogger) and each._experiment is not None:
            each.experiment.finish()


def default_folder(method: str) -> str:
    """Run folder where none was given: ``runs/METHOD``, or ``runs/sweeps/SWEEP/RUN`` under W&B's sweep agent."""
    sweep, run = os.environ.get("WANDB_SWEEP_ID"), os.environ.get("WANDB_RUN_ID")
    return f"runs/sweeps/{sweep}/{run}" if sweep and run else f"runs/{method}"


def run_id(folder: Path, is_main_process: bool = True) -> str:
    """Id of the W&B run of a folder: the agent's in a sweep, else the one in ``wandb_id``, which is made if need be.

    A run that is resumed or requeued goes on under the id that it started with.

    Args:
        folder: Folder of the results.
        is_main_process: Whether this process keeps the id for the next time.
    """
    path = folder / "wandb_id"
    stored = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
    chosen = os.environ.get("WANDB_RUN_ID") or stored or secrets.token_hex(4)
    if chosen != stored and is_main_process:
        with atomic_write(path) as temporary:
            temporary.write_text(chosen + "\n", encoding="utf-8")
    return chosen
