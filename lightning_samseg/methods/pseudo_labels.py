"""What CPC-SAM's prompts and pseudo labels are worth on images whose masks are known, for a look at a finished run.

Nothing is learned from these masks. Where they are those of the run's unlabelled images, they tell why it gained, or
did not: pseudo labels teach nothing that the unprompted outputs do not know already unless they are better.
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from lightning_samseg.methods.cpc_sam import CpcSam
from lightning_samseg.metrics.on_device import agreement, confidence
from lightning_samseg.prompts.points import ClassPoints
from lightning_samseg.types import Batch


@torch.no_grad()
def examine(method: CpcSam, batches: Iterable[Batch]) -> dict[str, float]:
    """Means over images and branches, at the network's size.

    Args:
        method: In evaluation mode, with two branches that prompt each other.
        batches: With ``mask``; not augmented.

    Returns:
        ``unprompted_dsc`` and ``ensemble_dsc`` of each branch and of their mean, ``centre_dsc`` and ``random_dsc`` of
        the prompted outputs, ``pseudo_dsc`` of the pseudo labels; ``agreement``, DSC between the two branches;
        ``empty`` and ``empty_pseudo``, shares without foreground; ``centre_inside`` and ``random_inside``, shares of
        the objects' points that lie in the true object; ``confidence`` of the pseudo labels. DSC is pooled over the
        classes of an image. All in [0, 1].
    """
    rows: list[dict[str, float]] = []
    for batch in batches:
        images, masks = batch["image"], batch["mask"]
        embeddings = method.encode(images)
        logits = [method.decode(embeddings, branch).float() for branch in method.branches]
        guesses = [each.argmax(1) for each in logits]
        ensemble = torch.stack([each.softmax(1) for each in logits]).mean(0).argmax(1)
        shared = [
            {"ensemble_dsc": _dsc(ensemble[i], masks[i]), "agreement": _dsc(guesses[0][i], guesses[-1][i])}
            for i in range(len(images))
        ]
        for branch in method.branches:
            prompting = guesses[method.other(branch)]
            rngs = [np.random.default_rng((method.seed, branch, len(rows), i)) for i in range(len(images))]
            points = method.choose_points(prompting, rngs)()
            outputs = [
                method.decode(embeddings, branch, place, label).float().softmax(1)
                for place, label in ((points.center, points.center_labels), (points.random, points.random_labels))
            ]
            taught_by = method.teach(outputs)
            pseudo = taught_by.argmax(1)
            for i, mask in enumerate(masks):
                found = {
                    "unprompted_dsc": _dsc(guesses[branch][i], mask),
                    "centre_dsc": _dsc(outputs[0].argmax(1)[i], mask),
                    "random_dsc": _dsc(outputs[1].argmax(1)[i], mask),
                    "pseudo_dsc": _dsc(pseudo[i], mask),
                    "empty": float(not guesses[branch][i].any()),
                    "empty_pseudo": float(not pseudo[i].any()),
                    "confidence": float(confidence(taught_by[i : i + 1])),
                }
                rows.append({**shared[i], **found, **_inside(points, i, mask)})
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}


def _dsc(one: Tensor, other: Tensor) -> float:
    return float(agreement(one[None], other[None]))


def _inside(points: ClassPoints, image: int, mask: Tensor) -> dict[str, float]:
    """Shares of an image's points of objects that lie on their class; absent where there is none."""
    found = {}
    for name, places, labels in (
        ("centre_inside", points.center[image], points.center_labels[image]),
        ("random_inside", points.random[image], points.random_labels[image]),
    ):
        objects = labels > 0
        if objects.any():
            columns, rows = places[objects].long().T
            found[name] = float((mask[rows, columns] == labels[objects]).float().mean())
    return found
