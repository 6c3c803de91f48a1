"""``grid list`` as a user types it."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_samseg.__main__ import main as run
from lightning_samseg.cli.grid import main
from lightning_samseg.cli.train import parse
from lightning_samseg.errors import UserError
from lightning_samseg.grids.grid import read_grid
from lightning_samseg.runs.folder import Claim

PROJECT = Path(__file__).parents[2]
TABLE2 = "experiments/grids/cpc_sam_table2.yaml"


@pytest.fixture(autouse=True)
def in_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)


def test_list_shows_folders_cells_and_the_papers_values(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", TABLE2]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["run", "folder", "fills", "DSC", "JC", "HD95", "ASD"]
    row = next(line for line in lines if "cross_prompting" in line)
    assert "runs/cpc_sam_acdc/cross_prompting" in row
    assert "Table 2, ACDC, cross prompting" in row
    assert row.split()[-4:] == ["84.75", "74.39", "13.41", "3.84"]


def test_json_holds_everything_a_launcher_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", TABLE2, "--json", "--set", "data.root=/scratch/ACDC"]) == 0
    run = json.loads(capsys.readouterr().out)[2]
    assert run["folder"] == "runs/cpc_sam_acdc/cross_prompting"
    assert [entry["values"] for entry in run["paper"]] == [{"dsc": 84.75, "jc": 74.39, "hd95": 13.41, "asd": 3.84}]
    assert run["cell"] == {"paper": "cpc_sam", "table": "Table 2", "column": "ACDC", "row": "cross prompting"}
    assert run["argv"][:3] == ["fit", "--config", "experiments/cpc_sam/acdc_1.yaml"]
    assert {"--model.prompts.num_random=0", "--data.root=/scratch/ACDC"} <= set(run["argv"])


def test_a_stream_through_several_sets_fills_a_column_of_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "experiments/grids/aux_ol_table1.yaml"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if "runs/aux_ol/polyp_medsam_point" in line]
    assert [line[3].rstrip(",") for line in lines] == ["ClinicDB", "ColonDB", "ETIS", "Kvasir", "CVC-300"]
    assert [line[-2:] for line in lines][::4] == [["31.92", "154.96"], ["72.34", "113.85"]]


def test_figures_without_numbers_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "experiments/grids/aux_ol_fig3.yaml"]) == 0
    text = capsys.readouterr().out
    assert "Fig. 3, MedSAM box, 25 %\n" in text
    assert "20 runs. The paper prints no numbers for them." in text


def test_commands_survive_the_shell(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", TABLE2, "--commands", "--set", "data.root=/my data/ACDC"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert all(shlex.split(line)[:4] == ["python", "-m", "lightning_samseg", "fit"] for line in lines)
    assert all("--data.root=/my data/ACDC" in shlex.split(line) for line in lines)


def test_runs_outside_the_papers_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid = tmp_path / "mine.yaml"
    grid.write_text("configs: [experiments/cpc_sam/busi_10.yaml]\naxes: {rank: {2: {set: {model.adapter.rank: 2}}}}")
    assert main(["list", str(grid)]) == 0
    assert "not in the paper" in capsys.readouterr().out


def test_a_cell_that_the_paper_does_not_have(tmp_path: Path) -> None:
    grid = tmp_path / "mine.yaml"
    grid.write_text((PROJECT / TABLE2).read_text().replace("row: cross prompting}", "row: crossprompting}"))
    with pytest.raises(UserError, match="No row of the papers is called 'crossprompting'"):
        main(["list", str(grid)])


MISTAKES = {
    "unknown option of the method": ("model.crosss: none", "crosss"),
    "unknown option of the trainer": ("trainer.max_stepps: 3", "max_stepps"),
    "unknown option of the run": ("nonsense: 3", "nonsense"),
    "value of a wrong kind": ("model.cross: sideways", "sideways"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_check_finds_what_the_runs_would_refuse(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    option, expected = MISTAKES[case]
    grid = tmp_path / "mine.yaml"
    grid.write_text(
        f"configs: [experiments/cpc_sam/busi_10.yaml]\naxes: {{a: {{good: {{}}, bad: {{set: {{{option}}}}}}}}}"
    )
    assert main(["list", str(grid)]) == 0
    capsys.readouterr()
    with pytest.raises(UserError, match="Run bad would not start") as caught:
        main(["list", str(grid), "--check"])
    assert expected in str(caught.value)
    assert capsys.readouterr() == ("", "")


def test_set_needs_a_value() -> None:
    with pytest.raises(UserError, match="--set takes a name and a value"):
        main(["list", TABLE2, "--set", "data.root"])


def test_starts_without_torch() -> None:
    program = (
        "import sys; from lightning_samseg.__main__ import main; "
        f"main(['grid', 'list', '{TABLE2}']); sys.exit('torch' in sys.modules or 'lightning' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)


def test_a_mistake_is_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["grid", "list", "experiments/grids/nowhere.yaml"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: There is no grid file experiments/grids/nowhere.yaml.")
    assert "what to do: " in message


def test_a_finished_run_of_other_options_is_not_taken_for_the_grids(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its results would stand for what was asked for now; another folder is the what to do."""
    grid = tmp_path / "mine.yaml"
    configs = "configs: [experiments/semi/demo.yaml, experiments/league/unet.yaml]"
    grid.write_text(f"{configs}\nfolder: {tmp_path}/one\nseeds: [7]")
    (only,) = read_grid(grid)
    with Claim(only.folder, "fit"):
        content = parse([*only.argv, "--data.num_workers=2"])  # of no influence
        (Path(only.folder) / "config.yaml").write_text(json.dumps(content.as_dict(), default=str))
    assert main(["run", str(grid)]) == 0
    assert "There is nothing to do." in capsys.readouterr().out
    asked = ["run", str(grid), "--set", "trainer.max_steps=7"]
    with pytest.raises(UserError, match=r"(?s)seed7 holds a finished run.*trainer.max_steps 120 -> 7") as caught:
        main(asked)
    assert "--folder" in str(caught.value)
    started: list[str] = []
    monkeypatch.setattr("lightning_samseg.cli.grid.work_off", lambda runs, jobs: started.extend(r.folder for r in runs))
    assert main([*asked, "--folder", f"{tmp_path}/two"]) == 0
    assert started == [f"{tmp_path}/two/seed7"]
