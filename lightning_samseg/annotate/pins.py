"""Records of images that are worked on: all prompts of an image see the network as it was at its first answer."""

import math
import threading
from collections import OrderedDict
from typing import Any, NamedTuple

from lightning_samseg.annotate.answers import Answer, Answers
from lightning_samseg.annotate.images import WorkImage
from lightning_samseg.annotate.learning import LearningStream, Snapshot
from lightning_samseg.online.predictions import Prediction

PINNED = 4
"""Images whose snapshot and record are kept."""


class Made(NamedTuple):
    """The record of an image."""

    prompts: list[dict[str, Any]]
    prediction: Prediction
    """Without its position, which it gets when it is accepted."""
    snapshot: Snapshot


class Records:
    """Makes records and keeps them while their images are worked on.

    Args:
        stream: Gives snapshots.
        answers: Predicts with them.
        patience: Longest wait in seconds for lessons that are not yet learned, ``inf``: as long as it takes.
    """

    def __init__(self, stream: LearningStream, answers: Answers, patience: float) -> None:
        self.stream, self.answers, self.patience = stream, answers, patience
        self._made: OrderedDict[str, Made] = OrderedDict()
        self._pinned: OrderedDict[str, Snapshot] = OrderedDict()
        self._lock = threading.Lock()

    def make(self, image: WorkImage, prompts: list[dict[str, Any]], answer: Answer) -> Made:
        """Predict an image with its pinned snapshot; the first answer to a prompt pins the newest.

        Args:
            image: The image.
            prompts: As they were sent.
            answer: SAM's to them.

        Raises:
            UserError: If a logit is NaN or infinite; if learning has stopped and the patience has no limit.
        """
        snapshot = self._pinned.get(image.id)
        if snapshot is None:
            seconds = None if math.isinf(self.patience) else self.patience
            newest = self.stream.wait(seconds) if prompts else self.stream.snapshot
            with self._lock:
                snapshot = self._pinned.setdefault(image.id, newest) if prompts else newest
        made = Made(prompts, self.answers.predict(image, answer, snapshot), snapshot)
        with self._lock:
            self._made[image.id] = made
            for images in (self._pinned, self._made):
                while len(images) > PINNED:
                    images.popitem(last=False)
        return made

    def newest(self, image_id: str) -> Made | None:
        """The record made last, if it is still there."""
        return self._made.get(image_id)

    def forget(self, image_id: str) -> None:
        """Let go of an image that was accepted or skipped."""
        with self._lock:
            self._made.pop(image_id, None)
            self._pinned.pop(image_id, None)
