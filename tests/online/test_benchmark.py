from lightning_samseg.online.benchmark import benchmark_online


def test_it_measures_both() -> None:
    result = benchmark_online(repeats=1, rounds=1, width=1 / 16, crop_size=32, capacity=2, image_size=(40, 60))
    assert result["online_s"] > 0
    assert result["ratio"] == result["online_s"] / result["bare_s"]
