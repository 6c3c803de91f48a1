from lightning_samseg.online.benchmark import benchmark_fill


def test_passes_of_one_and_of_many() -> None:
    result = benchmark_fill("tiny", images=5, batch=2, repeats=1, image_size=(40, 60))
    assert result["single_s"] > 0
    assert result["ratio"] == result["single_s"] / result["batched_s"]
    assert result["apart"]  # what SamPrefetcher relies on, or would notice
