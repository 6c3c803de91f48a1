"""Fusion of SAM's logits with the auxiliary network's, and the weight between them (Eqs. 1 and 3)."""

from collections import deque
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_samseg.errors import UserError
from lightning_samseg.losses.binary import UNKNOWN, soft_dice
from lightning_samseg.types import IGNORED

FeedbackSource = Literal["expert", "pseudo", "none"]

PIXELS_AT_ONCE = 2**22
"""Pixels times grid values in one piece of the search: 16 MiB of float32."""


def fuse(sam_logits: Tensor, aux_logits: Tensor, alpha: Tensor) -> Tensor:
    """``alpha * s + (1 - alpha) * u``, the logits inside Eq. 1; exactly ``s`` for alpha 1 and ``u`` for alpha 0.

    Args:
        sam_logits: ``s``, any shape.
        aux_logits: ``u``, the same shape.
        alpha: Broadcastable, in [0, 1].

    Returns:
        Fused logits.
    """
    return torch.lerp(aux_logits, sam_logits, alpha)


def optimal_alpha(sam_logits: Tensor, aux_logits: Tensor, target: Tensor, grid_step: float = 0.05) -> Tensor:
    """``alpha*`` of Eq. 3: the weight whose fusion has the largest soft Dice (smooth 1), by exhaustive search.

    Args:
        sam_logits: Float ``(h, w)`` inside the crop.
        aux_logits: Float ``(h, w)``.
        target: ``(h, w)``, bool or {0, 1}, or ``IGNORED`` where pixels do not count.
        grid_step: Distance of the values tried, from 0 to 1; divides 1.

    Returns:
        Float ``()`` on the device of the logits; the smallest of equally good values, as in the authors' code.
    """
    grid = weights(grid_step, sam_logits.device)
    dice = dice_of_weights(sam_logits, aux_logits, target, grid)
    return torch.where(dice == dice.amax(), grid, 1.0).amin()


def nearest_to_sam(dice: Tensor, grid: Tensor) -> Tensor:
    """The weight of the largest Dice, of equally good ones the largest: float ``()``, without waiting for a device."""
    return torch.where(dice == dice.amax(), grid, 0.0).amax()


def weights(grid_step: float, device: torch.device) -> Tensor:
    """The values of alpha that are tried, ``(G,)`` from 0 to 1."""
    return torch.linspace(0, 1, round(1 / grid_step) + 1, device=device)


def dice_of_weights(sam_logits: Tensor, aux_logits: Tensor, target: Tensor, grid: Tensor, hard: bool = False) -> Tensor:
    """Dice (smooth 1) of the fusion by each weight.

    Args:
        sam_logits: Float ``(h, w)`` inside the crop.
        aux_logits: Float ``(h, w)``.
        target: ``(h, w)``, bool or {0, 1}, or ``IGNORED`` where pixels do not count.
        grid: ``(G,)`` in [0, 1].
        hard: Of the mask, logits above 0, in place of the probabilities.

    Returns:
        ``(G,)`` in (0, 1].
    """
    target = torch.where(target == IGNORED, UNKNOWN, target.to(sam_logits.dtype)).unsqueeze(0)
    found = []
    for alphas in torch.split(grid, max(1, PIXELS_AT_ONCE // sam_logits.numel())):
        logits = fuse(sam_logits, aux_logits, alphas.view(-1, 1, 1))
        found.append(soft_dice((logits > 0).to(logits.dtype) if hard else logits.sigmoid(), target))
    return torch.cat(found)


@dataclass(frozen=True)
class FusionConfig:
    """Weight of SAM in the fusion: the arguments under ``fusion:``.

    Args:
        kind: ``fixed``: always ``alpha``. ``adaptive``: the mean of the last ``window`` best weights (Sec. 3.3). The
            paper calls fixed the default; the point rows of its Table 2 are the adaptive ones of Table 5.
            ``best_so_far``, which is ours: of the weights from ``alpha`` to 1 that which has gained most over SAM
            alone, by the mean Dice of the last ``window`` prompts' masks less its standard error; SAM alone before
            there are two. Where the network has not helped, SAM keeps its answer. A window of 20 is a good one.
        alpha: The fixed weight, and that before the first best weight with ``start`` half; with ``best_so_far`` SAM's
            least weight. The paper uses 0.5. Where SAM is a poor guide, let ``best_so_far`` go down to 0.
        window: ``K``; the paper uses 5.
        grid_step: Of the search for the best weight; not in the paper, the authors' is 0.05.
        start: Of ``adaptive``, with fewer than ``window`` best weights so far. ``half``: the mean of those there are,
            ``alpha`` if there is none. ``sam`` (authors): 1, that is SAM alone. The paper does not say.
        alpha_from: Which prompts have a best weight. ``rectified``: those that an expert rectified. ``every`` one
            (authors), which with partial feedback uses masks that nobody has drawn.

    Raises:
        UserError: A number outside its range, or a grid step that does not divide 1.
    """

    kind: Literal["fixed", "adaptive", "best_so_far"] = "fixed"
    alpha: float = 0.5
    window: int = 5
    grid_step: float = 0.05
    start: Literal["half", "sam"] = "half"
    alpha_from: Literal["rectified", "every"] = "rectified"

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 0 <= self.alpha <= 1:
            raise UserError(f"fusion: alpha {self.alpha}", expected="a number in [0, 1]", fix="use 0.5 as the paper")
        if self.window < 1:
            raise UserError(f"fusion: window {self.window}", expected="at least 1", fix="use 5 as the paper does")
        step = self.grid_step
        if not 0 < step <= 1 or abs(1 / step - round(1 / step)) > 1e-6:
            raise UserError(f"fusion: grid step {step}", expected="a number that divides 1", fix="use 0.05")


class Fusion:
    """The weight of SAM in the fusion, fixed or following the best weights of the prompts before."""

    def __init__(self, config: FusionConfig = FusionConfig()) -> None:
        self.config = config
        self._history: deque[Tensor] = deque(maxlen=config.window)

    def value(self, device: torch.device) -> Tensor:
        """Weight of SAM for the next instance: float ``()`` on the device, computed without waiting for it."""
        if self.config.kind == "best_so_far":
            return self._best_so_far(device)
        if self.config.kind == "fixed" or (self.config.start == "half" and not self._history):
            return torch.full((), self.config.alpha, device=device)
        if self.config.start == "sam" and len(self._history) < self.config.window:
            return torch.ones((), device=device)
        return torch.stack([alpha.to(device) for alpha in self._history]).mean()

    def _best_so_far(self, device: torch.device) -> Tensor:
        """The weight with the largest lower bound of its gain over SAM alone, which is surely 0 for SAM itself."""
        grid, prompts = weights(self.config.grid_step, device), len(self._history)
        if prompts < 2:
            return grid[-1]
        dice = torch.stack([each.to(device) for each in self._history])
        gain = dice - dice[:, -1:]
        bound = gain.mean(0) - gain.std(0) / prompts**0.5
        allowed = grid > self.config.alpha - 1e-6  # the grid is float32
        return nearest_to_sam(torch.where(allowed, bound, -torch.inf), grid)

    def wants(self, source: FeedbackSource) -> bool:
        """Whether an instance with feedback from this source has its alpha* searched for."""
        return self.config.kind != "fixed" and (self.config.alpha_from == "every" or source == "expert")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of what is remembered of an instance: alpha* alone, ``()``, or a Dice for each weight, ``(G,)``."""
        return (round(1 / self.config.grid_step) + 1,) if self.config.kind == "best_so_far" else ()

    def observe(self, sam_logits: Tensor, aux_logits: Tensor, target: Tensor) -> Tensor:
        """What ``remember`` takes of an instance; the arguments are those of ``optimal_alpha``."""
        if self.config.kind != "best_so_far":
            return optimal_alpha(sam_logits, aux_logits, target, self.config.grid_step)
        grid = weights(self.config.grid_step, sam_logits.device)
        return dice_of_weights(sam_logits, aux_logits, target, grid, hard=True)

    def remember(self, observed: Tensor) -> Tensor:
        """Append what ``observe`` has found to the history; give the instance's best weight, a float ``()``."""
        self._history.append(observed)
        if not self.shape:
            return observed
        return nearest_to_sam(observed, weights(self.config.grid_step, observed.device))

    def state_dict(self) -> dict[str, Any]:
        """What is remembered, oldest first, as a float tensor ``(n, *shape)`` with n at most ``window``."""
        if not self._history:
            return {"history": torch.empty(0, *self.shape)}
        device = self._history[-1].device  # after resuming, older ones may still be on the host
        return {"history": torch.stack([alpha.to(device) for alpha in self._history])}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore ``state_dict()``; of a longer history the newest ``window`` values.

        Raises:
            UserError: What was remembered is for another kind of fusion or another grid.
        """
        if len(state["history"]) and state["history"].shape[1:] != self.shape:
            raise UserError(
                "What this fusion remembers of its last prompts is of another kind.",
                expected=f"{self.config.kind}, in steps of {self.config.grid_step}",
                found=f"values of shape {tuple(state['history'].shape[1:])}",
                fix="go on with the fusion.kind and fusion.grid_step that it was begun with",
            )
        self._history = deque(state["history"].clone().unbind(), maxlen=self.config.window)
