"""Three training iterations of every authors' trainer in float64: terms, gradients, weights, teachers, statistics."""

from collections.abc import Callable
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_samseg.methods import Bcp, Cps, DcNet, McNetPlus, Uamt, UniMatch, Urpc, bcp
from lightning_samseg.methods.base import BaseMethod
from tests.grouped import grouped
from tests.reference.ssl_oracle import SIDE, SslOracle, image, label, normal, rule_array, state_of, uniform

pytestmark = pytest.mark.reference
TERMS, NORMS = 1e-9, 1e-8
AUTHORS: dict[str, Any] = {
    "num_classes": 3,
    "image_size": SIDE,
    "in_channels": 1,
    "optimizer": "sgd",
    "lr": 0.01,
    "weight_decay": 1e-4,
    "lr_warmup_iters": 0,
    "max_iters": 30_000,
}
CONSISTENCY: dict[str, Any] = {"consistency": 0.3, "rampup_iters": 0}  # constant in the recording


class Recorder(lightning.Callback):
    """Keeps what the recording keeps of each iteration, of some of the method's networks."""

    def __init__(self, networks: Callable[[Any], list[nn.Module]]) -> None:
        self.networks = networks
        self.logged: list[dict[str, float]] = []
        self.norms: list[list[np.ndarray]] = []
        self.gradients: list[list[np.ndarray]] = []
        self.rates: list[float] = []
        self.end: list[np.ndarray] = []

    def on_before_optimizer_step(self, trainer: Any, method: Any, optimizer: Any) -> None:
        self.norms.append([norms(network) for network in self.networks(method)])
        self.gradients.append([gradient_norms(network) for network in self.networks(method)])
        self.rates.append(optimizer.param_groups[0]["lr"])

    def on_train_batch_end(self, trainer: Any, method: Any, *_: Any) -> None:
        self.logged.append({key: float(value) for key, value in trainer.callback_metrics.items()})

    def on_train_end(self, trainer: Any, method: Any) -> None:
        self.end = [norms(network) for network in self.networks(method)]


def norms(network: nn.Module) -> np.ndarray:
    states = [value for key, value in network.state_dict().items() if not key.endswith("num_batches_tracked")]
    return np.array([value.norm().item() for value in states])


def gradient_norms(network: nn.Module) -> np.ndarray:
    return np.array([-1.0 if p.grad is None else p.grad.norm().item() for p in network.parameters()])


def train(method: BaseMethod, networks: Callable[[Any], list[nn.Module]], batches: list[Any]) -> Recorder:
    recorder = Recorder(networks)
    for module in method.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    trainer = lightning.Trainer(
        accelerator="cpu",
        precision="64-true",
        max_steps=len(batches),
        callbacks=[recorder],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    trainer.fit(method, DataLoader(batches, batch_size=None))
    return recorder


def semi_batch(images: Tensor, labels: Tensor, labelled: int) -> dict[str, Any]:
    return {
        "labelled": {"image": images[:labelled], "mask": labels[:labelled]},
        "unlabelled": {"image": images[labelled:]},
    }


def interleaved(first: Tensor, second: Tensor) -> Tensor:
    """The authors' two halves as ours, every other image."""
    return torch.stack([first, second], 1).flatten(0, 1)


def common_batches() -> list[Any]:
    return [semi_batch(image(str(i), 4), label(str(i), 4), 2) for i in range(3)]


def compare(
    oracle: SslOracle, run: Recorder, group: str, network: str, names: list[str], terms: dict[str, str | None], key: str
) -> None:
    """Compare a run with the recording.

    Args:
        group: Such as ``uamt``, ``bcp.self``.
        network: Whose list of keys.
        names: Of the run's networks in the recording.
        terms: For each term of ours, as logged, the recording's.
        key: Where meta names the recording's terms.
    """
    recorded = oracle.meta[group.split(".")[0]]["terms"]
    recorded = recorded if isinstance(recorded, list) else recorded[key]
    kept, kept_gradients = oracle.kept(network), oracle.kept(network, gradients=True)
    for i in range(3):
        values = dict(zip(recorded, oracle[f"{group}.it{i}.terms"], strict=True))
        for ours, theirs in terms.items():
            assert run.logged[i][ours] == pytest.approx(values[theirs], rel=TERMS, abs=1e-12), f"{ours} in {i}"
        assert run.rates[i] == pytest.approx(float(oracle[f"{group}.it{i}.lr"]), rel=1e-12)
        for n, name in enumerate(names):
            expected = oracle[f"{group}.it{i}.{name}.norm_at_step"][kept]
            np.testing.assert_allclose(run.norms[i][n], expected, rtol=NORMS, err_msg=f"{name} before step {i}")
            if f"{group}.it{i}.{name}.grad_norm" in oracle.arrays:
                expected = oracle[f"{group}.it{i}.{name}.grad_norm"][kept_gradients]
                # A convolution in front of a BatchNorm has a bias without influence: its gradient is a rounding error.
                np.testing.assert_allclose(
                    run.gradients[i][n], expected, rtol=NORMS, atol=1e-11, err_msg=f"{name} in {i}"
                )
    for n, name in enumerate(names):
        np.testing.assert_allclose(run.end[n], oracle[f"{group}.end.{name}.norm"][kept], rtol=NORMS, err_msg=name)


@pytest.fixture(scope="module")
def oracle() -> SslOracle:
    return SslOracle()


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_uamt(oracle: SslOracle, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter(range(1000))
    monkeypatch.setattr(torch, "randn", lambda shape, **_: normal(f"uamt.randn.{next(drawn)}", tuple(shape)))
    method = grouped(Uamt, **AUTHORS, **CONSISTENCY)
    oracle.fill(method.network, "uamt")
    oracle.fill(method.teacher, "uamt", ".second")
    run = train(method, lambda m: [m.network, m.teacher], common_batches())
    assert next(drawn) == 15
    terms = {
        "train/loss": "loss",
        "train/supervised": "supervised_loss",
        "train/consistency": "consistency_loss",
        "train/consistency_weight": "consistency_weight",
        "train/threshold": "threshold",
    }
    compare(oracle, run, "uamt", "uamt", ["net0", "net1"], terms, "")
    mask = np.unpackbits(oracle["uamt.it0.mask"]) if oracle["uamt.it0.mask"].ndim == 1 else oracle["uamt.it0.mask"]
    assert run.logged[0]["train/kept"] == pytest.approx(mask.mean())


def test_cps(oracle: SslOracle) -> None:
    method = grouped(Cps, **AUTHORS, **CONSISTENCY, poly_lag=0)
    oracle.fill(method.networks[0], "uamt")
    oracle.fill(method.networks[1], "uamt", ".second")
    run = train(method, lambda m: list(m.networks), common_batches())
    terms = {
        "train/loss": "loss",
        "train/supervised_1": "loss1",
        "train/supervised_2": "loss2",
        "train/cross_1": "pseudo_supervision1",
        "train/cross_2": "pseudo_supervision2",
        "train/consistency_weight": "consistency_weight",
    }
    compare(oracle, run, "cps", "uamt", ["net0", "net1"], terms, "")


def test_urpc(oracle: SslOracle, monkeypatch: pytest.MonkeyPatch) -> None:
    def rand(shape: tuple[int, ...], **_: Any) -> Tensor:
        if len(shape) == 0:
            return torch.tensor(0.5, dtype=torch.float64)  # of U(0.7, 0.9): 0.8
        if len(shape) == 4:
            return uniform("urpc.dropout", tuple(shape))
        noise = state_of("urpc.noise").random_sample(tuple(shape)) * 0.6 - 0.3
        return (torch.from_numpy(rule_array(noise)) + 0.3) / 0.6  # rounded to float32 as noise, not as the draw

    monkeypatch.setattr(torch, "rand", rand)
    method = grouped(Urpc, **AUTHORS, **CONSISTENCY)
    oracle.fill(method.network, "urpc")
    run = train(method, lambda m: [m.network], common_batches())
    terms = {
        "train/loss": "loss",
        "train/supervised": "supervised_loss",
        "train/consistency": "consistency_loss",
        "train/consistency_scale0": "consistency_loss_main",
        **{f"train/consistency_scale{s}": f"consistency_loss_aux{s}" for s in (1, 2, 3)},
    }
    compare(oracle, run, "urpc", "urpc", ["net0"], terms, "")


def test_mc_net_plus(oracle: SslOracle) -> None:
    method = grouped(McNetPlus, **AUTHORS, **CONSISTENCY, poly_power=0)
    oracle.fill(method.network, "mcnet")
    run = train(method, lambda m: [m.network], common_batches())
    terms = {
        "train/loss": "loss",
        "train/supervised": "loss_seg_dice",
        "train/consistency": "loss_consist",
        "train/consistency_weight": "consistency_weight",
    }
    compare(oracle, run, "mcnet", "mcnet", ["net0"], terms, "")


def test_dc_net(oracle: SslOracle) -> None:
    method = grouped(DcNet, **{**AUTHORS, "max_iters": 4}, **CONSISTENCY, poly_power=0)
    oracle.fill(method.network, "dcnet")
    run = train(method, lambda m: [m.network], common_batches())
    terms = {
        "train/loss": "loss",
        "train/supervised": "loss_seg_dice",
        "train/features": "loss_at_kd",
        "train/directed": "loss_dc0",
        "train/cross": "loss_cer",
        "train/threshold": "cur_threshold",
        "train/consistency_weight": "consistency_weight",
    }
    compare(oracle, run, "dcnet", "dcnet", ["net0"], terms, "")


@pytest.mark.parametrize("stage", ["pre", "self"])
def test_bcp(oracle: SslOracle, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = iter([tuple(oracle[f"bcp.{stage}.it{i}.box"].tolist()) for i in range(3)])
    monkeypatch.setattr(bcp, "copy_paste_box", lambda *_: next(boxes))
    method = grouped(Bcp, **AUTHORS, poly_power=0, pretrain_iters=100 if stage == "pre" else 0)
    oracle.fill(method.network, "uamt")
    # A, B, UA, UB of the recording, two images each.
    parts = [(image(f"bcp{i}", 8).chunk(4), label(f"bcp{i}", 8).chunk(4)) for i in range(3)]
    batches = [
        semi_batch(*(torch.cat([interleaved(*each[:2]), interleaved(*each[2:])]) for each in part), labelled=4)
        for part in parts
    ]
    counters: dict[str, Any] = {}

    def networks(m: Any) -> list[nn.Module]:
        for name, network in (("student", m.network), ("teacher", m.teacher)):
            counters[name] = [v.item() for k, v in network.state_dict().items() if k.endswith("num_batches_tracked")]
        return [m.network] if stage == "pre" else [m.network, m.teacher]

    run = train(method, networks, batches)
    terms = {"train/loss": "loss", "train/dice": "loss_dice", "train/cross_entropy": "loss_ce"}
    names = ["student"] if stage == "pre" else ["student", "teacher"]
    compare(oracle, run, f"bcp.{stage}", "uamt", names, terms, stage)
    if stage == "self":
        for name, found in counters.items():
            assert found == oracle[f"bcp.self.end.{name}.num_batches_tracked"].tolist(), name


def test_unimatch(oracle: SslOracle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda shape, **_: uniform(f"unimatch.dropout2d.{shape[1]}", (4, int(shape[1]))))
    method = grouped(UniMatch, **{**AUTHORS, "max_iters": 300 * 106})
    oracle.fill(method.network, "uamt")

    def views(_: Tensor) -> tuple[Tensor, ...]:
        i = method.global_step
        return tuple(interleaved(*(image(f"uni{i}.{part}.{v}", 2) for part in ("u", "mix"))) for v in ("w", "s1", "s2"))

    def boxes(*_: Any) -> Any:
        recorded = oracle[f"unimatch.it{method.global_step}.boxes"]
        return tuple([[(y0, x0, y1, x1) for y0, y1, x0, x1 in stream] for stream in recorded.tolist()])

    monkeypatch.setattr(method, "views", views)
    monkeypatch.setattr(method, "boxes", boxes)
    batches = [
        {
            "labelled": {"image": image(f"uni{i}.l", 2), "mask": label(f"uni{i}", 2)},
            "unlabelled": {"image": torch.zeros(4, 1, SIDE, SIDE, dtype=torch.float64)},
        }
        for i in range(3)
    ]
    run = train(method, lambda m: [m.network], batches)
    terms = {
        "train/loss": "loss",
        "train/supervised": "loss_x",
        "train/strong_1": "loss_u_s1",
        "train/strong_2": "loss_u_s2",
        "train/perturbed": "loss_u_w_fp",
    }
    compare(oracle, run, "unimatch", "uamt", ["net0"], terms, "")
    for i in range(3):
        assert run.logged[i]["train/kept"] == pytest.approx(float(oracle[f"unimatch.it{i}.mask_ratio"]))
