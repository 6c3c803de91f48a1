"""Group E of the recording: the authors' unmodified trainer, three iterations of the sequential schedule."""

import re
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from lightning_samseg.methods import CpcSam, cpc_sam
from lightning_samseg.models.convert import from_authors
from lightning_samseg.prompts.points import ClassPoints
from tests.reference.oracle import Oracle

pytestmark = pytest.mark.reference


class Recorder(CpcSam):
    """Keeps each round's loss and the weights before each iteration."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.rounds: list[list[float]] = []
        self.before: list[dict[str, torch.Tensor]] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.rounds.append([])
        self.before.append(self.copy())
        return super().training_step(batch, batch_idx)

    def optimize(self, loss: torch.Tensor, last: bool, prompts_used: bool) -> torch.Tensor:
        self.rounds[-1].append(loss.item())
        return super().optimize(loss, last, prompts_used)

    def copy(self) -> dict[str, torch.Tensor]:
        return {key: value.clone() for key, value in self.sam.state_dict().items()}


def train(oracle: Oracle, nudge: int | None = None) -> Recorder:
    """Our trainer on the recorded batches and points; ``nudge`` moves each weight by a unit in its last place."""
    model = Recorder(
        backbone="tiny",
        image_size=64,
        num_classes=3,
        update="sequential",
        prompted_dice=0.8,
        ssl_start_iter=1,
        lr_warmup_iters=250,
        max_iters=30_000,
    )
    model.sam.load_state_dict(from_authors(oracle.weights(), 4))
    if nudge is not None:
        generator = torch.Generator().manual_seed(nudge)
        for parameter in model.parameters():
            parameter.data.mul_(1 + 2.0**-23 * torch.randn(parameter.shape, generator=generator))
    batches = []
    for i in range(oracle.iterations):
        image = oracle.tensor(f"E_it{i}_x")[:, None].repeat(1, 3, 1, 1)
        mask = oracle.tensor(f"E_it{i}_y").long()
        batches.append({"labelled": {"image": image[:2], "mask": mask[:2]}, "unlabelled": {"image": image[2:]}})

    def recorded_points(*_: Any) -> ClassPoints:
        prefix = f"E_it{len(model.rounds) - 1}_round{len(model.rounds[-1]) + 1}"
        center, random = (oracle.tensor(f"{prefix}_{kind}").float() for kind in ("center", "random"))
        labels = oracle.tensor(f"{prefix}_labels").long()
        return ClassPoints(center, labels, random, labels)

    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=len(batches),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpc_sam, "class_points", recorded_points)
        trainer.fit(model, DataLoader(batches, batch_size=None))
    model.before.append(model.copy())
    return model


@pytest.fixture(scope="module")
def run(oracle: Oracle) -> Recorder:
    return train(oracle)


@pytest.fixture(scope="module")
def nudged(oracle: Oracle) -> list[Recorder]:
    """The same from weights one rounding error away: as far from `run` as float32 lets a correct program be."""
    return [train(oracle, nudge) for nudge in range(4)]


def test_losses_of_every_round(run: Recorder, nudged: list[Recorder], oracle: Oracle) -> None:
    assert [len(rounds) for rounds in run.rounds] == [1, 3, 3][: oracle.iterations]
    for i, rounds in enumerate(run.rounds):
        for r, loss in enumerate(rounds):
            noise = max(abs(other.rounds[i][r] - loss) for other in nudged)
            assert abs(loss - oracle[f"E_scalar_loss{r + 1}"][i]) <= 1e-5 + 4 * noise, f"iteration {i}, round {r + 1}"
            assert noise < 0.1, "the comparison would say nothing"


def test_parameter_norms_before_every_iteration(run: Recorder, nudged: list[Recorder], oracle: Oracle) -> None:
    names = oracle.meta["trainable"]
    for i, state in enumerate(run.before):
        key = f"E_it{i}_paramL2_before" if f"E_it{i}_paramL2_before" in oracle else "E_paramL2_after"
        compared = 0
        for name, norm in zip(names, oracle[key], strict=True):
            ours = our_norm(name, state)
            if ours is not None:
                noise = max(abs(our_norm(name, other.before[i]) - ours) for other in nudged)  # type: ignore[operator]
                assert abs(ours - norm) <= 1e-5 * norm + 4 * noise, f"{name} before iteration {i}"
                compared += 1
        assert compared == 294 - 28


def test_rates(run: Recorder, oracle: Oracle) -> None:
    rates = [run.lr * run.lr_schedulers().lr_lambdas[0](k) for k in range(1, oracle.iterations + 1)]
    np.testing.assert_allclose(rates, oracle["E_scalar_lr"][: oracle.iterations], rtol=1e-9)


def our_norm(name: str, state: dict[str, torch.Tensor]) -> float | None:
    """Euclidean norm of our counterpart of one of the authors' trainable tensors; None for their dead ones."""
    if match := re.search(r"point_embeddings\.(\d)", name):
        index = int(match[1])
        return state["prompt_encoder.class_embeddings.weight"][index].double().norm().item() if index < 4 else None
    key = next(iter(from_authors({name: torch.empty(0)}, 4)), None)
    return None if key is None else state[key].double().norm().item()
