"""Answers to prompts: SAM's, and those of the network as it was after some lesson."""

import copy
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_samseg.annotate.images import Pixels, WorkImage, case_of
from lightning_samseg.annotate.learning import Snapshot
from lightning_samseg.annotate.threads import as_many_threads
from lightning_samseg.methods.aux_ol import AuxOl
from lightning_samseg.online.predictions import Prediction
from lightning_samseg.prompts.boxes import Box, check_points
from lightning_samseg.types import Case

KEPT = 8
"""Images whose embedding is kept."""


class Encoded(NamedTuple):
    """An image that SAM has seen: its embedding; of an adapted SAM, which takes no prompts, its answer."""

    tensor: Tensor
    geometry: Case


class Answer(NamedTuple):
    """What SAM says about an image's prompts."""

    logits: Tensor
    """Float ``(m, H, W)``."""
    crops: list[Box]


class Answers:
    """Answers with a frozen SAM, ahead of the expert, and with a second network that holds snapshots.

    The numbers are those of a stream of ``fit`` with ``sam_batch 1``: SAM's low-resolution logits rounded to half, all
    prompts of an image in one call of the decoder.

    Args:
        method: On its device; its own network is the learner's, and is not touched.
        pixels: Reads images.
    """

    def __init__(self, method: AuxOl, pixels: Pixels) -> None:
        self.method, self.pixels = method, pixels
        self._reader = copy.deepcopy(method.learner)
        self._reader.network.optimizer.state.clear()  # it never learns
        self._holds: Snapshot | None = None
        self._reading = threading.Lock()
        self._encoded: OrderedDict[str, Future[Encoded]] = OrderedDict()
        self._encoding = threading.Lock()
        self._ahead = ThreadPoolExecutor(1, "encode-ahead")

    def close(self) -> None:
        """Forget what was to be encoded ahead."""
        self._ahead.shutdown(cancel_futures=True)

    def prepare(self, images: Sequence[WorkImage]) -> None:
        """Encode images in the background, in this order."""
        with self._encoding:
            for image in images:
                if image.id not in self._encoded:
                    self._remember(image.id, self._ahead.submit(self._encode, image))

    def sam(self, image: WorkImage, prompts: NDArray[np.float64]) -> Answer:
        """Let SAM answer.

        Args:
            image: The image.
            prompts: ``(m, 4)`` boxes or ``(m, 2)`` points.

        Raises:
            UserError: If the image cannot be read, or a box lies outside of it.
        """
        as_many_threads()
        generalist, device = self.method.generalist, self.method.device
        size = self.pixels.size(image)
        if len(prompts) == 0:
            return Answer(torch.zeros(0, *size, device=device), [])
        case = case_of(image, size)
        if self.method.prompter.config.kind == "box":  # before SAM works for nothing
            self.method.prompter.crops_of(prompts, torch.empty(0), case)
        else:
            check_points(prompts, size, case.source)
        encoded = self._embedding(image)
        with torch.no_grad():
            places: dict[str, Any] = {f"{'boxe' if prompts.shape[1] == 4 else 'point'}s": prompts}
            low_res = generalist.answer(encoded.tensor, encoded.geometry, **places)
            logits = generalist.of_prompts(low_res.half().float(), encoded.geometry, prompts)
        return Answer(logits, self.method.prompter.crops_of(prompts, logits, case))

    def predict(self, image: WorkImage, answer: Answer, snapshot: Snapshot) -> Prediction:
        """Make an image's record with the network as it was; its position is filled in when it is accepted.

        Raises:
            UserError: If a logit is NaN or infinite.
        """
        as_many_threads()
        picture = torch.from_numpy(np.ascontiguousarray(self.pixels.rgb(image).transpose(2, 0, 1)))
        with self._reading:
            if self._holds is not snapshot:
                self._reader.network.module.load_state_dict(snapshot.weights)
                self._reader.fusion.load_state_dict(snapshot.fusion)
                self._holds = snapshot
            return self._reader.predict(picture, answer.logits, answer.crops, 0)

    def _embedding(self, image: WorkImage) -> Encoded:
        """From the background where it is there or at work, else computed now."""
        with self._encoding:
            future = self._encoded.get(image.id)
            mine = future is None or future.cancel()  # those that are at work or done are not cancelled
            if mine:
                future = Future()
                future.set_running_or_notify_cancel()
                self._remember(image.id, future)
        assert future is not None
        if mine:
            try:
                future.set_result(self._encode(image))
            except BaseException as error:
                future.set_exception(error)
        try:
            return future.result()
        except BaseException:
            with self._encoding:
                if self._encoded.get(image.id) is future:
                    del self._encoded[image.id]
            raise

    def _remember(self, image_id: str, future: "Future[Encoded]") -> None:
        self._encoded[image_id] = future
        self._encoded.move_to_end(image_id)
        while len(self._encoded) > KEPT:
            self._encoded.popitem(last=False)[1].cancel()

    def _encode(self, image: WorkImage) -> Encoded:
        as_many_threads()
        generalist, device = self.method.generalist, self.method.device
        pixels, geometry = generalist.preprocess(self.pixels.rgb(image))
        return Encoded(generalist.encode(pixels.to(device)), geometry)
