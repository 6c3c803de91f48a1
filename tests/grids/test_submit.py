"""From a grid to an array and back to what became of it, with a Slurm that answers from text files."""

import json
import shlex
import subprocess
from pathlib import Path

import pytest

from lightning_samseg.cli.grid import main
from lightning_samseg.errors import UserError
from lightning_samseg.planning import Cost
from lightning_samseg.runs.folder import Claim
from lightning_samseg.runs.slurm import job_state

PROJECT = Path(__file__).parents[2]
BASE = "experiments/quickstart/cpc_sam.yaml"
GRID = f"""
configs: [{PROJECT / BASE}]
folder: runs/mine
seeds: [1, 2]
axes: {{rank: {{r2: {{set: {{model.adapter.rank: 2}}}}, r4: {{}}}}}}
"""
NAMES = ["r2-seed1", "r2-seed2", "r4-seed1", "r4-seed2"]
PROFILE = (
    'partition: gpu\ntime: "12:00:00"\nmemory: 64G\naccount: me\nextra: [--exclude=node7]\nsetup: [module load cuda]'
)


@pytest.fixture(autouse=True)
def plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the runs need is told in tests/cli/test_plan.py."""
    monkeypatch.setattr("lightning_samseg.cli.planned.dry_run", lambda *_: Cost(1, 1, 1, 1.0, 0.0, 1, 1))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the commands are given."""
    here = tmp_path / "with space"
    here.mkdir()
    monkeypatch.chdir(here)
    Path("grid.yaml").write_text(GRID)
    Path("profile.yaml").write_text(PROFILE)
    return here


def submit(*options: str) -> int:
    return main(["submit", "grid.yaml", "--profile", "profile.yaml", *options])


def finish(name: str) -> None:
    with Claim(f"runs/mine/{name}", "fit"):
        pass


def statuses(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    capsys.readouterr()
    assert main(["status", "grid.yaml"]) == 0
    lines = capsys.readouterr().out.splitlines()[:-1]
    return {Path(line.split()[0]).name: " ".join(line.split()[1:]) for line in lines}


def test_dry_run_shows_the_job_and_touches_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")  # no Slurm is needed
    assert submit("--dry-run") == 0
    text = capsys.readouterr().out
    assert not Path("runs").exists()
    for option in (
        "--partition=gpu",
        "--array=0-3%8",
        "--gres=gpu:1",
        "--mem=64G",
        "--account=me",
        "--exclude=node7",
        "--requeue",
        "--open-mode=append",
        "--signal=SIGUSR1@300",
        "--ntasks-per-node=1",
        "--time=12:00:00",
    ):
        assert f"#SBATCH {option}\n" in text
    assert "module load cuda\n" in text
    assert text.index("#SBATCH --exclude") < text.index("module load")


def test_each_task_starts_its_own_run(slurm: Path, folder: Path, tmp_path: Path) -> None:
    # A value of a YAML block may hold several lines; a task still reads one line of the manifest.
    assert submit("--set", "data.root=/my data/it's\nACDC") == 0
    # The script is run as Slurm would, with an srun that prints its arguments.
    srun = tmp_path / "bin" / "srun"
    srun.write_text('#!/bin/bash\nprintf "%s\\n" "$@"')
    srun.chmod(0o755)
    for task, name in enumerate(NAMES):
        job = subprocess.run(
            ["bash", slurm / "job.sh"],
            env={"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "SLURM_ARRAY_TASK_ID": str(task)},
            capture_output=True,
            text=True,
        )
        arguments = job.stdout.splitlines()
        assert f"--output=runs/mine/{name}/output.log" in arguments
        assert arguments[arguments.index("lightning_samseg") + 1] == "fit"
        assert f"--trainer.default_root_dir=runs/mine/{name}" in arguments
        assert "--data.root=/my data/it's\nACDC" in job.stdout
        assert arguments[-3:] == ["--ckpt_path=last", "--trainer.devices=1", "--trainer.num_nodes=1"]
        assert Path(f"runs/mine/{name}").is_dir()


def test_a_task_whose_manifest_is_gone_fails(slurm: Path, tmp_path: Path) -> None:
    assert submit() == 0
    (tmp_path / "bin" / "srun").write_text("#!/bin/bash\ntrue")
    (tmp_path / "bin" / "srun").chmod(0o755)
    for status, manifest in ((0, None), (1, Path("runs/mine/slurm/manifest-1.txt"))):
        if manifest:
            manifest.unlink()
        environment = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "SLURM_ARRAY_TASK_ID": "0"}
        assert (
            subprocess.run(["bash", slurm / "job.sh"], env=environment, stderr=subprocess.DEVNULL).returncode == status
        )


def test_what_was_submitted_is_remembered(slurm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert submit() == 0
    assert "Submitted 4 runs as job 41" in capsys.readouterr().out
    noted = json.loads(Path("runs/mine/submissions.json").read_text())
    assert [(entry["job"], entry["runs"]) for entry in noted] == [("41", NAMES)]
    lines = Path(noted[0]["manifest"]).read_text().splitlines()
    assert [shlex.split(line)[0] for line in lines] == [f"runs/mine/{name}" for name in NAMES]
    grid = json.loads(Path("runs/mine/grid.json").read_text())
    assert [run["name"] for run in grid["runs"]] == NAMES
    assert grid["runs"][0]["choices"] == {"rank": "r2"}
    assert grid["runs"][0]["seed"] == 1


def test_status_joins_queue_controller_and_folders(slurm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    submit()
    finish("r2-seed1")
    with pytest.raises(UserError), Claim("runs/mine/r2-seed2", "fit"):
        raise UserError("Too few images.", fix="more")
    (slurm / "squeue").write_text("41|2|RUNNING|None\n41|3|PENDING|JobArrayTaskLimit\n")
    (slurm / "scontrol").write_text(
        "JobId=43 ArrayJobId=41 ArrayTaskId=1 JobState=FAILED Reason=NonZeroExitCode Restarts=0 ExitCode=2:0\n"
        "JobId=44 ArrayJobId=41 ArrayTaskId=2 JobState=RUNNING Reason=None Restarts=3 ExitCode=0:0\n"
    )
    assert statuses(capsys) == {
        "r2-seed1": "finished",
        "r2-seed2": "failed Too few images. what to do: more",
        "r4-seed1": "running starting; preempted 3 times; job 41_2",
        "r4-seed2": "waiting JobArrayTaskLimit; job 41_3",
    }


def test_status_takes_what_slurm_knows_of_runs_that_never_began(
    slurm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    submit()
    Path("runs/mine/r2-seed1").mkdir()
    Path("runs/mine/r2-seed1/output.log").write_text("loading\nModuleNotFoundError: No module named 'torch'\nsrun: x\n")
    (slurm / "scontrol").write_text(
        "JobId=42 ArrayJobId=41 ArrayTaskId=0 JobState=FAILED Reason=NonZeroExitCode Restarts=0 ExitCode=1:0\n"
    )
    found = statuses(capsys)
    assert found["r2-seed1"] == "failed FAILED, exit code 1:0; ModuleNotFoundError: No module named 'torch'"
    assert found["r4-seed1"] == "missing"
    (slurm / "sacct").write_text("41_0|OUT_OF_MEMORY|0:125\n41_1|CANCELLED by 1000|0:0\n41_[2-3]|PENDING|0:0\n")
    found = statuses(capsys)  # accounting, where there is any, comes before the controller's memory
    assert found["r2-seed1"].startswith("failed OUT_OF_MEMORY, exit code 0:125")
    assert found["r2-seed2"] == "missing"


def test_again_submits_only_what_is_missing_or_failed(slurm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    submit()
    finish("r2-seed1")
    with pytest.raises(UserError), Claim("runs/mine/r2-seed2", "fit"):
        raise UserError("Too few images.", fix="more")
    (slurm / "squeue").write_text("41|3|PENDING|Resources\n")
    capsys.readouterr()
    assert submit() == 0
    assert "Left out: 1 finished, 1 waiting." in capsys.readouterr().out
    noted = json.loads(Path("runs/mine/submissions.json").read_text())
    assert noted[1]["runs"] == ["r2-seed2", "r4-seed1"]
    assert noted[1]["manifest"] != noted[0]["manifest"]
    (slurm / "squeue").write_text("41|3|PENDING|Resources\n42|0|PENDING|None\n42|1|RUNNING|None\n")
    capsys.readouterr()
    assert submit() == 0
    assert "There is nothing to do." in capsys.readouterr().out
    assert len(json.loads(Path("runs/mine/submissions.json").read_text())) == 2


def test_cancel_takes_what_is_live(slurm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cancel", "grid.yaml"]) == 0
    assert not (slurm / "cancelled").exists()
    submit()
    (slurm / "squeue").write_text("41|1|RUNNING|None\n41|3|PENDING|Resources\n")
    assert main(["cancel", "grid.yaml"]) == 0
    assert (slurm / "cancelled").read_text().split() == ["41_1", "41_3"]


def bad_override() -> list[str]:
    return ["--set", "model.lora_rnak=3"]


def bad_axis() -> list[str]:
    Path("grid.yaml").write_text(GRID + "\nexclude: [{rnak: r2}]")
    return []


def no_partition() -> list[str]:
    Path("profile.yaml").write_text('time: "1:00:00"')
    return []


def locked() -> list[str]:
    with Claim("runs/mine/r4-seed1", "fit"):
        lock = Path("runs/mine/r4-seed1/run.lock").read_text()
    Path("runs/mine/r4-seed1/run.lock").write_text(lock)  # this process lives on
    return []


MISTAKES = {
    "override of a key that does not exist": (bad_override, "lora_rnak"),
    "unknown axis": (bad_axis, "rnak: r2"),
    "profile without partition": (no_partition, "has no partition"),
    "run folder in use": (locked, "r4-seed1 is in use"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_message_before_anything_is_submitted(case: str, slurm: Path) -> None:
    make, message = MISTAKES[case]
    with pytest.raises(UserError) as caught:
        submit(*make())
    assert message in str(caught.value)
    assert not (slurm / "job.sh").exists()
    assert not Path("runs/mine/submissions.json").exists()


def test_without_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="Slurm is not on this machine"):
        submit()
    assert not Path("runs").exists()


def test_slurm_refuses(slurm: Path) -> None:
    (slurm / "refusal").write_text("sbatch: error: invalid partition specified: gpu\n")
    with pytest.raises(UserError, match="invalid partition"):
        submit()
    assert not Path("runs/mine/submissions.json").exists()
    assert not list(Path("runs/mine/slurm").iterdir())


def test_the_controller_does_not_answer(slurm: Path) -> None:
    submit()
    (slurm / "down").touch()
    with pytest.raises(UserError, match="does not answer"):
        main(["status", "grid.yaml"])


def test_the_controller_is_too_slow(slurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    submit()

    def hang(command: list[str], **options: object) -> None:
        raise subprocess.TimeoutExpired(command, 60)

    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(UserError, match="does not answer"):
        main(["status", "grid.yaml"])
    assert job_state("41") is None  # signs of life decide about a lock


def test_collect_needs_a_finished_run() -> None:
    with pytest.raises(UserError, match=r"No run of grid\.yaml is finished"):
        main(["collect", "grid.yaml", "--out", "report"])


def test_collect_hands_finished_runs_and_their_cells_to_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = "cell: {paper: cpc_sam, table: Table 2, column: ACDC, row: cross prompting}"
    Path("grid.yaml").write_text(GRID.replace("r4: {}", f"r4: {{{cell}}}"))
    for name in ("r2-seed1", "r4-seed2"):
        finish(name)
    given = {}

    def build_report(paths: list[Path], out: Path, **options: object) -> int:
        given.update(paths=paths, out=out, **options)
        return 0

    monkeypatch.setattr("lightning_samseg.reports.build.build_report", build_report)
    assert main(["collect", "grid.yaml", "--out", "report", "--group"]) == 0
    folders = [Path("runs/mine/r2-seed1"), Path("runs/mine/r4-seed2")]
    assert given["paths"] == folders
    assert given["group"] is True
    assert given["cells"] == {
        folders[1]: {"paper": "cpc_sam", "table": "Table 2", "column": "ACDC", "row": "cross prompting"}
    }
