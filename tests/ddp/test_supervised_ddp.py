"""SAMed on the labelled images: two gloo processes against one with the whole batch."""

from pathlib import Path

import pytest
import torch

from tests.ddp.recording import RecordingSAMed, train
from tests.fakes import write_busi


def test_gradients_equal_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_busi(tmp_path, benign=14, malignant=10)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)  # a fork must not inherit a pool of threads
    one, two = (train(RecordingSAMed, tmp_path / str(n), data, n, 2) for n in (1, 2))
    for expected, found in zip(one, two, strict=True):
        assert expected.keys() == found.keys()
        for name, gradient in expected.items():
            assert (found[name] - gradient).abs().max() <= 1e-5 * max(1, gradient.abs().max().item()), name
