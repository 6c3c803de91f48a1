"""Grids from submission to report, with runs that fail, a cancellation, and a node that dies."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, wait_for
from tests.slurm.conftest import Desk

pytestmark = pytest.mark.slurm

FOUR = """
configs: [CPC]
axes:
  run:
    one: {}
    two: {set: {model.fails_while: FLAG, model.pause: 1.0}}
    three: {}
    four: {}
"""
TWELVE = """
seeds: [1, 2]
axes:
  run:
    labelled_alone:
      configs: [CPC]
      set: {model.cross: none, model.pause: 8.0, checkpoint_every: 1}
      cell: {row: labelled images alone}
    unprompted: {configs: [CPC], set: {model.cross: unprompted}, cell: {row: unprompted cross supervision}}
    cross_prompting: {configs: [CPC], set: {model.prompts.num_random: 0}, cell: {row: cross prompting}}
    fixed: {configs: [AUX], set: {model.fusion.kind: fixed}}
    adaptive: {configs: [AUX], set: {model.fusion.kind: adaptive}}
    fifo: {configs: [AUX], set: {model.batch.policy: fifo}}
"""


def queue(cluster: Cluster) -> list[str]:
    """States of what waits and runs, a line for each task."""
    return cluster.ask("squeue", "--noheader", "--array", "--format", "%T").split()


def test_one_of_four_fails_is_submitted_again_and_cancelled(
    desk: Desk, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    flag = desk.folder / "flag"
    flag.touch()
    desk.grid(FOUR.replace("FLAG", str(flag)))
    desk("submit")
    most = 0

    def done() -> bool:
        nonlocal most
        states = queue(cluster)
        most = max(most, states.count("RUNNING"))
        return not states

    wait_for(done, 600, "end of the array")
    assert most == 2
    capsys.readouterr()
    desk("status")
    lines = {Path(line.split()[0]).name: line for line in capsys.readouterr().out.splitlines()[:4]}
    assert [name for name, line in lines.items() if "finished" in line] == ["one", "three", "four"]
    assert "This run fails on purpose." in lines["two"]

    flag.unlink()
    desk("submit")
    assert "Left out: 3 finished." in capsys.readouterr().out
    assert desk.submissions()[1]["runs"] == ["two"]
    desk("submit")
    assert "There is nothing to do." in capsys.readouterr().out  # never one that is live
    assert len(desk.submissions()) == 2
    wait_for(lambda: desk.state("two") == "running", 60, "second start")
    desk("cancel")
    assert "Cancelled: " in capsys.readouterr().out
    wait_for(lambda: not queue(cluster), 60, "empty queue")
    desk("status")
    assert "interrupted" in capsys.readouterr().out
    assert subprocess.run(["squeue", "-h"], capture_output=True, text=True).stdout == ""


def test_both_papers_survive_the_death_of_a_node(desk: Desk, cluster: Cluster) -> None:
    desk.profile(at_once=4)
    desk.grid(TWELVE + "cell: {paper: cpc_sam, table: Table 2, column: ACDC}\n")
    desk("submit")
    names = desk.submissions()[0]["runs"]
    assert len(names) == 12

    def finished() -> int:
        return sum(desk.state(name) == "finished" for name in names)

    # The first two runs, which are slow, are on n1. It goes on with them unseen, and Slurm starts them on n2, too.
    wait_for(lambda: finished() >= 2, 600, "first results")
    assert cluster.ask("squeue", "-h", "-w", "n1", "-o", "%K").split() != []
    cluster.kill_node("n1")
    wait_for(lambda: "down" in cluster.ask("sinfo", "-h", "-n", "n1", "-o", "%T"), 90, "death of the node noticed")
    cluster.start_node("n1")
    wait_for(lambda: not queue(cluster), 900, "end of the array")
    desk("submit")  # what was lost, if anything
    wait_for(lambda: not queue(cluster), 600, "end of the second array")
    assert finished() == 12
    starts = {name: status.starts for name in names if (status := desk.status(name))}
    assert max(starts.values()) > 1, "the death of the node has hit no run"
    for name in names:
        metrics = json.loads((desk.runs / name / "metrics.json").read_text())
        assert metrics["seed"] == int(name[-1])
    desk("collect", "--out", str(desk.folder / "report"), "--group")
    assert list((desk.folder / "report").iterdir())
