import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lightning_samseg.losses.structure import structure_loss


def restatement(x, y, weighted):
    """The loss of one entry, pixel by pixel in float64; -1 is unknown."""
    h, w = y.shape
    padded = np.pad(y, 15)
    weight = np.zeros((h, w))
    for r, c in np.argwhere(y >= 0):
        window = padded[r : r + 31, c : c + 31]
        weight[r, c] = 1 + 5 * abs(window[window >= 0].mean() - y[r, c])
    p = 1 / (1 + np.exp(-x))
    bce = -(y * np.log(p) + (1 - y) * np.log(1 - p))
    bce = (weight * bce).sum() / weight.sum() if weighted else bce[y >= 0].mean()
    overlap = (weight * p * y).sum()
    union = (weight * p).sum() + (weight * y).sum() - overlap
    return bce + 1 - (overlap + 1) / (union + 1)


@pytest.mark.parametrize("bce", ["weighted", "plain"])
def test_equals_a_restatement_in_numpy(bce):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(3, 1, 40, 23)) * 3
    y = np.zeros((3, 1, 40, 23))
    y[0, 0, 5:30, 4:20] = 1
    y[1, 0, :3, :3] = 1
    y[2, 0, 8:30], y[2, 0, :9, :4] = -1, 1
    expected = [restatement(x[i, 0], y[i, 0], bce == "weighted") for i in range(3)]
    found = structure_loss(torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32), bce)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_one_pixel_by_hand():
    weight = 1 + 5 * 960 / 961  # the window holds 1 of 961
    expected = math.log(2) + 1 - (0.5 * weight + 1) / (weight + 1)
    assert structure_loss(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)).item() == pytest.approx(expected, abs=1e-6)


def test_plain_is_what_a_mean_over_the_whole_batch_gives():
    # The authors' scalar: a batch-wide mean of the cross-entropy, weighted by weights whose weighted mean is 1.
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(5, 1, 33, 33, generator=generator)
    y = (torch.rand(5, 1, 33, 33, generator=generator) < 0.4).float()
    iou_term = structure_loss(x, y, "weighted") - weighted_bce(x, y)
    expected = F.binary_cross_entropy_with_logits(x, y) + iou_term.mean()
    assert structure_loss(x, y, "plain").mean().item() == pytest.approx(expected.item(), abs=1e-6)


def weighted_bce(x, y):
    weight = 1 + 5 * (F.avg_pool2d(y, 31, 1, 15) - y).abs()
    each = F.binary_cross_entropy_with_logits(x, y, reduction="none")
    return (weight * each).sum((1, 2, 3)) / weight.sum((1, 2, 3))


@pytest.mark.parametrize("bce", ["weighted", "plain"])
def test_nothing_known_costs_nothing(bce):
    logits = torch.randn(1, 1, 33, 33).requires_grad_()
    loss = structure_loss(logits, torch.full((1, 1, 33, 33), -1.0), bce)
    loss.sum().backward()
    assert loss.tolist() == [0]
    assert (logits.grad == 0).all()
