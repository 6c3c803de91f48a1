import sys

import pytest

from lightning_samseg.errors import UserError
from lightning_samseg.metrics.benchmark import SHAPE, benchmark_metrics


@pytest.mark.reference
def test_equal_numbers_and_at_least_five_times_faster():
    result = benchmark_metrics(repeats=3, seed=1)
    assert result["shape"] == SHAPE
    assert result["max_difference"] < 1e-6
    assert result["speedup"] == pytest.approx(result["medpy_ms"] / result["ours_ms"])
    assert result["speedup"] >= 5


def test_medpy_is_asked_for_when_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "medpy.metric.binary", None)
    with pytest.raises(UserError, match="pip install medpy"):
        benchmark_metrics(repeats=1)
