"""Groups of arguments as dataclasses and as plain tables."""

import pytest

from lightning_samseg.methods import AuxOl, UNet, ZeroShot
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


def test_an_unknown_option_of_a_group() -> None:
    with pytest.raises(TypeError, match="backbones"):
        ZeroShot(sam={"backbones": "tiny"})  # type: ignore[arg-type]
