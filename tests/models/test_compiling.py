"""``torch.compile`` of an encoder's blocks and the decoders: the same numbers and names; without a compiler, a line."""

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._inductor import config as inductor

from lightning_samseg.models.branched_sam import BranchedSam
from lightning_samseg.models.compiling import compile_for_training, why_not
from tests.models.test_sam_vit import adapted, picture

CPU = torch.device("cpu")


def traced(monkeypatch: pytest.MonkeyPatch) -> list[torch.fx.GraphModule]:
    """Graphs that are compiled from here on; they run as they are: seconds, where a compiler takes minutes."""
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    return graphs


def outputs(sam: BranchedSam) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Logits of both branches, prompted and not, and all gradients."""
    points, labels = torch.tensor([[[5.0, 9.0], [40.0, 30.0]]]).expand(2, -1, -1), torch.tensor([[0, 1]]).expand(2, -1)
    sam.zero_grad()
    embedding = sam.encode(picture())
    logits = [sam.decode(embedding, branch, *prompt) for branch in (0, 1) for prompt in ((), (points, labels))]
    torch.stack(logits).square().mean().backward()
    grads = {name: p.grad.clone() for name, p in sam.named_parameters() if p.grad is not None}
    return [each.detach() for each in logits], grads


def assert_close(one: BranchedSam, other: BranchedSam) -> None:
    (logits, grads), (same_logits, same_grads) = outputs(one), outputs(other)
    torch.testing.assert_close(same_logits, logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(same_grads, grads, atol=1e-4, rtol=1e-4)


def test_blocks_of_one_shape_are_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = traced(monkeypatch)
    plain = adapted()
    sam = copy.deepcopy(plain)
    sam.recompute_blocks()
    compile_for_training([sam], CPU)
    trial = len(graphs)
    assert_close(plain, sam)
    # The first block, whose input has no gradient, the windowed and the global ones; a decoder unprompted and prompted.
    assert trial < len(graphs) <= trial + 5
    assert list(sam.state_dict()) == list(plain.state_dict())
    compiled = len(graphs)
    sam.eval()
    with torch.no_grad():
        sam.decode(sam.encode(picture(3)))
    assert len(graphs) == compiled  # evaluation meets batches of many sizes


def test_without_a_compiler_a_line_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("No working C++ compiler found\nand a page of other things")

    monkeypatch.setattr(torch, "compile", fails)
    sam = adapted()
    compile_for_training([sam], CPU)
    outputs(sam)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "Nothing is compiled: torch.compile does not work here (RuntimeError: No working C++ compiler found)."
    ]


@pytest.mark.slow
def test_compiled_networks_compute_the_same() -> None:
    """By the machine's own compiler."""
    torch._dynamo.reset()
    if reason := why_not(CPU):
        pytest.skip(reason)
    plain = adapted()
    sam = copy.deepcopy(plain)
    sam.recompute_blocks()
    with inductor.patch(compile_threads=1):  # more would wait for work to the end of the process
        compile_for_training([sam], CPU)
        assert_close(plain, sam)
