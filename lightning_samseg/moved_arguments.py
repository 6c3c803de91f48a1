"""Where arguments of methods have gone that stood alone before they stood in groups. Needs no torch."""

from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

from lightning_samseg.errors import UserError

_SAM = {name: f"sam.{name}" for name in ("backbone", "checkpoint", "adapter", "preprocessing")}
_TRAINED_SAM = {
    **{name: f"sam.{name}" for name in ("backbone", "checkpoint", "pretrained")},
    **{f"lora_{name}": f"adapter.{name}" for name in ("rank", "alpha", "blocks")},
    **{f"msa_{name}": f"adapter.{name}" for name in ("ratio", "scale")},
    **{"adapter": "adapter.file", "adapter_kind": "adapter.kind"},
}
_BASE = {
    **{name: f"optimizer.{name}" for name in ("lr", "weight_decay", "momentum", "poly_power", "poly_lag", "max_iters")},
    **{"optimizer": "optimizer.name", "lr_warmup_iters": "optimizer.warmup_iters"},
}
_NETWORK = {
    **_BASE,
    **{"network": "network.name", "in_channels": "network.in_channels", "encoder_weights": "network.encoder_weights"},
}
_CONSISTENCY = {
    **_NETWORK,
    "consistency": "consistency.weight",
    **{name: f"consistency.{name}" for name in ("rampup_iters", "rampup_stairs")},
}
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
    "ZeroShot": {**_BASE, **_SAM, "input_size": "sam.size", "prompt": "prompter.kind"},
    "BaseMethod": _BASE,
    "CpcSam": {
        **_BASE,
        **_TRAINED_SAM,
        **{
            name: f"prompts.{name}"
            for name in ("num_center", "num_random", "random_prompts", "include_background", "absent")
        },
        **{name: f"loss.{name}" for name in ("lambda_cross", "lambda_consistency", "supervised_dice", "prompted_dice")},
    },
    "SAMed": {**_BASE, **_TRAINED_SAM},
    "UNet": {**_NETWORK, "arch": "network.name", "encoder": "network.name"},
    "Uamt": {**_CONSISTENCY, **_TRAINED_SAM},
    "Cps": {**_CONSISTENCY, **_TRAINED_SAM},
    "UniMatch": {**_NETWORK, **_TRAINED_SAM},
    "Bcp": _NETWORK,
    "SemiSam": {**_CONSISTENCY, **_SAM, "sam_size": "sam.size"},
    **dict.fromkeys(("Urpc", "McNetPlus", "DcNet"), _CONSISTENCY),
}
"""Method -> argument that stood alone -> where it is now."""


def check_moved(method: type, arguments: Mapping[str, Any], source: str | Path) -> None:
    """Raise UserError where arguments are those of a version before they stood in groups, naming the new ones.

    Args:
        method: The class; what it inherits counts, too.
        arguments: Of its constructor, as a config or checkpoint has them.
        source: What they are from, for the message.
    """
    known = {name for kind in method.__mro__ for name in signature(kind.__init__).parameters}  # type: ignore[misc]
    old = {
        name: new
        for kind in method.__mro__
        for name, new in MOVED.get(kind.__name__, {}).items()
        # An argument of a user's own method may have such a name; a group may have that of what it holds now.
        if name in arguments
        and (name not in known or (name == new.partition(".")[0] and not isinstance(arguments[name], Mapping)))
    }
    if old:
        raise UserError(
            f"{source} is of a version whose arguments of {method.__name__} did not stand in groups yet.",
            expected=", ".join(f"model.{new}" for new in old.values()),
            found=", ".join(f"model.{name}" for name in old),
            fix="rename them in a config; a checkpoint is of use to the version that wrote it (see CHANGELOG.md)",
        )
