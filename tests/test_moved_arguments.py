"""Whoever gives an argument by the name that it had before it stood in a group is told where it is now."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_samseg import methods
from lightning_samseg.cli.train import parse
from lightning_samseg.errors import UserError
from lightning_samseg.methods import BaseMethod, CpcSam, Uamt, ZeroShot
from lightning_samseg.methods.groups import as_tables, defaults
from lightning_samseg.moved_arguments import MOVED, check_moved
from lightning_samseg.runs.options import flat

DATA = "--data=data_modules.DemoDataModule"
OPTIONS = [
    ("AuxOl", "backbone", "tiny"),
    ("AuxOl", "fusion", "fixed"),  # the name of a group now
    ("CpcSam", "backbone", "tiny"),
    ("CpcSam", "adapter", "a.safetensors"),
    ("CpcSam", "num_random", 2),
    ("CpcSam", "lambda_cross", 0.3),
    ("SAMed", "lr", 0.1),
    ("UNet", "network", "paper"),
    ("UNet", "encoder", "resnet18"),
    ("Uamt", "consistency", 0.1),
    ("Bcp", "optimizer", "sgd"),
    ("SemiSam", "sam_size", 64),
]


@pytest.mark.parametrize(("method", "name", "value"), OPTIONS)
def test_on_the_command_line_and_in_a_config(method: str, name: str, value: Any, tmp_path: Path) -> None:
    told = f"{method} has {name} in a group now[^|]*set --model.{MOVED[method][name]}, "
    kind = f"lightning_samseg.methods.{method}"
    with pytest.raises(UserError, match=told):
        parse(["fit", DATA, f"--model={kind}", f"--model.{name}={value}"])
    old = {"model": {"class_path": kind, "init_args": {name: value}}}
    (tmp_path / "old.yaml").write_text(yaml.safe_dump(old))
    with pytest.raises(UserError, match=told):
        parse(["fit", DATA, "--config", str(tmp_path / "old.yaml")])


@pytest.mark.parametrize(("method", "name", "value"), OPTIONS)
def test_in_a_checkpoint(method: str, name: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"a\.ckpt is of a version[^|]*expected: model\.{MOVED[method][name]}"):
        check_moved(getattr(methods, method), {name: value}, "a.ckpt")


def test_the_new_names_exist() -> None:
    for method, moved in MOVED.items():
        assert set(moved.values()) <= set(flat(as_tables(defaults(getattr(methods, method))))), method


def test_what_stands_in_groups_passes() -> None:
    for kind in (CpcSam, Uamt, ZeroShot):
        check_moved(kind, as_tables(defaults(kind)), "a.ckpt")


class OwnMethod(BaseMethod):
    def __init__(self, lr: float = 0.1, **base: Any) -> None:
        super().__init__(**base)
        self.save_hyperparameters()


def test_a_users_own_argument_may_have_such_a_name() -> None:
    check_moved(OwnMethod, {"lr": 0.2, "optimizer": {"lr": 0.1}}, "a.ckpt")
    with pytest.raises(UserError, match=r"model\.optimizer\.weight_decay"):
        check_moved(OwnMethod, {"lr": 0.2, "weight_decay": 0.1}, "a.ckpt")
