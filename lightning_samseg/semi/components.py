"""Largest connected component of every class, on the device of the label maps: nothing goes to the host."""

import torch
from torch import Tensor


def largest_components(labels: Tensor, num_classes: int) -> Tensor:
    """Keep each class's largest 8-connected component; everything else becomes background (BCP).

    Of equally large components it is the one whose first pixel comes first in row-major order, as in BCP's code; the
    prompts of CPC-SAM take the last (``prompts.components``).

    Args:
        labels: Integer ``(B, H, W)``, class ids 0..C.
        num_classes: C, foreground classes.

    Returns:
        The same shape and type.
    """
    batch, height, width = labels.shape
    classes = torch.arange(1, num_classes + 1, device=labels.device).view(1, -1, 1, 1)
    region = (labels[:, None] == classes).flatten(0, 1)  # (B C, H, W)
    root = component_roots(region)
    pixels = height * width
    counts = torch.zeros(len(root), pixels + 1, dtype=torch.long, device=labels.device)
    counts.scatter_add_(1, root.clamp(max=pixels), region.flatten(1).long())
    # Area first, then the place of the first pixel: no two components have the same key.
    order = torch.arange(pixels, device=labels.device)
    largest = (counts[:, :-1] * pixels + (pixels - 1 - order)).argmax(1, keepdim=True)
    kept = ((root == largest) & region.flatten(1)).view(batch, num_classes, height, width)
    return (kept * classes).sum(1).to(labels.dtype)


def component_roots(region: Tensor) -> Tensor:
    """Name every 8-connected component by its first pixel in row-major order.

    Pixels hand the smallest name around to their neighbours and, through a table of names, to the whole component, so
    that the number of rounds grows with the logarithm of the components' size.

    Args:
        region: bool ``(N, H, W)``.

    Returns:
        int64 ``(N, H W)``: flat index of the component's first pixel; ``H W`` outside of the region.
    """
    count, height, width = region.shape
    nowhere = height * width
    inside = region.flatten(1)
    names = torch.arange(nowhere + 1, device=region.device).repeat(count, 1)
    names[:, :-1].masked_fill_(~inside, nowhere)
    while True:
        own = names[:, :-1]
        smallest = _smallest_neighbour(_smallest_neighbour(own.view(count, height, width), 1), 2).flatten(1)
        offered = torch.where(inside, smallest, nowhere)
        changed = names.scatter_reduce(1, own, offered, "amin")  # to the pixel that gave the component its name ...
        changed[:, :-1] = torch.minimum(changed[:, :-1], offered)  # ... and to the pixel itself
        changed[:, -1] = nowhere
        changed = changed.gather(1, changed)  # names of names
        if torch.equal(changed, names):
            return names[:, :-1]
        names = changed


def _smallest_neighbour(names: Tensor, along: int) -> Tensor:
    """The least of each entry and those before and after it along a dimension."""
    smallest, length = names.clone(), names.shape[along] - 1
    for here, there in ((0, 1), (1, 0)):
        part = smallest.narrow(along, here, length)
        torch.minimum(part, names.narrow(along, there, length), out=part)
    return smallest
