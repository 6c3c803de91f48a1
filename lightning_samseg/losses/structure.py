"""PraNet's structure loss: cross-entropy and IoU, weighted towards pixels whose surroundings differ from them."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from lightning_samseg.losses.binary import mean_cross_entropy

WINDOW = 31
"""Side of the averaging window in pixels of the network output."""
EMPHASIS = 5.0
"""Weight of a pixel is 1 + EMPHASIS * |mean of the window - pixel|."""


def structure_loss(logits: Tensor, target: Tensor, bce: Literal["weighted", "plain"] = "weighted") -> Tensor:
    """Weighted BCE plus weighted IoU loss (Fan et al., PraNet, MICCAI 2020), one value per entry.

    Weights are ``1 + 5 |avgpool31(y) - y|``; beyond the border counts as background. The IoU term is
    ``1 - (I + 1) / (U - I + 1)`` with ``I = sum(w p y)`` and ``U = sum(w (p + y))``. Pixels that are ``UNKNOWN`` have
    weight 0 and are left out of the means over windows.

    Args:
        logits: Float ``(N, 1, h, w)``.
        target: Float ``(N, 1, h, w)`` in {0, 1, UNKNOWN}.
        bce: ``weighted``: the cross-entropy's weighted mean, as meant. ``plain``: its plain mean, which is what AuxOL's
            and PraNet's code compute through ``reduce='none'``, a string that PyTorch reads as "reduce: yes".

    Returns:
        ``(N,)``. The mean over entries of equal size equals the authors' scalar.
    """
    logits = logits.float()
    unknown = target < 0
    labels, target = target, target.clamp(min=0)
    shares = (F.avg_pool2d(each, WINDOW, stride=1, padding=WINDOW // 2) for each in (target, unknown.float()))
    surroundings, hidden = shares
    surroundings = surroundings / (1 - hidden).clamp(min=0.5 / WINDOW**2)
    weight = (1 + EMPHASIS * (surroundings - target).abs()).masked_fill(unknown, 0)
    if bce == "weighted":
        cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        entropy_term = (weight * cross_entropy).flatten(1).sum(1) / weight.flatten(1).sum(1).clamp(min=1)
    else:
        entropy_term = mean_cross_entropy(logits, labels)
    probability = logits.sigmoid()
    overlap = (weight * probability * target).flatten(1).sum(1)
    size = (weight * (probability + target)).flatten(1).sum(1)
    return entropy_term + 1 - (overlap + 1) / (size - overlap + 1)
