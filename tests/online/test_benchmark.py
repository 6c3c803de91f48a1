from lightning_samseg.online.benchmark import benchmark_fill, benchmark_online


def test_it_measures_both() -> None:
    result = benchmark_online(repeats=1, rounds=1, width=1 / 16, crop_size=32, capacity=2, image_size=(40, 60))
    assert result["online_s"] > 0
    assert result["ratio"] == result["online_s"] / result["bare_s"]


def test_passes_of_one_and_of_many() -> None:
    result = benchmark_fill("tiny", images=5, batch=2, repeats=1, image_size=(40, 60))
    assert result["single_s"] > 0
    assert result["ratio"] == result["single_s"] / result["batched_s"]
    assert result["apart"]  # what SamPrefetcher relies on, or would notice
