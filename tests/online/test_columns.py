"""What a stream's tables and figures compare, also where a method of somebody's own has learned."""

import csv
import json
from pathlib import Path

import pytest

from lightning_samseg.__main__ import main
from lightning_samseg.methods import AuxOl
from lightning_samseg.online.columns import column_colour, column_label, learned_column, scored_columns
from tests.fakes import write_folder

SCORE = {"dsc": 0.5, "hd": None}


class Own(AuxOl):
    """As a user derives a method: one file, nothing else."""

    column = "own_ol"


def test_what_learned_is_the_third_of_three() -> None:
    summary = {"sam": SCORE, "sam_clipped": SCORE, "own_ol": SCORE, "images": 3, "sets": {"one": {"sam": SCORE}}}
    assert scored_columns(summary) == ["sam", "sam_clipped", "own_ol"]
    assert learned_column(scored_columns(summary)) == "own_ol"
    assert learned_column([]) is None
    assert learned_column(scored_columns({"cell": SCORE, "mean": SCORE})) is None  # classes of a test


def test_own_names_stand_in_tables() -> None:
    assert [column_label(name) for name in ("sam", "aux_ol", "own_ol", "")] == ["SAM", "SAM + AuxOL", "own_ol", ""]
    assert len({column_colour(name) for name in ("sam", "sam_clipped", "own_ol")}) == 3


def test_a_method_of_ones_own_is_run_and_reported_by_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_folder(tmp_path / "data", ["a", "b", "c"])
    options = {"sam.backbone": "tiny", "auxiliary.width": 1 / 16, "crop.size": 32, "batch.capacity": 2, "cache_gb": 0}
    command = ["fit", f"--model={__name__}.Own", "--data=data_modules.FolderDataModule", f"--data.root={data}"]
    command += ["--data.masks=binary", "--data.image_size=32", "--trainer.accelerator=cpu"]
    command += ["--trainer.enable_progress_bar=false", f"--trainer.default_root_dir={tmp_path / 'run'}"]
    assert main([*command, *(f"--model.{name}={value}" for name, value in options.items())]) == 0
    assert "own_ol" in capsys.readouterr().out
    with (tmp_path / "run" / "cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    summary = json.loads((tmp_path / "run" / "metrics.json").read_text())["summary"]
    assert summary["own_ol"]["dsc"] == pytest.approx(sum(float(row["own_ol_dsc"]) for row in rows) / len(rows))
    assert {path.stem for path in (tmp_path / "run" / "figures").glob("*.png")} >= {"alpha", "running_dsc", "gain"}

    assert main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "report")]) == 0
    page = (tmp_path / "report" / "report.md").read_text()
    assert "own_ol" in page
    assert "AuxOL" not in page
