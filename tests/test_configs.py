"""Every shipped config and grid through the real parser; every method built once, small."""

import importlib
import json
import re
from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lightning_samseg.cli.train import parse
from lightning_samseg.grids.grid import Run, read_grid
from lightning_samseg.methods import CpcSam
from lightning_samseg.reports.paper import Cell, filled_by, paper_tables, paper_values
from lightning_samseg.runs.options import flat

PROJECT = Path(__file__).parents[1]
EXPERIMENTS = PROJECT / "experiments"
PRESETS = ("preset_code.yaml", "preset_paper.yaml")
OVERLAYS = (
    *(*PRESETS, "imagenet_encoder.yaml", "pseudo_labels.yaml"),
    *("medsam.yaml", "lite_medsam.yaml", "points.yaml", "preset_fast.yaml", "samed.yaml"),
)
"""Configs that go over others."""
NOT_CONFIGS = ("grids", "league", "results", "semi", "slurm", "small_data", "sweeps")
CONFIGS = sorted(
    str(path.relative_to(PROJECT))
    for path in EXPERIMENTS.glob("*/*.yaml")
    if path.parent.name not in NOT_CONFIGS and path.name not in OVERLAYS
)
SEMI_DATA = ("acdc", "busi", "demo")
SEMI = sorted({path.stem for path in (EXPERIMENTS / "semi").glob("*.yaml")} - {*SEMI_DATA, "sam_lora"})
GRIDS = sorted(str(path.relative_to(PROJECT)) for path in (EXPERIMENTS / "grids").glob("*.yaml"))


@pytest.fixture(autouse=True)
def in_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)


def all_runs() -> Iterator[tuple[str, Run]]:
    for grid in GRIDS:
        for run in read_grid(PROJECT / grid):
            yield grid, run


def parsed(*argv: str) -> Any:
    return parse([*argv])


def method_of(config: Any) -> Any:
    module, _, name = config.model.class_path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def build(config: Any) -> torch.nn.Module:
    """The config's method as it is, but with the smallest network of its kind and 32 px."""
    arguments = {**config.model.init_args.as_dict(), "num_classes": 3, "image_size": 32}
    if "network" not in arguments or arguments["network"]["name"] == "sam_lora":  # others are small, with no backbone
        smallest: dict[str, Any] = {"sam": {"backbone": "tiny", "checkpoint": None}, "adapter": {"blocks": None}}
        arguments |= {name: arguments[name] | small for name, small in smallest.items() if name in arguments}
    method: torch.nn.Module = method_of(config)(**arguments)
    return method


@pytest.mark.parametrize("path", CONFIGS)
def test_config_parses_and_builds(path: str) -> None:
    config = parsed("test" if "/zero_shot/" in path else "fit", "--config", path)
    assert config.data.class_path.startswith("data_modules.")
    method = method_of(config)
    if getattr(method, "uses_stream", False):
        return  # as long as its data; built in its own tests
    assert config.trainer.max_steps > 0 or not method.needs_training
    assert any(parameter.requires_grad for parameter in build(config).parameters()) == method.needs_training


@pytest.mark.parametrize("data", SEMI_DATA)
@pytest.mark.parametrize("method", SEMI)
def test_semi_supervised_methods_lie_over_data_configs(method: str, data: str) -> None:
    config = parsed("fit", "--config", f"experiments/semi/{data}.yaml", "--config", f"experiments/semi/{method}.yaml")
    kind = method_of(config)
    assert kind.uses_unlabelled
    assert any(parameter.requires_grad for parameter in build(config).parameters())
    written = yaml.safe_load((EXPERIMENTS / "semi" / f"{method}.yaml").read_text())["model"]["init_args"]
    own = [name for name in signature(kind.__init__).parameters if name not in ("self", "base")]
    # Everything that makes the method is in the file; what is left out says where weights come from.
    assert set(own) - set(written) <= {"sam", "adapter"}
    optimizer = {"name": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4, "warmup_iters": 0}
    assert {name: written["optimizer"][name] for name in optimizer} == optimizer
    if data == "demo":
        return
    assert config.data.init_args.labelled_batch_size == 12
    assert config.data.init_args.unlabelled_batch_size == (24 if method == "unimatch" else 12)
    assert config.trainer.max_steps == (40_000 if method == "bcp" else 30_000)


@pytest.mark.parametrize("method", ["uamt", "cps", "unimatch"])
def test_sam_goes_over_a_semi_supervised_method(method: str) -> None:
    layers = [part for name in ("busi", method, "sam_lora") for part in ("--config", f"experiments/semi/{name}.yaml")]
    config = parsed("fit", *layers)
    built = build(config)
    network = built.networks[0] if method == "cps" else built.network
    assert len(network.sam.mask_decoders) == (2 if method == "cps" else 1)
    assert config.model.init_args.optimizer.name == "adamw"
    assert config.data.init_args.image_size == 512


def test_run_folders_differ() -> None:
    folders = [yaml.safe_load(Path(path).read_text())["trainer"]["default_root_dir"] for path in CONFIGS]
    assert all(folder.startswith("runs/") for folder in folders)
    assert len(set(folders)) == len(folders)


@pytest.mark.parametrize("path", [path for path in CONFIGS if "(paper: DSC" in (PROJECT / path).read_text()])
def test_a_config_quotes_the_papers_values(path: str) -> None:
    text = " ".join(line.lstrip("# ") for line in Path(path).read_text().splitlines() if line.startswith("#"))
    quoted = [float(number) for number in re.findall(r"(?:DSC|JC|HD95|ASD) (\d+\.\d+)", text)]
    table = paper_tables()["cpc_sam"]["tables"]["Table 1"]["columns"]
    assert quoted in [row for column in table.values() for row in column["rows"].values()]
    runs = [run for _, run in all_runs() if run.configs == (path,) and not run.overrides and run.cell]
    for run in runs:
        if run.cell and run.cell["table"] == "Table 1":
            assert list(paper_values(Cell(**run.cell)).values()) == quoted


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("base", [path for path in CONFIGS if path.startswith("experiments/cpc_sam/")])
def test_presets_lie_over_every_data_config(base: str, preset: str) -> None:
    alone = parsed("fit", "--config", base)
    layered = parsed("fit", "--config", base, "--config", f"experiments/cpc_sam/{preset}")
    wanted = yaml.safe_load((EXPERIMENTS / "cpc_sam" / preset).read_text())
    for part in ("model", "data"):
        before, after = flat(alone[part].as_dict()), flat(layered[part].as_dict())
        assert after == before | flat(wanted[part])
    assert layered.trainer.max_steps == alone.trainer.max_steps


def test_presets_name_the_same_options_and_differ_where_paper_and_code_do() -> None:
    paper, code = (
        yaml.safe_load((EXPERIMENTS / "cpc_sam" / f"preset_{name}.yaml").read_text()) for name in ("paper", "code")
    )
    options, other = flat(paper["model"]), flat(code["model"])
    assert options.keys() == other.keys()
    differ = {name for name, value in options.items() if other[name] != value}
    assert differ == {
        *("update", "optimizer.warmup_iters", "ssl_start_iter", "loss.prompted_dice", "select_branch"),
        *("prompts.include_background", "prompts.absent", "pseudo"),
    }


def test_the_code_preset_is_the_recorded_trainer() -> None:
    config = parsed(
        "fit", "--config", "experiments/cpc_sam/acdc_1.yaml", "--config", "experiments/cpc_sam/preset_code.yaml"
    )
    method = build(config)
    assert isinstance(method, CpcSam)
    assert not method.automatic_optimization
    assert (method.loss.prompted_dice, method.ssl_start_iter, method.optimizer.warmup_iters) == (0.8, 5000, 250)
    assert (method.optimizer.lr, method.optimizer.weight_decay, method.select_branch) == (1e-3, 0.1, "1")
    assert (method.prompts.include_background, method.prompts.absent, method.pseudo) == (
        True,
        "background_point",
        "hard",
    )


@pytest.mark.parametrize("grid", GRIDS)
def test_grid_runs_parse_and_differ(grid: str) -> None:
    seen: list[str] = []
    runs = read_grid(grid)
    first = {json.dumps([run.configs, {**run.overrides, "seed_everything": 0}]): run for run in reversed(runs)}
    for run in first.values() if any(run.overrides for run in runs) else runs[:1]:  # configs alone are parsed above
        config = parse(run.argv)
        content = f"{config.model} {config.data}"
        assert content not in seen, run.name  # what a choice sets is not what stands there anyway
        seen.append(content)
        assert config.trainer.default_root_dir == run.folder
    assert len({tuple(run.argv) for run in runs}) == len({run.folder for run in runs}) == len(runs)  # seeds, too
    for cell in [cell for run in runs if run.cell for cell in filled_by(run.cell)]:
        assert paper_values(cell) or (cell.paper == "aux_ol" and cell.table.startswith("Fig."))


def test_runs_that_share_a_folder_are_one_run() -> None:
    argv: dict[str, list[str]] = {}
    for grid, run in all_runs():
        assert argv.setdefault(run.folder, run.argv) == run.argv, f"{grid}: {run.name}"


def test_every_cell_of_aux_ol_is_filled() -> None:
    """By a run of its own, or, for SAM alone, by the run of the same row with AuxOL."""
    tables = paper_tables()["aux_ol"]["tables"]
    named = [run.cell for _, run in all_runs() if run.cell and run.cell["paper"] == "aux_ol"]
    filled = [cell for each in named for cell in filled_by(each)]
    assert len(set(filled)) == len(filled)
    alone = {cell._replace(row=cell.row.removesuffix(", AuxOL")) for cell in filled}
    every = {
        Cell("aux_ol", table, column, row)
        for table, content in tables.items()
        for column, part in content["columns"].items()
        for row in part["rows"]
        if row != "adapted SAM"  # of any run with an adapter
    }
    assert every == alone | set(filled)


def test_the_league_is_one_protocol_for_twelve_methods_on_any_data() -> None:
    own = {"data": "data_modules.FolderDataModule", "data.root": "my_data"}
    for overrides in ({}, own):
        methods = set()
        for run in read_grid(EXPERIMENTS / "grids" / "league.yaml", overrides):
            config = parse(run.argv)
            methods.add(config.model.class_path)
            assert config.data.class_path == overrides.get("data", "data_modules.DemoDataModule")
            assert config.model.init_args.convention == "strict"
            assert config.model.init_args.restore == "probabilities"
            assert (config.trainer.max_steps, config.data.init_args.num_labelled, config.seed_everything) == (
                120,
                10,
                1337,
            )
        assert len(methods) == 12


def test_both_halves_of_table_1_have_every_row() -> None:
    for column in ("acdc", "busi"):
        runs = [run for run in read_grid(EXPERIMENTS / "grids" / f"cpc_sam_table1_{column}.yaml") if run.cell]
        rows = [run.cell["row"] for run in runs if run.cell and run.cell.get("row")]
        assert len(rows) == len(set(rows)) == 24


def test_every_cell_of_ours_is_filled() -> None:
    filled = {tuple(run.cell.values()) for _, run in all_runs() if run.cell}
    missing = [
        (table, column, row)
        for table, content in paper_tables()["cpc_sam"]["tables"].items()
        for column, part in content["columns"].items()
        for row in part["rows"]
        if ("cpc_sam", table, column, row) not in filled
    ]
    assert missing == [("Section 3", "ACDC", name) for name in ("branch 1", "branch 2", "ensemble")]


def test_the_readme_lists_every_run_with_the_papers_values() -> None:
    sections = re.split(r"\n#+ ", (EXPERIMENTS / "README.md").read_text())
    for grid in [grid for grid in GRIDS if "/cpc_sam_" in grid or "/aux_ol_table" in grid]:
        section = next(section for section in sections if f"`grids/{Path(grid).name}`" in section.splitlines()[0])
        rows = [
            [cell.strip() for cell in line.split("|")[1:]] for line in section.splitlines() if line.startswith("| `")
        ]
        runs = read_grid(grid)
        assert [row[0] for row in rows] == [f"`{run.name}`" for run in runs]
        for run, row in zip(runs, rows, strict=True):
            cells = filled_by(run.cell) if run.cell else []
            values = [value for cell in cells for value in paper_values(cell).values()]
            assert [cell for cell in row[3:] if cell] == [f"{value:.2f}" for value in values], run.name


def test_commands_of_the_readme_parse() -> None:
    text = (EXPERIMENTS / "README.md").read_text().replace("\\\n", "")
    commands = re.findall(r"^python -m lightning_samseg ((?:fit|test) .*?)(?:#.*)?$", text, re.MULTILINE)
    assert len(commands) >= 5
    for command in commands:
        # The config of a finished run is that of its grid.
        parse(command.replace("runs/cpc_sam_acdc/cpc_sam_1/config.yaml", "experiments/cpc_sam/acdc_1.yaml").split())


def test_the_example_of_the_readme_expands(tmp_path: Path) -> None:
    example = (EXPERIMENTS / "README.md").read_text().split("```yaml\n")[1].split("```")[0]
    (tmp_path / "example.yaml").write_text(example)
    runs = read_grid(tmp_path / "example.yaml")
    assert len(runs) == 3 * 3
    assert "runs/example/cpc_sam_1-rank4-seed1337" in [run.folder for run in runs]
    assert parse(runs[0].argv).trainer.precision == "bf16-mixed"
