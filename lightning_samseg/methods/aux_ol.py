"""AuxOL (Huang et al., TMI 2025): a small network learns online, beside a frozen SAM, from masks an expert rectified.

One ``training_step`` is one image of the stream: SAM answers the prompts, the fusion is predicted and recorded, the
expert speaks, the network learns (Listing 1). The record is what is scored: nothing is evaluated afterwards.
"""

import dataclasses
import time
from functools import partial
from typing import Any, Literal

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_samseg.errors import UserError
from lightning_samseg.io.files import cache_dir
from lightning_samseg.losses.binary import bce_dice_loss, dice_loss
from lightning_samseg.losses.structure import structure_loss
from lightning_samseg.models.generalist import Generalist, Preprocessing
from lightning_samseg.models.sam import BackboneName
from lightning_samseg.models.unet import build_auxiliary
from lightning_samseg.online.batch import OnlineBatch, Policy
from lightning_samseg.online.cache import LogitsCache, cache_key
from lightning_samseg.online.expert import Expert
from lightning_samseg.online.fusion import Fusion
from lightning_samseg.online.learner import EntryLoss, OnlineLearner
from lightning_samseg.online.records import Feedback, Prediction, PromptOutcome, merge
from lightning_samseg.online.trace import COLUMNS, ImageRow, Round, image_row, prompt_rows
from lightning_samseg.prompts.boxes import Box, crop_of_box, crop_of_point
from lightning_samseg.prompts.files import PromptFile
from lightning_samseg.prompts.noise import shift_box
from lightning_samseg.prompts.objects import PointKind, find_objects
from lightning_samseg.types import Case, StreamItem

LOSSES: dict[str, EntryLoss] = {
    "dice": dice_loss,
    "bce_dice": bce_dice_loss,
    "structure": structure_loss,
    "structure_authors": partial(structure_loss, bce="plain"),
}
POINT_CROPS: dict[str, dict[str, Any]] = {
    "paper": {"largest_component": False, "margin": 0.0, "min_side": 1},
    "authors": {"largest_component": False, "margin": 0.10, "min_side": 16},
    "largest_component": {"largest_component": True, "margin": 0.10, "min_side": 16},
}
# Streams of random numbers beside the expert's; with the position they make every draw independent of the others.
BOX_SHIFT, NETWORK = 3, 4


class AuxOl(lightning.LightningModule):
    """SAM and an auxiliary network that learns from a stream, predict then learn.

    Where paper and published code differ, the default is the paper's, and both have a name.

    Args:
        backbone: The frozen generalist. The paper: SAM-H and MedSAM.
        checkpoint: Its weights in official SAM's names instead of the cached ones. For points the authors give MedSAM
            the weights ``medsam_point_prompt_flare22.pth`` of its repository.
        preprocessing: ``own``: as the backbone's authors publish it; ``sam``: as SAM's predictor, which the authors of
            AuxOL use for MedSAM, too.
        sam_size: Side of SAM's square input in pixels; None for what it was trained at.
        prompt: What every object is prompted by.
        point: ``centroid`` of the object's pixels (authors), or its ``deepest`` pixel, which always lies on it.
        objects: ``instances`` where the data set knows its objects (GlaS), else the 8-connected components;
            ``components`` always (authors).
        min_object_side: Objects whose box is narrower or lower get no prompt, in pixels; the authors' rule is 16.
        prompt_file: CSV or COCO file with the prompts, instead of the reference's objects. Images that it does not name
            have no prompt and are background.
        box_shift: Boxes are shifted by this fraction of their sides (robustness study of the TMI version: 0.05).
        point_crop: Rectangle around SAM's mask for a point. ``paper``: its bounding box. ``authors``: with a margin of
            10 % on each side, and the whole image where it is below 16 px. ``largest_component``: so, of that alone.
        auxiliary: ``unet17m`` is the paper's; or a network of segmentation-models-pytorch, as ``unet/resnet18``.
        encoder_weights: ImageNet weights for such a network.
        width: Factor on the channels of ``unet17m``.
        crop_size: Side of the network's input in pixels, a multiple of 32. The paper does not give it; 128 is the
            authors'.
        extra_channel: SAM's output as a fourth channel. ``auto``: the ``mask`` for boxes, none for points (Sec. 3.3).
        loss: The paper names Dice as its example; ``structure_authors`` is PraNet's as the authors' code computes it.
        lr: Learning rate of AdamW.
        weight_decay: Of AdamW; not in the paper, the authors' is 5e-4.
        capacity: ``k``, entries of the online batch.
        policy: What goes when it is full: ``smallest_loss`` (paper), ``fifo`` (authors), ``single`` for no batch
            (Tables 3 and 4).
        prompt_order: ``prompt``: predict and learn prompt by prompt (Listing 1, authors), so that an image's later
            prompts profit from the masks of its earlier ones. ``image``: all of an image's prompts are predicted before
            any of its masks is used.
        step_per: Updates of the network: one per rectified ``prompt``, or one per ``image``.
        replay_without_feedback: Also update where there is nothing new to learn (authors).
        fusion: ``fixed``: the weight ``alpha``. ``adaptive``: the mean of the last ``alpha_window`` best weights (Sec.
            3.3). The paper calls fixed the default; the point rows of its Table 2 are the adaptive ones of Table 5.
        alpha: Weight of SAM, fixed or until a best weight is known.
        alpha_window: ``K``.
        alpha_grid: Step of the search for the best weight; not in the paper, the authors' is 0.05.
        alpha_start: Before there are K best weights: the mean of those there are (``half``), or SAM alone (``sam``,
            authors).
        alpha_from: Best weights from ``rectified`` prompts only, or from ``every`` one (authors), which uses masks that
            nobody has drawn where feedback is partial.
        expert: Who rectifies, when, and how well.
        cache_gb: Largest size of the cache of SAM's logits in GB, shared by all runs; 0 for none.
        convention: Metric convention; the paper's numbers follow ``aux_ol``.
        num_classes: Filled in from the data by the command line; a stream has one foreground.
        image_size: Filled in from the data by the command line; without use, see ``sam_size``.
        seed: Of the network's initial weights and of the shifts; filled in from ``seed_everything``.

    Raises:
        UserError: If arguments contradict each other or are out of range, or weights are missing.
    """

    uses_stream = True
    """Fitting is one walk through the data set's stream, which is scored as it goes: no validation, no best weights."""

    needs_training = True

    generalist: Generalist

    def __init__(
        self,
        backbone: BackboneName = "sam_vit_h",
        checkpoint: str | None = None,
        preprocessing: Preprocessing = "own",
        sam_size: int | None = None,
        prompt: Literal["box", "point"] = "box",
        point: PointKind = "centroid",
        objects: Literal["instances", "components"] = "instances",
        min_object_side: int = 1,
        prompt_file: str | None = None,
        box_shift: float = 0.0,
        point_crop: Literal["paper", "authors", "largest_component"] = "paper",
        auxiliary: str = "unet17m",
        encoder_weights: Literal["imagenet"] | None = None,
        width: float = 1.0,
        crop_size: int = 128,
        extra_channel: Literal["auto", "none", "mask", "probability", "logits"] = "auto",
        loss: Literal["dice", "bce_dice", "structure", "structure_authors"] = "dice",
        lr: float = 5e-4,
        weight_decay: float = 5e-4,
        capacity: int = 32,
        policy: Policy = "smallest_loss",
        prompt_order: Literal["prompt", "image"] = "prompt",
        step_per: Literal["prompt", "image"] = "prompt",
        replay_without_feedback: bool = False,
        fusion: Literal["fixed", "adaptive"] = "fixed",
        alpha: float = 0.5,
        alpha_window: int = 5,
        alpha_grid: float = 0.05,
        alpha_start: Literal["half", "sam"] = "half",
        alpha_from: Literal["rectified", "every"] = "rectified",
        expert: Expert = Expert(),  # noqa: B008 - immutable
        cache_gb: float = 8.0,
        convention: Literal["aux_ol", "strict"] = "aux_ol",
        num_classes: int = 1,
        image_size: int = 512,
        seed: int = 42,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore="expert")
        self.save_hyperparameters({"expert": dataclasses.asdict(expert)})  # plain: checkpoints hold no code
        self.automatic_optimization = False
        if step_per == "image" and prompt_order == "prompt":
            raise UserError(
                "One update per image cannot come between the image's prompts.",
                expected="step_per image with prompt_order image",
                fix="set --model.prompt_order image, or --model.step_per prompt",
            )
        if not 0 <= box_shift < 1:
            raise UserError(f"box_shift {box_shift}", expected="a fraction in [0, 1)", fix="use 0.05 as the authors do")
        self.prompt, self.point, self.objects = prompt, point, objects
        self.min_object_side, self.box_shift, self.point_crop = min_object_side, box_shift, point_crop
        self.prompt_order, self.expert, self.convention, self.seed = prompt_order, expert, convention, seed
        self.prompt_file = None if prompt_file is None else PromptFile(prompt_file, prompt)
        chosen = ("mask" if prompt == "box" else "none") if extra_channel == "auto" else extra_channel
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.auxiliary = build_auxiliary(
                auxiliary, in_channels=3 if chosen == "none" else 4, encoder_weights=encoder_weights, width=width
            )
        self.learner = OnlineLearner(
            self.auxiliary,
            Fusion(fusion, alpha, alpha_window, alpha_grid, alpha_start, alpha_from),
            OnlineBatch(capacity, policy),
            loss=LOSSES[loss],
            lr=lr,
            weight_decay=weight_decay,
            crop_size=crop_size,
            extra_channel=None if chosen == "none" else chosen,
            step_per=step_per,
            replay_without_feedback=replay_without_feedback,
        )
        # Not a submodule: frozen, so that it belongs into no checkpoint.
        self.__dict__["generalist"] = Generalist(backbone, sam_size, checkpoint, preprocessing)
        self.cache = LogitsCache(cache_dir() / "sam_logits", int(cache_gb * 1e9)) if cache_gb > 0 else None
        self._running = {"images": 0.0, **dict.fromkeys(COLUMNS, 0.0)}

    @property
    def weights_sha256(self) -> str | None:
        """Hash of the generalist's weights."""
        return self.generalist.weights_sha256

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The learner's; it is stepped by the learner."""
        return self.learner.optimizer

    def on_fit_start(self) -> None:
        """Bring SAM to the device and find the images that a prompt file names.

        Raises:
            UserError: If there are several processes, half precision with a loss scale, or a name of the prompt file
                is unknown.
        """
        if self.trainer.world_size > 1:
            raise UserError("The stream is walked through by one process.", fix="set --trainer.devices 1")
        if self.trainer.precision == "16-mixed":
            raise UserError("AuxOl does not scale its loss.", fix="set --trainer.precision bf16-mixed or 32-true")
        self.generalist.to(self.device)
        if self.prompt_file is not None:
            images = {}
            for _, item in self.trainer.datamodule.stream_items():  # type: ignore[attr-defined]
                images[_name(item)] = [item.image.name, item.image.stem] if item.num_slices == 1 else []
            without = self.prompt_file.bind(images)
            print(f"{self.prompt_file.path}: {len(images) - without} of {len(images)} images have prompts")

    def training_step(self, item: StreamItem, batch_idx: int) -> dict[str, Round]:
        """Predict one image, record, then learn from it; the record goes to the callbacks."""
        torch.manual_seed(_key(self.seed, NETWORK, item["position"]))  # for networks with dropout
        start = time.perf_counter()
        prompts = self.prompts_of(item)
        sam_logits = self.sam_logits(item["original"], prompts)
        crops = self.crops_of(prompts, sam_logits, item["cases"][0])
        ready = time.perf_counter()
        try:
            prediction, feedback, outcomes = self.walk(item, sam_logits, crops)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise UserError(
                "The auxiliary network normalises over the batch, which starts with a single crop.",
                expected="more than one pixel at its deepest level",
                found=str(error),
                fix="set a larger --model.crop_size, or --model.auxiliary unet17m, which normalises each crop",
            ) from error
        rows = prompt_rows(prediction, outcomes, prompts, item["cases"][0])  # waits for the device
        seconds = time.perf_counter() - ready
        row = image_row(prediction, feedback, item["reference"], item["cases"][0], item["set_name"], self.convention)
        self._log_running(row)
        # Lightning counts optimizer steps; here an iteration is an image, however many steps it is worth.
        steps = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        steps.increment_ready()
        steps.increment_completed()
        return {"round": Round(prediction, row, rows, ready - start, seconds)}

    def prompts_of(self, item: StreamItem) -> NDArray[np.float64]:
        """Prompts of an image, simulated from its reference or from the prompt file.

        Returns:
            ``(m, 4)`` boxes or ``(m, 2)`` points in pixels of the image; ``m`` is 0 for an image without object.
        """
        case = item["cases"][0]
        if self.prompt_file is not None:
            places = self.prompt_file.prompts(_name(case))
        else:
            instances = "instances" in item and self.objects == "instances"
            mask = item["instances"] if instances else item["reference"]
            found = find_objects(mask, instances=instances, min_side=self.min_object_side, name=case.source)
            rows = [each.box if self.prompt == "box" else each.point(self.point) for each in found]
            places = np.array(rows, np.float64).reshape(-1, 4 if self.prompt == "box" else 2)
        if self.box_shift and self.prompt == "box":
            for number, place in enumerate(places):
                rng = np.random.default_rng((self.seed, BOX_SHIFT, item["position"], number))
                box = crop_of_box(place, case.original_size, f"{case.source}, prompt {number}")
                places[number] = shift_box(box, self.box_shift, case.original_size, rng)
        return places

    @torch.no_grad()
    def sam_logits(self, image: NDArray[np.uint8], prompts: NDArray[np.float64]) -> Tensor:
        """SAM's logits for the prompts of an image, from the cache if it has them.

        Args:
            image: uint8 ``(H, W, 3)``.
            prompts: As from :meth:`prompts_of`.

        Returns:
            Float ``(m, H, W)`` on the module's device.
        """
        geometry = self.generalist.geometry(image)
        if len(prompts) == 0:
            return torch.zeros(0, *geometry.image_size, device=self.device)

        def compute() -> Tensor:
            points, boxes = (None, prompts) if self.prompt == "box" else (prompts, None)
            return self.generalist.predict(image, points, boxes)[0]

        if self.cache is None:
            low_res = compute()
        else:
            precision = self.trainer.precision if self._trainer is not None else "32-true"
            identity = f"{self.generalist.identity} {self.device.type} {precision} {torch.__version__}"
            low_res = self.cache.get_or_compute(cache_key(identity, image, prompts, self.prompt), compute)
        return self.generalist.restore(low_res.to(self.device), geometry)

    def crops_of(self, prompts: NDArray[np.float64], sam_logits: Tensor, case: Case) -> list[Box]:
        """Where the auxiliary network looks for each prompt (Sec. 3.2).

        Raises:
            UserError: If a box or point of a prompt file lies outside of the image, or a box is empty.
        """
        crops = []
        for number, (place, logits) in enumerate(zip(prompts, sam_logits, strict=True)):
            name = f"{case.source}, prompt {number}"
            if self.prompt == "box":
                crops.append(crop_of_box(place, case.original_size, name))
                continue
            height, width = case.original_size
            if not (0 <= place[0] < width and 0 <= place[1] < height):
                raise UserError(
                    f"{name}: the point lies outside the image",
                    expected=f"x in 0..{width - 1}, y in 0..{height - 1}",
                    found=f"{place[0]:g}, {place[1]:g}",
                    fix="give the point in pixels of the original image, as x, y",
                )
            crops.append(crop_of_point((logits > 0).cpu().numpy(), **POINT_CROPS[self.point_crop]))
        return crops

    def walk(
        self, item: StreamItem, sam_logits: Tensor, crops: list[Box]
    ) -> tuple[Prediction, Feedback, tuple[PromptOutcome, ...]]:
        """Predict an image and learn from it, in the order of ``prompt_order`` (Listing 1).

        Whether the expert speaks depends on SAM alone, never on what is learned in between; pseudo-labels are those of
        the prediction before the image's first update.
        """
        image = torch.from_numpy(np.ascontiguousarray(item["original"].transpose(2, 0, 1)))
        whole = self.learner.predict(image, sam_logits, crops, item["position"])
        feedback = self.expert.feedback(whole, item["reference"], item["cases"][0].source)
        if self.prompt_order == "image" or len(crops) < 2:
            return whole, feedback, self.learner.learn(whole, feedback)
        parts: list[Prediction] = []
        outcomes: list[PromptOutcome] = []
        for number, crop in enumerate(crops):
            logits = sam_logits[number : number + 1]
            parts.append(self.learner.predict(image, logits, [crop], item["position"]))
            outcomes += self.learner.learn(parts[-1], feedback.only(number))
        return merge(parts), feedback, tuple(outcomes)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the rest of the stream depends on beside network and optimizer: batch, alphas, position."""
        checkpoint["online"] = {**self.learner.state_dict(weights=False), "running": dict(self._running)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on where the checkpoint was written, bit by bit as the stream would have."""
        self.learner.load_state_dict(checkpoint["online"])
        self._running = dict(checkpoint["online"]["running"])

    def _log_running(self, row: ImageRow) -> None:
        """Mean DSC so far, for the progress bar and the loggers."""
        self._running["images"] += 1
        for column in COLUMNS:
            self._running[column] += getattr(row, f"{column}_dsc")
            mean = self._running[column] / self._running["images"]
            self.log(f"dsc/{column}", mean, prog_bar=column != "sam_clipped", batch_size=1)
        if row.prompts:
            self.log("alpha", row.alpha, batch_size=1)


def _name(case: Any) -> str:
    """Name of an image in a prompt file: its case id, with the slice behind it for volumes."""
    return f"{case.case_id}_{case.slice_index:03d}" if case.num_slices > 1 else case.case_id


def _key(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
