"""Where arguments of methods have gone that stood alone before they stood in groups. Needs no torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_samseg.errors import UserError

_SAM = {name: f"sam.{name}" for name in ("backbone", "checkpoint", "adapter", "preprocessing")}
_PROMPTER = {name: f"prompter.{name}" for name in ("point", "objects", "min_object_side", "box_shift", "point_crop")}
_LEARNING = {name: f"learning.{name}" for name in ("loss", "lr", "weight_decay", "step_per")}
_STREAM = {
    **_SAM,
    **_PROMPTER,
    **_LEARNING,
    **{"sam_size": "sam.size", "prompt": "prompter.kind", "prompt_file": "prompter.file"},
    **{"capacity": "batch.capacity", "policy": "batch.policy", "prompt_order": "learning.order"},
    "replay_without_feedback": "learning.replay_without_feedback",
}
MOVED: dict[str, dict[str, str]] = {
    "AuxOl": {
        **_STREAM,
        **{"auxiliary": "auxiliary.network", "width": "auxiliary.width", "crop_size": "crop.size"},
        **{"encoder_weights": "auxiliary.encoder_weights", "extra_channel": "crop.extra_channel"},
        **{"crop_resize": "crop.resize", "fusion": "fusion.kind", "alpha": "fusion.alpha"},
        **{"alpha_window": "fusion.window", "alpha_grid": "fusion.grid_step", "alpha_start": "fusion.start"},
        "alpha_from": "fusion.alpha_from",
    },
    "DirectOl": _STREAM,
    "ZeroShot": {**_SAM, "input_size": "sam.size", "prompt": "prompter.kind"},
}
"""Method -> argument that stood alone -> where it is now."""


def check_moved(method: str, arguments: Mapping[str, Any], source: str | Path) -> None:
    """Raise UserError where arguments are those of a version before they stood in groups, naming the new ones.

    Args:
        method: Name of the class.
        arguments: Of its constructor, as a config or checkpoint has them.
        source: What they are from, for the message.
    """
    old = {
        name: new
        for name, new in MOVED.get(method, {}).items()
        if name in arguments and not (name == new.partition(".")[0] and isinstance(arguments[name], Mapping))
    }
    if old:
        raise UserError(
            f"{source} is of a version whose arguments of {method} did not stand in groups yet.",
            expected=", ".join(f"model.{new}" for new in old.values()),
            found=", ".join(f"model.{name}" for name in old),
            fix="rename them in a config; a checkpoint is of use to the version that wrote it (see CHANGELOG.md)",
        )
