"""AuxOL (Huang et al., TMI 2025): a small network learns online, beside a frozen SAM, from masks an expert rectified.

One ``training_step`` is one image of the stream: SAM answers the prompts, the fusion is predicted and recorded, the
expert speaks, the network learns (Listing 1). The record is what is scored: nothing is evaluated afterwards. As an
extension of the paper a step may have several images, in one process or dealt out to several.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_samseg.adapters.adapted_sam import AdaptedSam
from lightning_samseg.adapters.checkpoints import WORKSPACE, require
from lightning_samseg.errors import UserError
from lightning_samseg.io.files import cache_dir
from lightning_samseg.methods.method import Method
from lightning_samseg.models.frozen_sam import FrozenSam
from lightning_samseg.models.sam_config import SamConfig
from lightning_samseg.models.unet import AuxiliaryConfig, build_auxiliary
from lightning_samseg.online.batch import BatchConfig, OnlineBatch
from lightning_samseg.online.cache import LogitsCache
from lightning_samseg.online.columns import CLIPPED, SAM
from lightning_samseg.online.crop_network import CropConfig, CropNetwork
from lightning_samseg.online.expert import Expert
from lightning_samseg.online.fusion import Fusion, FusionConfig
from lightning_samseg.online.learner import OnlineLearner
from lightning_samseg.online.learning import LOSSES, LearningConfig
from lightning_samseg.online.predictions import Prediction, SamAlone
from lightning_samseg.online.prefetch import Request, SamPrefetcher, images_in_pass, requests_of, sam_prefetcher
from lightning_samseg.online.prompter import Prompter, PrompterConfig
from lightning_samseg.online.row_files import read_updates
from lightning_samseg.online.scores import ImageRow
from lightning_samseg.online.step import Arrival, take_step
from lightning_samseg.online.stream_record import StreamRecord, gather_records, stream_record
from lightning_samseg.online.updates import Updates
from lightning_samseg.types import Query, Segmentation, StreamItem

# What is drawn for, beside the draws of the expert and the prompter; with the position every draw is independent.
NETWORK = 4
M = TypeVar("M", bound="AuxOl")


class AuxOl(Method):
    """SAM and an auxiliary network that learns from a stream, predict then learn.

    Where paper and published code differ, the default is the paper's, and both have a name.

    Args:
        sam: The frozen SAM.
        prompter: What its prompts are.
        auxiliary: The network.
        crop: What the network sees.
        fusion: Weight of SAM beside the network's.
        batch: What is learned from again.
        learning: Loss, optimizer, order.
        expert: Who rectifies, when, and how well.
        images_per_step: R: that many images of the stream are predicted with the weights as they are, then the network
            learns from all of them together (``online.step``). They are dealt out to the processes in turn; R is a
            multiple of their number, and the result does not depend on it. None: one image per process, which is the
            paper's step where there is one process.
        sam_alone: The column of SAM alone, and what ``expert.below_dice`` looks at. ``sum``: SAM's probabilities for
            the image's prompts are added and thresholded at 0.5. ``authors``: the same for boxes; for points their code
            adds each probability twice, in effect a threshold of 0.25. An adapted SAM answers once for all prompts.
        cache_gb: Largest size of the cache of SAM's logits in GB, shared by all runs; 0 for none.
        sam_batch: Images that SAM encodes together, ahead of the stream; None: 4 on a GPU, 1 on a CPU.
        convention: Metric convention; the paper's numbers follow ``aux_ol``.
        num_classes: Filled in from the data by the command line; a stream has one foreground.
        image_size: Filled in from the data by the command line; without use, see ``sam.size``.
        seed: Of the network's initial weights and of the shifts; filled in from ``seed_everything``.

    Raises:
        UserError: If arguments contradict each other or are out of range, or weights are missing.
    """

    uses_stream = True
    precisions = ("32-true", "bf16-mixed")
    held_by_checkpoint: ClassVar[Mapping[str, Any]] = {
        **{"auxiliary.encoder_weights": None, "prompter.file": None},
        "cache_gb": 0,
    }
    """The frozen SAM is not in it."""

    column = "aux_ol"
    """What learned, in tables and figures, see ``online.columns``."""

    def __init__(
        self,
        sam: SamConfig = SamConfig(),
        prompter: PrompterConfig = PrompterConfig(),
        auxiliary: AuxiliaryConfig = AuxiliaryConfig(),
        crop: CropConfig = CropConfig(),
        fusion: FusionConfig = FusionConfig(),
        batch: BatchConfig = BatchConfig(),
        learning: LearningConfig = LearningConfig(),
        expert: Expert = Expert(),
        images_per_step: int | None = None,
        sam_alone: Literal["sum", "authors"] = "sum",
        cache_gb: float = 8.0,
        sam_batch: int | None = None,
        convention: Literal["aux_ol", "strict"] = "aux_ol",
        num_classes: int = 1,
        image_size: int = 512,
        seed: int = 42,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        if images_per_step is not None and images_per_step < 1:
            raise UserError(f"images_per_step {images_per_step}", expected="at least 1", fix="use 1 as the paper does")
        self.prompter = Prompter(prompter, seed)
        self.prompt_kind, self.num_classes, self.image_size = prompter.kind, 1, image_size
        self.prompt_order, self.expert, self.convention, self.seed = learning.order, expert, convention, seed
        self._images_per_step = images_per_step
        self._sam_config = sam
        self.learner = self._build_learner(crop, Fusion(fusion), OnlineBatch(batch), learning)
        self.cache = LogitsCache(cache_dir() / "sam_logits", int(cache_gb * 1e9)) if cache_gb > 0 else None
        self._sam_batch = sam_batch
        self._sam: SamPrefetcher | None = None
        self.running = {"images": 0.0, **dict.fromkeys((SAM, CLIPPED, self.column), 0.0)}

    @cached_property
    def generalist(self) -> FrozenSam | AdaptedSam:
        """The frozen SAM; not a submodule, so that it belongs into no checkpoint."""
        sam = self._sam_config
        if sam.adapter is None:
            return FrozenSam(sam.backbone, sam.size, sam.checkpoint, sam.preprocessing)
        return AdaptedSam(sam.adapter, sam.backbone, sam.checkpoint)

    def frozen_sam(self, pretrained: bool = True) -> nn.Module:
        """The generalist."""
        sam = self._sam_config
        if not pretrained and sam.adapter is None and "generalist" not in vars(self):
            vars(self)["generalist"] = FrozenSam(sam.backbone, sam.size, None, sam.preprocessing, pretrained=False)
        return self.generalist

    def _build_learner(
        self, crop: CropConfig, fusion: Fusion, batch: OnlineBatch, learning: LearningConfig
    ) -> OnlineLearner:
        """What learns, from the constructor's arguments."""
        h: Any = self.hparams
        boxes = self.prompter.config.kind == "box"
        extra = ("mask" if boxes else "none") if crop.extra_channel == "auto" else crop.extra_channel
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(h.seed)
            self.auxiliary = build_auxiliary(AuxiliaryConfig(**h.auxiliary), in_channels=3 if extra == "none" else 4)
        network = CropNetwork(
            self.auxiliary,
            loss=LOSSES[learning.loss],
            lr=learning.lr,
            weight_decay=learning.weight_decay,
            crop_size=crop.size,
            extra_channel=None if extra == "none" else extra,
            crop_resize=crop.resize,
            precision=AuxiliaryConfig(**h.auxiliary).precision,
        )
        rule: SamAlone = "doubled" if h.sam_alone == "authors" and not boxes else "sum"
        return OnlineLearner(
            network,
            fusion,
            batch,
            sam_alone=rule if h.sam["adapter"] is None else "largest",
            step_per=learning.step_per,
            replay_without_feedback=learning.replay_without_feedback,
            updates=Updates(learning, self.seed),
        )

    @property
    def weights_sha256(self) -> str | None:
        """Hash of the generalist's weights."""
        return self.generalist.weights_sha256

    @property
    def images_per_step(self) -> int:
        """R, images of a step over all processes; the data module deals them out.

        Raises:
            UserError: If R is no multiple of the number of processes.
        """
        processes = 1 if self._trainer is None else self.trainer.world_size
        images = processes if self._images_per_step is None else self._images_per_step
        if images % processes:
            raise UserError(
                f"{images} images per step cannot be dealt out to {processes} processes.",
                fix=f"set --model.images_per_step to a multiple of {processes}, or to null for one per process",
            )
        return images

    @property
    def look_ahead(self) -> int:
        """Steps that SAM may encode together with the one that has come; the data module reads them ahead."""
        own = self.images_per_step // (1 if self._trainer is None else self.trainer.world_size)
        return -(-(images_in_pass(self.generalist, self._sam_batch) - 1) // own)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The learner's; it is stepped by the learner."""
        return self.learner.network.optimizer

    def on_fit_start(self) -> None:
        """Bring SAM to the device and find the images that a prompt file names.

        Raises:
            UserError: If the processes do not share one network whole, weights are of half precision or the loss would
                need a scale, there are several images per step for a batch of one entry, or a name of the prompt file
                is unknown.
        """
        if self.trainer.world_size > 1 and not isinstance(self.trainer.strategy, DDPStrategy):
            raise UserError("Every process holds the whole auxiliary network.", fix="set --trainer.strategy ddp")
        if self.trainer.precision not in self.precisions:
            raise UserError(
                f"AuxOl has float32 weights and does not scale its loss: no precision {self.trainer.precision}.",
                fix="set --trainer.precision bf16-mixed or 32-true",
            )
        if self.images_per_step > 1 and self.learner.batch.policy == "single":
            raise UserError(
                f"policy single learns from one crop at a time, not from {self.images_per_step} images per step.",
                fix="set --model.images_per_step 1 in a single process, or --model.batch.policy smallest_loss",
            )
        if (warning := self.generalist.prompt_warning(self.prompter.config.kind)) is not None:
            rank_zero_warn(warning)
        self.generalist.to(self.device)
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if data is None:  # a loader alone: the caller knows how many steps there are
            return
        places = data.stream_items()
        self._end_after(-(-len(places) // self.images_per_step))
        if self.prompter.file is not None:
            self.print(self.prompter.bind(place.item for place in places))

    def training_step(self, batch: StreamItem | list[StreamItem], batch_idx: int) -> dict[str, list[StreamRecord]]:
        """Predict this process's images of a step, record, then learn from them and from the other processes' images.

        Returns:
            ``records``: those of all images of the step in the order of the stream, on rank 0; elsewhere none.
        """
        items = batch if isinstance(batch, list) else [batch]
        first = items[0]["position"] // self.images_per_step * self.images_per_step
        self.seed_step(first)
        items = [item for item in items if item["cases"]]  # none where the stream has ended for this process
        start = time.perf_counter()
        prompts = [self.prompter.prompts_of(item) for item in items]
        arrivals = [self.arrival(item, places) for item, places in zip(items, prompts, strict=True)]
        ready = time.perf_counter()
        done = take_step(self.learner, self.expert, arrivals, self.prompt_order)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # the clock is to show when it has learned
        learned = time.perf_counter()
        own = [
            stream_record(each, item, places, self.convention)
            for each, item, places in zip(done, items, prompts, strict=True)
        ]
        records = gather_records(own, ready - start, learned - ready)
        self._log_running([each.image for each in records])
        self._count_step()
        return {"records": records}

    # Lightning counts calls of an optimizer. A step of the stream is worth none where nobody rectifies, and several
    # where an image has several prompts; ``global_step``, by which a run ends, is saved and goes on, is to count the
    # steps of the stream, and nothing public of Lightning lets it. These two methods are all that touches its loop.

    def _end_after(self, steps: int) -> None:
        """End with the stream: until the processes are known, each image counts as a step."""
        loop = self.trainer.fit_loop.epoch_loop
        loop.max_steps = min(loop.max_steps, steps)

    def _count_step(self) -> None:
        """Count a step of the stream."""
        steps = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        steps.increment_ready()
        steps.increment_completed()

    def seed_step(self, position: int) -> None:
        """Seed what a network with dropout draws while it learns from the step that begins at a position."""
        torch.manual_seed(_key(self.seed, NETWORK, position))

    def arrival(self, item: StreamItem, prompts: NDArray[np.float64]) -> Arrival:
        """Let SAM answer an image's prompts.

        Args:
            item: The image.
            prompts: As from ``Prompter.prompts_of``.
        """
        upcoming = requests_of(item.get("upcoming", ()), self.prompter)
        logits = self.sam_logits(item["original"], prompts, upcoming)
        image = torch.from_numpy(np.ascontiguousarray(item["original"].transpose(2, 0, 1)))
        case = item["cases"][0]
        crops = self.prompter.crops_of(prompts, logits, case)
        place = item.get("set_position")
        return Arrival(item["position"], image, logits, crops, item.get("reference"), case.source, place)

    def answer(self, queries: Sequence[Query]) -> list[Segmentation]:
        """Segment pictures by their prompts with what has been learned, and learn nothing."""
        return [self.predict_next(query, 0).as_segmentation() for query in queries]

    def predict_next(self, query: Query, position: int) -> Prediction:
        """Predict a picture by all of its prompts: the record to show, to correct and to learn from.

        Args:
            query: The picture.
            position: In the stream.
        """
        self.generalist.to(self.device)
        item = StreamItem(position=position, cases=[query.case], original=query.picture)
        asked = self.arrival(item, query.prompts)
        return self.learner.predict(asked.image, asked.sam_logits, asked.crops, asked.position)

    @torch.no_grad()
    def sam_logits(
        self, image: NDArray[np.uint8], prompts: NDArray[np.float64], upcoming: Iterable[Request] = ()
    ) -> Tensor:
        """SAM's logits for the prompts of an image, from the cache if it has them.

        Args:
            image: uint8 ``(H, W, 3)``.
            prompts: As from ``Prompter.prompts_of``.
            upcoming: The images that follow, of which SAM may encode some together with this one.

        Returns:
            Float ``(m, H, W)`` on the module's device.
        """
        geometry = self.generalist.geometry(image)
        if len(prompts) == 0:
            return torch.zeros(0, *geometry.original_size, device=self.device)

        if self._sam is None:
            precision = self.trainer.precision if self._trainer is not None else "32-true"
            self._sam = sam_prefetcher(
                self.generalist, self.prompter.config.kind, self._sam_batch, self.cache, precision
            )
        low_res = self._sam.logits(Request(image, prompts), upcoming).float()
        return self.generalist.of_prompts(low_res.to(self.device), geometry, prompts)

    def ask_frozen_sam(self, item: StreamItem) -> int:
        """Ask the generalist about an image."""
        self.sam_logits(item["original"], self.prompter.prompts_of(item))
        return images_in_pass(self.generalist, self._sam_batch)

    def resume_stream(self, prompts: Path) -> None:
        """Let what the run that was cut off had time for count again."""
        self.learner.updates.recorded = read_updates(prompts)

    def to_mid_run(self) -> None:
        """Fill the online batch with copies of what came first."""
        online = self.learner.batch
        crops, masks = online.tensors()
        while 0 < len(online) < online.capacity:
            online.insert(crops[0], masks[0], online.losses[0])

    def class_names_of(self, data: Any) -> list[str]:
        """The stream's one class."""
        names = super().class_names_of(data)
        return [getattr(data, "stream_class", None) or (names[0] if len(names) == 1 else "foreground")]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the rest of the stream depends on beside network and optimizer: batch, alphas, position.

        All of it is the same on every rank, so that rank 0's is enough.
        """
        super().on_save_checkpoint(checkpoint)
        state = {"running": dict(self.running), "images_per_step": self.images_per_step}
        checkpoint["online"] = {**self.learner.state_dict(weights=False), **state}

    @classmethod
    def from_checkpoint(cls: type[M], checkpoint: Mapping[str, Any], path: str | Path, weights: str | None = None) -> M:
        """As any method's, with what it has learned, beside the SAM that it has learned beside."""
        require(checkpoint, path, "hyper_parameters", "online", "weights_sha256")
        if weights is not None:
            arguments = dict(checkpoint["hyper_parameters"])
            arguments["sam"] = {**arguments.get("sam", {}), "checkpoint": weights}
            checkpoint = {**checkpoint, "hyper_parameters": arguments}
        method = super().from_checkpoint(checkpoint, path)
        if method.weights_sha256 != checkpoint["weights_sha256"]:
            raise UserError(
                f"{path} was trained beside another SAM: its weights are not part of the checkpoint.",
                expected=f"weights with sha256 {checkpoint['weights_sha256']}",
                found=str(method.weights_sha256),
                fix="give the file with --weights FILE, or see `python -m lightning_samseg weights list`",
            )
        method.learner.load_state_dict(checkpoint["online"])
        return method

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on where the checkpoint was written, bit for bit as the stream would have.

        One of ``annotate`` has no place in this stream: a new one begins with what it has learned.

        Raises:
            UserError: If the checkpoint's steps have another number of images, or a workspace has another SAM.
        """
        if WORKSPACE in checkpoint:
            if checkpoint["weights_sha256"] != self.weights_sha256:
                raise UserError(
                    "The workspace has learned beside another SAM.",
                    expected=f"weights with sha256 {checkpoint['weights_sha256']}",
                    found=str(self.weights_sha256),
                    fix="set --model.sam.backbone and --model.sam.checkpoint as in its workspace.json",
                )
            self.learner.load_state_dict({**checkpoint["online"], "position": 0})
            return
        images = checkpoint["online"]["images_per_step"]
        if images != self.images_per_step:
            raise UserError(
                "The checkpoint was written by a run with another number of images per step.",
                expected=f"{images} images per step over all processes",
                found=f"{self.images_per_step}",
                fix=f"set --model.images_per_step {images}, with as many processes or with any number that divides it",
            )
        self.learner.load_state_dict(checkpoint["online"])
        self.running = dict(checkpoint["online"]["running"])

    def add_up(self, rows: Iterable[ImageRow]) -> None:
        """Count images and their scores in ``running``, which a checkpoint keeps."""
        for row in rows:
            scores = {SAM: row.sam_dsc, CLIPPED: row.sam_clipped_dsc, self.column: row.learned_dsc}
            self.running["images"] += 1
            for column, dsc in scores.items():
                self.running[column] += dsc

    def _log_running(self, rows: list[ImageRow]) -> None:
        """Mean DSC so far, for the progress bar and the loggers; rank 0 has the rows."""
        self.add_up(rows)
        for column in (SAM, CLIPPED, self.column) if rows else ():
            mean = self.running[column] / self.running["images"]
            self.log(f"dsc/{column}", mean, prog_bar=column != CLIPPED, batch_size=1, rank_zero_only=True)
        if prompts := sum(row.prompts for row in rows):
            alpha = sum(row.alpha * row.prompts for row in rows if row.prompts) / prompts
            self.log("alpha", alpha, batch_size=1, rank_zero_only=True)


def _key(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
