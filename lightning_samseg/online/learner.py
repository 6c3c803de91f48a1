"""AuxOL (Listing 1): predict with what is known, then learn from the rectified mask."""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from lightning_samseg.errors import UserError
from lightning_samseg.online.batch import OnlineBatch
from lightning_samseg.online.distributed import gather_rows, maxima, rank_and_size
from lightning_samseg.online.fusion import Fusion
from lightning_samseg.online.predictions import (
    Feedback,
    Look,
    Prediction,
    PromptOutcome,
    PromptPrediction,
    SamAlone,
    assemble,
    sam_alone,
)
from lightning_samseg.online.updates import Updates
from lightning_samseg.prompts.boxes import Box


class OnlineNetwork(Protocol):
    """What learns in a stream: AuxOL's network beside SAM (``CropNetwork``), DirectOL's SAM (``AdaptedNetwork``)."""

    @property
    def module(self) -> nn.Module:
        """The network itself."""

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """Of what is trained."""

    @property
    def loss(self) -> Any:
        """Logits and masks ``(N, 1, S, S)`` -> losses ``(N,)``."""

    @property
    def device(self) -> torch.device:
        """Where the network is."""

    @property
    def in_channels(self) -> int:
        """Channels of what it sees."""

    @property
    def crop_size(self) -> int:
        """``S``, side in pixels at which answers and masks are compared."""

    def look(self, image: Tensor, sam_logits: Tensor, crops: Sequence[Box]) -> list[Look]:
        """Answer the prompts of an image, of which there is at least one."""

    def target(self, mask: Tensor, crop: Box, image_size: tuple[int, int]) -> Tensor:
        """What is to be answered for a prompt; its first channel is the mask, float ``(S, S)``."""

    def update(self, inputs: Tensor, targets: Tensor, /) -> Tensor:
        """Make one step on a batch; its losses before the step."""

    def state_dict(self, weights: bool = True) -> dict[str, Any]:
        """What has been learned, without what the caller saves itself where ``weights`` is false."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what of ``state_dict()`` is there."""


class Lesson(NamedTuple):
    """What one prompt of a turn has to teach."""

    position: int
    number: int
    crop: Tensor | None
    """Float ``(C, S, S)``; None where there is no mask, like target and loss."""
    target: Tensor | None
    loss: Tensor | None
    weighed: Tensor | None
    """What the fusion remembers of it, see ``Fusion.observe``; None where no weight is looked for."""


class OnlineLearner:
    """A network that learns beside a frozen SAM, image by image.

    One step of the stream is ``prediction = predict(...)``, then ``learn(prediction, feedback)``. All prompts of an
    image are predicted before anything of the image's masks is used. The literal order of Listing 1, in which later
    prompts of an image profit from the masks of its earlier ones, is a step per prompt with ``position`` given,
    joined by ``predictions.merge``.

    The only wait for the device is at the end of ``predict``, where the caller fetches the mask anyway;
    ``crop_resize="pil"`` waits once more, for SAM's masks.

    Several images may make one step (``learn_together``), and several processes may share it, an extension of the
    paper. Where ``torch.distributed`` has a group, its ranks must all call ``learn_together`` together, each with its
    images of the step, or none. All ranks then hold the same online batch of ``capacity`` entries, the same alphas and,
    if they started so, the same weights, bit for bit: the step's crops go to all ranks and into the batch in the order
    of the stream.

    Args:
        network: What learns.
        fusion: Weight between SAM and the network.
        batch: What is learned from again.
        sam_alone: How the column of SAM alone is put together, see ``predictions.SamAlone``.
        step_per: ``prompt``: one update after every rectified prompt. ``image``: one for all prompts of an image. See
            ``learn_together`` for several images.
        replay_without_feedback: Update on the stored batch also when there is nothing new to learn (authors' code). It
            takes place after the prediction, because whether there is feedback may depend on the reference.
        updates: How many updates, and on which entries; None: one on the whole batch.
    """

    def __init__(
        self,
        network: OnlineNetwork,
        fusion: Fusion,
        batch: OnlineBatch,
        *,
        sam_alone: SamAlone = "sum",
        step_per: Literal["prompt", "image"] = "prompt",
        replay_without_feedback: bool = False,
        updates: Updates | None = None,
    ) -> None:
        self.network, self.fusion, self.batch = network, fusion, batch
        self.sam_alone: SamAlone = sam_alone
        self.step_per = step_per
        self.replay_without_feedback = replay_without_feedback
        self.updates = updates or Updates()
        self.position = 0

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.network.device

    @torch.no_grad()
    def predict(
        self, image: Tensor, sam_logits: Tensor, crops: Sequence[Box], position: int | None = None
    ) -> Prediction:
        """Segment one image with what has been learned from the images before it (Listing 1, lines 3 to 7).

        Args:
            image: ``(3, H, W)``, uint8, or float in [0, 1] where the network takes it.
            sam_logits: Float ``(m, H, W)``, SAM's output for each of the image's prompts; ``m`` may be 0.
            crops: ``m`` boxes inside the image, see ``prompts.boxes``.
            position: Of the image in the stream; None: the next one.

        Returns:
            The record to score, to rectify and to learn from. Later steps do not change it.

        Raises:
            UserError: A crop reaches over the image's border; a logit is NaN or infinite.
            ValueError: The shapes do not belong together.
        """
        height, width = image.shape[-2:]
        if image.shape != (3, height, width) or sam_logits.shape != (len(crops), height, width):
            raise ValueError(f"image {tuple(image.shape)}, logits {tuple(sam_logits.shape)}, {len(crops)} crops")
        for crop in crops:
            if not (0 <= crop.x0 < crop.x1 <= width and 0 <= crop.y0 < crop.y1 <= height):
                raise UserError(
                    f"the crop {tuple(crop)} is not inside its image of {width} x {height} pixels",
                    fix="clip it with lightning_samseg.prompts.boxes.crop_of_box",
                )
        position = self.position if position is None else position
        sam_logits = sam_logits.to(self.device, torch.float32, non_blocking=True)
        if not crops:
            return assemble(position, (), sam_alone(sam_logits, self.sam_alone))
        looks = self.network.look(image, sam_logits, crops)
        answers = torch.stack([each.network_logits for each in looks])
        if not bool(answers.isfinite().all() & sam_logits.isfinite().all()):
            raise UserError(
                f"a logit at position {position} of the stream is NaN or infinite",
                fix="lower the learning rate, or check SAM's logits if this is the first image",
            )
        alpha = self.fusion.value(self.device)
        prompts = tuple(
            PromptPrediction(
                crop, each.network_input, each.network_logits, sam[crop.slices].clone(), each.logits, alpha
            )
            for crop, each, sam in zip(crops, looks, sam_logits, strict=True)
        )
        return assemble(position, prompts, sam_alone(sam_logits, self.sam_alone))

    @torch.no_grad()
    def clipped_sam(self, sam_logits: Tensor, crops: Sequence[Box], position: int) -> Prediction:
        """Give the record of an image as it would be with SAM alone in its crops: the network is not asked.

        Args:
            sam_logits: Float ``(m, H, W)``.
            crops: ``m`` boxes inside the image.
            position: Of the image in the stream.
        """
        sam_logits = sam_logits.to(self.device, torch.float32, non_blocking=True)
        nothing, alpha = torch.empty(0), torch.ones((), device=self.device)
        inside = [(crop, sam[crop.slices]) for crop, sam in zip(crops, sam_logits, strict=True)]
        prompts = tuple(PromptPrediction(crop, nothing, nothing, sam, sam, alpha) for crop, sam in inside)
        return assemble(position, prompts, sam_alone(sam_logits, self.sam_alone))

    def learn(self, prediction: Prediction, feedback: Feedback) -> tuple[PromptOutcome, ...]:
        """Learn from what became known after a prediction (Listing 1, lines 8 to 19; Eq. 3).

        Per prompt with a mask: loss of the prediction as it was made, insertion into the online batch, one update on
        the whole batch, unless ``updates`` has it otherwise; and alpha* of the prediction, if the fusion is adaptive.

        Args:
            prediction: The record; its tensors are read only.
            feedback: One entry per prompt of the prediction.

        Returns:
            One outcome per prompt.

        Raises:
            ValueError: The masks do not fit the prompts' crops.
        """
        return self.learn_together([prediction], [feedback])[0]

    def learn_together(
        self, predictions: Sequence[Prediction], feedbacks: Sequence[Feedback]
    ) -> list[tuple[PromptOutcome, ...]]:
        """Learn from several images that were predicted with the same weights.

        ``step_per="prompt"``: turn j takes prompt j of every image that has one, so that there are as many updates as
        the image with most prompts has prompts. ``image``: one turn takes all prompts of all images. In a turn all
        crops with a mask are offered to the online batch, one after the other in the order of the stream, each with the
        loss of its prediction; the alpha* join the history in the same order; then the network makes one step on the
        whole batch, if anything was offered (or with ``replay_without_feedback``). With a single image this is
        ``learn``.

        With several processes the images are those of all ranks: the outcome does not depend on which rank has which.

        Args:
            predictions: This process's images in the order of the stream; there may be none.
            feedbacks: One per image.

        Returns:
            Per image of this process one outcome per prompt.

        Raises:
            ValueError: The masks do not fit the prompts' crops.
        """
        self.batch.to(self.device)
        most = max((len(each.prompts) for each in predictions), default=0)
        most, self.position = maxima(most, max((each.position + 1 for each in predictions), default=self.position))
        outcomes: dict[tuple[int, int], PromptOutcome] = {}
        for turn in range(most if self.step_per == "prompt" else min(most, 1)):
            own = [
                self._lesson(prediction, feedback, number)
                for prediction, feedback in zip(predictions, feedbacks, strict=True)
                for number in range(len(prediction.prompts))
                if number == turn or self.step_per == "image"
            ]
            lessons = self._share(own)
            for lesson in lessons:
                outcomes[lesson.position, lesson.number] = self._remember(lesson)
            prompts = [(lesson.position, lesson.number) for lesson in lessons]
            new = [slot for each in prompts if (slot := outcomes[each].slot) is not None]
            if new or (self.replay_without_feedback and len(self.batch)):
                made, skipped = self.updates.make(self.network.update, self.batch, prompts, new)
                for each in prompts:
                    outcomes[each] = outcomes[each]._replace(updates=made, skipped=skipped)
        return [tuple(outcomes[each.position, number] for number in range(len(each.prompts))) for each in predictions]

    @torch.no_grad()
    def _lesson(self, prediction: Prediction, feedback: Feedback, number: int) -> Lesson:
        """Loss of one prompt (line 10) and what the fusion remembers of it, from the prediction as it was made."""
        prompt, mask = prediction.prompts[number], feedback.masks[number]
        crop = target = loss = weighed = None
        if mask is not None:
            if mask.shape != prompt.sam_logits.shape:
                raise ValueError(f"mask {tuple(mask.shape)} for a crop of {tuple(prompt.sam_logits.shape)}")
            size = (prediction.mask.shape[0], prediction.mask.shape[1])
            crop = prompt.network_input
            target = self.network.target(mask.to(self.device, non_blocking=True), prompt.crop, size)
            loss = self.network.loss(prompt.network_logits.unsqueeze(0), target[:1].unsqueeze(0))[0]
        known = feedback.masks if feedback.source == "expert" else feedback.reference
        seen = known[number] if known is not None and self.fusion.wants(feedback.source) else None
        if seen is not None:
            seen = seen.to(self.device, non_blocking=True)
            weighed = self.fusion.observe(prompt.sam_logits, prompt.aux_logits, seen)
        return Lesson(prediction.position, number, crop, target, loss, weighed)

    def _share(self, own: list[Lesson]) -> list[Lesson]:
        """The turn's lessons of all ranks in the order of the stream."""
        if rank_and_size()[1] == 1:
            return own
        channels, side = self.network.in_channels, self.network.crop_size
        nothing = torch.zeros((), device=self.device)
        facts = torch.zeros(len(own), 5 + math.prod(self.fusion.shape), dtype=torch.float64, device=self.device)
        pictures = torch.zeros(len(own), channels + 1, side, side, device=self.device)
        for row, lesson in enumerate(own):
            taught = lesson.crop is not None, lesson.weighed is not None
            facts[row, :4] = torch.tensor([lesson.position, lesson.number, *taught], dtype=torch.float64)
            facts[row, 4] = nothing if lesson.loss is None else lesson.loss
            facts[row, 5:] = nothing if lesson.weighed is None else lesson.weighed
            if lesson.crop is not None and lesson.target is not None:
                pictures[row] = torch.cat([lesson.crop, lesson.target])
        facts, pictures = gather_rows(facts), gather_rows(pictures)
        values = facts[:, 4:].float()
        lessons = []
        for row, (position, number, has_mask, is_weighed, *_) in enumerate(facts.tolist()):
            weighed = values[row, 1:].reshape(self.fusion.shape) if is_weighed else None
            lesson = Lesson(int(position), int(number), None, None, None, weighed)
            if has_mask:
                lesson = lesson._replace(crop=pictures[row, :-1], target=pictures[row, -1:], loss=values[row, 0])
            lessons.append(lesson)
        return sorted(lessons, key=lambda lesson: lesson[:2])

    def _remember(self, lesson: Lesson) -> PromptOutcome:
        """Offer a lesson to the batch (lines 11 to 15) and its alpha* to the history."""
        slot = None
        if lesson.crop is not None and lesson.target is not None and lesson.loss is not None:
            slot = self.batch.insert(lesson.crop, lesson.target, lesson.loss)
        alpha_star = None if lesson.weighed is None else self.fusion.remember(lesson.weighed)
        return PromptOutcome(lesson.loss, slot, alpha_star)

    def state_dict(self, weights: bool = True) -> dict[str, Any]:
        """Everything that the next step depends on, loadable with ``weights_only=True``.

        Args:
            weights: With network and optimizer. False for a caller that saves these two itself, as Lightning does.

        Returns:
            Copies of batch, alphas and position, beside what the network's own ``state_dict`` gives.

        Raises:
            UserError: A weight is NaN or infinite, so that the last good checkpoint is kept.
        """
        if not all(bool(parameter.isfinite().all()) for parameter in self.network.module.parameters()):
            raise UserError(
                f"the network has NaN or infinite weights before position {self.position} of the stream",
                fix="lower the learning rate and resume from the last checkpoint",
            )
        return {
            "batch": self.batch.state_dict(),
            "fusion": self.fusion.state_dict(),
            "position": self.position,
            "updates": self.updates.made,
            **self.network.state_dict(weights),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore ``state_dict()``, after which the stream goes on bit for bit as it would have.

        Args:
            state: From a learner with the same settings; with or without network and optimizer.
        """
        self.network.load_state_dict(state)
        self.batch.load_state_dict(state["batch"])
        self.fusion.load_state_dict(state["fusion"])
        self.position = state["position"]
        self.updates.made = state.get("updates", 0)
