"""The online batch: which rectified crops AuxOL keeps learning from (Sec. 3.2, Listing 1 lines 11 to 18)."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_samseg.errors import UserError

Policy = Literal["smallest_loss", "fifo", "single"]
NOT_INSERTED = -1


@dataclass(frozen=True)
class BatchConfig:
    """The online batch: the arguments under ``batch:``.

    Args:
        capacity: ``k``, entries at most; the paper uses 32.
        policy: What goes when the batch is full. ``smallest_loss`` (paper): the entry with the smallest last loss, if
            that is at most the new entry's loss, else the new entry; of equal losses the lower index goes. ``fifo``
            (authors' code): the oldest entry. ``single`` (the comparison of Tables 3 and 4): there is one entry, the
            newest, whatever the capacity.

    Raises:
        UserError: The capacity is less than 1.
    """

    capacity: int = 32
    policy: Policy = "smallest_loss"

    def __post_init__(self) -> None:
        """Check the capacity."""
        if self.capacity < 1:
            raise UserError(f"online batch: capacity {self.capacity}", expected="at least 1", fix="use 32 as the paper")


class OnlineBatch:
    """Crops with their masks and last losses.

    Storage is allocated once, on the device of the first crop, and ``tensors`` are views of it. Nothing here waits for
    the device: the replacement rule runs there too. Its price is one read and write of a crop and its mask (0.3 MB for
    4 channels of 128 x 128) where a comparison on the host would wait for the previous step to finish.
    """

    def __init__(self, config: BatchConfig = BatchConfig()) -> None:
        self.policy = config.policy
        self.capacity = 1 if config.policy == "single" else config.capacity
        self._inserted = 0
        self._crops = self._masks = self._losses = torch.empty(0)

    def __len__(self) -> int:
        """Entries held."""
        return min(self._inserted, self.capacity)

    def insert(self, crop: Tensor, mask: Tensor, loss: Tensor) -> Tensor:
        """Offer a new entry.

        Args:
            crop: Float ``(C, S, S)``, what the network saw.
            mask: Float ``(1, S, S)`` in {0, 1, UNKNOWN}.
            loss: Float ``()``, of the prediction made before any update.

        Returns:
            int64 ``()`` on the crop's device: the index written, or -1 where the batch stayed as it was.
        """
        if self._crops.numel() == 0:
            self._allocate(crop, mask)
        self.to(crop.device)
        if self.policy == "smallest_loss" and self._inserted >= self.capacity:
            smallest = self._losses.amin()
            indices = torch.arange(self.capacity, device=crop.device)
            # Not argmin: which of several minima it finds is not defined. The clamp is for losses that are NaN.
            index = torch.where(self._losses == smallest, indices, self.capacity - 1).amin()
            replace = smallest <= loss
        else:
            index = torch.full((), self._inserted % self.capacity, device=crop.device)
            replace = torch.ones((), dtype=torch.bool, device=crop.device)
            self._inserted += 1
        for store, new in ((self._crops, crop), (self._masks, mask), (self._losses, loss)):
            old = store.index_select(0, index.view(1))
            store.index_copy_(0, index.view(1), torch.where(replace, new.detach().unsqueeze(0), old))
        return torch.where(replace, index, NOT_INSERTED)

    def update(self, losses: Tensor, entries: Tensor | None = None) -> None:
        """Store the losses of the latest forward pass as the entries' last losses.

        Args:
            losses: Float ``(n,)``.
            entries: int64 ``(n,)``, whose losses they are; None: all entries'.
        """
        if entries is None:
            self._losses[: len(self)] = losses.detach()
        else:
            self._losses.index_copy_(0, entries, losses.detach())

    def tensors(self, entries: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Crops ``(n, C, S, S)`` and masks ``(n, 1, S, S)``, not to be written to.

        Args:
            entries: int64 ``(n,)``, which; None: all, as views.
        """
        if entries is None:
            return self._crops[: len(self)], self._masks[: len(self)]
        return self._crops.index_select(0, entries), self._masks.index_select(0, entries)

    @property
    def losses(self) -> Tensor:
        """Last losses ``(n,)``: a view, not to be written to."""
        return self._losses[: len(self)]

    def to(self, device: torch.device) -> None:
        """Move the storage, if it is elsewhere."""
        self._crops, self._masks, self._losses = (
            store.to(device) for store in (self._crops, self._masks, self._losses)
        )

    def state_dict(self) -> dict[str, Any]:
        """Copies of the entries, and how many were inserted in all; loadable with ``weights_only=True``."""
        crops, masks = self.tensors()
        return {
            "crops": crops.clone(),
            "masks": masks.clone(),
            "losses": self.losses.clone(),
            "inserted": self._inserted,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore ``state_dict()``.

        Args:
            state: From a batch of the same policy and capacity, or from one that was not yet full.

        Raises:
            UserError: The state has more or fewer entries than this batch would have.
        """
        count = len(state["losses"])
        if count != min(state["inserted"], self.capacity):
            raise UserError(
                "the checkpoint's online batch is of another size",
                expected=f"capacity {self.capacity} ({self.policy})",
                found=f"{count} entries after {state['inserted']} insertions",
                fix="resume with the capacity and policy of the run that wrote the checkpoint",
            )
        self._inserted = state["inserted"]
        self._crops = self._masks = self._losses = torch.empty(0)
        if count:
            self._allocate(state["crops"][0], state["masks"][0])
            self._crops[:count] = state["crops"]
            self._masks[:count] = state["masks"]
            self._losses[:count] = state["losses"]

    def _allocate(self, crop: Tensor, mask: Tensor) -> None:
        self._crops = crop.new_zeros(self.capacity, *crop.shape)
        self._masks = mask.new_zeros(self.capacity, *mask.shape)
        self._losses = crop.new_zeros(self.capacity)
