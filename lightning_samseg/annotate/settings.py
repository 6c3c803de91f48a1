"""What a workspace was made with: kept in ``workspace.json``, compared at every start. Needs no torch."""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from lightning_samseg.annotate.images import WorkImage, fingerprint
from lightning_samseg.errors import UserError
from lightning_samseg.io.text import escape, write_text

NAME = "workspace.json"
FORMAT = 1


Learn = Literal["all", "corrected"]
"""From which accepted masks the network learns."""


@dataclass(frozen=True)
class Settings:
    """What must stay as it is while a workspace is filled."""

    class_name: str = "object"
    order: str = "sorted"
    blind: float = 0.0
    learn: Learn = "all"
    model: dict[str, Any] = field(default_factory=dict)
    """Arguments of ``AuxOl``, those of groups by dotted name."""
    weights_sha256: str | None = None
    """Of the frozen SAM."""
    threads: int = 1
    """Of a CPU's products, on which last bits depend."""


def stored_settings(folder: Path) -> Settings | None:
    """Settings of a workspace; None where there is none yet.

    Raises:
        UserError: If the file is damaged.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Settings(**content["settings"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} does not say what the workspace was made with.",
            found=str(error)[:200],
            fix="put it back from a backup, or give another --output",
        ) from error


def check_settings(folder: Path, stored: Settings, given: Mapping[str, Any]) -> None:
    """Raise UserError if an option that was given is not the workspace's.

    Args:
        folder: The workspace.
        stored: Its settings.
        given: Options by their name on the command line, those of the model by their argument's.
    """
    known = {**asdict(stored), **stored.model}
    for name, value in given.items():
        if value != known.get(name):
            option = {"class_name": "class", "prompter.kind": "prompt", "sam.backbone": "backbone"}.get(name, name)
            raise UserError(
                f"The workspace {folder} was started with another {option}.",
                expected=str(known.get(name)),
                found=str(value),
                fix=f"leave --{option} out, or start another workspace with --output",
            )


def write_settings(folder: Path, settings: Settings, images: Sequence[WorkImage]) -> list[str]:
    """Write ``workspace.json``, and compare the files with those of the last start.

    Args:
        folder: The workspace.
        settings: Its settings.
        images: What there is now.

    Returns:
        What has changed, a line each.
    """
    path = folder / NAME
    sources = {image.source.relative.as_posix(): image.source.path for image in images}
    now = {escape(name): fingerprint(file) for name, file in sources.items()}
    notes = []
    before: dict[str, Any] = {}
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8")).get("images", {})
        if gone := [name for name in before if name not in now]:
            notes.append(f"{len(gone)} files are no longer there, such as {gone[0]}; what was accepted of them stays.")
        if changed := [name for name, print_ in now.items() if name in before and before[name] != print_]:
            notes.append(
                f"{len(changed)} files have changed since the last start, such as {changed[0]}: masks that were "
                "accepted before belong to the earlier files. Reopen those images, or put the files back."
            )
        if new := [name for name in now if name not in before]:
            notes.append(f"{len(new)} files are new, such as {new[0]}.")
    content = {"format": FORMAT, "id": name_of(folder), "settings": asdict(settings), "images": before | now}
    write_text(path, json.dumps(content, indent=1) + "\n")
    return notes


def name_of(folder: Path) -> str:
    """A name that no other workspace has, by which a browser knows its drafts; drawn where there is none yet."""
    try:
        return str(json.loads((folder / NAME).read_text(encoding="utf-8"))["id"])
    except (OSError, ValueError, KeyError):
        return uuid.uuid4().hex
