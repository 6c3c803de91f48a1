import pytest

from data_modules.benchmark import _generated, benchmark_data, compare
from data_modules.layouts.acdc import AcdcLayout
from lightning_samseg.transforms import View


def test_same_geometry_as_the_authors_at_the_same_draw(tmp_path):
    items = AcdcLayout(str(_generated(tmp_path)), split="files").splits().train
    view = View(512, normalise="stored", geometry="corner_aligned")
    agreement, difference = compare(items, view, 10)
    assert agreement > 0.999  # ties of the small rotation may fall either way
    assert difference < 1e-6
    agreement, difference = compare(items, View(512, normalise="stored", geometry="half_pixel"), 10)
    assert agreement < 1  # the other geometry is told apart
    assert difference > 1e-3


@pytest.mark.slow
def test_both_pipelines_are_timed_on_the_same_slices():
    """Whether ours is the faster one is for the benchmark to say: a busy machine must not fail a test."""
    result = benchmark_data(repeats=1, batches=2)
    assert result["speedup"] == pytest.approx(result["authors_ms"] / result["ours_ms"])
    assert result["label_agreement"] > 0.999
    assert result["image_difference"] < 1e-6
