"""Group E of the recording: the authors' unmodified trainer, three iterations of the sequential schedule."""

import re
from collections.abc import Callable
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from lightning_samseg.adapters.convert import from_authors
from lightning_samseg.methods import CpcSam, cpc_sam
from lightning_samseg.prompts.points import ClassPoints
from tests.grouped import grouped
from tests.reference.oracle import Oracle

pytestmark = pytest.mark.reference


class Recorder(CpcSam):
    """Keeps each round's loss and logits, and the weights before each iteration."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.rounds: list[list[float]] = []
        self.before: list[dict[str, torch.Tensor]] = []
        self.logits: list[list[list[torch.Tensor]]] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.rounds.append([])
        self.logits.append([[]])
        self.before.append(self.copy())
        return super().training_step(batch, batch_idx)

    def optimize(self, loss: torch.Tensor, last: bool, prompts_used: bool) -> torch.Tensor:
        self.rounds[-1].append(loss.item())
        self.logits[-1].append([])
        return super().optimize(loss, last, prompts_used)

    def decode(self, *arguments: Any, **options: Any) -> torch.Tensor:
        output = super().decode(*arguments, **options)
        self.logits[-1][-1].append(output.detach())
        return output

    def copy(self) -> dict[str, torch.Tensor]:
        return {key: value.clone() for key, value in self.sam.state_dict().items()}


@pytest.fixture(scope="module")
def run(oracle: Oracle) -> Recorder:
    """Our trainer on the recorded batches and points."""
    model = grouped(
        Recorder,
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
    batches = []
    for i in range(oracle.iterations):
        image = oracle.tensor(f"E_it{i}_x")[:, None].repeat(1, 3, 1, 1)
        mask = oracle.tensor(f"E_it{i}_y").long()
        batches.append({"labelled": {"image": image[:2], "mask": mask[:2]}, "unlabelled": {"image": image[2:]}})

    def recorded_points(*_: Any) -> Callable[[], ClassPoints]:
        prefix = f"E_it{len(model.rounds) - 1}_round{len(model.rounds[-1]) + 1}"
        center, random = (oracle.tensor(f"{prefix}_{kind}").float() for kind in ("center", "random"))
        labels = oracle.tensor(f"{prefix}_labels").long()
        points = ClassPoints(center, labels, random, labels)
        return lambda: points

    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=len(batches),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpc_sam, "start_class_points", recorded_points)
        trainer.fit(model, DataLoader(batches, batch_size=None))
    model.before.append(model.copy())
    return model


def test_losses_of_every_round(run: Recorder, oracle: Oracle) -> None:
    assert [len(rounds) for rounds in run.rounds] == [1, 3, 3][: oracle.iterations]
    for i, rounds in enumerate(run.rounds):
        for r, loss in enumerate(rounds):
            assert loss == pytest.approx(oracle[f"E_scalar_loss{r + 1}"][i], abs=1e-5), f"iteration {i}, round {r + 1}"


def test_logits_of_every_round(run: Recorder, oracle: Oracle) -> None:
    """``_r`` is the random prompt. Ours decodes the centre's images in two parts, and in round 1 the labelled alone."""
    for i, rounds in enumerate(run.logits):
        for r, found in enumerate(rounds[: len(run.rounds[i])]):
            unprompted, *prompted = found
            names = [("1", "2"), ("2", "1", "1_r"), ("1", "2", "2_r")][r]
            outputs = found if r == 0 else (unprompted, torch.cat(prompted[:2]), prompted[2])
            for name, output in zip(names, outputs, strict=True):
                key = f"E_it{i}_round{r + 1}_low_res_logits{name}"
                oracle.assert_close(key, output, atol=1e-4, rows=2 if r == 0 else 4)


def test_parameter_norms_before_every_iteration(run: Recorder, oracle: Oracle) -> None:
    names, dead = oracle.meta["trainable"], set(oracle.json("E_grad_is_none_after"))
    for i, state in enumerate(run.before):
        key = f"E_it{i}_paramL2_before" if f"E_it{i}_paramL2_before" in oracle else "E_paramL2_after"
        recorded = {name: norm for name, norm in zip(names, oracle[key], strict=True) if name not in dead}
        ours = {name: norm for name in names if (norm := our_norm(name, state)) is not None}
        assert ours == pytest.approx(recorded, rel=1e-5), key


def test_rates(run: Recorder, oracle: Oracle) -> None:
    rates = [run.optimizer.lr * run.lr_schedulers().lr_lambdas[0](k) for k in range(1, oracle.iterations + 1)]
    np.testing.assert_allclose(rates, oracle["E_scalar_lr"][: oracle.iterations], rtol=1e-9)


def our_norm(name: str, state: dict[str, torch.Tensor]) -> float | None:
    """Euclidean norm of our counterpart of one of the authors' trainable tensors; None for their dead ones."""
    if match := re.search(r"point_embeddings\.(\d)", name):
        index = int(match[1])
        return state["prompt_encoder.class_embeddings.weight"][index].double().norm().item() if index < 4 else None
    key = next(iter(from_authors({name: torch.empty(0)}, 4)), None)
    return None if key is None else state[key].double().norm().item()
