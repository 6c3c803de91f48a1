"""Grid files: what they expand to, and what is wrong with them."""

from pathlib import Path

import pytest

from lightning_samseg.errors import UserError
from lightning_samseg.grids.grid import Run, read_grid

GRID = """
folder: runs/some
configs: [base.yaml]
set: {trainer.max_steps: 10, model.lr: 0.1}
cell: {paper: cpc_sam, table: Table 2}
seeds: [7, 8]
axes:
  data:
    acdc:
      configs: [acdc.yaml]
      cell: {column: ACDC}
    busi:
      configs: [busi.yaml]
  method:
    full: {}
    half:
      verb: test
      set: {model.lr: 1e-3, model.blocks: [-2, -1], model.weights: null, model.ensemble: false}
      cell: {row: half of it}
exclude:
  - {data: busi, method: half}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the commands are given, with the configs that the grids name."""
    monkeypatch.chdir(tmp_path)
    for name in ("base", "acdc", "busi"):
        Path(f"{name}.yaml").touch()
    return tmp_path


def expand(text: str, **overrides: str) -> list[Run]:
    Path("grid.yaml").write_text(text)
    return read_grid("grid.yaml", overrides)


def test_product_without_the_excluded_in_the_order_of_the_file() -> None:
    runs = expand(GRID)
    assert [run.name for run in runs] == [
        "acdc-full-seed7",
        "acdc-full-seed8",
        "acdc-half-seed7",
        "acdc-half-seed8",
        "busi-full-seed7",
        "busi-full-seed8",
    ]
    assert runs[2].choices == {"data": "acdc", "method": "half"}


def test_a_run_is_a_command() -> None:
    run = expand(GRID)[3]
    assert run.argv == [
        "test",
        "--config",
        "base.yaml",
        "--config",
        "acdc.yaml",
        "--trainer.max_steps=10",
        "--model.lr=1e-3",
        "--model.blocks=[-2, -1]",
        "--model.weights=null",
        "--model.ensemble=false",
        "--trainer.default_root_dir=runs/some/acdc-half-seed8",
        "--seed_everything=8",
    ]


def test_cells_are_put_together_from_the_layers_and_need_a_row() -> None:
    cells = {run.name: run.cell for run in expand(GRID.replace("seeds: [7, 8]", ""))}
    assert cells == {
        "acdc-full": None,
        "acdc-half": {"paper": "cpc_sam", "table": "Table 2", "column": "ACDC", "row": "half of it"},
        "busi-full": None,
    }


def test_options_for_every_run() -> None:
    runs = expand(GRID, **{"data.root": "/scratch/a b", "trainer.max_steps": "3"})
    assert all("--data.root=/scratch/a b" in run.argv and "--trainer.max_steps=3" in run.argv for run in runs)
    assert not any("--trainer.max_steps=10" in run.argv for run in runs)


def test_weights_and_biases_sorts_by_grid_and_variant() -> None:
    first, second = expand(GRID, **{"wandb.project": "p"})[:2]
    expected = ["--wandb.project=p", "--wandb.group=some", "--wandb.job_type=acdc-full"]
    assert [part for part in first.argv if "wandb" in part] == expected
    assert [part for part in second.argv if "wandb" in part] == expected
    given = expand(GRID, **{"wandb.group": "mine"})[0]
    assert "--wandb.group=mine" in given.argv
    assert not [part for part in expand(GRID)[0].argv if "wandb" in part]  # any of these would turn W&B on


def test_defaults() -> None:
    (run,) = expand("{configs: [base.yaml], axes: {size: {10: {set: {model.size: 10}}}}}")
    assert (run.folder, run.verb, run.seed) == ("runs/grid/10", "fit", None)


SMALL = "configs: [base.yaml]\naxes: {a: {x: {set: {model.lr: 1}}, y: {}}}\n"
WRONG = {
    "unknown key": (SMALL + "seed: [1]", "unknown key 'seed'"),
    "unknown key of a choice": (SMALL.replace("set:", "sets:"), "choice x of axis a has an unknown key 'sets'"),
    "unknown key of a cell": (SMALL + "cell: {line: 3}", "unknown key 'line'"),
    "incomplete cell": (SMALL + "cell: {paper: cpc_sam, row: one}", "incomplete cell"),
    "a choice twice": (SMALL.replace("y:", "x:"), "'x' is given twice"),
    "choices that differ in case": (SMALL.replace("y:", "X:"), "two runs are called X"),
    "a name that is no folder": (SMALL.replace("y:", "y/z:"), "'y/z' cannot be the name"),
    "a name that joins": (SMALL.replace("y:", "y-z:"), "'y-z' cannot be the name"),
    "a name that YAML reads as true": (SMALL.replace("y:", "yes:"), "'True' cannot be the name"),
    "missing config": (SMALL.replace("base", "bass"), "bass.yaml"),
    "no config": (SMALL.replace("configs: [base.yaml]", ""), "run x has no config"),
    "configs not a list": (SMALL.replace("[base.yaml]", "base.yaml"), "not a list of files"),
    "not an option": (SMALL.replace("model.lr", "--model.lr"), "no option"),
    "the run folder as an option": (SMALL.replace("model.lr", "trainer.default_root_dir"), "decides itself"),
    "two axes, one option": (
        SMALL.replace("}}\n", "}, b: {z: {set: {model.lr: 2}}}}\n"),
        "axes a and b both set model.lr",
    ),
    "no choices": ("configs: [base.yaml]\naxes: {a: {}}", "axis a has no choices"),
    "nothing to vary": ("configs: [base.yaml]", "nothing to vary"),
    "axes not a mapping": ("configs: [base.yaml]\naxes: [a, b]", "axes is not a mapping"),
    "unknown verb": (SMALL + "verb: train", "train"),
    "seed twice": (SMALL + "seeds: [1, 1]", "different integers"),
    "seed not an integer": (SMALL + "seeds: [true]", "different integers"),
    "exclude of an unknown axis": (SMALL + "exclude: [{b: x}]", "b: x"),
    "exclude of an unknown choice": (SMALL + "exclude: [{a: z}]", "a: x | y"),
    "empty rule": (SMALL + "exclude: [{}]", "would exclude everything"),
    "everything excluded": (SMALL + "exclude: [{a: x}, {a: y}]", "no run is left"),
    "not YAML": ("configs: [base.yaml\naxes: {", "not YAML"),
    "not a mapping": ("- a\n- b", "not a mapping"),
}


@pytest.mark.parametrize("case", WRONG)
def test_mistakes_name_the_file_and_the_way_out(case: str) -> None:
    text, expected = WRONG[case]
    with pytest.raises(UserError) as caught:
        expand(text)
    message = str(caught.value)
    assert "grid.yaml" in message
    assert expected in message
    assert "what to do: " in message


@pytest.mark.parametrize("option", ["model.lr", "trainer.default_root_dir", "no option"])
def test_options_that_cannot_be_set_for_all(option: str) -> None:
    with pytest.raises(UserError, match=option):
        expand(SMALL, **{option: "2"})


def test_missing_file() -> None:
    with pytest.raises(UserError, match=r"no grid file nowhere\.yaml"):
        read_grid("nowhere.yaml")
