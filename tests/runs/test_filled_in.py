"""Options that are filled in from others."""

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_samseg.errors import UserError
from lightning_samseg.runs.filled_in import check_filled_in, check_num_classes, unresolved

CONFIG = {
    "seed_everything": 7,
    "model.init_args.seed": 7,
    "data.init_args.seed": 7,
    "data.init_args.image_size": 112,
    "model.init_args.image_size": 112,
}
TARGETS = {
    "model.init_args.seed": ("seed_everything 8", "model.seed 7"),
    "data.init_args.seed": ("seed_everything 8", "data.seed 7"),
    "model.init_args.image_size": ("data.image_size 8", "model.image_size 112"),
}


@pytest.mark.parametrize("target", TARGETS)
def test_equal_is_accepted_and_different_is_not(target: str) -> None:
    check_filled_in({target: CONFIG[target]}, CONFIG)
    to_set, expected = TARGETS[target]
    with pytest.raises(UserError, match="filled in from") as caught:
        check_filled_in({target: 8}, CONFIG)
    assert f"set --{to_set}, or leave" in str(caught.value)
    assert f"expected: {expected}\n" in str(caught.value)


@pytest.mark.parametrize(("seed", "text"), [(True, "true"), (False, "false"), (None, "null")])
def test_a_seed_is_a_number(seed: bool | None, text: str) -> None:
    with pytest.raises(UserError, match=f"found: seed_everything {text}"):
        check_filled_in({}, {**CONFIG, "seed_everything": seed})


def test_number_of_classes() -> None:
    check_num_classes({}, 2)
    check_num_classes({"model.init_args.num_classes": 2}, 2)
    with pytest.raises(UserError, match=r"model\.num_classes is filled in from the data"):
        check_num_classes({"model.init_args.num_classes": 3}, 2)


UNRESOLVED = {
    "${HOME}/data": "${oc.env:HOME}",
    "${NOT_A_VARIABLE}": "${oc.env:NOT_A_VARIABLE}",
    "${oc.env:NOT_A_VARIABLE}": "set that variable",
    "${env:HOME}": "${oc.env:NAME} is a variable",
    "${oc.env:HOME": "${oc.env:NAME} is a variable",
    "${fit.root}": "${oc.env:NAME} is a variable",
    "${fit.data.roots}": "correct what stands",
}


@pytest.mark.parametrize("value", UNRESOLVED)
def test_a_reference_to_nothing(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")

    def resolve() -> None:
        config = OmegaConf.create({"fit": {"data": {"init_args": {"root": value}}}})
        OmegaConf.to_container(config, resolve=True)

    with pytest.raises(OmegaConfBaseException) as caught:
        resolve()
    message = str(unresolved(caught.value))
    assert "at data.root." in message
    assert UNRESOLVED[value] in message.partition("what to do:")[2]
    assert "${fit.data.init_args.root} for another entry" in message
