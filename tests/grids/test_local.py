"""Runs on this machine, with a program in the place of Python that notes down how it was started."""

from pathlib import Path

import pytest

from lightning_samseg.cli.grid import main
from lightning_samseg.errors import UserError
from lightning_samseg.grids import local
from lightning_samseg.runs.folder import Claim

PROJECT = Path(__file__).parents[2]
GRID = f"""
configs: [{PROJECT / "experiments/quickstart/cpc_sam.yaml"}]
folder: runs/mine
seeds: [1, 2, 3]
axes: {{rank: {{good: {{}}, bad: {{set: {{model.adapter.rank: 2}}}}}}}}
exclude: []
"""
PROGRAM = """#!/bin/bash
for argument in "$@"; do case $argument in --trainer.default_root_dir=*) folder=${argument#*=};; esac; done
name=$(basename "$folder")
echo "start $name gpu=$CUDA_VISIBLE_DEVICES $(ls running | wc -l) ${@: -1}" >> started
touch "running/$name"; sleep 0.4; rm "running/$name"
[[ $name == bad-seed1 ]] && echo '{"summary": {"dsc": 0.75001, "hd95": 12.5, "asd": null}}' > "$folder/metrics.json"
[[ $name == bad-seed2 ]] && { echo "error: Broken on purpose."; exit 2; }
exit 0
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("grid.yaml").write_text(GRID)
    Path("running").mkdir()
    Path("program").write_text(PROGRAM)
    Path("program").chmod(0o755)
    monkeypatch.setattr(local.sys, "executable", str(tmp_path / "program"))
    monkeypatch.setattr("lightning_samseg.cli.grid.check_runs", lambda runs, further=(): None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    return tmp_path


def started() -> list[list[str]]:
    return [line.split()[1:] for line in Path("started").read_text().splitlines()]


def test_a_failed_run_does_not_stop_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    with Claim("runs/mine/good-seed1", "fit"):
        pass
    assert main(["run", "grid.yaml"]) == 1
    output = capsys.readouterr()
    assert "Left out: 1 finished." in output.out
    assert "bad-seed2: failed" in output.out
    assert " s, dsc 0.75, hd95 12.5\n" in output.out  # of the run that has been tested
    assert output.out.count("dsc") == 1
    assert "Broken on purpose." in output.out
    assert "1 of 5 runs failed: bad-seed2." in output.err
    starts = started()
    assert [start[0] for start in starts] == ["good-seed2", "good-seed3", "bad-seed1", "bad-seed2", "bad-seed3"]
    assert {start[1] for start in starts} == {"gpu=4"}
    assert {start[2] for start in starts} == {"0"}  # one after the other
    assert {start[3] for start in starts} == {"--ckpt_path=last"}
    assert "Broken on purpose." in Path("runs/mine/bad-seed2/output.log").read_text()
    assert Path("runs/mine/grid.json").is_file()


def test_two_at_a_time_have_a_gpu_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "grid.yaml", "--jobs", "2"]) == 1
    starts = started()
    assert len(starts) == 6
    assert sorted({start[1] for start in starts}) == ["gpu=4", "gpu=7"]  # the second is used while the first is busy
    assert {int(start[2]) for start in starts} <= {0, 1}


def test_more_runs_at_a_time_than_gpus() -> None:
    with pytest.raises(UserError, match="--jobs is wrong"):
        main(["run", "grid.yaml", "--jobs", "3"])


def test_a_run_in_use_elsewhere_stops_everything() -> None:
    with Claim("runs/mine/bad-seed3", "fit"), pytest.raises(UserError, match="bad-seed3 is in use"):
        main(["run", "grid.yaml"])
    assert not Path("started").exists()


def test_all_gpus_for_a_run_that_asks_for_several() -> None:
    assert main(["run", "grid.yaml", "--set", "trainer.devices=2"]) == 1
    assert {start[1] for start in started()} == {"gpu=4,7"}
