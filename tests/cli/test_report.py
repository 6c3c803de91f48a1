"""``report`` as a user types it."""

import subprocess
import sys
from pathlib import Path

import pytest

from lightning_samseg.__main__ import main as run
from lightning_samseg.cli.report import main
from tests.reports.run_folders import write_case_run

PROJECT = Path(__file__).parents[2]


def test_a_report_and_its_exit_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_case_run(tmp_path / "runs" / "a", 1)
    write_case_run(tmp_path / "runs" / "b", 2, model={"lora_rank": 8})
    (tmp_path / "runs" / "b" / "cases.csv").unlink()
    assert run(["report", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "broken" in out
    assert "1 runs reported; 0 refused, 1 broken, 0 unfinished, 0 duplicate" in out
    assert (tmp_path / "out" / "report.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "{tmp}/out"], "There is nothing to report"),
        (["{tmp}/missing", "--out", "{tmp}/out"], "There is no folder"),
        (["{tmp}/runs", "--out", "{tmp}/runs"], "is no report"),
        (["{tmp}/runs", "--out", "{tmp}/out", "--baseline", "U-Net"], "one of: CPC-SAM"),
    ],
)
def test_mistakes(arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_case_run(tmp_path / "runs" / "a")
    assert run(["report", *(argument.format(tmp=tmp_path) for argument in arguments)]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_grid_file_gives_names_and_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text("{}")
    (tmp_path / "fig4.yaml").write_text(
        "configs: [base.yaml]\nfolder: out\nseeds: [1, 2]\ncell: {paper: cpc_sam, table: Fig. 4, column: ACDC}\n"
        "axes: {a: {one: {cell: {row: 1 branch}}, two: {set: {model.adapter.rank: 8}}}}\n"
    )
    acdc = {"data_class": "data_modules.AcdcDataModule", "unit": "mm"}
    for seed in (1, 2):
        write_case_run(tmp_path / "out" / f"one-seed{seed}", seed, **acdc)  # type: ignore[arg-type]
        write_case_run(tmp_path / "out" / f"two-seed{seed}", seed, model={"lora_rank": 8}, **acdc)  # type: ignore[arg-type]
    assert main(["--grid", "fig4.yaml", "--out", "report"]) == 0
    assert "1 branch,dsc,one,2" in Path("report/paper.csv").read_text()
    assert ",two," in Path("report/results.csv").read_text()


def test_the_verb_needs_no_torch(tmp_path: Path) -> None:
    write_case_run(tmp_path / "run")
    code = (
        "import sys; from lightning_samseg.__main__ import main; "
        f"assert main(['report', {str(tmp_path / 'run')!r}, '--out', {str(tmp_path / 'out')!r}]) == 0; "
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PROJECT)
