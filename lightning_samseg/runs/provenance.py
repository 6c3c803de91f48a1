"""What a run was made from, the same in ``metrics.json`` and in W&B: code, weights, data, split, seed."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import WandbLogger

import lightning_samseg


def provenance(trainer: Trainer, pl_module: Any) -> dict[str, Any]:
    """Where the numbers of a run come from.

    Returns:
        ``method``, ``weights_sha256``, ``seed``, ``data_fingerprint`` and ``split`` (None where the data module does
        not tell), ``git_commit`` and ``versions``.
    """
    data: Any = getattr(trainer, "datamodule", None)
    known = data.fingerprint() if hasattr(data, "fingerprint") else {}
    return {
        "method": f"{type(pl_module).__module__}.{type(pl_module).__qualname__}",
        "weights_sha256": getattr(pl_module, "weights_sha256", None),
        "seed": getattr(pl_module, "seed", None),
        "data_fingerprint": known.get("data_fingerprint"),
        "split": known.get("split"),
        "git_commit": git_commit(),
        "versions": {"lightning_samseg": lightning_samseg.__version__, "torch": torch.__version__},
    }


def facts(trainer: Trainer, pl_module: Any) -> dict[str, Any]:
    """What of a run's origin must stay as it is when the run goes on.

    Returns:
        ``data_fingerprint`` and ``split``, ``weights_sha256``, and ``processes``, on which the size of a step hangs
        beside the options; not of a stream, whose images per step AuxOl compares itself. None where it is not known.
    """
    data: Any = getattr(trainer, "datamodule", None)
    known = data.fingerprint() if hasattr(data, "fingerprint") else {}
    of_step = {} if getattr(pl_module, "uses_stream", False) else {"processes": trainer.world_size}
    return {
        **of_step,
        "data_fingerprint": known.get("data_fingerprint"),
        "split": known.get("split"),
        "weights_sha256": getattr(pl_module, "weights_sha256", None),
    }


def git_commit() -> str | None:
    """Commit of the checkout this package runs from, with ``-dirty`` where files differ; None outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


def upload_files(trainer: Trainer, *paths: Path) -> None:
    """Add copies of files to the W&B run, where there is one; called on the main process.

    Copies, not the links that W&B makes: an offline run can be moved to where there is a network.
    """
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            run = logger.experiment
            for path in paths:
                Path(run.dir).mkdir(parents=True, exist_ok=True)
                run.save(shutil.copy(path, run.dir), base_path=run.dir, policy="now")
