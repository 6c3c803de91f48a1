"""Clicks against SemiSAM's published rule, run on equal slices so that its distances are those of the plane."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from lightning_samseg.prompts.clicks import click_candidates, depth
from tests.reference.ssl_oracle import SslOracle


@pytest.mark.parametrize("number", range(4))
def test_candidates_are_the_authors(number: int) -> None:
    oracle = SslOracle()

    def packed(name: str) -> NDArray[np.bool_]:
        return np.unpackbits(oracle[f"semisam.click2d.{number}.{name}"])[: 40 * 36].reshape(40, 36).astype(bool)

    candidates, _ = click_candidates(packed("gt"), packed("prev"))
    assert np.array_equal(candidates, packed("candidates"))


def test_depth_is_exact() -> None:
    region = np.random.default_rng(0).random((40, 50)) < 0.9
    region[:, :3] = True  # at the border, which is outside
    expected = distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    np.testing.assert_allclose(depth(region), expected, rtol=1e-6)
    assert not depth(np.zeros((4, 5), bool)).any()


def test_the_larger_mistake_is_corrected() -> None:
    target, previous = np.zeros((2, 20, 20), bool)
    target[2:9, 2:9] = previous[10:19, 10:19] = True
    candidates, positive = click_candidates(target, previous)
    assert not positive
    assert (candidates <= previous).all()
    candidates, positive = click_candidates(target)
    assert positive
    assert np.array_equal(np.argwhere(candidates), [[r, c] for r in range(4, 7) for c in range(4, 7)])
    assert not click_candidates(target, target)[0].any()
