"""Two gloo processes against one with the whole batch."""

from pathlib import Path

import pytest

from tests.ddp.recording import RecordingCpcSam, assert_equal_gradients, train
from tests.fakes import write_busi

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_busi(tmp_path_factory.mktemp("busi"), benign=14, malignant=10)


@pytest.mark.parametrize("update", ["joint", "sequential"])
def test_gradients_equal_one_process(tmp_path: Path, data: Path, update: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also shows that no trained parameter stays without a gradient: DDP would stop at the second iteration."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    one = train(RecordingCpcSam, tmp_path / "one", data, 1, 3, ssl_start_iter=1, update=update)  # two with prompts
    two = train(RecordingCpcSam, tmp_path / "two", data, 2, 3, ssl_start_iter=1, update=update)
    assert_equal_gradients(one, two)
