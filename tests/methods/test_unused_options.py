"""An option that would not be followed is refused; a default, and what has an effect, never is."""

from typing import Any

import pytest

from lightning_samseg import methods
from lightning_samseg.errors import UserError
from lightning_samseg.methods import AuxOl, CpcSam, Cps, DirectOl, SAMed, SemiSam, Uamt, UNet, UniMatch, ZeroShot
from lightning_samseg.methods.groups import as_tables, defaults
from lightning_samseg.methods.unused_options import RULES
from lightning_samseg.moved_arguments import MOVED
from lightning_samseg.runs.options import flat
from tests.grouped import grouped

SMALL: dict[str, Any] = {"image_size": 32}
TINY = {**SMALL, "backbone": "tiny"}
AUX: dict[str, Any] = {"backbone": "tiny", "width": 1 / 16, "crop_size": 32, "cache_gb": 0}
UNET = {**SMALL, "network": "paper"}
MSA = {**TINY, "adapter_kind": "msa"}
SAM = {**TINY, "network": "sam_lora"}
ADAPTED = {**AUX, "adapter": "none.safetensors"}
# The method, what makes the option void, the option, and what it may be set to where it has an effect.
VOID: list[tuple[type[Any], dict[str, Any], dict[str, Any]]] = [
    (AuxOl, ADAPTED, {"preprocessing": "sam"}),
    (AuxOl, ADAPTED, {"sam_size": 64}),
    (AuxOl, AUX, {"point": "deepest"}),
    (AuxOl, {**AUX, "prompt": "point"}, {"box_shift": 0.05}),
    (AuxOl, {**AUX, "fusion": "adaptive", "alpha_start": "sam"}, {"alpha": 0.3}),
    (AuxOl, AUX, {"learning.entries": "drawn"}),
    (DirectOl, {"adapter": "none.safetensors", "backbone": "tiny"}, {"point": "deepest"}),
    (ZeroShot, TINY, {"lr": 0.1}),
    (ZeroShot, TINY, {"optimizer": "sgd"}),
    (ZeroShot, TINY, {"restore": "labels"}),
    (ZeroShot, TINY, {"adapter": "none.safetensors"}),
    (SAMed, TINY, {"msa_ratio": 0.5}),
    (SAMed, MSA, {"lora_rank": 8}),
    (SAMed, MSA, {"lora_blocks": [0]}),
    (SAMed, {**TINY, "lora_rank": 0}, {"lora_alpha": 8.0}),
    (SAMed, {**TINY, "pretrained": False}, {"checkpoint": "sam.pth"}),
    (SAMed, TINY, {"momentum": 0.5}),
    (CpcSam, TINY, {"msa_scale": 0.1}),
    (CpcSam, MSA, {"lora_alpha": 8.0}),
    (CpcSam, {**TINY, "architecture": "two_models"}, {"adapter": "none.safetensors"}),
    (CpcSam, TINY, {"random_prompts": "separate"}),
    (CpcSam, {**TINY, "architecture": "one_branch"}, {"branch": "2"}),
    (CpcSam, {**TINY, "architecture": "one_branch"}, {"select_branch": "2"}),
    (SemiSam, UNET, {"adapter": "none.safetensors"}),
    *[(kind, UNET, option) for kind in (Cps, Uamt, UniMatch) for option in ({"backbone": "tiny"}, {"lora_rank": 8})],
    *[(kind, SAM, {"encoder_weights": "imagenet"}) for kind in (Cps, Uamt, UniMatch)],
    *[(kind, SAM, {"in_channels": 1}) for kind in (Cps, Uamt, UniMatch)],
    (Cps, SAM, {"adapter_kind": "msa"}),
    (UniMatch, SAM, {"msa_scale": 0.1}),
    (Uamt, UNET, {"checkpoint": "sam.pth"}),
]
USED: list[tuple[type[Any], dict[str, Any]]] = [
    (AuxOl, {**AUX, "prompt": "point", "point": "deepest", "sam_alone": "authors"}),
    (AuxOl, {**AUX, "box_shift": 0.05, "capacity": 8, "alpha": 0.3, "preprocessing": "sam", "sam_size": 64}),
    (AuxOl, {**AUX, "learning.entries": "drawn", "learning.update_entries": 2}),
    (ZeroShot, {**TINY, "convention": "cpc_sam", "overlap": "smaller"}),
    (SAMed, {**MSA, "msa_ratio": 0.5, "msa_scale": 0.1}),
    (SAMed, {**TINY, "lora_rank": 2, "lora_alpha": 8.0, "lora_blocks": [0], "optimizer": "sgd", "momentum": 0.5}),
    (CpcSam, {**TINY, "num_random": 2, "random_prompts": "separate", "branch": "2", "select_branch": "2"}),
    (CpcSam, {**TINY, "architecture": "one_branch", "select_branch": "1"}),
    (UNet, {**SMALL, "network": "smp/fpn/timm-mobilenetv3_small_minimal_100"}),
    (Uamt, {**UNET, "in_channels": 1}),
    (Uamt, {**SAM, "lora_rank": 2}),
    (SemiSam, {**UNET, "backbone": "tiny", "prompt": "box", "preprocessing": "sam", "sam_size": 64}),
    (SemiSam, {**UNET, "backbone": "tiny", "sam_consistency": 0.0}),
    (AuxOl, {**AUX, "policy": "single", "capacity": 8, "adapter": None}),
]


def made(kind: Any, **options: Any) -> Any:
    return grouped(kind, **options)


@pytest.mark.parametrize(("kind", "others", "option"), VOID, ids=lambda value: getattr(value, "__name__", str(value)))
def test_what_would_be_ignored_is_refused(kind: Any, others: dict[str, Any], option: dict[str, Any]) -> None:
    ((name, value),) = option.items()
    name = MOVED.get(kind.__name__, {}).get(name, name)
    with pytest.raises(UserError, match=f"--model.{name} has no effect here: ") as error:
        made(kind, **others, **option)
    assert f"found: {name} {value}\n  what to do: leave it out (--model.{name} " in str(error.value)
    assert "), or set " in str(error.value)


@pytest.mark.parametrize(("kind", "options"), USED)
def test_what_has_an_effect_is_not(kind: Any, options: dict[str, Any]) -> None:
    made(kind, **options)


def test_every_option_of_a_rule_exists() -> None:
    for name, rules in RULES.items():
        known = flat(as_tables(defaults(getattr(methods, name)))).keys()
        assert {option for rule in rules for option in rule.options} <= known
    assert {name for name in RULES if name != "BaseMethod"} <= {kind.__name__ for kind, _, _ in VOID}
