"""AuxOL (Listing 1): predict with what is known, then learn from the rectified mask."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_samseg.errors import UserError
from lightning_samseg.losses.binary import dice_loss
from lightning_samseg.online.batch import OnlineBatch
from lightning_samseg.online.crops import ExtraChannel, crop_logits, network_input, network_target
from lightning_samseg.online.fusion import Fusion
from lightning_samseg.online.records import Feedback, Prediction, PromptOutcome, PromptPrediction, record
from lightning_samseg.prompts.boxes import Box

EntryLoss = Callable[[Tensor, Tensor], Tensor]
"""Logits and targets ``(N, 1, S, S)`` -> losses ``(N,)``."""


class OnlineLearner:
    """An auxiliary network that learns beside a frozen SAM, image by image.

    One round of the stream is ``prediction = predict(...)``, then ``learn(prediction, feedback)``. All prompts of an
    image are predicted before anything of the image's masks is used. The literal order of Listing 1, in which later
    prompts of an image profit from the masks of its earlier ones, is a round per prompt with ``position`` given,
    joined by ``records.merge``.

    The only wait for the device is at the end of ``predict``, where the caller fetches the mask anyway.

    Args:
        auxiliary: Maps crops ``(N, C, S, S)`` to logits ``(N, 1, S, S)``; on its device already. Predicts in evaluation
            mode, in which the prompts of an image share one forward pass without influence on each other, and learns
            in training mode.
        fusion: Weight between SAM and the network.
        batch: What is learned from again.
        loss: One value per entry; the paper names Dice as its example.
        lr: Learning rate of AdamW.
        weight_decay: Of AdamW. The paper does not give it; this is the authors' code's.
        crop_size: ``S`` in pixels, a multiple of 32. The paper does not give it; this is the authors' code's.
        extra_channel: SAM's output as a fourth channel of the crops; the paper's choice for box prompts only.
        step_per: ``prompt``: one update after every rectified prompt. ``image``: one for all prompts of an image.
        replay_without_feedback: Update on the stored batch also when there is nothing new to learn (authors' code). It
            takes place after the prediction, because whether there is feedback may depend on the reference.
        optimise: Takes the loss ``()`` and makes one step of ``self.optimizer``; for a caller that scales it, averages
            gradients over processes or counts steps. None: clear gradients, backward, step.

    Raises:
        UserError: ``crop_size`` is not a multiple of 32.
    """

    def __init__(
        self,
        auxiliary: nn.Module,
        fusion: Fusion,
        batch: OnlineBatch,
        *,
        loss: EntryLoss = dice_loss,
        lr: float = 5e-4,
        weight_decay: float = 5e-4,
        crop_size: int = 128,
        extra_channel: ExtraChannel | None = None,
        step_per: Literal["prompt", "image"] = "prompt",
        replay_without_feedback: bool = False,
        optimise: Callable[[Tensor], None] | None = None,
    ) -> None:
        if crop_size < 32 or crop_size % 32:
            raise UserError(f"crop size {crop_size}", expected="a multiple of 32", fix="use 128 as the authors do")
        self.auxiliary = auxiliary
        self.fusion = fusion
        self.batch = batch
        self.loss = loss
        self.crop_size = crop_size
        self.extra_channel = extra_channel
        self.step_per = step_per
        self.replay_without_feedback = replay_without_feedback
        self.optimizer = torch.optim.AdamW(auxiliary.parameters(), lr=lr, weight_decay=weight_decay)
        self.position = 0
        self._optimise = optimise if optimise is not None else self._step

    @property
    def device(self) -> torch.device:
        """Where the auxiliary network is."""
        return next(self.auxiliary.parameters()).device

    @torch.no_grad()
    def predict(
        self, image: Tensor, sam_logits: Tensor, crops: Sequence[Box], position: int | None = None
    ) -> Prediction:
        """Segment one image with what has been learned from the images before it (Listing 1, lines 3 to 7).

        Args:
            image: ``(3, H, W)``, uint8, or float in [0, 1].
            sam_logits: Float ``(m, H, W)``, SAM's output for each of the image's prompts; ``m`` may be 0.
            crops: ``m`` boxes inside the image, see ``prompts.boxes``.
            position: Of the image in the stream; None: the next one.

        Returns:
            The record to score, to rectify and to learn from. Later rounds do not change it.

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
        image = image.to(self.device, non_blocking=True)
        image = image.float() / 255 if image.dtype == torch.uint8 else image
        sam_logits = sam_logits.to(self.device, torch.float32, non_blocking=True)
        inputs = network_input(image, sam_logits, crops, self.crop_size, self.extra_channel)
        self.auxiliary.eval()
        answers = self.auxiliary(inputs).float() if len(crops) else inputs[:, :1]
        if not bool(answers.isfinite().all() & sam_logits.isfinite().all()):
            raise UserError(
                f"a logit at position {position} of the stream is NaN or infinite",
                fix="lower the learning rate, or check SAM's logits if this is the first image",
            )
        alpha = self.fusion.value(self.device)
        prompts = tuple(
            PromptPrediction(crop, seen, answer, sam[crop.slices].clone(), crop_logits(answer, crop), alpha)
            for crop, seen, answer, sam in zip(crops, inputs, answers, sam_logits, strict=True)
        )
        return record(position, prompts, sam_logits.sigmoid().sum(0))

    def learn(self, prediction: Prediction, feedback: Feedback) -> tuple[PromptOutcome, ...]:
        """Learn from what became known after a prediction (Listing 1, lines 8 to 19; Eq. 3).

        Per prompt with a mask: loss of the prediction as it was made, insertion into the online batch, one update on
        the whole batch; and alpha* of the prediction, if the fusion is adaptive.

        Args:
            prediction: The record; its tensors are read only.
            feedback: One entry per prompt of the prediction.

        Returns:
            One outcome per prompt.

        Raises:
            ValueError: The masks do not fit the prompts' crops.
        """
        self.position = prediction.position + 1
        self.batch.to(self.device)
        outcomes = []
        pending = False
        for number, (prompt, mask) in enumerate(zip(prediction.prompts, feedback.masks, strict=True)):
            loss, slot = (None, None) if mask is None else self._remember(prompt, mask)
            if mask is not None or (self.replay_without_feedback and len(self.batch)):
                pending = True
                if self.step_per == "prompt":
                    self._update()
            alpha_star = self._observe(prompt, number, feedback)
            outcomes.append(PromptOutcome(loss, slot, alpha_star))
        if pending and self.step_per == "image":
            self._update()
        return tuple(outcomes)

    @torch.no_grad()
    def _remember(self, prompt: PromptPrediction, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the loss of the current sample and offer it to the batch (lines 10 to 15)."""
        if mask.shape != prompt.sam_logits.shape:
            raise ValueError(f"mask {tuple(mask.shape)} for a crop of {tuple(prompt.sam_logits.shape)}")
        target = network_target(mask.to(self.device, non_blocking=True), self.crop_size)
        loss = self.loss(prompt.network_logits.unsqueeze(0), target.unsqueeze(0))[0]
        return loss, self.batch.insert(prompt.network_input, target, loss)

    def _update(self) -> None:
        """Make one step on the whole batch and note its entries' losses (lines 16 to 19)."""
        crops, masks = self.batch.tensors()
        self.auxiliary.train()
        with torch.enable_grad():
            losses = self.loss(self.auxiliary(crops), masks)
            self.batch.update(losses)
            self._optimise(losses.mean())

    @torch.no_grad()
    def _observe(self, prompt: PromptPrediction, number: int, feedback: Feedback) -> Tensor | None:
        masks = feedback.masks if feedback.source == "expert" else feedback.reference
        mask = None if masks is None or not self.fusion.wants(feedback.source) else masks[number]
        if mask is None:
            return None
        return self.fusion.observe(prompt.sam_logits, prompt.aux_logits, mask.to(self.device, non_blocking=True))

    def _step(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.optimizer.step()

    def state_dict(self, weights: bool = True) -> dict[str, Any]:
        """Everything that the next round depends on, loadable with ``weights_only=True``.

        Args:
            weights: With network and optimizer. False for a caller that saves these two itself, as Lightning does.

        Returns:
            Copies of batch, alphas and position; network and optimizer as their own ``state_dict`` gives them.

        Raises:
            UserError: A weight is NaN or infinite, so that the last good checkpoint is kept.
        """
        if not all(bool(parameter.isfinite().all()) for parameter in self.auxiliary.parameters()):
            raise UserError(
                f"the auxiliary network has NaN or infinite weights before position {self.position} of the stream",
                fix="lower the learning rate and resume from the last checkpoint",
            )
        state: dict[str, Any] = {
            "batch": self.batch.state_dict(),
            "fusion": self.fusion.state_dict(),
            "position": self.position,
        }
        if weights:
            state |= {"auxiliary": self.auxiliary.state_dict(), "optimizer": self.optimizer.state_dict()}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore ``state_dict()``, after which the stream goes on bit by bit as it would have.

        Args:
            state: From a learner with the same settings; with or without network and optimizer.
        """
        self.batch.load_state_dict(state["batch"])
        self.fusion.load_state_dict(state["fusion"])
        self.position = state["position"]
        if "auxiliary" in state:
            self.auxiliary.load_state_dict(state["auxiliary"])
            self.optimizer.load_state_dict(state["optimizer"])
