"""Which images come when: endless training streams that can be resumed anywhere, and evaluation by whole cases.

All samplers yield whole batches as lists of ``(index, position)`` and are used with ``DataLoader(batch_size=None)``.
They are ``DistributedSampler``s so that Lightning leaves them alone: they already know their rank.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from lightning_samseg.errors import UserError

Keys = list[tuple[int, int]]
"""One batch: for each image its index in the data set and its position in the stream."""


class StreamSampler(DistributedSampler[Any]):
    """Endless concatenation of permutations of the data set, a pure function of the seed and the step.

    Position ``g`` of the stream is element ``g % n`` of permutation ``g // n``. At step ``t``, rank ``r`` of ``R``
    takes the positions ``(t * R + r) * batch_size + 0..batch_size-1``: ranks never overlap, every image is seen once
    before any is seen twice, and nothing but ``t`` is needed to go on.

    Args:
        dataset: The images of the stream.
        batch_size: Images per step and rank.
        num_batches: What ``len`` tells Lightning; iteration itself does not end.
        seed: Seed of the run.
        stream: Number of the stream, so that streams of one seed differ.
        rank: This process.
        world_size: Number of processes.
        start: Asked whenever iteration begins: the step to begin at.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        batch_size: int,
        num_batches: int,
        *,
        seed: int,
        stream: int,
        rank: int = 0,
        world_size: int = 1,
        start: Callable[[], int] = lambda: 0,
    ) -> None:
        super().__init__(dataset, num_replicas=world_size, rank=rank, shuffle=False, seed=seed)
        self.batch_size, self.num_batches, self.stream, self.start = batch_size, num_batches, stream, start
        self.size = len(dataset)  # type: ignore[arg-type]
        self._permutation: tuple[int, np.ndarray] = (-1, np.empty(0, dtype=np.int64))

    def __len__(self) -> int:
        """Batches per rank that training will ask for."""
        return self.num_batches

    def __iter__(self) -> Iterator[Keys]:
        """Yield this rank's batches from the step that ``start`` names, without end."""
        return self._from(self.start())

    def batch(self, step: int) -> Keys:
        """Give this rank's batch of one step."""
        first = (step * self.num_replicas + self.rank) * self.batch_size
        return [(self._index(position), position) for position in range(first, first + self.batch_size)]

    def _from(self, step: int) -> Iterator[Keys]:
        while True:
            yield self.batch(step)
            step += 1

    def _index(self, position: int) -> int:
        number, place = divmod(position, self.size)
        if self._permutation[0] != number:
            generator = np.random.default_rng((self.seed, self.stream, number))
            self._permutation = number, generator.permutation(self.size)
        return int(self._permutation[1][place])


def check_world_size(images: int, contents: str, batch_size: int, world_size: int) -> None:
    """Raise UserError if several processes ask for more images in a step than there are, so that some would be twice.

    Args:
        images: Of the stream.
        contents: ``labelled`` or ``unlabelled``.
        batch_size: Images per step and process.
        world_size: Number of processes.
    """
    if world_size > 1 and batch_size * world_size > images:
        raise UserError(
            f"{images} {contents} images cannot feed {world_size} processes.",
            expected=f"at least {batch_size * world_size}: data.{contents}_batch_size is that of each process",
            found=str(images),
            fix=f"use fewer devices or nodes, or a smaller --data.{contents}_batch_size",
        )


class CaseSampler(DistributedSampler[Any]):
    """Every image once, in order, with whole cases on one rank; no padding and no duplicates.

    Args:
        dataset: The images.
        case_ids: Case of each image; images of a case must be neighbours.
        batch_size: Images per batch.
        rank: This process; it takes every ``world_size``-th case.
        world_size: Number of processes.
    """

    def __init__(
        self, dataset: Dataset[Any], case_ids: list[str], batch_size: int, rank: int = 0, world_size: int = 1
    ) -> None:
        super().__init__(dataset, num_replicas=world_size, rank=rank, shuffle=False)
        order = {case_id: number for number, case_id in enumerate(dict.fromkeys(case_ids))}
        own = [index for index, case_id in enumerate(case_ids) if order[case_id] % world_size == rank]
        self.batches: list[Keys] = [
            [(index, index) for index in own[first : first + batch_size]] for first in range(0, len(own), batch_size)
        ]

    def __len__(self) -> int:
        """Batches of this rank; ranks may differ."""
        return len(self.batches)

    def __iter__(self) -> Iterator[Keys]:
        """Yield this rank's batches."""
        return iter(self.batches)


class Failure(NamedTuple):
    """A ``UserError`` on its way out of a worker process, where PyTorch would bury it in a traceback."""

    message: str


class Loader(DataLoader[Any]):
    """A ``DataLoader`` that raises the ``UserError`` of a worker as such, and completes batches in the main process."""

    def __iter__(self) -> Any:
        """Yield batches; worker processes start at once."""
        return _delivered(super().__iter__())


class StreamLoader(Loader):
    """A ``Loader`` that Lightning may resume in the middle: its position is the trainer's number of batches done.

    What it adds to a checkpoint is the identity of its stream, so that a run is not continued on other data by mistake.
    """

    identity = ""

    def state_dict(self) -> dict[str, str]:
        """Identity of the stream."""
        return {"identity": self.identity}

    def load_state_dict(self, state: dict[str, str]) -> None:
        """Compare the identity of the stream with the checkpoint's.

        Raises:
            UserError: If the checkpoint belongs to another set of training images, another order, or another seed.
        """
        if state["identity"] != self.identity:
            raise UserError(
                "The checkpoint was made with other training images, so the run cannot be continued with these.",
                expected=state["identity"],
                found=self.identity,
                fix="continue with the same data, data.num_labelled, data.split and data.seed, or start a new run",
            )


def _delivered(batches: Iterator[Any]) -> Iterator[Any]:
    for batch in batches:
        if isinstance(batch, Failure):
            raise UserError.__new__(UserError, batch.message)  # the message is complete: nothing to add
        # Three equal channels and wide integers are not worth carrying from process to process.
        if "image" in batch:
            batch["image"] = batch["image"].expand(-1, 3, -1, -1)  # equal channels share their memory
        if "mask" in batch:
            batch["mask"] = batch["mask"].long()
        yield batch


def in_worker() -> bool:
    """Whether this code runs in a worker process of a ``DataLoader``."""
    return torch.utils.data.get_worker_info() is not None
