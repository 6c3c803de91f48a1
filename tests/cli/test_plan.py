"""The plan of a run and of a grid: what is printed, what is tried to make it fit, and mistakes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightning_samseg.__main__ import main
from lightning_samseg.cli import planned
from lightning_samseg.cli.grid import time_limit
from lightning_samseg.planning import Change, Cost, Load, first_that_fits, read_gpus

ROOT = Path(__file__).parents[2]
QUICK = str(ROOT / "experiments/quickstart/cpc_sam.yaml")
GIB = 2**30


def of_sizes(kind: Any, arguments: dict[str, Any], load: Load, precision: str = "32-true") -> Cost:
    """A cost that grows with the batch, and is half in half precision."""
    size = (load.labelled + load.unlabelled) * GIB // (1 if precision == "32-true" else 2)
    return Cost(100_000_000, 100_000_000, 4_000_000, 1000.0, 0.0, size, GIB)


@pytest.fixture
def costs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planned, "dry_run", of_sizes)


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    path = tmp_path / "g.yaml"
    path.write_text(
        f"configs: [{QUICK}]\nfolder: {tmp_path}/runs\nseeds: [1, 2]\naxes:\n  length:\n"
        "    short: {set: {trainer.max_steps: 90}}\n    long: {set: {trainer.max_steps: 900000}}\n"
    )
    return path


@pytest.mark.usefixtures("costs")
def test_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--config", QUICK, "--set", "trainer.max_steps=46800", "--gpu", "a100"]) == 0
    said = capsys.readouterr().out
    for words in (
        "CpcSam, lite_medsam, 112 px, 2 + 2 images a step, 46,800 iterations",
        "100.0 M, of which 4.00 M are trained",
        "1,000.0 GFLOP",
        "32-true      4.00 GiB",
        "bf16-mixed   2.00 GiB    1.00 GiB  as configured",
        "weights 39 MB",
        "A100 10 min*",  # 46.8 PFLOP over a quarter of 312 TFLOP/s
        "estimates",
    ):
        assert words in said, said


@pytest.mark.usefixtures("costs")
@pytest.mark.parametrize(
    ("memory", "status", "said"),
    {
        "as it is": ("3", 0, "into 3 GiB as it is"),
        "smaller": ("2", 0, "--data.labelled_batch_size 1 --data.unlabelled_batch_size 1: 1.00 GiB"),
        "never": ("1.5", 1, "not into 1.5 GiB"),
    }.values(),
)
def test_what_makes_it_fit(memory: str, status: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--config", QUICK, "--memory", memory, "--gpu", "t4"]) == status
    assert said in capsys.readouterr().out


def test_recomputed_blocks_are_offered(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def cost(kind: Any, arguments: dict[str, Any], load: Load, precision: str = "32-true") -> Cost:
        return Cost(1, 1, 1, 1.0, 0.0, (1 if arguments["checkpointing"] else 4) * GIB, GIB)

    monkeypatch.setattr(planned, "dry_run", cost)
    assert main(["plan", "--config", QUICK, "--memory", "3", "--gpu", "t4"]) == 0
    assert "into 3 GiB with --model.checkpointing true: 1.00 GiB" in capsys.readouterr().out


def test_the_order_of_changes() -> None:
    tried = []

    def cost(change: Change) -> Cost:
        tried.append(change)
        return Cost(1, 1, 1, 1.0, 0.0, 100 * GIB, 1)

    start = Change("32-true", False, Load(4, 2, 1))
    assert first_that_fits(12, start, cost, can_checkpoint=True) is None
    shown = [(each.precision, each.checkpointing, each.load.labelled, each.load.unlabelled) for each in tried]
    assert shown == [
        ("32-true", False, 4, 2),
        ("bf16-mixed", False, 4, 2),
        ("32-true", True, 4, 2),
        ("bf16-mixed", True, 4, 2),
        ("bf16-mixed", True, 2, 1),
        ("bf16-mixed", True, 1, 1),
    ]
    assert tried[3].options == ("--trainer.precision bf16-mixed", "--model.checkpointing true")


@pytest.mark.usefixtures("costs")
def test_a_grid(grid: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--config", str(grid), "--gpu", "a100"]) == 0
    said = capsys.readouterr().out
    assert "2 runs (short-seed1, short-seed2): CpcSam" in said
    assert "2 runs (long-seed1, long-seed2): CpcSam" in said
    assert "A100: 6.4 h in all, the longest run 3.2 h" in said
    assert main(["plan", "--config", str(grid), "--memory", "2"]) == 1
    assert "more than 2 GiB" in capsys.readouterr().out


@pytest.mark.usefixtures("costs")
@pytest.mark.parametrize(("time", "limit"), [("", "8:00:00"), ("time: '5:00:00'\n", "5:00:00")])
def test_the_limit_of_a_job(grid: Path, tmp_path: Path, time: str, limit: str, capsys: Any) -> None:
    profile = tmp_path / "p.yaml"
    profile.write_text(f"partition: gpu\ngpu_type: a100\n{time}")
    assert main(["grid", "submit", str(grid), "--profile", str(profile), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert f"#SBATCH --time={limit}\n" in said
    assert "# A100: 6.4 h in all" in said


def test_twice_the_estimate_and_an_hour() -> None:
    assert [time_limit(hours) for hours in (0.01, 3.2, 20)] == ["2:00:00", "8:00:00", "41:00:00"]


@pytest.mark.usefixtures("costs")
def test_no_limit_can_be_told(grid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile = tmp_path / "p.yaml"
    profile.write_text("partition: gpu\n")
    assert main(["grid", "submit", str(grid), "--profile", str(profile), "--dry-run"]) == 2
    assert "The profile has no time" in capsys.readouterr().err


@pytest.mark.usefixtures("costs")
@pytest.mark.parametrize(
    ("options", "said"),
    {
        "no memory": (["--memory", "0"], "above 0"),
        "less than none": (["--memory=-1"], "above 0"),
        "no number": (["--memory", "nan"], "above 0"),
        "words": (["--memory", "much"], "invalid float"),
        "unknown key": (["--set", "model.no_such=1"], "no option no_such"),
        "no value": (["--set", "model.lr"], "name and a value"),
        "impossible size": (["--set", "data.image_size=100"], "multiple of 16"),
        "unknown backbone": (["--set", "model.sam.backbone=sam_xl"], "sam_xl"),
        "unknown GPU": (["--gpu", "abacus"], "abacus"),
        "no steps": (["--set", "trainer.max_steps=-1"], "steps"),
        "an epoch": (["--set", "trainer.max_epochs=3"], "Epochs"),
        "no such file": (["--config", "no.yaml"], "no.yaml"),
    }.values(),
)
def test_mistakes(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--config", QUICK, *options]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "what to do" in error
    assert "Traceback" not in error


def test_nothing_to_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan"]) == 2
    assert "--config FILE" in capsys.readouterr().err


def test_data_that_are_not_here(tmp_path: Path, costs: Callable[[], None], capsys: Any) -> None:
    config = str(ROOT / "experiments/aux_ol/polyp.yaml")
    assert main(["plan", "--config", config, "--set", f"data.root={tmp_path}"]) == 0
    said = capsys.readouterr().out
    assert "not here" in said
    assert "how long the stream is" in said


def test_the_table_of_gpus() -> None:
    for gpu in read_gpus().values():
        seconds, measured = gpu.seconds(1e3, "16-mixed")
        assert 0 < seconds < 1
        assert not measured
        assert gpu.half >= gpu.fp32
