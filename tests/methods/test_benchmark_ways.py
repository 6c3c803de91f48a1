"""The benchmark of CPC-SAM's step: what it calls the usual way computes the same, and its numbers fit together."""

from functools import partial

import pytest
import torch

from lightning_samseg.errors import UserError
from lightning_samseg.methods.benchmark_ways import _Way, benchmark_cpc_step
from lightning_samseg.methods.timing import matmul_gflops


def test_the_usual_attention_computes_the_same() -> None:
    torch.manual_seed(0)
    ours, usual = (_Way(way, "tiny", 64, 1) for way in ("joint", "usual"))
    for name, table in ours.named_parameters():
        if "rel_pos" in name:
            torch.nn.init.normal_(table.data, std=0.3)
    usual.load_state_dict(ours.state_dict())
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(usual.sam.encode(image), ours.sam.encode(image), atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_numbers_fit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    small = partial(matmul_gflops, side=64)
    monkeypatch.setattr("lightning_samseg.methods.benchmark_ways.matmul_gflops", small)
    found = benchmark_cpc_step(repeats=1, backbone="tiny", image_size=32, batch="1+2", precision="32-true")
    at = found["32-true"]
    assert at["sequential"]["gflop"] > 1.1 * at["joint"]["gflop"]  # more passes of the encoder
    assert at["speedup"] == at["usual"]["seconds"] / at["joint"]["seconds"]
    rate = at["joint"]["gflop"] / at["joint"]["seconds"]
    assert at["joint"]["share_of_matmul"] == pytest.approx(rate / at["matmul_gflops"])


@pytest.mark.parametrize(("key", "value"), [("batch", "4"), ("batch", "0+1"), ("precision", "32-true,fp8")])
def test_what_cannot_be_measured_is_refused(key: str, value: str) -> None:
    with pytest.raises(UserError, match="That is no"):
        benchmark_cpc_step(**{key: value})  # type: ignore[arg-type]
