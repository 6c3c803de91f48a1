"""Forecasts against real runs: peaks of the CPU's allocator as PyTorch's profiler records them."""

from functools import cache
from itertools import product
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from lightning_samseg.errors import UserError
from lightning_samseg.methods import (
    AuxOl,
    Bcp,
    CpcSam,
    Cps,
    DcNet,
    McNetPlus,
    Method,
    SAMed,
    SemiSam,
    Uamt,
    UNet,
    UniMatch,
    Urpc,
)
from lightning_samseg.planning import Cost, Load, dry_run
from lightning_samseg.planning.cost import build
from lightning_samseg.planning.steps import Steps

LOAD = Load(labelled=2, unlabelled=2, predicted=2)
SMALL = {"image_size": 96, "num_classes": 2}
METHODS: dict[str, tuple[type[Method], dict[str, Any]]] = {
    "cpc_sam": (CpcSam, {"sam": {"backbone": "tiny"}}),
    "unet": (UNet, {"network": {"name": "paper"}}),
    "aux_ol": (
        AuxOl,
        {
            "sam": {"backbone": "tiny"},
            "auxiliary": {"width": 0.25},
            "crop": {"size": 64},
            "sam_batch": 1,
            "cache_gb": 0,
        },
    ),
}
MORE: dict[str, tuple[type[Method], dict[str, Any]]] = {
    "sequential": (CpcSam, {"sam": {"backbone": "tiny"}, "update": "sequential"}),
    "samed": (SAMed, {"sam": {"backbone": "tiny"}}),
    "uamt": (Uamt, {}),
    "cps": (Cps, {}),
    "urpc": (Urpc, {}),
    "mc_net_plus": (McNetPlus, {}),
    "dc_net": (DcNet, {}),
    "bcp": (Bcp, {}),
    "unimatch": (UniMatch, {"threshold": 0.3}),
    "semi_sam": (SemiSam, {"sam": {"backbone": "tiny"}}),
}
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


def arguments_of(kind: type[Method], own: dict[str, Any]) -> dict[str, Any]:
    return {**own, **({} if kind is AuxOl else SMALL)}


@cache
def forecast(name: str, precision: str = "32-true") -> Cost:
    kind, own = (METHODS | MORE)[name]
    return dry_run(kind, arguments_of(kind, own), LOAD, precision)


def measured_peak(name: str, precision: str) -> int:
    """Most bytes that PyTorch's CPU allocator has handed out at a time, from the first weight to the last step."""
    kind, own = (METHODS | MORE)[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
            Steps(build(kind, arguments_of(kind, own)), LOAD, precision).fit()
    events = [each for each in recorded.profiler.kineto_results.events() if each.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda each: each.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


FAST = {("samed", "32-true"), ("unet", "bf16-mixed"), ("aux_ol", "32-true")}
PAIRS = [
    pytest.param(*pair, marks=() if pair in FAST else pytest.mark.slow)
    for pair in product([*METHODS, *MORE], PRECISIONS[:2])
]


@pytest.mark.parametrize(("name", "precision"), PAIRS)
def test_the_peak_of_training_is_that_of_a_real_run(name: str, precision: str) -> None:
    for _ in range(3):  # again: on a busy machine the profiler loses events
        measured = pytest.approx(measured_peak(name, precision), rel=0.1)
        if forecast(name, precision).training == measured:
            break
    assert forecast(name, precision).training == measured


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cpc_sam", "sequential", "unimatch"])
def test_float16_takes_what_bfloat16_takes(name: str) -> None:
    half, brain = forecast(name, "16-mixed"), forecast(name, "bf16-mixed")
    assert half.training == pytest.approx(brain.training, rel=0.02)
    assert half.gflop == brain.gflop


def test_operations_are_those_that_torch_counts_in_a_real_step() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    torch.manual_seed(0)
    method = build(UNet, arguments_of(*METHODS["unet"]))
    batch = torch.rand(2, 3, 96, 96)
    with FlopCounterMode(display=False) as counter:
        method(batch).sum().backward()
    assert forecast("unet", "bf16-mixed").gflop == pytest.approx(counter.get_total_flops() / 1e9, rel=1e-6)


def test_what_is_trained() -> None:
    cost, method = forecast("samed"), build(SAMed, arguments_of(*MORE["samed"]))
    assert cost.parameters == sum(each.numel() for each in method.parameters())
    assert cost.trained == sum(each.numel() for each in method.parameters() if each.requires_grad)
    assert 0 < cost.trained < cost.parameters


def test_no_weights_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("SAMSEG_CACHE", str(tmp_path))
    cost = dry_run(UNet, {"network": {"name": "unet/resnet18", "encoder_weights": "imagenet"}, **SMALL}, LOAD)
    assert cost.trained > 10e6
    assert not list(tmp_path.iterdir())


def test_what_the_method_refuses_is_its_message() -> None:
    kind, own = METHODS["aux_ol"]
    with pytest.raises(UserError, match="no precision 16-mixed"):
        dry_run(kind, own, LOAD, "16-mixed")
