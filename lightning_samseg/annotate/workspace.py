"""A workspace: the folder that one annotation stream fills, and what is known about each of its images.

::

    journal.jsonl     what happened, see ``annotate.journal``          masks/     as ``predict`` writes them
    workspace.json    settings and the files as they were              drafts/    the newest draft of each image
    lessons/          records that no checkpoint has learned from yet  checkpoints/last.ckpt, cases.csv, prompts.csv

The journal is the truth: masks that are missing or differ are written again from it. Needs no torch itself.
"""

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lightning_samseg.annotate import rle
from lightning_samseg.annotate.images import Failed, Pixels, WorkImage, write_mask
from lightning_samseg.annotate.journal import Journal
from lightning_samseg.errors import UserError, described
from lightning_samseg.io.files import atomic_write, remove_leftovers
from lightning_samseg.io.images import read_image
from lightning_samseg.io.volumes import open_volume, read_volume

State = Literal["open", "draft", "accepted", "skipped", "failed", "gone"]


@dataclass
class Draft:
    """What an expert has on the screen."""

    prompts: list[dict[str, Any]] = field(default_factory=list)
    mask: dict[str, Any] | None = None
    effort: dict[str, Any] = field(default_factory=dict)


@dataclass
class Known:
    """What is known about one image."""

    revision: int = 0
    """Writes to it so far."""
    draft: Draft | None = None
    position: int | None = None
    """In the stream; None before it is accepted."""
    accepted: dict[str, Any] | None = None
    """Its mask, the newest."""
    prompts: list[dict[str, Any]] = field(default_factory=list)
    """That it was accepted with."""
    answered: int | None = None
    """Revision that the newest accept had named."""
    skipped: bool = False
    reason: str | None = None
    """Of a skip or a failure."""
    failed: bool = False
    gone: bool = False

    @property
    def state(self) -> State:
        """As the page shows it."""
        if self.gone:
            return "gone"
        if self.position is not None:
            return "accepted"
        if self.failed:
            return "failed"
        if self.skipped:
            return "skipped"
        return "open" if self.draft is None else "draft"


class OldRevisionError(Exception):
    """A write that has not seen the newest one."""

    def __init__(self, known: Known) -> None:
        super().__init__("The image was changed elsewhere in the meantime.")
        self.known = known


class Workspace:
    """Opens or makes a workspace. All changes go through :meth:`lock`.

    Args:
        folder: The folder; this process must hold its ``Claim``.
        images: What there is to annotate.
        failed: Volumes that cannot be opened.
        tell: Called with what a user should know.

    Raises:
        UserError: If the journal is damaged.
    """

    def __init__(
        self, folder: Path, images: Sequence[WorkImage], failed: Sequence[Failed], tell: Callable[[str], None] = print
    ) -> None:
        self.folder, self.tell, self.pixels = folder, tell, Pixels()
        self.lock = threading.RLock()
        self.images = {image.id: image for image in images}
        self.failed = {each.id: each for each in failed}
        self.known = {name: Known() for name in self.images}
        self.known |= {each.id: Known(failed=True, reason=each.reason) for each in failed}
        self.accepts: list[dict[str, Any]] = []
        """The journal's ``accept`` events."""
        for each in ("drafts", "masks", "lessons", "checkpoints"):
            (folder / each).mkdir(parents=True, exist_ok=True)
            remove_leftovers(folder / each)
        self.journal = Journal(folder / "journal.jsonl")
        if self.journal.note:
            tell(self.journal.note)
        for entry in self.journal.events:
            self._replay(entry)
        self.events = self.journal.events
        self._load_drafts()
        self._unwritten: set[Path] = set()

    # What happened

    def _replay(self, entry: Mapping[str, Any]) -> None:
        event = entry["event"]
        if event not in ("accept", "correct", "skip", "reopen"):
            return
        known = self.known.setdefault(entry["id"], Known(gone=True, reason="its file is no longer there"))
        known.revision = entry["revision"]
        known.draft = None
        if event == "skip":
            known.skipped, known.reason = True, entry["reason"]
        elif event == "reopen":
            known.skipped, known.reason = False, None
        else:
            known.accepted, known.prompts, known.answered = entry["mask"], entry["prompts"], entry["revision"] - 1
            if event == "accept":
                known.position, known.skipped = entry["position"], False
                self.accepts.append(dict(entry))

    def check_revision(self, image_id: str, revision: int) -> Known:
        """The image, if a write names its newest revision.

        Raises:
            OldRevisionError: If not.
        """
        known = self.known[image_id]
        if revision != known.revision:
            raise OldRevisionError(known)
        return known

    def record(self, event: str, image_id: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Write an event about an image into the journal, and know it only then.

        Args:
            event: ``accept``, ``correct``, ``skip`` or ``reopen``.
            image_id: The image.
            values: What belongs to it.

        Raises:
            OSError: If the disk does not take it; nothing has changed then.
        """
        revision = self.known[image_id].revision + 1
        name = self.images[image_id].name
        entry = self.journal.append(event, {"id": image_id, "name": name, "revision": revision, **values})
        self._replay(entry)
        (self.folder / "drafts" / f"{image_id}.json").unlink(missing_ok=True)
        return entry

    # Drafts

    def save_draft(self, image_id: str, draft: Draft | None) -> int:
        """Keep what is on the screen, and count it as a write.

        Args:
            image_id: The image.
            draft: None: only count.

        Returns:
            The new revision.

        Raises:
            OSError: If the disk does not take it; the draft before is untouched.
        """
        known = self.known[image_id]
        content = {"revision": known.revision + 1, "draft": None if draft is None else vars(draft)}
        with atomic_write(self.folder / "drafts" / f"{image_id}.json") as temporary:
            temporary.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")
        known.revision += 1
        known.draft = draft
        return known.revision

    def begun(self, image_id: str, size: tuple[int, int]) -> Draft:
        """What an expert goes on with: the draft, or the prompts that the image was accepted with.

        What was drawn on an earlier file of another size does not count: such a draft is set aside, and said.

        Args:
            image_id: The image.
            size: ``(H, W)`` of its file now.
        """
        with self.lock:
            known = self.known[image_id]
            if known.draft is not None and not _fits(known.draft.mask, size):
                assert known.draft.mask is not None
                height, width = known.draft.mask["size"]
                kept = self.folder / "drafts" / f"{image_id}.{width}x{height}.json"
                (self.folder / "drafts" / f"{image_id}.json").replace(kept)
                self.save_draft(image_id, None)
                self.tell(
                    f"The draft of {self.images[image_id].name} was drawn on a file of {width} x {height} pixels, "
                    f"which was replaced by one of {size[1]} x {size[0]}: it is kept in {kept}, and the image is begun "
                    "anew."
                )
            if known.draft is not None:
                return known.draft
            return Draft(known.prompts if known.accepted and _fits(known.accepted, size) else [])

    def accepted(self, image_id: str, size: tuple[int, int]) -> dict[str, Any] | None:
        """The mask accepted of an image, unless it belongs to an earlier file of another size than ``(H, W)``."""
        mask = self.known[image_id].accepted
        return mask if _fits(mask, size) else None

    def _load_drafts(self) -> None:
        for path in (self.folder / "drafts").glob("*.json"):
            if path.suffixes != [".json"]:
                continue  # of an earlier file, see begun
            known = self.known.get(path.stem)
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
                draft = None if content["draft"] is None else Draft(**content["draft"])
                revision = int(content["revision"])
            except (OSError, ValueError, KeyError, TypeError):
                self.tell(f"note: {path} is no draft and is left alone.")
                continue
            if known is not None and revision > known.revision:  # else it was accepted just before a kill
                known.revision, known.draft = revision, draft

    # Masks

    def masks_of(self, source: Path) -> tuple[list[WorkImage], dict[str, NDArray[np.uint8]]]:
        """Images of a file, and the accepted masks among them."""
        images = [image for image in self.images.values() if image.source.path == source]
        masks = {}
        for image in images:
            accepted = self.known[image.id].accepted
            if accepted is not None:
                height, width = accepted["size"]
                masks[image.id] = rle.decode(accepted, (height, width))
        return images, masks

    def write_masks(self, source: Path | None = None) -> None:
        """Write the mask of a file, and those that could not be written before; a full disk is told, not raised."""
        with self.lock:
            if source is not None:
                self._unwritten.add(source)
            waiting = sorted(self._unwritten)
            work = [(path, *self.masks_of(path)) for path in waiting]
        for path, images, masks in work:
            try:
                write_mask(self.folder / "masks", images, masks)
            except Exception as error:  # of whatever kind: the thread that writes masks would swallow it
                reason = str(error) if isinstance(error, UserError) else described(error) or repr(error)
                self.tell(f"The mask of {path} is not written yet: {reason}. It is safe in {self.journal.path}.")
                continue
            with self.lock:
                self._unwritten.discard(path)

    def mend_masks(self) -> None:
        """Write every mask again that is missing or is not what was accepted, as a kill may leave it."""
        sources = {self.images[each["id"]].source.path for each in self.accepts if each["id"] in self.images}
        for source in sorted(sources):
            images, masks = self.masks_of(source)
            if (volume := images[0].source.volume) is not None and not all(
                mask.shape == volume.shape[1:] for mask in masks.values()
            ):
                continue  # they belong to an earlier file; nothing of them is lost by leaving it alone
            path = self.folder / "masks" / images[0].source.mask_name
            if not _shows(path, images, masks):
                self.write_masks(source)

    # What the page shows

    def describe(self, image_id: str, blind: bool = False, lease: dict[str, Any] | None = None) -> dict[str, Any]:
        """An image as the page has it."""
        known = self.known[image_id]
        name = self.images[image_id].name if image_id in self.images else self._name_of(image_id)
        return {
            "id": image_id,
            "name": name,
            "state": known.state,
            "position": known.position,
            "reason": known.reason,
            "blind": blind,
            "lease": lease,
        }

    def _name_of(self, image_id: str) -> str:
        if image_id in self.failed:
            return self.failed[image_id].name
        return next((str(each["name"]) for each in self.events if each.get("id") == image_id), image_id)


def _fits(mask: Mapping[str, Any] | None, size: tuple[int, int]) -> bool:
    """Whether a mask may be one of an image of ``(H, W)``."""
    return mask is None or tuple(mask["size"]) == size


def _shows(path: Path, images: Sequence[WorkImage], masks: Mapping[str, NDArray[np.uint8]]) -> bool:
    """Whether a file has exactly these masks."""
    if not path.is_file():
        return False
    try:
        if images[0].source.volume is None:
            return bool(np.array_equal(read_image(path), masks[images[0].id]))
        labels = read_volume(open_volume(path))
        wanted = [masks.get(image.id, np.zeros(labels.shape[1:], np.uint8)) for image in images]
        places = [image.index for image in images]
        return bool(np.array_equal(labels[places], np.stack(wanted)))
    except (UserError, OSError, ValueError, IndexError):
        return False
