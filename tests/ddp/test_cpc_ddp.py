"""Two gloo processes against one with the whole batch."""

from pathlib import Path

import pytest
import torch

from tests.ddp.recording import RecordingCpcSam, train
from tests.fakes import write_busi


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_busi(tmp_path_factory.mktemp("busi"), benign=14, malignant=10)


@pytest.mark.parametrize("update", ["joint", "sequential"])
def test_gradients_equal_one_process(tmp_path: Path, data: Path, update: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also shows that no trained parameter stays without a gradient: DDP would stop at the second iteration."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)  # a fork must not inherit a pool of threads
    one = train(RecordingCpcSam, tmp_path / "one", data, 1, 3, ssl_start_iter=1, update=update)  # two with prompts
    two = train(RecordingCpcSam, tmp_path / "two", data, 2, 3, ssl_start_iter=1, update=update)
    for step, (expected, found) in enumerate(zip(one, two, strict=True)):
        assert expected.keys() == found.keys()
        for name, gradient in expected.items():
            if gradient is None:
                assert found[name] is None, f"{name} in iteration {step}"
            else:
                difference = (found[name] - gradient).abs().max().item()  # type: ignore[operator]
                assert difference <= 1e-5 * max(1, gradient.abs().max().item()), f"{name} in iteration {step}"
