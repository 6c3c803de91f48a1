"""SemiSAM's losses against the published lines, executed on recorded inputs."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lightning_samseg.methods import SemiSam
from lightning_samseg.methods.semi_sam import one_hot_distance
from lightning_samseg.models.sam_config import SamConfig
from lightning_samseg.semi.ramps import staircase_ramp
from tests.reference.ssl_oracle import SslOracle, label, rule_array, state_of


def logits(name: str) -> torch.Tensor:
    values = 3 * state_of(f"semisam.{name}").standard_normal((4, 2, 16, 16, 1))
    return torch.from_numpy(rule_array(values))[..., 0]


def test_terms_and_their_gradient() -> None:
    """Around them the published supervision: cross-entropy, and Dice of the foreground alone, of one labelled image."""
    oracle = SslOracle()
    z, teacher, y = logits("student").requires_grad_(), logits("teacher"), label("semisam", 4, 16, 2)
    sam = torch.from_numpy(oracle["semisam.loss.sam"])[:, 0].reshape(4, 16, 16).long()
    names = oracle.meta["semisam"]["terms"]
    everyone = torch.ones(3, dtype=torch.bool)
    for i, t in enumerate(oracle["semisam.loss.iterations"].tolist()):
        recorded = dict(zip(names, oracle["semisam.loss.terms"][i], strict=True))
        p = z.softmax(1)
        consistency = (p - teacher.softmax(1)).square().mean() / 2
        distance = one_hot_distance(p[1:], sam[1:], everyone)
        assert consistency.item() == pytest.approx(recorded["consistency_dist"], rel=1e-9)
        assert distance.item() == pytest.approx(recorded["sam_consistency"], rel=1e-9)
        up, down = 0.1 * staircase_ramp(t, 6_000, 40), 0.05 * staircase_ramp(6_000 - t, 6_000, 40)
        assert down * distance.item() == pytest.approx(recorded["sam_con_loss"], rel=1e-9)
        foreground = p[:1, 1]
        overlap, size = (foreground * y[:1]).sum(), foreground.square().sum() + y[:1].sum()
        dice = 1 - (2 * overlap + 1e-5) / (size + 1e-5)
        loss = F.cross_entropy(z[:1], y[:1]) + dice + up * consistency + down * distance
        assert loss.item() == pytest.approx(recorded["loss"], rel=1e-9)
        (gradient,) = torch.autograd.grad(loss, z)
        expected = oracle[f"semisam.loss.grad_{t}"]
        if expected.ndim:
            np.testing.assert_allclose(gradient.numpy(), expected, atol=1e-8)
        else:
            assert gradient.norm().item() == pytest.approx(float(expected), rel=1e-8)


def test_images_without_a_prompt_do_not_count() -> None:
    p = torch.rand(3, 2, 4, 4).softmax(1)
    labels = torch.randint(0, 2, (3, 4, 4))
    chosen = torch.tensor([True, False, True])
    expected = (p - F.one_hot(labels, 2).movedim(-1, 1))[chosen].square().mean()
    torch.testing.assert_close(one_hot_distance(p, labels, chosen), expected)
    assert one_hot_distance(p, labels, chosen & False) == 0


def test_the_prompt_suits_the_backbone() -> None:
    assert SemiSam().prompt == "point"
    assert SemiSam(sam=SamConfig("lite_medsam")).prompt == "box"
    assert SemiSam(sam=SamConfig("lite_medsam"), prompt="point").prompt == "point"
    assert SemiSam().sam is None  # nothing is loaded before training
