"""The benchmark of CPC-SAM's step: what it calls the usual way computes the same, and its numbers fit together."""

from functools import partial

import pytest
import torch

from lightning_samseg.errors import UserError
from lightning_samseg.methods.benchmark_ways import _Counter, _Timer, benchmark_cpc_step, matmul_gflops


def test_the_usual_attention_computes_the_same() -> None:
    torch.manual_seed(0)
    ours, usual = (_Timer(way, "tiny", 64, 1) for way in ("joint", "usual"))
    for name, table in ours.named_parameters():
        if "rel_pos" in name:
            torch.nn.init.normal_(table.data, std=0.3)
    usual.load_state_dict(ours.state_dict())
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(usual.sam.encode(image), ours.sam.encode(image), atol=1e-5, rtol=1e-4)


def test_operations_are_counted_forward_and_backward() -> None:
    a, b = torch.rand(64, 32, requires_grad=True), torch.rand(32, 16)
    with _Counter() as products:
        (a @ b).sum().backward()  # and one for the gradient of a
    assert products.flop == 2 * (2 * 64 * 32 * 16)
    q = torch.rand(1, 2, 50, 8, requires_grad=True)
    with _Counter() as attention:
        torch.nn.functional.scaled_dot_product_attention(q, q, q).sum().backward()
    assert attention.flop == (2 + 5) * (2 * 2 * 50 * 50 * 8)  # products of 50 x 50 x 8 in each of two heads


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
