"""Profiles: what they may say, and what is wrong with them."""

from pathlib import Path

import pytest

from lightning_samseg.errors import UserError
from lightning_samseg.grids.profile import read_profile

PROJECT = Path(__file__).parents[2]
GOOD = 'partition: gpu\ntime: "12:00:00"\n'


def read(tmp_path: Path, text: str) -> object:
    (tmp_path / "profile.yaml").write_text(text)
    return read_profile(tmp_path / "profile.yaml")


@pytest.mark.parametrize("path", sorted((PROJECT / "experiments" / "slurm").glob("*.yaml")), ids=lambda path: path.name)
def test_ours_are_read(path: Path) -> None:
    profile = read_profile(path)
    assert profile.processes_per_node == max(1, profile.gpus)


def test_lightning_gets_the_numbers_that_slurm_has(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(GOOD + "nodes: 2\ngpus: 4\n")
    assert read_profile(tmp_path / "p.yaml").trainer_options == ["--trainer.devices=4", "--trainer.num_nodes=2"]
    (tmp_path / "p.yaml").write_text(GOOD + "gpus: 0\nprocesses: 2\n")
    options = read_profile(tmp_path / "p.yaml").trainer_options
    assert options == ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.num_nodes=1"]


MISTAKES = {
    "no partition": ('time: "1:00:00"', "has no partition"),
    "time that YAML reads as a number": ("partition: gpu\ntime: 12:00:00", "in quotes"),
    "unknown key": (GOOD + "gpu: 1", "unknown key 'gpu'"),
    "key given twice": (GOOD + "gpus: 1\ngpus: 2", "given twice"),
    "number that is none": (GOOD + "gpus: two", "gpus is wrong"),
    "no run at a time": (GOOD + "at_once: 0", "from 1"),
    "option that is none": (GOOD + "extra: [exclude node7]", "no option"),
    "two lines in one": (GOOD + 'setup: ["a\\nb"]', "setup is not a list of lines"),
    "line break in a value": (GOOD + 'account: "a\\n#SBATCH b"', "account is wrong"),
    "list": ("- partition", "not a mapping"),
    "not YAML": ("partition: [", "not YAML"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes(case: str, tmp_path: Path) -> None:
    text, message = MISTAKES[case]
    with pytest.raises(UserError, match=r"profile\.yaml") as caught:
        read(tmp_path, text)
    assert message in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no profile"):
        read_profile(tmp_path / "none.yaml")
