"""What makes a training fit into a GPU's memory: the first of a few changes that does."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from lightning_samseg.planning.cost import Cost
from lightning_samseg.planning.steps import Load

RESERVE = 2**30
"""Bytes beside tensors that a GPU is assumed to need: its context, the kernels' work spaces, gaps in its memory."""


@dataclass(frozen=True)
class Change:
    """Options in the place of those of the configuration."""

    precision: str
    checkpointing: bool
    load: Load
    options: tuple[str, ...] = ()
    """As they are typed; none: the configuration as it is."""


def first_that_fits(
    memory: float,
    change: Change,
    cost: Callable[[Change], Cost],
    *,
    can_checkpoint: bool,
    bf16: bool = True,
    streams: bool = False,
) -> tuple[Change, Cost] | None:
    """Try what costs least first: precision, then recomputed blocks, then both, then ever smaller batches with both.

    Args:
        memory: GiB.
        change: The configuration as it is.
        cost: Of a change.
        can_checkpoint: Whether the method can recompute blocks.
        bf16: Whether bfloat16 may be tried.
        streams: Whether there is one image a step, so that no batch can be smaller.

    Returns:
        The first change that fits, and its cost; None where none does.
    """
    room = memory * 2**30 - RESERVE
    for each in _changes(change, can_checkpoint, bf16, streams):
        if (found := cost(each)).training <= room:
            return each, found
    return None


def _changes(start: Change, can_checkpoint: bool, bf16: bool, streams: bool) -> Iterator[Change]:
    yield start
    lower, recomputing = start, can_checkpoint and not start.checkpointing
    if bf16 and start.precision == "32-true":
        lower = replace(start, precision="bf16-mixed", options=("--trainer.precision bf16-mixed",))
        yield lower
    if recomputing:
        option = "--model.checkpointing true"
        yield replace(start, checkpointing=True, options=(option,))
        if lower is not start:
            lower = replace(lower, checkpointing=True, options=(*lower.options, option))
            yield lower
        else:
            lower = replace(start, checkpointing=True, options=(option,))
    load = lower.load
    while not streams and max(load.labelled, load.unlabelled) > 1:
        load = replace(load, labelled=_half(load.labelled), unlabelled=_half(load.unlabelled))
        sizes = (f"--data.labelled_batch_size {load.labelled}", f"--data.unlabelled_batch_size {load.unlabelled}")
        yield replace(lower, load=load, options=(*lower.options, *sizes))


def _half(count: int) -> int:
    return max(1, count // 2)
