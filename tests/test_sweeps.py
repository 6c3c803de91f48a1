"""Every sweep file as W&B's agent would start it."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from lightning_samseg.cli.train import parse
from lightning_samseg.runs.options import flat

ROOT = Path(__file__).parents[1]
SWEEPS = sorted((ROOT / "experiments" / "sweeps").glob("*.yaml"))
METRICS = {"CpcSam": "val/dsc", "Bcp": "val/dsc", "UniMatch": "val/dsc", "AuxOl": "dsc/aux_ol"}
"""Logged by the methods: tests/test_loggers.py looks for them in what runs leave behind."""


@pytest.fixture(autouse=True)
def under_the_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    monkeypatch.setenv("WANDB_RUN_ID", "run1")


def choices(parameter: dict[str, Any]) -> list[Any]:
    return parameter["values"] if "values" in parameter else [parameter["min"], parameter["max"]]


def started(sweep: dict[str, Any], index: int) -> tuple[list[str], dict[str, Any]]:
    """What the agent would run with the index-th value of every parameter, and those values."""
    chosen = {name: choices(each)[index % len(choices(each))] for name, each in sweep["parameters"].items()}
    arguments = create_sweep_command_args({"args": {name: {"value": value} for name, value in chosen.items()}})
    macros = {"env": ["/usr/bin/env"], "interpreter": ["python"], "program": [sweep["program"]], **arguments}
    argv: list[str] = []
    for part in create_sweep_command(list(sweep["command"])):
        macro = re.fullmatch(r"\$\{(\w+)\}", part)
        argv += macros[macro[1]] if macro else [part]
    return argv, chosen


def test_both_papers_and_the_strongest_baselines_have_sweeps() -> None:
    assert {path.stem for path in SWEEPS} == {
        *("cpc_sam_busi", "cpc_sam_acdc"),
        *("bcp_busi", "bcp_acdc", "unimatch_busi", "unimatch_acdc"),
        *("aux_ol_polyp", "aux_ol_busi", "aux_ol_glas"),
    }


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_value_reaches_its_option(path: Path) -> None:
    sweep = yaml.safe_load(path.read_text())
    assert set(sweep) == {"program", "method", "run_cap", "metric", "parameters", "command"}
    assert sweep["method"] in ("grid", "random", "bayes")
    assert sweep["metric"]["goal"] == "maximize"
    for name, parameter in sweep["parameters"].items():
        assert re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", name), "a flat dotted name"
        keys = set(parameter)
        assert keys == {"values"} or keys == {"distribution", "min", "max"}
        if "distribution" in keys:
            assert parameter["distribution"] == "log_uniform_values"
            assert 0 < parameter["min"] < parameter["max"]
    for index in range(max(len(choices(each)) for each in sweep["parameters"].values())):
        argv, chosen = started(sweep, index)
        assert argv[:5] == ["/usr/bin/env", "python", "-m", "lightning_samseg", "fit"]
        config = parse(argv[4:])
        for name, value in chosen.items():
            assert flat(config.as_dict())[name] == value
        method = config.model.class_path.rsplit(".", 1)[-1]
        assert sweep["metric"]["name"] == METRICS[method]
        assert config.trainer.default_root_dir == "runs/sweeps/sweep1/run1"
        assert config.wandb.group == f"sweep_{path.stem}"
        assert config.wandb.job_type == "sweep"
        assert config.test_after_fit is False
