"""Consistency losses against their formulas written out, and against the authors' recorded maps."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_samseg.losses.consistency import (
    attention,
    attention_distance,
    directed_mse,
    entropy,
    masked_mse,
    probabilities,
    rectified_pyramid,
    sharpen,
)
from lightning_samseg.losses.dice_ce import cross_entropy_loss, dice_loss
from lightning_samseg.methods.bcp import mix_loss
from tests.reference.ssl_oracle import SslOracle, label, rule_array, state_of


@pytest.fixture(scope="module")
def oracle() -> SslOracle:
    return SslOracle()


@pytest.fixture
def logits() -> Tensor:
    return 3 * torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_entropy(logits: Tensor) -> None:
    p = probabilities(logits)
    torch.testing.assert_close(
        entropy(p), torch.distributions.Categorical(p.permute(0, 2, 3, 1)).entropy(), atol=1e-5, rtol=0
    )
    assert entropy(torch.full((1, 4, 1, 1), 0.25)).item() == pytest.approx(np.log(4), abs=1e-5)


def test_masked_mse_divides_by_two_whatever_the_classes(logits: Tensor) -> None:
    p, q = probabilities(logits), probabilities(logits.flip(0))
    keep = torch.zeros(2, 8, 8, dtype=torch.bool)
    keep[0, 2, 3] = keep[1, 4, 4] = True
    expected = sum(((p - q)[i, :, r, c] ** 2).sum() for i, r, c in ((0, 2, 3), (1, 4, 4))) / 4
    torch.testing.assert_close(masked_mse(p, q, keep), expected)
    assert masked_mse(p, q, keep & False) == 0


def test_rectified_pyramid(logits: Tensor) -> None:
    scales = [logits, logits.flip(1), logits / 2]
    p = [scale.softmax(1) for scale in scales]
    q = sum(p) / 3
    for found, own in zip(rectified_pyramid(scales), p, strict=True):
        divergence = F.kl_div(own.log(), q, reduction="none").sum(1, keepdim=True)
        e = torch.exp(-divergence)
        torch.testing.assert_close(found, ((q - own) ** 2 * e).mean() / (e.mean() + 1e-8) + divergence.mean())


def test_a_sure_pyramid_is_finite() -> None:
    """Softmaxes of zero: a log of them would be minus infinity, and its gradient no number."""
    sure = torch.tensor([[[[200.0]], [[-200.0]]]], requires_grad=True)
    loss = sum(rectified_pyramid([sure, -sure.detach()]))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(sure.grad).all()  # type: ignore[union-attr]


def test_sharpening(logits: Tensor, oracle: SslOracle) -> None:
    assert sharpen(torch.tensor(0.5), 0.1) == 0.5
    assert sharpen(torch.tensor(0.6, dtype=torch.float64), 0.1).item() == pytest.approx(0.6**10 / (0.6**10 + 0.4**10))
    if not oracle.is_slice:
        logits = torch.from_numpy(oracle["mcnet.it0.output1"][0:1]).double()
        expected = torch.from_numpy(oracle["mcnet.it0.pseudo1_slice"]).double()
        torch.testing.assert_close(sharpen(logits.softmax(1), 0.1)[0], expected, atol=1e-4, rtol=0)


def test_the_surer_decoder_teaches(logits: Tensor) -> None:
    z_1, z_2 = logits.requires_grad_(), logits.detach().flip(0).requires_grad_()
    p_1, p_2 = z_1.softmax(1), z_2.softmax(1)
    compared = torch.rand(logits.shape, generator=torch.Generator().manual_seed(2)) < 0.7
    loss = directed_mse(p_1, p_2, compared, 0.5, (z_1, z_2))
    expected = 0.0
    for index in np.ndindex(*logits.shape):
        if compared[index] and p_1[index] > p_2[index]:
            expected += ((z_1 / 0.5).softmax(1)[index] - (z_2 / 0.5).softmax(1)[index]).item() ** 2
    assert loss.item() == pytest.approx(expected / logits.numel())
    loss.backward()
    assert z_1.grad is None
    assert z_2.grad.abs().max() > 0  # type: ignore[union-attr]


def test_attention(logits: Tensor) -> None:
    found = attention(logits)
    squares = (logits**2).mean(1).flatten(1)
    torch.testing.assert_close(found, squares / squares.norm(dim=1, keepdim=True))
    assert attention(torch.full((1, 2, 4, 4), 300.0, dtype=torch.float16)).isfinite().all()
    other = logits.flip(0)
    torch.testing.assert_close(attention_distance(logits, other), ((found - attention(other)) ** 2).mean())


def test_attention_of_the_authors_network(oracle: SslOracle) -> None:
    from tests.models.test_branched_unet import filled
    from tests.reference.ssl_oracle import image

    network = filled(oracle, "dcnet")
    features = network.encode(image("0", 4))
    _, maps = network.decode(features, 1)
    found = [attention_distance(own, other).item() for own, other in zip(features[:-1], maps, strict=True)]
    assert found == pytest.approx(oracle["dcnet.it0.at_each"].tolist(), rel=1e-9)


def test_kept_pixels(logits: Tensor) -> None:
    target = torch.randint(0, 4, (2, 8, 8), generator=torch.Generator().manual_seed(3))
    keep = torch.zeros(2, 8, 8, dtype=torch.bool)
    keep[:, :5, 1:7] = True
    cut: Any = np.s_[..., :5, 1:7]
    torch.testing.assert_close(dice_loss(logits, target, keep), dice_loss(logits[cut], target[cut]))
    torch.testing.assert_close(cross_entropy_loss(logits, target, keep), F.cross_entropy(logits[cut], target[cut]))
    torch.testing.assert_close(cross_entropy_loss(logits, target), F.cross_entropy(logits, target))
    assert dice_loss(logits, target, keep & False) == 0
    assert cross_entropy_loss(logits, target, keep & False) == 0


def test_the_authors_mixed_loss(oracle: SslOracle) -> None:
    logits = torch.from_numpy(rule_array(3 * state_of("bcp.logits").standard_normal((2, 4, 16, 16))))
    outside = torch.ones(16, 16, dtype=torch.bool)
    outside[3:13, 5:15] = False
    y_outside, y_inside = label("bcp.a", 2, 16), label("bcp.b", 2, 16)
    for weights, recorded in zip(((1, 1), (0.5, 1), (1, 0.5)), oracle["bcp.mix_loss"], strict=True):
        found = mix_loss(logits, y_outside, y_inside, outside, *weights)
        np.testing.assert_allclose(found.numpy(), recorded, rtol=1e-9)
