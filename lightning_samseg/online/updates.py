"""The updates that follow what was learned: how many, on which entries of the online batch, and until when."""

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from lightning_samseg.online.batch import OnlineBatch
from lightning_samseg.online.distributed import maxima, rank_and_size
from lightning_samseg.online.learning import LearningConfig

# What is drawn for, beside the draws of the expert, the prompter and the network.
ENTRIES = 5


class Updates:
    """Updates an online network on the batch; the paper makes one on all entries (Listing 1, lines 16 to 19).

    Args:
        config: ``update_entries``, ``entries``, ``updates_per_prompt`` and ``seconds_per_image`` are looked at;
            None: the paper's.
        seed: Of the draws.
        clock: Seconds, from anywhere.
    """

    def __init__(
        self,
        config: LearningConfig | None = None,
        seed: int = 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.config, self.seed, self.clock = config or LearningConfig(), seed, clock
        self.made = 0
        """Updates since the stream began: every draw is independent of the others."""
        self.recorded: dict[tuple[int, int], int] = {}
        """By position and number of a prompt, how many updates an earlier run had time for; looked at instead of the
        clock where ``seconds_per_image`` is set."""
        self._images: set[int] = set()
        self._spent = 0.0

    def make(
        self,
        update: Callable[[Tensor, Tensor], Tensor],
        batch: OnlineBatch,
        prompts: Sequence[tuple[int, int]],
        new: Sequence[Tensor],
    ) -> tuple[int, int]:
        """Make the updates that follow some prompts; all ranks together.

        Waits for the device where there is a time limit.

        Args:
            update: Makes one step on crops and targets, and gives the losses before it.
            batch: At least one entry.
            prompts: Position of the image and number, of each prompt that was learned from.
            new: int64 ``()`` each, the entries just written; -1 where the batch stayed as it was.

        Returns:
            How many were made, and how many there was no time for.
        """
        images = {position for position, _ in prompts}
        if not images <= self._images:  # else a later turn of the same images
            self._images, self._spent = images, 0.0
        recorded, made = self.recorded.pop(prompts[0], None), 0
        while made < self.config.updates_per_prompt and self._goes_on(made, recorded):
            start = self.clock()
            entries = self._choose(batch, new)
            batch.update(update(*batch.tensors(entries)), entries)
            made += 1
            self.made += 1
            if self.config.seconds_per_image is not None:
                if batch.losses.device.type == "cuda":
                    torch.cuda.synchronize(batch.losses.device)
                self._spent += self.clock() - start
        return made, self.config.updates_per_prompt - made

    def _goes_on(self, made: int, recorded: int | None) -> bool:
        """Whether there is time for another update; rank 0 knows."""
        if self.config.seconds_per_image is None:
            return True
        if recorded is not None:
            left = made < recorded
        else:
            left = self._spent == 0 or self._spent < self.config.seconds_per_image * len(self._images)
        return bool(maxima(int(left and rank_and_size()[0] == 0))[0])

    def _choose(self, batch: OnlineBatch, new: Sequence[Tensor]) -> Tensor | None:
        """The entries to learn from, ascending: int64 ``(n,)`` on the batch's device, without waiting; None: all."""
        count = self.config.update_entries
        if count is None or count >= len(batch):
            return None
        rank = batch.losses
        if self.config.entries == "drawn":
            drawn = np.random.default_rng((self.seed, ENTRIES, self.made)).random(len(batch), np.float32)
            rank = torch.from_numpy(drawn).to(rank.device, non_blocking=True)
            indices = torch.arange(len(batch), device=rank.device)
            for slot in new:
                rank = torch.where(indices == slot, 1.0, rank)  # above every draw
        return rank.sort(descending=True, stable=True).indices[:count].sort().values
