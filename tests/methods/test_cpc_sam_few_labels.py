"""What may help CPC-SAM with few labelled images: each option against its definition, written out once more."""

from math import exp

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_samseg.errors import UserError
from lightning_samseg.methods import CpcSam
from lightning_samseg.methods.cpc_sam import Terms
from lightning_samseg.types import IGNORED
from tests.comparing import assert_equal
from tests.methods.test_cpc_sam import CLOSE, LABELLED, Quiet, batch, dice

__all__ = ["batch"]  # a fixture


def test_less_probable_pixels_of_a_pseudo_label_teach_nothing() -> None:
    probabilities = torch.tensor([[[[0.95, 0.50, 0.05]], [[0.03, 0.45, 0.89]], [[0.02, 0.05, 0.06]]]])
    assert Quiet().pseudo_label(probabilities).tolist() == [[[0, 0, 1]]]
    assert Quiet(min_confidence=0.8).pseudo_label(probabilities).tolist() == [[[0, IGNORED, 1]]]
    assert Quiet(min_confidence=0.9).pseudo_label(probabilities).tolist() == [[[0, IGNORED, IGNORED]]]


@pytest.mark.parametrize(
    ("step", "factor"), [(3, exp(-5)), (4, exp(-5 * 0.75**2)), (5, exp(-5 * 0.25)), (7, 1.0), (90, 1.0)]
)
def test_weights_of_unlabelled_images_rise(step: int, factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Laine and Aila's ramp, over 4 iterations from the first with unlabelled images, which is 3."""
    method = Quiet(loss={"lambda_ramp_iters": 4}, ssl_start_iter=3)
    monkeypatch.setattr(CpcSam, "global_step", step)
    loss = method.weighted(Terms(torch.tensor(1.0), torch.tensor(2.0), torch.tensor(3.0)), 0)
    assert_equal(loss, torch.tensor(1.0 + factor * (0.4 * 2 + 0.05 * 3)), within=1e-6)


def test_features_are_dropped_where_the_unprompted_output_is_taught(batch: tuple[Tensor, Tensor]) -> None:
    """And nowhere else: with cross pseudo supervision the whole loss can be written down."""
    method = Quiet(cross="unprompted", feature_dropout=0.5)
    images, y = batch
    torch.manual_seed(3)
    loss = method.joint_loss(images, y, ssl=True)
    embedding = method.sam.encode(images)
    p = [method.sam.decode(embedding, branch) for branch in (0, 1)]
    expected = sum(0.8 * dice(q[:LABELLED], y) + 0.2 * F.cross_entropy(q[:LABELLED], y) for q in p)
    torch.manual_seed(3)
    for teacher in (0, 1):
        label = p[teacher][LABELLED:].argmax(1)
        draws = [F.dropout2d(embedding[LABELLED:], 0.5) for _ in range(2)]  # an embedding per branch
        student = method.sam.decode(draws[1 - teacher], 1 - teacher)
        expected = expected + 0.4 / 2 * (dice(student, label) + F.cross_entropy(student, label))
    assert_equal(loss, expected, within=CLOSE)


@pytest.mark.parametrize("wrong", [{"min_confidence": 0.9, "pseudo": "soft"}])
def test_combinations_without_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UserError, match="min_confidence"):
        Quiet(**wrong)
