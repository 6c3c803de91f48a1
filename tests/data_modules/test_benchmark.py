import pytest

from data_modules.benchmark import _generated, benchmark_data, compare
from data_modules.layouts.acdc import AcdcLayout
from data_modules.views import View


def test_same_geometry_as_the_authors_at_the_same_draw(tmp_path):
    items = AcdcLayout(str(_generated(tmp_path)), split="files").splits().train
    view = View(512, normalise="stored", geometry="corner_aligned")
    agreement, difference = compare(items, view, 10)
    assert agreement > 0.999  # ties of the small rotation may fall either way
    assert difference < 1e-6
    agreement, difference = compare(items, View(512, normalise="stored", geometry="half_pixel"), 10)
    assert agreement < 1  # the other geometry is told apart
    assert difference > 1e-3


@pytest.mark.reference
def test_at_least_four_times_the_slices_per_second_and_core():
    result = benchmark_data(repeats=2, batches=5)
    assert result["speedup"] == pytest.approx(result["authors_ms"] / result["ours_ms"])
    assert result["speedup"] >= 4
    assert result["label_agreement"] > 0.999
    assert result["image_difference"] < 1e-6
    assert result["png_cached_ms"] < result["png_ms"] / 2
