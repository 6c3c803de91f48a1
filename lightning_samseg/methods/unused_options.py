"""Options that would have no effect beside others: whoever sets one otherwise than its default is told, not ignored.

Two kinds may stand where they have none. What an ablation switches off keeps the settings of its base configuration:
the prompts of CpcSam with ``cross: none``, the start of the adaptive fusion with ``fusion.kind: fixed``, the capacity
with ``batch.policy: single``, the SAM of SemiSam with ``sam_consistency: 0``, the simulated prompts beside a prompt
file. And what the presets say of points and of thresholds stands in runs without them.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, is_dataclass
from inspect import signature
from typing import Any, NamedTuple

from lightning_samseg.errors import UserError
from lightning_samseg.runs.options import flat


class Rule(NamedTuple):
    """Options of a method that have no effect."""

    options: tuple[str, ...]
    when: Callable[[Mapping[str, Any]], bool]
    """Of all of the method's options, those of groups by dotted name."""
    reason: str
    fix: str
    """What would give them an effect."""


def _is(name: str, *values: Any) -> Callable[[Mapping[str, Any]], bool]:
    return lambda options: options[name] in values


def _second_of_one(name: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda options: options["architecture"] == "one_branch" and options[name] == "2"


_SCHEDULE = ("lr_warmup_iters", "poly_power", "max_iters", "poly_lag")
_ADAPTERS = (
    Rule(
        ("msa_ratio", "msa_scale"), _is("adapter_kind", "lora"), "LoRA has no bottlenecks", "--model.adapter_kind msa"
    ),
    Rule(
        ("lora_rank", "lora_alpha", "lora_blocks"),
        _is("adapter_kind", "msa"),
        "bottleneck adapters sit in every attention block and have no rank",
        "--model.adapter_kind lora",
    ),
    Rule(("lora_alpha", "lora_blocks"), _is("lora_rank", 0), "rank 0 is no LoRA", "--model.lora_rank 4"),
    Rule(("checkpoint",), _is("pretrained", False), "no pretrained weights are loaded", "--model.pretrained true"),
    Rule(
        ("checkpointing",),
        _is("encode_once", True),
        "most of the encoder is looked up, and the rest keeps what it has computed",
        "--model.encode_once false",
    ),
)
_NETWORKS = (
    Rule(
        ("backbone", "checkpoint", "lora_rank"),
        lambda options: options["network"] != "sam_lora",
        "the network is no SAM",
        "--model.network sam_lora",
    ),
    Rule(
        ("encoder_weights", "in_channels"),
        _is("network", "sam_lora"),
        "the network is SAM, which has weights of its own and three channels",
        "--model.network unet/resnet34",
    ),
    Rule(("checkpoint",), _is("pretrained", False), "no pretrained weights are loaded", "--model.pretrained true"),
)
_PROMPTS = (
    Rule(
        ("prompter.point",), _is("prompter.kind", "box"), "objects are prompted by boxes", "--model.prompter.kind point"
    ),
    Rule(
        ("prompter.box_shift",),
        _is("prompter.kind", "point"),
        "objects are prompted by points",
        "--model.prompter.kind box",
    ),
)
RULES: dict[str, tuple[Rule, ...]] = {
    "BaseMethod": (Rule(("momentum",), _is("optimizer", "adamw"), "AdamW has none", "--model.optimizer sgd"),),
    "ZeroShot": (
        Rule(
            ("lr", "weight_decay", "optimizer", *_SCHEDULE),
            lambda _: True,
            "it learns nothing",
            "another method",
        ),
        Rule(("restore",), lambda _: True, "SAM answers at the size of the image", "another method"),
        Rule(("sam.adapter",), lambda _: True, "an adapted SAM takes no prompts", "another method"),
        Rule(
            tuple(f"prompter.{name}" for name in ("objects", "file", "box_shift", "point_crop")),
            lambda _: True,
            "the prompts are those of the reference's components as they are",
            "another method, or predict --prompts FILE",
        ),
        *_PROMPTS,
    ),
    "SAMed": _ADAPTERS,
    "CpcSam": (
        *_ADAPTERS,
        Rule(
            ("adapter",),
            _is("architecture", "two_models"),
            "an adapter is of one model, and would start one of the two alone",
            "--model.architecture two_branches",
        ),
        Rule(
            ("random_prompts",),
            lambda options: options["num_random"] < 2,
            "there are not several random points",
            "--model.num_random 2",
        ),
        Rule(
            ("min_confidence",),
            _is("pseudo", "soft"),
            "soft pseudo labels teach by their probabilities",
            "--model.pseudo hard",
        ),
        Rule(("branch",), _second_of_one("branch"), "there is one branch", "--model.architecture two_branches"),
        Rule(
            ("select_branch",),
            _second_of_one("select_branch"),
            "there is one branch",
            "--model.architecture two_branches",
        ),
    ),
    "UNet": (
        Rule(
            ("arch", "encoder"),
            lambda options: options["network"] is not None,
            "--model.network names the whole network",
            "--model.network null",
        ),
    ),
    "Cps": _NETWORKS,
    "Uamt": _NETWORKS,
    "UniMatch": _NETWORKS,
    "AuxOl": (
        Rule(
            ("sam.preprocessing", "sam.size"),
            lambda options: options["sam.adapter"] is not None,
            "an adapted SAM sees images as in its training",
            "--model.sam.adapter null",
        ),
        *_PROMPTS,
        Rule(
            ("fusion.alpha",),
            lambda options: options["fusion.kind"] == "adaptive" and options["fusion.start"] == "sam",
            "until there are best weights, SAM is alone",
            "--model.fusion.start half, or --model.fusion.kind fixed",
        ),
    ),
}
"""By the name of the class; what inherits from it has its rules, too."""


def refuse_unused(method: Any) -> None:
    """Refuse an option that was set and would not be followed.

    Args:
        method: A LightningModule that has saved its hyper-parameters.

    Raises:
        UserError: At the first; the message says what makes it void, and how to get rid of either.
    """
    defaults = flat(_defaults(type(method)))
    options = {**defaults, **flat(method.hparams)}
    for rule in _rules(type(method)):
        for name in rule.options if rule.when(options) else ():
            if options[name] != defaults[name]:
                raise UserError(
                    f"--model.{name} has no effect here: {rule.reason}.",
                    found=f"{name} {options[name]}",
                    fix=f"leave it out (--model.{name} {_typed(defaults[name])}), or set {rule.fix}",
                )


def _rules(kind: type) -> Iterator[Rule]:
    for each in kind.__mro__:
        yield from RULES.get(each.__name__, ())


def _defaults(kind: type) -> dict[str, Any]:
    """Defaults of the options of a class and of those it hands on."""
    found: dict[str, Any] = {}
    for each in reversed(kind.__mro__):
        own = signature(each.__init__).parameters  # type: ignore[misc]
        found |= {name: option.default for name, option in own.items() if option.default is not option.empty}
    return {
        name: asdict(each) if is_dataclass(each) and not isinstance(each, type) else each
        for name, each in found.items()
    }


def _typed(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
