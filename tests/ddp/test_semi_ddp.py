"""The semi-supervised baselines on two gloo processes against one with the whole batch.

They are equal where nothing depends on which images share a process: without BatchNorm, which takes its statistics
from a process's images unless they are synchronised (GPUs only), without dropout, and without draws per image: noise,
strong views, dropped features, CutMix's boxes, SAM's clicks. The images that BCP and UniMatch mix are the same pairs.
"""

from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch import nn

from lightning_samseg.methods import Bcp, Cps, DcNet, McNetPlus, SemiSam, Uamt, UniMatch, Urpc
from tests.ddp.recording import assert_equal_gradients, fit, save_gradients
from tests.fakes import write_busi
from tests.grouped import grouped

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_busi(tmp_path_factory.mktemp("busi"), benign=14, malignant=10)


def recording(kind: type[Any], **arguments: Any) -> Any:
    """A method that saves its gradients, with nothing in it that knows its neighbours."""

    class Recording(kind):
        folder: Path

        def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
            save_gradients(self)

        def perturb(self, stages: Any) -> Any:
            return stages

        def views(self, images: torch.Tensor) -> Any:
            return images, images / 2, images / 3

        def boxes(self, count: int, side: int) -> Any:
            return [(2, 3, 20, 30)] * count, [(9, 0, 25, 16)] * count

    lightning.seed_everything(1, verbose=False)
    method = grouped(Recording, num_classes=1, image_size=32, lr=0.0, **arguments)
    for module in method.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())
            if isinstance(child, nn.Dropout):
                child.p = 0.0
    return method


METHODS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "uamt": (Uamt, {"noise": 0.0, "rampup_iters": 0, "consistency": 5.0, "entropy_scale": "lnK"}),
    "cps": (Cps, {"rampup_iters": 0}),
    "urpc": (Urpc, {"rampup_iters": 0, "consistency": 5.0}),
    "mc_net_plus": (McNetPlus, {"rampup_iters": 0}),
    "dc_net": (DcNet, {"rampup_iters": 0}),
    "bcp_first_stage": (Bcp, {"pretrain_iters": 2}),
    "bcp": (Bcp, {"pretrain_iters": 0}),
    "unimatch": (UniMatch, {"threshold": 0.5, "feature_dropout": 0.0}),
    "semi_sam": (SemiSam, {"backbone": "tiny", "prompt": "box", "noise": 0.0, "rampup_iters": 0}),
}


@pytest.mark.parametrize("name", METHODS)
def test_gradients_equal_one_process(tmp_path: Path, data: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    kind, arguments = METHODS[name]
    one, two = (fit(recording(kind, **arguments), tmp_path / str(n), data, n, 2) for n in (1, 2))
    assert all(gradient is not None for step in one for gradient in step.values())
    assert_equal_gradients(one, two)
