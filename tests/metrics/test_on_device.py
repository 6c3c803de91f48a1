import numpy as np
import pytest
import torch
from medpy.metric.binary import dc

from lightning_samseg.metrics.on_device import agreement, confidence, empty_fraction, likeliest
from lightning_samseg.types import IGNORED


def test_agreement_on_one_class_is_the_dice_of_medpy() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        one, other = (rng.random((3, 9, 7)) > level for level in rng.uniform(0.2, 0.9, 2))
        ours = agreement(torch.from_numpy(one).long(), torch.from_numpy(other).long())
        assert float(ours) == pytest.approx(dc(one, other), abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_likeliest_is_the_argmax_also_where_scores_are_equal(dtype: torch.dtype) -> None:
    scores = torch.randint(-3, 4, (2, 5, 40, 31), generator=torch.Generator().manual_seed(0)).to(dtype)
    scores[0, 1:3, 0, 0] = torch.nan
    found = likeliest(scores.requires_grad_())
    assert not found.requires_grad
    assert np.array_equal(found.numpy(), scores.detach().float().numpy().argmax(1))  # NumPy's is the first


def test_agreement_counts_the_same_class_only() -> None:
    one = torch.tensor([[[1, 1, 2, 0, 3]]])
    other = torch.tensor([[[1, 2, 2, 1, 0]]])
    assert float(agreement(one, other)) == pytest.approx(2 * 2 / (4 + 4))
    assert float(agreement(one, torch.zeros_like(one))) == 0
    assert float(agreement(torch.zeros_like(one), torch.zeros_like(one))) == 1


def test_empty_fraction_and_confidence() -> None:
    labels = torch.zeros(4, 3, 3, dtype=torch.long)
    labels[1, 2, 2] = 2
    assert float(empty_fraction(labels)) == 0.75
    probabilities = torch.tensor([[0.7, 0.2], [0.3, 0.8]])[None, :, None]  # (1, 2, 1, 2)
    assert float(confidence(probabilities)) == pytest.approx(0.75)


def test_ignored_pixels_agree_with_nothing() -> None:
    one = torch.tensor([[[1, 1, 2, 0, 3, 1]]])
    other = torch.tensor([[[1, IGNORED, 2, 1, IGNORED, IGNORED]]])
    assert float(agreement(one, other)) == pytest.approx(2 * 2 / (2 + 3))
    assert float(agreement(one, torch.full_like(one, IGNORED))) == 1
