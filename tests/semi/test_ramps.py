"""Ramps and rates against the authors' functions, at iterations all over a run."""

from functools import partial

import pytest

from lightning_samseg.optim import warmup_poly
from lightning_samseg.semi.ramps import sigmoid_ramp, staircase_ramp, warmup_decay
from tests.reference.ssl_oracle import SslOracle


@pytest.fixture(scope="module")
def oracle() -> SslOracle:
    return SslOracle()


def test_uamts_weight_and_threshold(oracle: SslOracle) -> None:
    for i, t in enumerate(oracle["uamt.ramp.iterations"].tolist()):
        assert 0.1 * staircase_ramp(t, 30_000, 200) == pytest.approx(oracle["uamt.ramp.consistency_weight"][i])
        threshold = (0.75 + 0.25 * sigmoid_ramp(t, 30_000)) * 0.6931471805599453
        assert threshold == pytest.approx(oracle["uamt.ramp.threshold"][i])


def test_semisams_weights(oracle: SslOracle) -> None:
    """One rises in 40 stairs of 150 iterations, the other falls in the same."""
    for i, t in enumerate(oracle["semisam.ramp.iterations"].tolist()):
        assert 0.1 * staircase_ramp(t, 6_000, 40) == pytest.approx(oracle["semisam.ramp.consistency"][i])
        assert 0.1 * staircase_ramp(6_000 - t, 6_000, 40) == pytest.approx(oracle["semisam.ramp.sam"][i])


def test_stairs_by_hand() -> None:
    assert staircase_ramp(0, 300, 2) == staircase_ramp(149, 300, 2) == pytest.approx(0.006737947)
    assert staircase_ramp(150, 300, 2) == pytest.approx(0.2865048)
    assert staircase_ramp(300, 300, 2) == staircase_ramp(10_000, 300, 2) == 1.0
    assert staircase_ramp(0, 0, 200) == 1.0
    values = [0.1 * staircase_ramp(t, 30_000, 200) for t in (0, 7_500, 15_000, 22_500)]
    assert values == pytest.approx([0.00067, 0.0060, 0.0287, 0.0732], rel=1e-2)


def test_a_warm_teacher() -> None:
    assert [warmup_decay(t, 0.99) for t in (0, 1, 2, 98, 99, 500)] == pytest.approx(
        [0, 1 / 2, 2 / 3, 98 / 99, 0.99, 0.99]
    )


@pytest.mark.parametrize(
    ("method", "power", "lag", "length"),
    [("uamt", 0.9, 1, 30_000), ("cps", 0.9, 0, 30_000), ("bcp.self", 0, 1, 30_000), ("unimatch", 0.9, 1, 31_800)],
)
def test_rates(oracle: SslOracle, method: str, power: float, lag: int, length: int) -> None:
    rate = partial(warmup_poly, warmup=0, power=power, max_iters=length, lag=lag)
    for t in range(3):
        assert 0.01 * rate(t) == pytest.approx(float(oracle[f"{method}.it{t}.lr"]), rel=1e-12)
