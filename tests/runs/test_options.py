"""Which options differ, and which of them make another experiment."""

import pytest

from lightning_samseg.runs.options import MAY_CHANGE, Change, changes, flat, is_one_of

CONFIG = {
    "seed_everything": 1,
    "trainer": {"max_steps": 4, "precision": None, "default_root_dir": "runs/a", "plugins": []},
    "model": {"class_path": "UNet", "init_args": {"lr": 0.001, "expert": {"kind": "oracle"}}},
    "wandb": None,
    "ckpt_path": None,
}


def test_names_are_those_of_the_command_line() -> None:
    assert flat(CONFIG) == {
        "seed_everything": 1,
        "trainer.max_steps": 4,
        "trainer.precision": None,
        "trainer.default_root_dir": "runs/a",
        "trainer.plugins": [],
        "model.class_path": "UNet",
        "model.lr": 0.001,
        "model.expert.kind": "oracle",
        "wandb": None,
        "ckpt_path": None,
    }


def test_what_differs() -> None:
    now = {
        "seed_everything": 1,
        "trainer": {"max_steps": 8, "precision": "32-true", "default_root_dir": "runs/b", "plugins": [], "new": 3},
        "model": {"class_path": "UNet", "init_args": {"lr": 0.5, "expert": {"kind": "noisy"}}},
        "wandb": {"project": "p"},
        "ckpt_path": "last.ckpt",
    }
    found = changes(CONFIG, now)
    assert found == [
        Change("trainer.max_steps", 4, 8),
        Change("model.lr", 0.001, 0.5),
        Change("model.expert.kind", "oracle", "noisy"),
    ]
    assert [str(change) for change in found] == [
        "trainer.max_steps 4 -> 8",
        "model.lr 0.001 -> 0.5",
        "model.expert.kind oracle -> noisy",
    ]
    assert str(Change("data.grey", None, True)) == "data.grey null -> true"
    assert changes(CONFIG, CONFIG) == []


@pytest.mark.parametrize(
    ("option", "may"),
    {
        "trainer.max_steps": True,
        "trainer.devices": True,
        "trainer.val_check_interval": True,
        "wandb.project": True,
        "data.root": True,
        "data.num_workers": True,
        "overlays": True,
        "model.lr": False,
        "model.convention": False,
        "data.labelled_batch_size": False,
        "data.num_labelled": False,
        "trainer.precision": False,
        "trainer.gradient_clip_val": False,
        "trainer.limit_val_batches": False,
        "seed_everything": False,
        "trainer.max_steps_of_mine": False,
    }.items(),
)
def test_what_may_change(option: str, may: bool) -> None:
    assert is_one_of(option, MAY_CHANGE) == may
