"""DirectOL (AuxOL section 4.3): an adapted SAM itself learns online, where AuxOL lets a network beside it learn."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_samseg.adapters.adapted_sam import AdaptedSam
from lightning_samseg.errors import UserError
from lightning_samseg.online.batch import OnlineBatch
from lightning_samseg.online.fusion import Fusion
from lightning_samseg.online.learner import Lesson, OnlineLearner
from lightning_samseg.online.records import Feedback, Prediction, PromptPrediction, record, sam_alone
from lightning_samseg.prompts.boxes import Box


class DirectLearner(OnlineLearner):
    """Drives an adapted SAM through a stream: same rounds, feedback, losses, online batch and records as AuxOL's.

    The record's SAM is the adapted SAM as it was before the stream; ``u`` is what it has become, and the weight of the
    former is 0. An entry of the online batch is a whole preprocessed image, with the mask inside one prompt's crop at
    AuxOL's crop size and the places of the mask's pixels in the image. The loss is that of the answer at these places,
    so that both methods learn from the same pixels. The paper leaves this open, as it does DirectOL's batch and rate.

    One process only.

    Args:
        network: The adapted SAM that learns; not the one that gives the baseline.
        batch: What is learned from again.
        trained: ``adapter``: LoRA or the bottlenecks in the encoder, as the paper. ``all``: with the decoders.
        at_once: Images in one forward and backward pass; memory grows with it, the result does not depend on it.
        settings: As of :class:`OnlineLearner`.

    Raises:
        UserError: If there is nothing to train, or a number is out of range.
    """

    auxiliary: AdaptedSam

    def __init__(
        self,
        network: AdaptedSam,
        batch: OnlineBatch,
        *,
        trained: Literal["adapter", "all"] = "adapter",
        at_once: int = 1,
        **settings: Any,
    ) -> None:
        if at_once < 1:
            raise UserError(f"at_once {at_once}", expected="at least 1", fix="use 1, or more if the memory allows")
        super().__init__(network, Fusion("fixed", 0.0), batch, sam_alone="largest", **settings)
        network.train_only(trained)
        self.at_once = at_once
        self.trained = {name: each for name, each in network.named_parameters() if each.requires_grad}
        options = {name: self.optimizer.defaults[name] for name in ("lr", "weight_decay")}
        self.optimizer = torch.optim.AdamW(self.trained.values(), **options)

    @torch.no_grad()
    def predict(
        self, image: Tensor, sam_logits: Tensor, crops: Sequence[Box], position: int | None = None
    ) -> Prediction:
        """Segment one image with the adapter as it is.

        Args:
            image: uint8 ``(3, H, W)``.
            sam_logits: Float ``(m, H, W)``, the answers of the adapted SAM as it was before the stream.
            crops: ``m`` boxes inside the image.
            position: Of the image in the stream; None: the next one.

        Returns:
            The record; later rounds do not change it.

        Raises:
            UserError: A logit is NaN or infinite.
        """
        position = self.position if position is None else position
        sam_logits = sam_logits.to(self.device, torch.float32)
        if not crops:
            return record(position, (), sam_alone(sam_logits, self.sam_alone))
        pixels, geometry = self.auxiliary.preprocess(image.permute(1, 2, 0).cpu().numpy())
        pixels = pixels.to(self.device)
        low_res = self.auxiliary.foreground(pixels)
        if not bool(low_res.isfinite().all() & sam_logits.isfinite().all()):
            raise UserError(
                f"a logit at position {position} of the stream is NaN or infinite",
                fix="lower the learning rate, or check the adapter if this is the first image",
            )
        answer = self.auxiliary.restore(low_res[0], geometry)[0]
        alpha = self.fusion.value(self.device)
        prompts = tuple(
            PromptPrediction(
                crop,
                pixels[0],
                read(low_res, self._places(crop, geometry.image_size)[None])[0],
                sam[crop.slices].clone(),
                answer[crop.slices].clone(),
                alpha,
            )
            for crop, sam in zip(crops, sam_logits, strict=True)
        )
        return record(position, prompts, sam_alone(sam_logits, self.sam_alone))

    def state_dict(self, weights: bool = True) -> dict[str, Any]:
        """Everything that the next round depends on.

        Args:
            weights: With the optimizer. The trained entries are there without it, too: nobody else has them.

        Raises:
            UserError: A weight is NaN or infinite, so that the last good checkpoint is kept.
        """
        state = super().state_dict(weights=False)
        state["trained"] = {name: each.detach().clone() for name, each in self.trained.items()}
        return state | ({"optimizer": self.optimizer.state_dict()} if weights else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore ``state_dict()``.

        Raises:
            UserError: If it is of another adapter.
        """
        shapes = {name: each.shape for name, each in state.get("trained", {}).items()}
        if shapes != {name: each.shape for name, each in self.trained.items()}:
            raise UserError(
                "The checkpoint was written by a run with another adapter, or with other parts of it trained.",
                expected=f"{len(self.trained)} trained entries",
                found=f"{len(shapes)}, or of other shapes",
                fix="resume with the --model.adapter and --model.trained of that run",
            )
        super().load_state_dict({key: value for key, value in state.items() if key not in ("trained", "optimizer")})
        with torch.no_grad():
            for name, each in self.trained.items():
                each.copy_(state["trained"][name])
        if "optimizer" in state:
            self.optimizer.load_state_dict(state["optimizer"])

    @torch.no_grad()
    def _lesson(self, prediction: Prediction, feedback: Feedback, number: int) -> Lesson:
        """As AuxOL's, with the places of the mask's pixels beside it."""
        lesson = super()._lesson(prediction, feedback, number)
        if lesson.target is None:
            return lesson
        height, width = prediction.mask.shape
        places = self._places(prediction.prompts[number].crop, (height, width))
        return lesson._replace(target=torch.cat([lesson.target, places.permute(2, 0, 1)]))

    def _update(self) -> None:
        """Make one step on the mean loss of the whole batch, some entries at a time."""
        images, masks = self.batch.tensors()
        latest = masks.new_zeros(len(images))
        self.optimizer.zero_grad()
        for first in range(0, len(images), self.at_once):
            some = slice(first, first + self.at_once)
            with torch.enable_grad():
                answers = read(self.auxiliary.foreground(images[some]), masks[some, 1:].permute(0, 2, 3, 1))
                losses = self.loss(answers, masks[some, :1])
                torch.autograd.backward(losses.sum() / len(images))
            latest[some] = losses.detach()
        self.batch.update(latest)
        self.optimizer.step()

    def _places(self, crop: Box, image_size: tuple[int, int]) -> Tensor:
        """Where the pixels of a crop, resized to S x S, lie in the network's frame: ``(S, S, 2)``, (x, y) in -1..1."""
        geometry = self.auxiliary.geometry_of(image_size)
        side = self.auxiliary.image_size
        corners = self.auxiliary.view["geometry"] == "corner_aligned"
        steps = (torch.arange(self.crop_size, device=self.device) + 0.5) / self.crop_size
        axes = []
        for start, length, whole, inside in (
            (crop.x0, crop.width, image_size[1], geometry.content_size[1]),
            (crop.y0, crop.height, image_size[0], geometry.content_size[0]),
        ):
            place = start + steps * length  # in pixels of the image, their borders being whole numbers
            if corners:  # the centres of the first and of the last pixels coincide
                place = 0.5 + (place - 0.5) * (inside - 1) / max(whole - 1, 1)
            else:
                place *= inside / whole
            axes.append(2 * place / side - 1)
        return torch.stack(torch.meshgrid(*axes, indexing="xy"), dim=-1)


def read(low_res: Tensor, places: Tensor) -> Tensor:
    """Read logits at given places, bilinear, with gradients.

    Args:
        low_res: Float ``(N, 1, L, L)`` over the network's frame.
        places: ``(N, S, S, 2)``, (x, y), -1 and 1 being the frame's borders.

    Returns:
        Float ``(N, 1, S, S)``.
    """
    return F.grid_sample(low_res, places, mode="bilinear", padding_mode="border", align_corners=False)
