"""What methods that learn from batches share: optimizer, schedule, an evaluation of whole cases at their own size."""

from collections.abc import Sequence
from typing import Any, Literal
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from lightning_samseg.io.geometry import resize_labels
from lightning_samseg.methods.method import Method
from lightning_samseg.metrics import CaseScores
from lightning_samseg.metrics.on_device import likeliest
from lightning_samseg.optim import OptimizerConfig, build_optimizer
from lightning_samseg.transforms import to_original_size
from lightning_samseg.types import Batch, Case, Query, Segmentation

Restore = Literal["probabilities", "labels"]


class BaseMethod(Method):
    """A segmentation method. A subclass builds its network, a ``training_step`` and :meth:`predict_probabilities`.

    Args:
        num_classes: C, foreground classes; the command line fills it in from the data.
        image_size: S, side of the network input in pixels; the command line fills it in from the data.
        seed: Base of every random draw of the method; the command line fills it in from ``seed_everything``.
        optimizer: Optimizer and schedule.
        convention: Metric convention: ``strict``, ``cpc_sam`` or ``aux_ol``.
        restore: How a prediction comes back to the original size: ``probabilities`` are interpolated bilinearly before
            the argmax; ``labels`` takes the argmax first and its nearest neighbour after, as CPC-SAM's code does.
    """

    def __init__(
        self,
        num_classes: int = 1,
        image_size: int = 512,
        seed: int = 42,
        optimizer: OptimizerConfig = OptimizerConfig(),
        convention: Literal["strict", "cpc_sam", "aux_ol"] = "strict",
        restore: Restore = "probabilities",
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.image_size = image_size
        self.seed = seed
        self.optimizer = optimizer
        self.restore: Restore = restore
        self.val_scores = CaseScores(num_classes, convention)
        self.test_scores = CaseScores(num_classes, convention)

    @property
    def schedule_iters(self) -> int:
        """Iterations of the schedule."""
        return self.optimizer.max_iters or self.trainer.max_steps

    @property
    def batches_done(self) -> int:
        """Batches that have been learned from, also before a resumed run was interrupted."""
        if self._trainer is None:
            return 0
        return int(self.trainer.fit_loop.epoch_loop.batch_progress.total.processed)  # type: ignore[attr-defined]

    def draw_seed(self, purpose: str, same_on_all_ranks: bool = False) -> int:
        """Seed of this iteration's random draws for one purpose, keyed by counters alone: a resumed run repeats it.

        Args:
            purpose: Any name; each has draws of its own.
            same_on_all_ranks: Whether all processes draw the same.
        """
        # Batches, not optimizer steps: with accumulated gradients several batches make one step.
        batches = self.batches_done
        rank = 0 if same_on_all_ranks else self.global_rank
        key = np.random.SeedSequence((self.seed, batches, rank, crc32(purpose.encode())))
        return int(key.generate_state(1, np.uint64)[0] >> 1)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed what draws from PyTorch's global generator, such as dropout, so that a resumed run draws the same."""
        torch.manual_seed(self.draw_seed("global"))

    def predict_probabilities(self, image: Tensor) -> Tensor:
        """Class probabilities ``(B, K, S, S)`` of ``(B, 3, S, S)``, without any prompt."""
        raise NotImplementedError

    def answer(self, queries: Sequence[Query]) -> list[Segmentation]:
        """Predict one batch of network inputs; the labels are those of :meth:`predict_labels`."""
        found = self.predict_probabilities(torch.stack([query.image for query in queries]).to(self.device))
        return [_answer(each, query.case, self.restore) for each, query in zip(found, queries, strict=True)]

    def predict_labels(self, batch: Batch) -> list[np.ndarray]:
        """Label maps uint8 ``(H, W)`` at the original size of every image of the batch."""
        probabilities = self.predict_probabilities(batch["image"])
        return [restore_size(p, case, self.restore) for p, case in zip(probabilities, batch["cases"], strict=True)]

    def validation_step(self, batch: Batch, batch_idx: int) -> list[np.ndarray]:  # type: ignore[override]
        """Collect the scores of one batch; the label maps go to the callbacks that draw them."""
        predictions = self.predict_labels(batch)
        self.val_scores.update(batch["cases"], predictions, batch["reference"])
        return predictions

    def on_validation_epoch_end(self) -> None:
        """Log the means over cases and classes; a mean that does not exist is left out."""
        self._log_summary("val", self.val_scores.compute().summary())
        self.val_scores.reset()

    def test_step(self, batch: Batch, batch_idx: int) -> list[np.ndarray]:  # type: ignore[override]
        """Collect the scores of one batch; the label maps go to the callbacks that draw them."""
        predictions = self.predict_labels(batch)
        self.test_scores.update(batch["cases"], predictions, batch["reference"])
        return predictions

    def on_test_epoch_start(self) -> None:
        """Forget the scores of an earlier test: they stay readable until then."""
        self.test_scores.reset()

    def on_test_epoch_end(self) -> None:
        """Log the means; the callback ``ResultsWriter`` reads the table from ``test_scores``."""
        self._log_summary("test", self.test_scores.compute().summary())

    def predict_step(self, batch: Batch, batch_idx: int) -> list[np.ndarray]:
        """Label maps at the original size."""
        return self.predict_labels(batch)

    def _log_summary(self, stage: str, summary: dict[str, Any]) -> None:
        for name in ("dsc", "jc", "hd95", "asd"):
            if summary[name] is not None:
                # CaseScores has gathered all ranks already: every rank holds the same number.
                self.log(f"{stage}/{name}", summary[name], prog_bar=name == "dsc", sync_dist=True)
        empty, expected = summary["empty_predictions"], summary["num_cases"] * len(summary["per_class"])
        self.log(f"{stage}/empty_predictions", float(empty), sync_dist=True)
        self.log(f"{stage}/empty_fraction", empty / max(expected, 1), sync_dist=True)

    def configure_optimizers(self) -> Any:
        """The optimizer on what is trained, with the schedule stepped every iteration."""
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return build_optimizer(self.optimizer, trained, self.schedule_iters)


def restore_probabilities(probabilities: Tensor, case: Case) -> Tensor:
    """Interpolate one prediction bilinearly from the network's frame to the source image's.

    Args:
        probabilities: ``(K, S, S)``.
        case: Tells which part of the frame is image, and its original size.

    Returns:
        float32 ``(K, H, W)``.
    """
    return to_original_size(probabilities.float(), probabilities.shape[-1], case)


def restore_size(probabilities: Tensor, case: Case, how: Restore) -> np.ndarray:
    """Bring one prediction from the network's frame back to the source image's.

    Args:
        probabilities: ``(K, S, S)``.
        case: Tells which part of the frame is image, and its original size.
        how: See :class:`BaseMethod`.

    Returns:
        uint8 ``(H, W)`` class ids.
    """
    if how == "labels":
        height, width = case.content_size
        return resize_labels(_labels(probabilities[:, :height, :width].float()), case.original_size, case.geometry)
    return _labels(restore_probabilities(probabilities, case))


def _answer(probabilities: Tensor, case: Case, how: Restore) -> Segmentation:
    restored = restore_probabilities(probabilities, case)
    return Segmentation(restore_size(probabilities, case, how) if how == "labels" else _labels(restored), restored)


def _labels(probabilities: Tensor) -> np.ndarray:
    # Labels are made where the probabilities are: a byte a pixel goes to the host, not K numbers.
    return likeliest(probabilities[None])[0].to(torch.uint8).cpu().numpy()
