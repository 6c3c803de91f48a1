"""Lightning checkpoints of our runs: opened without executing anything in them, and the adapter that one contains."""

import pickle
from pathlib import Path
from typing import Any

import torch

from lightning_samseg.errors import UserError
from lightning_samseg.io.adapters import Adapter, check_adapter, infer_architecture, read_adapter, trained_part

DEFAULT_IMAGE_SIZE = 512
"""Of a method that was built in Python with its default, which is then not recorded."""
VIEW = ("resize", "normalise", "grey", "geometry")
"""Arguments of the data module that say how its images become network input, beside the size."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Open a Lightning checkpoint without executing anything in it.

    Raises:
        UserError: If the file is missing, damaged, or something else.
    """
    if not Path(path).is_file():
        raise UserError(f"There is no checkpoint {path}.", fix="check --ckpt_path")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        if "state_dict" not in checkpoint or "pytorch-lightning_version" not in checkpoint:
            raise KeyError("no training state in it")
    except (RuntimeError, EOFError, KeyError, TypeError, ValueError, pickle.UnpicklingError) as error:
        raise UserError(
            f"{path} is not a checkpoint of a run, or is damaged.",
            expected="best.ckpt or last.ckpt of a run folder",
            found=(str(error).strip() or type(error).__name__).splitlines()[0][:200],
            fix="check --ckpt_path; a run whose last.ckpt is damaged goes on with --ckpt_path best, or starts again "
            "once that file is deleted; pretrained SAM weights go to --model.checkpoint instead",
        ) from error
    return checkpoint


def open_adapter(path: str | Path) -> Adapter:
    """Read an adapter from either of the two files that hold one.

    Args:
        path: An adapter, or a checkpoint of a run (``.ckpt``).

    Raises:
        UserError: As :func:`read_adapter` and :func:`adapter_of_run`.
    """
    if Path(path).suffix != ".ckpt":
        return read_adapter(path)
    adapter = adapter_of_run(path)
    check_adapter(adapter, str(path))
    return adapter


def adapter_of_run(path: str | Path, git_commit: str | None = None) -> Adapter:
    """Take the adapter out of a Lightning checkpoint of ours.

    Args:
        path: ``best.ckpt`` or ``last.ckpt`` of a run of CpcSam, SAMed, or Cps, Uamt, UniMatch on SAM; a teacher in it
            is left out.
        git_commit: Commit of the code, for the record.

    Returns:
        The adapter; its tensors may lie in the mapped file.

    Raises:
        UserError: If the file is missing or damaged, or the run was not of one adapted SAM.
    """
    checkpoint = read_checkpoint(path)
    settings: dict[str, Any] = checkpoint.get("hyper_parameters", {})
    places = {key.partition("mask_decoders.")[0] for key in checkpoint["state_dict"] if ".mask_decoders." in key}
    models = sorted(place for place in places if not place.startswith("teacher."))  # what is trained, not its average
    if len(models) != 1 or "backbone" not in settings:
        raise UserError(
            f"{path} holds no adapter.",
            expected="a run of one adapted SAM: CpcSam with one or two branches, SAMed, or a method on sam_lora",
            found="two models that share nothing"
            if len(models) > 1
            else settings.get("_class_path", "another network"),
            fix="give the checkpoint of such a run; use others as they are, with --ckpt_path",
        )
    (place,) = models
    own = {key.removeprefix(place): value for key, value in checkpoint["state_dict"].items() if key.startswith(place)}
    tensors = trained_part(own)
    scales = {name: settings[name] for name in ("lora_alpha", "msa_ratio", "msa_scale") if name in settings}
    image_size = settings.get("image_size", DEFAULT_IMAGE_SIZE)
    data = checkpoint.get("datamodule_hyper_parameters", {})
    return Adapter(
        infer_architecture(tensors, settings["backbone"], image_size, **scales),
        tensors,
        checkpoint.get("weights_sha256"),
        {
            "class_path": checkpoint.get("method"),
            # The place of the base weights on this machine means nothing elsewhere; their hash does.
            "init_args": {k: v for k, v in settings.items() if not k.startswith("_") and k != "checkpoint"},
        },
        {name: data[name] for name in VIEW} if all(name in data for name in VIEW) else None,
        git_commit=git_commit,
    )
