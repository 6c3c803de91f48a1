"""What a method needs, found out by running it on tensors without content: no GPU, no memory, no weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lightning
import torch

from lightning_samseg.methods import Method
from lightning_samseg.methods.groups import defaults
from lightning_samseg.models.meter import Meter
from lightning_samseg.online.prefetch import PASS_ON_GPU
from lightning_samseg.planning.fake import forget_files, shapes_only
from lightning_samseg.planning.steps import STEPS, Load, Steps


@dataclass(frozen=True)
class Cost:
    """What a method needs, in bytes where nothing else is said."""

    parameters: int
    """Number of them, a frozen SAM beside the method included."""
    held: int
    """Number of those that are in its checkpoints: all but a frozen SAM's beside it."""
    trained: int
    """Number of those that are trained."""
    gflop: float
    """10^9 operations of a training step; of a stream's for an image with one prompt, SAM's included."""
    sam_gflop: float
    """The part of the frozen SAM in a stream's step, which a cache of logits saves."""
    training: int
    """Peak of training: weights, gradients, the optimizer's state, and what a step makes."""
    prediction: int
    """Peak of prediction: weights, and what a batch of images makes."""


def dry_run(kind: type[Method], arguments: Mapping[str, Any], load: Load, precision: str = "32-true") -> Cost:
    """Cost of a method by two training steps and a prediction.

    The device is a fake CPU: its operations make what a GPU's make, up to the work spaces of kernels and the rules by
    which autocast chooses types.

    Args:
        kind: The method.
        arguments: Of its constructor; with ``num_classes`` and ``image_size``.
        load: How much goes into a step.
        precision: ``32-true``, ``bf16-mixed`` or ``16-mixed``.

    Raises:
        UserError: If the method refuses its arguments or the precision.
    """
    with shapes_only(int(arguments.get("num_classes", 1))), Meter() as meter:
        method = build(kind, arguments)
        forget_files()
        steps = Steps(method, load, precision)
        meter.start_anew()
        steps.predict()
        prediction, watch = meter.peak, Watch(meter)
        method.train()
        trainer = steps.fit(watch)
        training = meter.peak
        held = _of_checkpoint(method, trainer.optimizers)
        frozen = method.frozen_sam()
        parameters = held if frozen is None else held | set(frozen.parameters())
        gflop, sam_gflop = watch.gflop, 0.0
        if method.uses_stream:
            sam_gflop, in_pass = _sam_gflop(method, steps, meter)
            gflop += sam_gflop - in_pass  # each of these steps made a pass, each of a run its share of one
    return Cost(
        sum(each.numel() for each in parameters),
        sum(each.numel() for each in held),
        sum(each.numel() for each in parameters if each.requires_grad),
        gflop,
        sam_gflop,
        training,
        prediction,
    )


def build(kind: type[Method], arguments: Mapping[str, Any]) -> Method:
    """Make a method, and the frozen SAM beside it, with random weights where pretrained ones would be read.

    Args:
        kind: The method.
        arguments: Of its constructor, groups as plain tables.
    """
    # What neither changes the memory much nor can be done without a compiler, or without data.
    given = {**arguments, **{name: False for name in ("compile", "encode_once") if name in arguments}}
    if "sam_batch" in defaults(kind) and given.get("sam_batch") is None:
        given["sam_batch"] = PASS_ON_GPU
    method = kind.without_weights(given)
    method.frozen_sam(pretrained=False)
    return method


class Watch(lightning.Callback):
    """Reads a meter around each step: the peak of all of them, and the operations of the last.

    Args:
        meter: Which is running.
    """

    def __init__(self, meter: Meter) -> None:
        self.meter, self.gflop = meter, 0.0

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Begin to count."""
        if batch_idx == 0:
            self.meter.start_anew()
        self._before = self.meter.flops

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Take down."""
        self.gflop = (self.meter.flops - self._before) / 1e9


def _of_checkpoint(method: Method, optimizers: Sequence[torch.optim.Optimizer]) -> set[torch.Tensor]:
    """What an optimizer has may be no submodule, as DirectOL's adapter."""
    trained = [each for optimizer in optimizers for group in optimizer.param_groups for each in group["params"]]
    return {*method.parameters(), *trained}


def _sam_gflop(method: Method, steps: Steps, meter: Meter) -> tuple[float, float]:
    """Of an image, and of a pass of several; 0 where a step does not ask SAM."""
    before = meter.flops
    images = method.ask_frozen_sam(steps.item(STEPS + 1))
    in_pass = (meter.flops - before) / 1e9
    return (in_pass / images, in_pass) if images else (0.0, 0.0)
