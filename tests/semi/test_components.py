"""Largest components against BCP's own filter as recorded, and the naming of components against scipy."""

import numpy as np
import pytest
import torch
from scipy.ndimage import label

from lightning_samseg.semi.components import component_roots, largest_components
from tests.reference.ssl_oracle import SslOracle


def test_the_authors_filter() -> None:
    """Ties, diagonal neighbours, an absent class, noise."""
    oracle = SslOracle()
    found = largest_components(torch.from_numpy(oracle["bcp.components.in"]).long(), 3)
    assert np.array_equal(found.numpy(), oracle["bcp.components.out"])


@pytest.mark.parametrize("density", [0.0, 0.2, 0.4, 0.45, 0.6, 1.0])
def test_components_are_named_by_their_first_pixel(density: float) -> None:
    region = torch.rand(3, 37, 41, generator=torch.Generator().manual_seed(1)) < density
    for own, roots in zip(region, component_roots(region), strict=True):
        ids = label(own.numpy(), np.ones((3, 3)))[0].ravel()
        expected = np.full(ids.size, ids.size)
        for number in range(1, ids.max() + 1):
            expected[ids == number] = np.flatnonzero(ids == number)[0]
        assert np.array_equal(roots.numpy(), expected)


def test_a_long_winding_component_is_one() -> None:
    snake = np.zeros((64, 64), bool)
    snake[0::4] = True
    for row in range(1, 62, 4):
        snake[row : row + 3, 63 if (row // 4) % 2 == 0 else 0] = True
    roots = component_roots(torch.from_numpy(snake)[None])
    assert sorted(roots.unique().tolist()) == [0, 64 * 64]


def test_of_two_lesions_the_larger_stays_in_every_image_and_class() -> None:
    labels = torch.zeros(2, 12, 12, dtype=torch.long)
    labels[0, :2, :2], labels[0, 5:9, 5:9] = 1, 1
    labels[1, :3, :3], labels[1, 6:8, 6:8], labels[1, 10, 10] = 1, 2, 2
    expected = labels.clone()
    expected[0, :2, :2] = expected[1, 10, 10] = 0
    assert torch.equal(largest_components(labels, 2), expected)
