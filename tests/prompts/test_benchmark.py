import cv2
import torch

from lightning_samseg.prompts.benchmark import benchmark_prompts


def test_compares_both_procedures_and_restores_the_threads() -> None:
    threads = cv2.getNumThreads(), torch.get_num_threads()
    result = benchmark_prompts(batch=2, size=64, num_classes=3, specks=(0, 30), repeats=1)
    assert (cv2.getNumThreads(), torch.get_num_threads()) == threads
    assert [row["specks"] for row in result["rows"]] == [0, 30]
    for row in result["rows"]:
        assert row["same_points"]
        assert row["same_in_threads"]
        assert row["threads_ratio"] == row["one_thread_s"] / row["threads_s"]
        assert row["ratio"] == row["per_region_s"] / row["ours_s"]
    assert result["rows"][1]["regions"] > result["rows"][0]["regions"] >= 3
