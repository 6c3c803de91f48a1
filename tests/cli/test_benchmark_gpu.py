"""The benchmark for GPUs: its file, its budget, and on a GPU its checks."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lightning_samseg.__main__ import main
from lightning_samseg.cli.benchmark_gpu import Report, Row, Section
from lightning_samseg.cli.gpu_checks import CHECKS, LARGEST_DIFFERENCE, check


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("name", CHECKS)
def test_a_gpu_computes_what_the_cpu_does(name: str, precision: str) -> None:
    assert check(name, "cuda", precision) <= LARGEST_DIFFERENCE


def test_a_device_is_equal_to_itself() -> None:
    assert check("unet", "cpu", "32-true") == 0


def test_every_row_is_in_the_file_as_soon_as_it_is_known(tmp_path: Path) -> None:
    path = tmp_path / "gpu.md"

    def rows() -> Iterator[Row]:
        yield Row("first", 1, lambda: ["1.5", "2"])
        assert "| first | 1.5 | 2 |" in path.read_text()
        yield Row("breaks", 1, lambda: [1 / 0])  # type: ignore[list-item]
        yield Row("too long", 1e6, lambda: ["never", "never"])

    report = Report(path, budget=1e5)
    report.fill(Section("Times", ("s", "GiB"), rows))
    text = path.read_text()
    assert "| | s | GiB |\n|---|---|---|\n" in text
    assert "| breaks | fails: ZeroDivisionError: division by zero |  |" in text
    assert "| too long | skipped: " in text
    assert "never" not in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "gpu", "--out", str(tmp_path / "gpu.md")]) == 2
    assert "no GPU here" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_all_of_it_at_tiny_sizes(tmp_path: Path) -> None:
    path = tmp_path / "gpu.md"
    assert main(["benchmark", "gpu", "--out", str(path), "--device", "cpu", "--small", "--budget", "3000"]) == 0
    text = path.read_text()
    assert "fails" not in text
    assert "DIFFERS" not in text
    for name in (*CHECKS, "tiny, joint, bf16-mixed", "tiny, sequential, 32-true", "sam_batch 8"):
        assert f"| {name} |" in text
