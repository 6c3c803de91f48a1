"""What a running job goes through: signals, preemption, two nodes."""

import csv
import subprocess

import pytest

from lightning_samseg.__main__ import main
from tests.comparing import assert_equal
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import Desk

pytestmark = pytest.mark.slurm

ONE_RUN = "configs: [{config}]\naxes: {{run: {{one: {{set: {{{options}}}}}}}}}"


def reference(desk: Desk, config: str, *options: str) -> None:
    """The same run, without Slurm and without interruption, in this process."""
    folder = desk.runs / "reference"
    command = ["fit", "--config", str(desk.folder / config), "--trainer.default_root_dir", str(folder)]
    assert main([*command, *options]) == 0


def assert_equal_weights(desk: Desk, run: str) -> None:
    ours, theirs = desk.weights(run), desk.weights("reference")
    assert ours["global_step"] == theirs["global_step"]
    assert ours["threads"] == theirs["threads"] == 1  # sums in another order are other sums
    assert_equal(ours["state_dict"], theirs["state_dict"])


def logged_steps(desk: Desk, run: str, column: str) -> list[int]:
    """Steps at which something was logged."""
    with (desk.runs / run / "logs" / "metrics.csv").open() as file:
        return [int(row["step"]) for row in csv.DictReader(file) if row.get(column)]


def test_a_signal_makes_a_run_save_and_come_back(desk: Desk, cluster: Cluster) -> None:
    desk.grid(
        ONE_RUN.format(config="CPC", options="model.pause: 0.5, trainer.max_steps: 24, trainer.val_check_interval: 6")
    )
    desk("submit")
    desk.wait_for_steps("one", 6)
    cluster.ask("scancel", "--signal=USR1", f"{desk.submissions()[0]['job']}_0")
    desk.wait_for_state("one", "requeued")
    step = desk.weights("one")["global_step"]
    status = desk.status("one")
    assert status is not None
    assert status.step == step
    assert 6 <= step < 24
    reference(desk, "cpc.yaml", "--trainer.max_steps", "24", "--trainer.val_check_interval", "6")
    desk.wait_for_state("one", "finished")
    assert_equal_weights(desk, "one")
    status = desk.status("one")
    assert status is not None
    assert (status.starts, status.requeued, status.step) == (2, 1, 24)
    assert logged_steps(desk, "one", "train/loss") == list(range(24))  # nothing twice, nothing missing
    assert logged_steps(desk, "one", "val/dsc") == logged_steps(desk, "reference", "val/dsc")
    assert (desk.runs / "one" / "cases.csv").read_bytes() == (desk.runs / "reference" / "cases.csv").read_bytes()
    assert not (desk.runs / "one" / "run.lock").exists()


def test_a_job_of_higher_priority_preempts_a_stream(
    desk: Desk, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.grid(ONE_RUN.format(config="AUX", options="model.pause: 0.7"))
    desk("submit")
    desk.wait_for_steps("one", 4)
    command = ["sbatch", "--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null"]
    higher = subprocess.run([*command, "--parsable", "--wrap", "sleep 600"], check=True, capture_output=True, text=True)
    try:
        desk.wait_for_state("one", "requeued")
        step = desk.weights("one")["global_step"]
        assert 4 <= step < 24
        capsys.readouterr()
        desk("status")
        line = capsys.readouterr().out.splitlines()[0]
        assert "waiting" in line
        assert f"step {step} of 24" in line
        assert "preempted once" in line
    finally:
        cluster.ask("scancel", higher.stdout.strip())
    reference(desk, "aux.yaml")
    desk.wait_for_state("one", "finished")
    assert_equal_weights(desk, "one")
    for name in ("cases.csv", "prompts.csv"):
        assert (desk.runs / "one" / name).read_bytes() == (desk.runs / "reference" / name).read_bytes()


def test_two_nodes_train_one_run_and_agree_where_to_stop(desk: Desk, cluster: Cluster) -> None:
    desk.profile(nodes=2)
    desk.grid(
        ONE_RUN.format(config="CPC", options="model.pause: 0.5, trainer.max_steps: 24, trainer.val_check_interval: 6")
    )
    desk("submit")
    desk.wait_for_steps("one", 6)
    assert "MEMBER: 2/2" in desk.log("one")
    cluster.ask("scancel", "--signal=USR1", f"{desk.submissions()[0]['job']}_0")
    desk.wait_for_state("one", "requeued")
    step = desk.weights("one")["global_step"]
    assert step % 10 == 0  # where the ranks ask one another
    desk.wait_for_state("one", "finished")
    assert logged_steps(desk, "one", "train/loss") == list(range(24))
    assert desk.weights("one")["global_step"] == 24
    status = desk.status("one")
    assert status is not None
    assert (status.starts, status.requeued) == (2, 1)
