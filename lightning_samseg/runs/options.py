"""The options of a run by dotted name, and which of them may change when it goes on. Needs no torch."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
"""Lightning's that a run may have: weights are always float32."""

WITHOUT_INFLUENCE = (
    *("ckpt_path", "allow_changes", "test_after_fit", "checkpoint_every", "overlays", "wandb", "tensorboard"),
    *(
        f"trainer.{name}"
        for name in (
            *("default_root_dir", "accelerator", "strategy", "devices", "num_nodes", "use_distributed_sampler"),
            *("logger", "profiler", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"),
            *("enable_autolog_hparams", "model_registry", "log_every_n_steps", "max_time", "num_sanity_val_steps"),
            *("benchmark", "deterministic", "detect_anomaly", "barebones", "inference_mode"),
        )
    ),
    *("model.cache_gb", "model.sam_batch", "model.compile", "model.checkpointing"),
    *("data.root", "data.num_workers", "data.eval_batch_size"),
    *("data.predict_from", "data.cache_gb"),
)
"""Folders, devices, speed, what is shown: the same experiment. How many processes there are is a fact of its own."""

MAY_CHANGE = (
    *WITHOUT_INFLUENCE,
    *("trainer.max_steps", "trainer.min_steps", "trainer.val_check_interval"),
    *("trainer.limit_test_batches", "trainer.limit_predict_batches", "model.images_per_step"),
    "model.sam.checkpoint",
)
"""What a run that goes on may have otherwise: also its length, and when it is validated. Of the file of pretrained
weights the hash counts, which is a fact, too; of the images per step their number over all processes, which AuxOl
compares itself when it loads a checkpoint."""

NOT_WORTH_A_WORD = ("ckpt_path", "allow_changes", "trainer.default_root_dir")
"""How the run was called to go on, and where its folder is now."""


class Change(NamedTuple):
    """An option that is not what it was."""

    option: str
    before: Any
    now: Any

    def __str__(self) -> str:
        """For messages."""
        return f"{self.option} {_text(self.before)} -> {_text(self.now)}"


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Options by dotted name as on the command line, without ``class_path`` and ``init_args`` levels."""
    options: dict[str, Any] = {}

    def walk(value: Any, name: str) -> None:
        if isinstance(value, Mapping) and value:
            for key, part in value.items():
                walk(part, name if key == "init_args" else f"{name}.{key}".lstrip("."))
        elif name:
            options[name] = value

    walk(config, "")
    return options


def nested(options: Mapping[str, Any]) -> dict[str, Any]:
    """Tables of tables from options by dotted name: what :func:`flat` has made flat."""
    content: dict[str, Any] = {}
    for option, value in options.items():
        *groups, name = option.split(".")
        place = content
        for group in groups:
            place = place.setdefault(group, {})
        place[name] = value
    return content


def is_one_of(option: str, names: Iterable[str]) -> bool:
    """Whether an option, or what it is a part of, is among the names."""
    return any(option == name or option.startswith(f"{name}.") for name in names)


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """Options that differ between two configurations, in the order of the second.

    One that only one of them has does not count: another version of the program, or another class, does not know it.

    Args:
        before: As in ``config.yaml``.
        now: Likewise.
    """
    old, new = flat(before), flat(now)
    return [
        Change(name, old[name], value)
        for name, value in new.items()
        if name in old and not _equal(name, old[name], value) and not is_one_of(name, NOT_WORTH_A_WORD)
    ]


def _equal(name: str, one: Any, other: Any) -> bool:
    if name == "trainer.precision":
        return (one or "32-true") == (other or "32-true")
    return bool(one == other)


def _text(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
