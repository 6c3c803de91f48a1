"""A server in a process of its own, an expert at its calls, a kill in the middle: the bits of ``fit``."""

import signal
import time
from pathlib import Path

import pytest
import yaml

from lightning_samseg.annotate.benchmark import References, benchmark_annotate, served
from lightning_samseg.annotate.client import Client
from lightning_samseg.annotate.simulated import annotate_all
from lightning_samseg.errors import UserError
from lightning_samseg.runs.options import nested
from tests.annotate.conftest import LENGTH, MODEL
from tests.annotate.test_parity import assert_same

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def one_thread_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server computes with as many threads as ``fit``: it takes one fewer than it may use."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "model.yaml"
    model = {"class_path": "lightning_samseg.methods.AuxOl", "init_args": nested(MODEL)}
    path.write_text(yaml.safe_dump({"model": model}))
    return path


def options(data: Path, workspace: Path, config: Path) -> list[str]:
    start = ["--input", str(data / "images"), "--output", str(workspace), "--class", "disc", "--config", str(config)]
    return [*start, "--patience", "inf", "--device", "cpu"]


@pytest.mark.slow
def test_a_whole_stream_and_a_kill_in_the_middle(data: Path, fitted: Path, config: Path, tmp_path: Path) -> None:
    reference = References(data / "masks")
    with served(options(data, tmp_path / "w", config)) as (url, server):
        client = Client(url)
        assert len(list(annotate_all(client, reference, most=3))) == 3
        server.send_signal(signal.SIGKILL)
        client.close()
    with served(options(data, tmp_path / "w", config)) as (url, _):
        client = Client(url)
        assert client.workspace()["numbers"]["accepted"] == 3
        assert len(list(annotate_all(client, reference))) == LENGTH - 3
        while client.workspace()["pending"]:
            time.sleep(0.1)
        client.close()
    assert_same(tmp_path / "w", fitted)


@pytest.mark.slow
def test_the_benchmark(data: Path, config: Path, tmp_path: Path) -> None:
    kept = tmp_path / "w"
    measured = benchmark_annotate(
        str(data), backbone="tiny", think=0.0, patience=0.0, most=4, config=str(config), workspace=str(kept)
    )
    assert measured["images"] == sum(third["images"] for third in measured["thirds"]) == 4
    assert measured["waited"]["accepted"]["median"] > 0
    assert measured["event_loop"]["p50"] <= measured["event_loop"]["p99"] <= measured["event_loop"]["max"]
    assert measured["thirds"][0]["changed"]["empty"] > 0
    assert (kept / "journal.jsonl").is_file()


def test_what_goes_wrong_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no folder"):
        References(tmp_path / "masks")
    with pytest.raises(UserError, match=r"did not start(.|\n)*nowhere"), served(["--input", str(tmp_path / "nowhere")]):
        pass
    with pytest.raises(UserError, match="no address of a workspace"):
        Client("http://127.0.0.1:8765/")
    with pytest.raises(UserError, match="does not answer"):
        Client("http://127.0.0.1:9/#t=x", timeout=5).workspace()
