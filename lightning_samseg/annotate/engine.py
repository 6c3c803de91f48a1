"""What happens to an image: open, ask, draft, accept, skip, reopen. The order of things that loses nothing is here.

An accept (1) stores the record, (2) writes the journal's line, (3) is answered; then the mask is written and the
network learns. A kill between any two loses nothing: what is missing follows from the journal at the next start.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_samseg.annotate import effort as efforts
from lightning_samseg.annotate import rle
from lightning_samseg.annotate.answers import Answers
from lightning_samseg.annotate.board import Board, NotFoundError
from lightning_samseg.annotate.events import Events
from lightning_samseg.annotate.images import WorkImage, case_of
from lightning_samseg.annotate.inputs import effort_of, is_repeated, places_of
from lightning_samseg.annotate.learning import LearningStream
from lightning_samseg.annotate.lessons import Lesson, lesson_path, load_record, save_record
from lightning_samseg.annotate.pins import Records
from lightning_samseg.annotate.settings import Learn
from lightning_samseg.annotate.workspace import Draft, Known, Workspace
from lightning_samseg.errors import UserError
from lightning_samseg.methods.aux_ol import AuxOl
from lightning_samseg.online.predictions import Prediction
from lightning_samseg.types import Case


class Engine:
    """One workspace at work; every method may be called from any thread but the event loop's.

    Args:
        workspace: Its state.
        method: SAM and the network, on their device.
        class_name: What is annotated.
        data: ``datamodule_hyper_parameters`` for the checkpoint.
        patience: Longest wait in seconds of an answer for lessons that are not yet learned; ``inf``: as long as it
            takes, as a stream of ``fit``.
        blind: Share of the images whose fused mask stays hidden until they are accepted.
        learn, catch_up: See ``LearningStream``.
        tell: Called with what a user should know.
    """

    def __init__(
        self,
        workspace: Workspace,
        method: AuxOl,
        class_name: str,
        data: dict[str, Any],
        *,
        patience: float = 1.5,
        blind: float = 0.0,
        learn: Learn = "all",
        catch_up: int | None = None,
        tell: Callable[[str], None] = print,
    ) -> None:
        self.workspace, self.method, self.class_name = workspace, method, class_name
        self.board = Board(workspace, blind, method.seed)
        self.notes: list[str] = []
        self.events = Events()
        self._tell_terminal, workspace.tell = tell, self.tell  # what it has to say is for the page, too
        self.stream = LearningStream(
            method,
            workspace.folder,
            data,
            class_name,
            self._learned,
            self.tell,
            learn=learn,
            catch_up=catch_up,
            steps={each["first"]: each["count"] for each in workspace.events if each["event"] == "step"},
            begins=self._begins,
        )
        self.answers = Answers(method, workspace.pixels)
        self.records = Records(self.stream, self.answers, patience)
        self._masks = ThreadPoolExecutor(1, "masks")

    # Start and end

    def start(self) -> None:
        """Learn what no checkpoint has learned yet, mend masks, and begin.

        Raises:
            UserError: If a lesson is missing, or the journal knows fewer than the checkpoint.
        """
        accepts = self.workspace.accepts
        if self.stream.count > len(accepts):
            raise UserError(
                f"{self.workspace.journal.path} ends before its checkpoint: lines are missing.",
                expected=f"at least {self.stream.count} accepted images",
                found=str(len(accepts)),
                fix="put the whole journal back, or start a new workspace; masks/ has what was accepted",
            )
        for entry in accepts[self.stream.count :]:
            path = lesson_path(self.workspace.folder / "lessons", entry["position"])
            prediction = load_record(path, entry["lesson"], self.method.device)
            self.stream.submit(self._lesson(entry, prediction))
        for path in (self.workspace.folder / "lessons").glob("*.pt"):
            if not path.stem.isdigit() or int(path.stem) >= len(accepts):  # of an accept that a kill has cut short
                path.unlink()
        self.workspace.mend_masks()
        self.stream.start()
        self.answers.prepare(self.board.upcoming(None))

    def finish(self) -> None:
        """Wait until everything is learned."""
        self.stream.wait(None)

    def close(self) -> None:
        """Stop: the lesson at work is finished, a checkpoint written; nothing that waits is lost."""
        self.answers.close()
        self._masks.shutdown()
        self.stream.close()
        self.workspace.write_masks()
        self.events.close()

    def tell(self, text: str) -> None:
        """Say something on the terminal and on every page."""
        self._tell_terminal(text)
        self.notes.append(text)
        self.events.publish("note", {"text": text})

    # What is there

    def pixels(self, image_id: str) -> NDArray[Any]:
        """Raw values of an image, see ``Pixels.shown``.

        Raises:
            NotFoundError: If there is no such image.
            UserError: If it cannot be read; the image counts as failed then.
        """
        image = self.board.image(image_id)
        try:
            return self.workspace.pixels.shown(image)
        except UserError as error:
            self._fail(image_id, str(error))
            raise

    # What an expert does

    def open(self, image_id: str, tab: str, author: str, take_over: bool = False) -> dict[str, Any]:
        """Give an image to a tab.

        Raises:
            HeldError: If another has it.
            NotFoundError, UserError: As :meth:`pixels`.
        """
        image = self.board.image(image_id)
        height, width = self.pixels(image_id).shape[:2]
        with self.workspace.lock:
            if self.board.leases.take(image_id, tab, author, take_over):
                self.workspace.save_draft(image_id, self.workspace.known[image_id].draft)
            known = self.workspace.known[image_id]
            draft = self.workspace.begun(image_id, (height, width))
            opened: dict[str, Any] = {
                "image": self.board.describe(image_id),
                "revision": known.revision,
                "prompts": draft.prompts,
                "mask": draft.mask,
                "effort": draft.effort,
                "accepted": self.workspace.accepted(image_id, (height, width)),
                "blind": self.board.is_blind(image),
                "size": [height, width],
            }
        self.events.publish("image", opened["image"])
        self.answers.prepare([image, *self.board.upcoming(image_id)])
        return opened

    def ask(self, image_id: str, prompts: Any, sam_only: bool = False) -> dict[str, Any]:
        """Answer prompts.

        Args:
            image_id: The image.
            prompts: See ``annotate.http``.
            sam_only: Without the network.

        Raises:
            UserError: If a prompt cannot be used.
        """
        image = self.board.image(image_id)
        places = self.places(prompts)
        answer = self.answers.sam(image, places)
        inside = self.method.learner.clipped_sam(answer.logits, answer.crops, 0)
        shown: dict[str, Any] = {
            "prompts": [
                {"sam": _runs(logits > 0), "fused": None, "crop": list(crop), "alpha": None}
                for logits, crop in zip(answer.logits, answer.crops, strict=True)
            ],
            "sam": _runs(inside.sam),
            "sam_clipped": _runs(inside.sam_clipped),
            "fused": None,
            "alpha": None,
            "learned": self.stream.snapshot.lessons,
            "pending": self.stream.pending,
        }
        if sam_only:
            return shown
        made = self.records.make(image, prompts, answer)
        shown["learned"] = made.snapshot.lessons
        if made.prediction.prompts:
            shown["alpha"] = float(np.mean([float(each.alpha) for each in made.prediction.prompts]))
        for row, each in zip(shown["prompts"], made.prediction.prompts, strict=True):
            row["alpha"] = float(each.alpha)
        if not self.board.is_blind(image) or self.workspace.known[image_id].position is not None:
            shown["fused"] = _runs(made.prediction.mask)
            for row, each in zip(shown["prompts"], made.prediction.prompts, strict=True):
                whole = np.zeros(made.prediction.mask.shape, np.uint8)
                whole[each.crop.slices] = (each.fused_logits > 0).cpu().numpy()
                row["fused"] = rle.encode(whole)
        return shown

    def draft(self, image_id: str, revision: int, prompts: Any, mask: Any, effort: Any) -> int:
        """Keep what is on the screen; gives the new revision.

        Raises:
            OldRevisionError: If the image was written to elsewhere.
            UserError: If prompts or mask cannot be used.
        """
        image = self.board.image(image_id)
        self.places(prompts)
        if mask is not None:
            rle.decode(mask, self.workspace.pixels.size(image))
        with self.workspace.lock:
            known = self.workspace.check_revision(image_id, revision)
            began = known.draft is None
            new = self.workspace.save_draft(image_id, Draft(prompts, mask, effort_of(effort)))
        if began:
            self.events.publish("image", self.board.describe(image_id))
        return new

    def accept(
        self,
        image_id: str,
        revision: int,
        prompts: Any,
        mask: Any,
        effort: Any = None,
        *,
        author: str = "",
        source: str = "page",
        tab: str | None = None,
        extra: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Accept a mask: into the stream, or in the place of an earlier one.

        Args:
            image_id: The image.
            revision: That the expert has seen.
            prompts: The image's, none where it shows nothing.
            mask: The mask's runs.
            effort: See ``annotate.http``.
            author: Who accepts.
            source: The program.
            tab: Of the page.
            extra: Goes into the journal as it is.

        Raises:
            OldRevisionError: If the image was written to elsewhere.
            UserError: If prompts or mask cannot be used.
            OSError: If the disk does not take it; nothing has happened then.
        """
        image = self.board.image(image_id)
        size = self.workspace.pixels.size(image)
        pixels, places, spent = rle.decode(mask, size), self.places(prompts), effort_of(effort)
        known = self.workspace.known[image_id]
        if is_repeated(known, revision, prompts, mask):
            return self._accepted(image, known, tab)
        self.workspace.check_revision(image_id, revision)
        values: dict[str, Any] = {
            "prompts": prompts,
            "mask": mask,
            "effort": spent,
            "author": author,
            "source": source,
            **(extra or {}),
        }
        if known.position is not None:
            with self.workspace.lock:
                known = self.workspace.check_revision(image_id, revision)
                self.workspace.record("correct", image_id, values)
        else:
            made = self.records.newest(image_id)
            shown = made is not None and made.prompts == prompts
            if made is None or not shown:
                made = self.records.make(image, prompts, self.answers.sam(image, places))
            prediction = made.prediction
            masks = [each.cpu().numpy() for each in (prediction.sam, prediction.sam_clipped, prediction.mask)]
            values |= {
                "numbers": efforts.image_effort(pixels, *masks),
                "alpha": float(np.mean([float(each.alpha) for each in prediction.prompts])) if len(places) else None,
                "blind": self.board.is_blind(image),
                "shown": shown,  # whether the record is what the expert saw
                "taught": self.stream.teaches(prediction, pixels),
            }
            with self.workspace.lock:
                known = self.workspace.check_revision(image_id, revision)
                position = len(self.workspace.accepts)
                prediction = replace(prediction, position=position)
                path = lesson_path(self.workspace.folder / "lessons", position)
                values |= {
                    "position": position,
                    "learned": made.snapshot.lessons,
                    "lag": position - made.snapshot.lessons,
                    "lesson": save_record(path, prediction),
                }
                entry = self.workspace.record("accept", image_id, values)
                self.stream.submit(self._lesson(entry, prediction))
            self.records.forget(image_id)
        self._masks.submit(self.workspace.write_masks, image.source.path)
        self.events.publish("image", self.board.describe(image_id))
        return self._accepted(image, known, tab)

    def skip(
        self, image_id: str, revision: int, reason: str, author: str = "", tab: str | None = None
    ) -> dict[str, Any]:
        """Leave an image out of the stream.

        Raises:
            OldRevisionError: If the image was written to elsewhere.
            UserError: If it is in the stream already.
        """
        if image_id not in self.workspace.known:
            raise NotFoundError(image_id)
        with self.workspace.lock:
            known = self.workspace.check_revision(image_id, revision)
            if known.position is not None:
                raise UserError(
                    "The image is accepted, and the network has learned from it.", fix="correct its mask instead"
                )
            if image_id in self.workspace.images:
                self.workspace.record("skip", image_id, {"reason": str(reason)[:500], "author": author})
        self.records.forget(image_id)
        self.events.publish("image", self.board.describe(image_id))
        return {"next": self.board.next_image(image_id, tab), "revision": self.workspace.known[image_id].revision}

    def reopen(self, image_id: str, tab: str, author: str) -> dict[str, Any]:
        """Take a skipped or accepted image up again; as :meth:`open`.

        Raises:
            HeldError: If another tab has it.
        """
        self.board.image(image_id)
        with self.workspace.lock:
            self.board.leases.take(image_id, tab, author)
            if self.workspace.known[image_id].skipped:
                self.workspace.record("reopen", image_id, {"author": author})
        return self.open(image_id, tab, author)

    def places(self, prompts: Any) -> NDArray[np.float64]:
        """Prompts as an array, see ``inputs.places_of``."""
        return places_of(prompts, self.method.prompter.config.kind)

    # Inside

    def _accepted(self, image: WorkImage, known: Known, tab: str | None) -> dict[str, Any]:
        position = self.workspace.known[image.id].position
        first = self.workspace.accepts[position] if position is not None else {}
        upcoming = self.board.upcoming(image.id, tab=tab)
        self.answers.prepare(upcoming)
        return {
            "position": position,
            "corrected": first.get("revision") != known.revision,
            "next": upcoming[0].id if upcoming else None,
            "revision": known.revision,
            "numbers": self.board.numbers(),
        }

    def _lesson(self, entry: dict[str, Any], prediction: Prediction) -> Lesson:
        height, width = entry["mask"]["size"]
        image = self.workspace.images.get(entry["id"])
        size = (height, width)
        case = Case(entry["name"], "", size, size) if image is None else case_of(image, size)
        return Lesson(prediction, self.places(entry["prompts"]), rle.decode(entry["mask"], size), case)

    def _begins(self, first: int, count: int) -> None:
        with self.workspace.lock:
            self.workspace.journal.append("step", {"first": first, "count": count})

    def _learned(self) -> None:
        snapshot = self.stream.snapshot
        alpha = float(self.method.learner.fusion.value(self.method.device))
        facts = {"learned": snapshot.lessons, "pending": self.stream.pending, "alpha": alpha}
        self.events.publish("learned", facts | {"numbers": self.board.numbers()})

    def _fail(self, image_id: str, reason: str) -> None:
        known = self.workspace.known[image_id]
        if not known.failed:
            known.failed, known.reason = True, reason
            self.tell(f"{self.workspace.images[image_id].name} cannot be annotated: {reason}")
            self.events.publish("image", self.board.describe(image_id))


def _runs(mask: Any) -> dict[str, list[int]]:
    return rle.encode(mask.cpu().numpy())
