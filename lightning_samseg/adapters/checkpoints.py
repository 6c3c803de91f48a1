"""Lightning checkpoints of our runs: written whole, opened without executing anything; the adapter that one holds."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from lightning_samseg.adapters.files import Adapter, check_adapter, infer_architecture, read_adapter, trained_part
from lightning_samseg.errors import MissingFileError, UserError
from lightning_samseg.io.files import atomic_write
from lightning_samseg.transforms import View

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
"""Names in a run's ``checkpoints`` folder: the state to go on from, the one before it, the best weights."""
WORKSPACE = "workspace"
"""Entry of a checkpoint that ``annotate`` has written: no run goes on from it, but a stream may begin with it."""
DEFAULT_IMAGE_SIZE = 512
"""Of a method that was built in Python with its default, which is then not recorded."""


class CheckpointFiles(TorchCheckpointIO):
    """Writes checkpoints so that no kill, full disk or power cut leaves less than the checkpoint before.

    Lightning's own writer goes through ``$TMPDIR`` and copies from there where the run folder is on another file
    system. Of ``last.ckpt`` the one before stays as ``previous.ckpt``.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Called on the main process.

        Raises:
            UserError: If the disk does not take it; the file that was there is untouched.
        """
        path = Path(path)
        previous = path.with_name(PREVIOUS) if path.name == LAST else None
        try:
            with atomic_write(path, previous=previous) as temporary, temporary.open("wb") as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:
            # torch's writer hides what the system said behind an error of its own.
            cause = error if isinstance(error, OSError) else error.__context__
            if not isinstance(cause, OSError):
                raise
            kept = f"; {path} still holds an earlier one" if path.is_file() else ""
            raise UserError(
                f"The checkpoint {path} could not be written{kept}.",
                found=cause.strerror or str(cause),
                fix="make room or mend the folder's permissions, then go on with --ckpt_path last",
            ) from error


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Open a Lightning checkpoint without executing anything in it.

    Raises:
        UserError: If the file is missing, damaged, or something else.
    """
    path = Path(path)
    if not path.is_file():
        found, fix = "a folder" if path.is_dir() else None, "check the path of --ckpt_path, or of --model.sam.adapter"
        raise MissingFileError(f"There is no checkpoint {path}.", found=found, fix=fix)
    if (kind := _kind_of_file(path)) is not None:
        raise _foreign(path, kind)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (
        *(RuntimeError, EOFError, KeyError, IndexError, TypeError, ValueError, AttributeError, AssertionError),
        pickle.UnpicklingError,
    ) as error:
        raise _foreign(path, (str(error).strip() or type(error).__name__).splitlines()[0][:200]) from error
    if (found := _foreign_content(content)) is not None:
        raise _foreign(path, found)
    checkpoint: dict[str, Any] = content
    return checkpoint


def require(checkpoint: Mapping[str, Any], path: str | Path, *names: str) -> None:
    """Raise UserError, naming the missing entries, unless a checkpoint has what our methods add to Lightning's own."""
    missing = [name for name in names if name not in checkpoint]
    if missing:
        raise _foreign(Path(path), f"a Lightning checkpoint without {', '.join(missing)}")


def _foreign(path: Path, found: str) -> UserError:
    previous = path.with_name(PREVIOUS)
    instead = f"--ckpt_path {previous}" if path.name == LAST and previous.is_file() else "--ckpt_path best"
    return UserError(
        f"{path} is not a checkpoint of a run of lightning_samseg, or is damaged.",
        expected="best.ckpt or last.ckpt of a run folder",
        found=found,
        fix=f"check --ckpt_path; a run whose last.ckpt is damaged goes on with {instead}, or starts again "
        "once that file is deleted; pretrained SAM weights go to --model.sam.checkpoint instead",
    )


def _kind_of_file(path: Path) -> str | None:
    """What a file that is no checkpoint is, by its first and last bytes; None where they do not tell."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(512)
        file.seek(max(0, size - 65536))
        tail = file.read()
    if not head:
        return "an empty file"
    if not head.strip(b"\0"):
        return "a file of zeros, as a crash of the machine or a broken copy leaves it"
    if head.startswith(b"PK"):
        if b"PK\5\6" not in tail:
            return f"a file that was cut off after {size} bytes, or is no archive of torch.save"
        return "a TorchScript archive" if b"/code/" in tail else None
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page, such as a login or error page that was saved instead of the file"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer instead of the file; fetch it with git lfs pull"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < size:
        return "weights alone, in the safetensors format"
    return None


def _foreign_content(content: Any) -> str | None:
    """What was read instead of a Lightning checkpoint; None for one."""
    if not isinstance(content, dict):
        return f"a {type(content).__name__}"
    if "state_dict" in content and "pytorch-lightning_version" in content:
        tables = [content["state_dict"], *(content.get(f"{name}hyper_parameters", {}) for name in ("", "datamodule_"))]
        if all(isinstance(table, dict) for table in tables):
            return None
        return "a Lightning checkpoint whose weights or hyper_parameters are not tables"
    if content and all(isinstance(value, torch.Tensor) for value in content.values()):
        return "weights alone (a state_dict), without the state of a training"
    return f"a table of {', '.join(str(key) for key in list(content)[:5]) or 'nothing'}"


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
    if len(models) != 1 or not all(isinstance(settings.get(group), Mapping) for group in ("sam", "adapter")):
        found = settings.get("_class_path", "another network")
        if "backbone" in settings:
            found = "a run of a version whose arguments did not stand in groups yet (see CHANGELOG.md)"
        raise UserError(
            f"{path} holds no adapter.",
            expected="a run of one adapted SAM: CpcSam with one or two branches, SAMed, or a method on sam_lora",
            found="two models that share nothing" if len(models) > 1 else found,
            fix="give the checkpoint of such a run; use others as they are, with --ckpt_path",
        )
    (place,) = models
    own = {key.removeprefix(place): value for key, value in checkpoint["state_dict"].items() if key.startswith(place)}
    tensors = trained_part(own)
    sam, adapter = settings["sam"], settings["adapter"]
    image_size = settings.get("image_size", DEFAULT_IMAGE_SIZE)
    data = checkpoint.get("datamodule_hyper_parameters", {})
    return Adapter(
        infer_architecture(tensors, sam["backbone"], image_size, adapter["alpha"], adapter["ratio"], adapter["scale"]),
        tensors,
        checkpoint.get("weights_sha256"),
        {
            "class_path": checkpoint.get("method"),
            # The place of the base weights on this machine means nothing elsewhere; their hash does.
            "init_args": {
                **{name: value for name, value in settings.items() if not name.startswith("_")},
                "sam": {name: value for name, value in sam.items() if name != "checkpoint"},
            },
        },
        {name: data[name] for name in View.STORED} if all(name in data for name in View.STORED) else None,
        git_commit=git_commit,
    )
