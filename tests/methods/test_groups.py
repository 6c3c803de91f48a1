"""Groups of arguments as dataclasses and as plain tables."""

from inspect import signature
from typing import Any

import pytest

from lightning_samseg.methods import AuxOl, BaseMethod, UNet, ZeroShot
from lightning_samseg.models.branched_unet import NetworkConfig
from lightning_samseg.models.sam_config import SamConfig
from lightning_samseg.optim import OptimizerConfig


def test_a_table_is_as_good_as_the_group() -> None:
    given = UNet(network=NetworkConfig("paper", in_channels=1), optimizer=OptimizerConfig("sgd", lr=0.01))
    told = UNet(network={"name": "paper", "in_channels": 1}, optimizer={"name": "sgd", "lr": 0.01})  # type: ignore[arg-type]
    assert told.optimizer == given.optimizer == OptimizerConfig("sgd", lr=0.01)
    assert dict(told.hparams) == dict(given.hparams)


def test_what_a_table_leaves_out_has_the_methods_default() -> None:
    assert ZeroShot(sam={"backbone": "tiny"}, prompter={"min_object_side": 2}).prompter.point == "deepest"  # type: ignore[arg-type]
    assert AuxOl(sam={"backbone": "tiny"}).prompter.config.point == "centroid"  # type: ignore[arg-type]


def test_hyper_parameters_are_plain_also_those_that_loggers_get() -> None:
    method = ZeroShot(sam=SamConfig("tiny"))
    assert method.hparams["sam"]["backbone"] == method.hparams_initial["sam"]["backbone"] == "tiny"
    assert type(method.hparams["prompter"]) is dict


class OwnMethod(BaseMethod):
    """Has arguments of its own that are groups or options elsewhere."""

    def __init__(self, optimizer: str, momentum: float = 0.5, **base: Any) -> None:
        super().__init__(**base)
        self.save_hyperparameters()


def test_a_users_own_argument_may_be_called_as_a_group() -> None:
    assert dict(OwnMethod(optimizer="mine", momentum=0.1, seed=3).hparams) == {
        "optimizer": "mine",
        "momentum": 0.1,
        "seed": 3,
    }


def test_a_method_shows_its_own_arguments() -> None:
    shown = signature(AuxOl).parameters
    assert next(iter(shown)) != "self"
    assert shown["sam"].default == SamConfig()


def test_one_value_is_no_group() -> None:
    with pytest.raises(ValueError, match="UNet has network in a group now"):
        UNet(network="paper")  # type: ignore[arg-type]


def test_an_unknown_option_of_a_group() -> None:
    with pytest.raises(TypeError, match="backbones"):
        ZeroShot(sam={"backbones": "tiny"})  # type: ignore[arg-type]
