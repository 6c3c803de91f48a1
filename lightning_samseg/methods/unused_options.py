"""Options that would have no effect beside others: whoever sets one otherwise than its default is told, not ignored.

Two kinds may stand where they have none. What an ablation switches off keeps the settings of its base configuration:
the prompts of CpcSam with ``cross: none``, the start of the adaptive fusion with another ``fusion.kind``, the capacity
with ``batch.policy: single``, the SAM of SemiSam with ``sam_consistency: 0``, the simulated prompts beside a prompt
file. And what the presets say of points and of thresholds stands in runs without them.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from lightning_samseg.errors import UserError
from lightning_samseg.methods.groups import as_tables, defaults
from lightning_samseg.optim import OptimizerConfig
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


_PRETRAINED = Rule(
    ("sam.checkpoint",), _is("sam.pretrained", False), "no pretrained weights are loaded", "--model.sam.pretrained true"
)
_ADAPTERS = (
    _PRETRAINED,
    Rule(
        ("adapter.ratio", "adapter.scale"),
        _is("adapter.kind", "lora"),
        "LoRA has no bottlenecks",
        "--model.adapter.kind msa",
    ),
    Rule(
        ("adapter.rank", "adapter.alpha", "adapter.blocks"),
        _is("adapter.kind", "msa"),
        "bottleneck adapters sit in every attention block and have no rank",
        "--model.adapter.kind lora",
    ),
    Rule(("adapter.alpha", "adapter.blocks"), _is("adapter.rank", 0), "rank 0 is no LoRA", "--model.adapter.rank 4"),
)
_TRAINED_SAM = (
    *_ADAPTERS,
    Rule(
        ("checkpointing",),
        _is("encode_once", True),
        "most of the encoder is looked up, and the rest keeps what it has computed",
        "--model.encode_once false",
    ),
)
_NETWORKS = (
    Rule(
        (
            *("sam.backbone", "sam.checkpoint"),
            *(f"adapter.{name}" for name in ("file", "kind", "rank", "alpha", "blocks", "ratio", "scale")),
        ),
        lambda options: options["network.name"] != "sam_lora",
        "the network is no SAM",
        "--model.network.name sam_lora",
    ),
    Rule(
        ("network.encoder_weights", "network.in_channels"),
        _is("network.name", "sam_lora"),
        "the network is SAM, which has weights of its own and three channels",
        "--model.network.name unet/resnet34",
    ),
    Rule(("adapter.kind",), lambda _: True, "the network is SAM with LoRA", "another method, such as SAMed"),
    *_ADAPTERS,
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
    "BaseMethod": (
        Rule(("optimizer.momentum",), _is("optimizer.name", "adamw"), "AdamW has none", "--model.optimizer.name sgd"),
    ),
    "ZeroShot": (
        Rule(
            tuple(f"optimizer.{name}" for name in OptimizerConfig.__dataclass_fields__),
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
    "SAMed": _TRAINED_SAM,
    "CpcSam": (
        *_TRAINED_SAM,
        Rule(
            ("adapter.file",),
            _is("architecture", "two_models"),
            "an adapter is of one model, and would start one of the two alone",
            "--model.architecture two_branches",
        ),
        Rule(
            ("prompts.random_prompts",),
            lambda options: options["prompts.num_random"] < 2,
            "there are not several random points",
            "--model.prompts.num_random 2",
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
    "SemiSam": (Rule(("sam.adapter",), lambda _: True, "an adapted SAM takes no prompts", "another method"),),
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
        Rule(
            ("learning.entries",),
            _is("learning.update_entries", None),
            "an update learns from all entries of the online batch",
            "--model.learning.update_entries 8",
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
    usual = flat(as_tables(defaults(type(method))))
    options = {**usual, **flat(method.hparams)}
    for rule in _rules(type(method)):
        for name in rule.options if usual.keys() >= set(rule.options) and rule.when(options) else ():
            if options[name] != usual[name]:
                raise UserError(
                    f"--model.{name} has no effect here: {rule.reason}.",
                    found=f"{name} {options[name]}",
                    fix=f"leave it out (--model.{name} {_typed(usual[name])}), or set {rule.fix}",
                )


def _rules(kind: type) -> Iterator[Rule]:
    for each in kind.__mro__:
        yield from RULES.get(each.__name__, ())


def _typed(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
