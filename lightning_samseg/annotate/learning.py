"""The learner's thread: it alone changes the network, step by step in the order of the stream.

A step is one lesson, or with ``catch_up`` all that wait where these have become too many: the R images of a step of
``fit``. Which lessons were learned together hangs on time, so that each step is told before it begins: learned again
from their files, lessons make the same steps, and end in the same bits.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lightning_samseg.adapters.checkpoints import LAST, WORKSPACE, CheckpointFiles, read_checkpoint
from lightning_samseg.annotate.lessons import Lesson
from lightning_samseg.annotate.settings import Learn
from lightning_samseg.annotate.threads import as_many_threads
from lightning_samseg.errors import UserError, described, explained
from lightning_samseg.methods.aux_ol import AuxOl
from lightning_samseg.online.expert import Expert
from lightning_samseg.online.predictions import Prediction
from lightning_samseg.online.row_files import RowFile, image_fields
from lightning_samseg.online.scores import PromptRow, image_row, prompt_rows
from lightning_samseg.runs.resume import check_fit, find_checkpoint

SET_NAME = "folder"
"""In ``cases.csv``, as ``FolderDataModule`` has it."""
CHECKPOINT_EVERY = 30.0
"""Seconds between two checkpoints."""


class Snapshot(NamedTuple):
    """The network as it was after a number of lessons. Nobody writes to the tensors."""

    lessons: int
    weights: dict[str, Tensor]
    fusion: dict[str, Any]


class LearningStream:
    """Learns from lessons in a thread of its own, keeps the tables and the checkpoint.

    Args:
        method: On its device.
        folder: The workspace.
        data: ``datamodule_hyper_parameters`` of the checkpoint.
        class_name: What is annotated.
        learned: Called after every lesson, in the learner's thread.
        tell: Called with what a user should know.
        learn: ``all`` accepted masks, or those that the expert has ``corrected``: a pixel differs from the network's.
        catch_up: Lessons that may wait; more are learned together, as many as the online batch holds. None: each is
            learned alone.
        steps: Number of lessons by position of the first, of steps that were begun at earlier starts.
        begins: Called with position and number before each step if there is ``catch_up``, in the learner's thread.

    Raises:
        UserError: If the workspace's checkpoint is of other weights or another network; if lessons cannot be learned
            together.
    """

    def __init__(
        self,
        method: AuxOl,
        folder: Path,
        data: dict[str, Any],
        class_name: str,
        learned: Callable[[], None] = lambda: None,
        tell: Callable[[str], None] = print,
        *,
        learn: Learn = "all",
        catch_up: int | None = None,
        steps: Mapping[int, int] | None = None,
        begins: Callable[[int, int], None] = lambda first, count: None,
    ) -> None:
        if catch_up is not None and method.learner.batch.policy == "single":
            raise UserError(
                "batch.policy single learns from one crop at a time.", fix="leave --catch_up out, or change the policy"
            )
        self.method, self.folder, self.data, self.class_name = method, folder, data, class_name
        self._learned, self._tell = learned, tell
        self._expert = Expert() if learn == "all" else Expert(below_dice=1.0, dice_of="fused")
        self._catch_up, self._steps, self._begins = catch_up, dict(steps or {}), begins
        self._changed = threading.Condition()
        self._lessons: deque[Lesson] = deque()
        self._stopping = False
        self.error: str | None = None
        """Why it has stopped learning, if it has."""
        sizes = self._restore()
        if sizes:
            method.resume_stream(folder / "prompts.csv")
        self._images = RowFile(folder / "cases.csv", image_fields(method.column), sizes.get("cases"))
        self._prompts = RowFile(folder / "prompts.csv", PromptRow._fields, sizes.get("prompts"))
        self.snapshot = self._snapshot()
        self._saved = -1 if not sizes else self.count
        self._saved_before = self.count
        self._saved_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="learner", daemon=True)
        if not sizes:
            self._save()  # so that no later start depends on the one that --ckpt_path named

    @property
    def count(self) -> int:
        """Lessons learned."""
        return self.method.learner.position

    @property
    def pending(self) -> int:
        """Lessons that wait, the one at work included."""
        with self._changed:
            return len(self._lessons)

    def teaches(self, prediction: Prediction, mask: NDArray[np.uint8]) -> bool:
        """Whether the network learns from an accepted mask uint8 ``(H, W)``."""
        return self._expert.feedback(prediction, mask).source == "expert"

    def start(self) -> None:
        """Begin to learn."""
        self._thread.start()

    def submit(self, lesson: Lesson) -> None:
        """Add the next lesson of the stream."""
        with self._changed:
            self._lessons.append(lesson)
            self._changed.notify_all()

    def wait(self, seconds: float | None) -> Snapshot:
        """Give the newest snapshot, when all lessons are learned or the time is over.

        Args:
            seconds: None: no limit.

        Raises:
            UserError: If it has stopped learning, and there is no limit.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._lessons or self.error is not None, seconds)
            if self.error is not None and seconds is None:
                raise UserError("Learning has stopped.", found=self.error, fix="mend that and start annotate again")
            return self.snapshot

    def close(self) -> None:
        """Finish the step at work, write a checkpoint and stop. Lessons that wait are learned at the next start."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        as_many_threads()
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._stopping or bool(self._lessons), self._until_due())
                    lessons = [] if self._stopping else self._step()
                if lessons:
                    self._learn(lessons)
                if self._saved != self.count and (self._stopping or self._until_due() == 0):
                    self._save()
                if self._stopping:
                    return
        except Exception as error:
            message = explained(error) or str(described(error) or f"{type(error).__name__}: {error}")
            with self._changed:
                self.error = message
                self._changed.notify_all()
            self._tell(
                f"Learning has stopped: {message}\nWhat is accepted is safe and will be learned from at the next start."
            )

    def _until_due(self) -> float | None:
        """Seconds until a checkpoint is due; None: nothing to save."""
        if self._saved == self.count:
            return None
        return max(0.0, self._saved_at + CHECKPOINT_EVERY - time.monotonic())

    def _step(self) -> list[Lesson]:
        """The lessons of the next step: those that were begun together, all if too many wait, or the first."""
        if not self._lessons:
            return []
        count = self._steps.get(self._lessons[0].prediction.position, 0)
        if not count:
            late = self._catch_up is not None and len(self._lessons) > self._catch_up
            count = self.method.learner.batch.capacity if late else 1
        return list(islice(self._lessons, count))

    def _learn(self, lessons: list[Lesson]) -> None:
        method, first = self.method, lessons[0].prediction.position
        if self._catch_up is not None and first not in self._steps:
            self._begins(first, len(lessons))
        method.seed_step(first)
        predictions = [each.prediction for each in lessons]
        feedbacks = [self._expert.feedback(each.prediction, each.mask, each.case.source) for each in lessons]
        outcomes = method.learner.learn_together(predictions, feedbacks)
        for lesson, feedback, learned in zip(lessons, feedbacks, outcomes, strict=True):
            row = image_row(lesson.prediction, feedback, lesson.mask, lesson.case, SET_NAME, method.convention)
            self._prompts.append(prompt_rows(lesson.prediction, learned, lesson.prompts, lesson.case))
            self._images.append([row])
            method.add_up([row])
        snapshot = self._snapshot()
        with self._changed:
            self.snapshot = snapshot
            for _ in lessons:
                self._lessons.popleft()
            self._changed.notify_all()
        self._learned()

    def _snapshot(self) -> Snapshot:
        learner = self.method.learner
        weights = {name: value.clone() for name, value in learner.network.module.state_dict().items()}
        return Snapshot(self.count, weights, learner.fusion.state_dict())

    # The checkpoint

    def _save(self) -> None:
        """Write what ``predict``, ``annotate`` and a later start take; remove lessons that two checkpoints hold."""
        method, position = self.method, self.count
        checkpoint = method.as_checkpoint(
            epoch=0,
            global_step=position,
            optimizer_states=[method.learner.network.optimizer.state_dict()],
            lr_schedulers=[],
            datamodule_hyper_parameters=self.data,
        )
        checkpoint["class_names"] = [self.class_name]
        checkpoint[WORKSPACE] = {"cases": self._images.size, "prompts": self._prompts.size}
        CheckpointFiles().save_checkpoint(checkpoint, self.folder / "checkpoints" / LAST)
        for path in (self.folder / "lessons").glob("*.pt"):
            if path.stem.isdigit() and int(path.stem) < self._saved_before:  # previous.ckpt may still need the later
                path.unlink(missing_ok=True)
        self._saved, self._saved_before, self._saved_at = position, max(self._saved, 0), time.monotonic()

    def _restore(self) -> dict[str, int]:
        """Load the workspace's checkpoint, if there is one; give the sizes of the tables that it counts on."""
        path = find_checkpoint(self.folder, "last")
        if path is None:
            return {}
        checkpoint = read_checkpoint(path)
        load_learner(self.method, checkpoint, path)
        self.method.running = dict(checkpoint["online"]["running"])
        return dict(checkpoint[WORKSPACE])


def load_learner(method: AuxOl, checkpoint: dict[str, Any], path: Path) -> None:
    """Take network, optimizer, online batch and alphas from a checkpoint of AuxOL.

    Raises:
        UserError: If it is of another network, or was trained beside another SAM.
    """
    check_fit(checkpoint, method, path)
    if checkpoint.get("weights_sha256") != method.weights_sha256:
        raise UserError(
            f"{path} was made beside another SAM.",
            expected=f"weights with sha256 {checkpoint.get('weights_sha256')}",
            found=str(method.weights_sha256),
            fix="give those weights with --weights FILE, or start a new workspace with --output",
        )
    method.load_state_dict(checkpoint["state_dict"])
    method.learner.network.optimizer.load_state_dict(checkpoint["optimizer_states"][0])
    method.learner.load_state_dict(checkpoint["online"])
