"""SAMed on the labelled images: two gloo processes against one with the whole batch."""

from pathlib import Path

import pytest

from tests.ddp.recording import RecordingSAMed, assert_equal_gradients, train
from tests.fakes import write_busi

pytestmark = pytest.mark.processes


def test_gradients_equal_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_busi(tmp_path, benign=14, malignant=10)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    one, two = (train(RecordingSAMed, tmp_path / str(n), data, n, 2) for n in (1, 2))
    assert_equal_gradients(one, two)
