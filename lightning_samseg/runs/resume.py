"""What a run goes on from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lightning_samseg.adapters.checkpoints import LAST, PREVIOUS, read_checkpoint
from lightning_samseg.errors import UserError
from lightning_samseg.moved_arguments import check_moved
from lightning_samseg.runs.process import say


def find_checkpoint(run_dir: Path, given: str | None) -> Path | None:
    """The checkpoint that ``--ckpt_path`` means.

    Args:
        run_dir: The run folder.
        given: ``last`` or ``best`` of the run folder, a file, or None. Where ``last.ckpt`` is damaged or gone, ``last``
            is the one before it, and a line says so.

    Returns:
        The file, which was opened once; None where none was given, or there is no ``last`` yet.

    Raises:
        UserError: If it is missing (other than ``last``), damaged, or something else.
    """
    if given is None:
        return None
    path = run_dir / "checkpoints" / f"{given}.ckpt" if given in ("last", "best") else Path(given)
    if given == "last":
        previous = path.with_name(PREVIOUS)
        if not path.is_file() and not previous.is_file():
            return None
        try:
            read_checkpoint(path)
        except UserError as error:
            try:
                step = read_checkpoint(previous).get("global_step")
            except UserError:
                raise error from None
            say(f"warning: {run_dir / 'checkpoints' / LAST} cannot be read: going on from {PREVIOUS}, of step {step}.")
            return previous
        return path
    read_checkpoint(path)
    return path


def check_state(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Raise UserError unless a checkpoint holds all that a training goes on from."""
    missing = [name for name in ("loops", "optimizer_states", "lr_schedulers") if name not in checkpoint]
    if missing:
        raise UserError(
            f"No training can go on from {path}: it holds weights alone.",
            expected="last.ckpt of a run folder",
            found=f"no {', '.join(missing)}",
            fix="give such a file with --ckpt_path; weights to start from go to --model.sam.checkpoint or "
            "--model.adapter.file",
        )


def check_fit(checkpoint: Mapping[str, Any], model: torch.nn.Module, path: str | Path) -> None:
    """Raise UserError, naming the differing entries, unless the checkpoint's weights are those of this model."""
    check_moved(type(model), checkpoint.get("hyper_parameters", {}), path)
    theirs = {key: tuple(value.shape) for key, value in checkpoint["state_dict"].items()}
    ours = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    if theirs == ours:
        return
    differing = sorted(key for key in theirs.keys() | ours.keys() if theirs.get(key) != ours.get(key))
    examples = "; ".join(f"{key}: model {ours.get(key)}, checkpoint {theirs.get(key)}" for key in differing[:3])
    raise UserError(
        f"The checkpoint {path} belongs to another model.",
        expected="the model, backbone, image size and classes it was trained with (config.yaml of its run folder)",
        found=f"{len(differing)} differing entries; {examples}",
        fix="use --config config.yaml of that run folder, or another checkpoint",
    )
