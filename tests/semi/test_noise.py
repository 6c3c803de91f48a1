"""Perturbations: what goes, how often, and what is shared."""

import pytest
import torch

from lightning_samseg.semi.noise import (
    below_fraction,
    clipped_noise,
    drop_channels,
    drop_elements,
    drop_most_active,
    multiply_noise,
)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_clipped_noise(generator: torch.Generator) -> None:
    noise = clipped_noise(torch.zeros(2, 1, 100, 100), 0.1, 0.2, generator)
    assert noise.abs().max() == pytest.approx(0.2)
    assert noise.std().item() == pytest.approx(0.1, abs=0.01)
    assert (noise.abs() >= 0.2).float().mean().item() == pytest.approx(0.0455, abs=0.01)


def test_elements_and_channels(generator: torch.Generator) -> None:
    ones = torch.ones(4, 64, 8, 8)
    elements = drop_elements(ones, generator)
    assert set(elements.unique().tolist()) == {0.0, 2.0}
    assert elements.mean().item() == pytest.approx(1, abs=0.05)
    channels = drop_channels(ones, 0.25, generator)
    assert sorted(channels.unique().tolist()) == pytest.approx([0.0, 4 / 3])
    assert torch.equal(channels, channels[:, :, :1, :1].expand_as(channels))
    assert channels.mean().item() == pytest.approx(1, abs=0.15)


def test_the_most_active_positions_go(generator: torch.Generator) -> None:
    features = torch.tensor([[1.0, 5.0], [8.0, 10.0]]).expand(1, 3, 2, 2)
    assert below_fraction(features, 0.8)[0, 0].tolist() == [[True, True], [False, False]]  # 8 is not below 8
    kept = drop_most_active(features, generator)
    assert kept[0, 0, 0].tolist() == [1.0, 5.0]
    assert kept[0, 0, 1, 1] == 0


def test_one_map_of_noise_for_the_whole_batch(generator: torch.Generator) -> None:
    noisy = multiply_noise(torch.ones(2, 32, 16, 16), generator)
    assert torch.equal(noisy[0], noisy[1])
    assert not torch.equal(noisy[0, 0], noisy[0, 1])
    assert 0.7 <= noisy.min() < 0.72
    assert 1.28 < noisy.max() <= 1.3
