"""The semi-supervised baselines in a trainer: what they read, that they resume, what is trained and what is saved."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch

from data_modules import BusiDataModule
from lightning_samseg.adapters.checkpoints import adapter_of_run
from lightning_samseg.errors import UserError
from lightning_samseg.methods import Bcp, Cps, DcNet, McNetPlus, SemiSam, Uamt, UNet, UniMatch, Urpc
from lightning_samseg.methods.base import BaseMethod
from lightning_samseg.prediction.predictor import load_predictor
from lightning_samseg.types import Query
from tests.fakes import write_busi
from tests.grouped import grouped

SIDE, STEPS = 32, 4
METHODS: dict[str, tuple[type[BaseMethod], dict[str, Any]]] = {
    "unet": (UNet, {"network": "paper"}),
    "uamt": (Uamt, {}),
    "cps": (Cps, {}),
    "urpc": (Urpc, {}),
    "mc_net_plus": (McNetPlus, {}),
    "dc_net": (DcNet, {}),
    "bcp": (Bcp, {"pretrain_iters": 2}),
    "unimatch": (UniMatch, {"threshold": 0.3}),
    "semi_sam": (SemiSam, {"backbone": "tiny"}),
    "uamt_on_sam": (Uamt, {"network": "sam_lora", "backbone": "tiny"}),
    "cps_on_sam": (Cps, {"network": "sam_lora", "backbone": "tiny"}),
    "unimatch_on_sam": (UniMatch, {"network": "sam_lora", "backbone": "tiny", "threshold": 0.3}),
}
SEMI = [name for name in METHODS if name != "unet"]


def build(name: str, **arguments: Any) -> BaseMethod:
    kind, own = METHODS[name]
    torch.manual_seed(0)
    given = {"optimizer": "sgd", "lr": 0.01, "in_channels": 1, "rampup_iters": 0} | own | arguments
    if kind in (UNet, Bcp, UniMatch):
        given.pop("rampup_iters")
    if own.get("network") == "sam_lora":
        given.pop("in_channels")
    return grouped(kind, num_classes=1, image_size=SIDE, **given)


def module(root: Path) -> BusiDataModule:
    sizes = {"labelled_batch_size": 2, "unlabelled_batch_size": 4, "image_size": SIDE}
    return BusiDataModule(str(root), split="random", num_labelled=5, grey=True, seed=1, cache_gb=0, **sizes)


class Save(lightning.Callback):
    """A checkpoint after each iteration and its validation, as ``LastCheckpoint`` has it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        trainer.save_checkpoint(self.folder / f"step={trainer.global_step}.ckpt")


def trainer(folder: Path | None = None, steps: int = STEPS, **more: Any) -> lightning.Trainer:
    saving = [] if folder is None else [Save(folder)]
    return lightning.Trainer(
        accelerator="cpu",
        max_steps=steps,
        val_check_interval=1,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        limit_val_batches=1,
        logger=False,
        enable_checkpointing=False,
        callbacks=saving,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **more,
    )


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BUSI whose test images, and whose masks of test and unlabelled images, no reader can open."""
    root = write_busi(tmp_path_factory.mktemp("busi") / "Dataset_BUSI_with_GT", benign=16, malignant=8)
    data = module(root)
    forbidden = [item.image for item in data.splits.test]
    for item in [*data.splits.test, *data.unlabelled_items]:
        forbidden += list(item.masks)
    assert len(data.unlabelled_items) >= 5
    for path in forbidden:
        path.write_bytes(b"not a picture")
    return root


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, poisoned: Path) -> Iterator[dict[str, Path]]:
    """An uninterrupted run of each method, with a checkpoint after each iteration."""
    folder = tmp_path_factory.mktemp("runs")
    for name in METHODS:
        trainer(folder / name).fit(build(name), datamodule=module(poisoned))
    yield {name: folder / name for name in METHODS}
    shutil.rmtree(folder)  # 1.3 GB


def checkpoint(runs: dict[str, Path], name: str, step: int) -> Path:
    (path,) = runs[name].glob(f"*step={step}.ckpt")
    return path


def test_what_the_test_forbids_cannot_be_read(poisoned: Path) -> None:
    data = module(poisoned)
    with pytest.raises(UserError):
        next(iter(data.test_dataloader()))


@pytest.mark.parametrize("name", METHODS)
def test_fit_opens_no_test_image_and_no_mask_of_an_unlabelled_one(runs: dict[str, Path], name: str) -> None:
    """The run ended, on data where opening one of them raises."""
    assert torch.load(checkpoint(runs, name, STEPS), weights_only=True)["global_step"] == STEPS


@pytest.mark.parametrize(("name", "killed_at"), [*((name, 2) for name in METHODS), ("bcp", 1), ("bcp", 3), ("uamt", 1)])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(
    runs: dict[str, Path], name: str, killed_at: int, poisoned: Path, tmp_path: Path
) -> None:
    """Dropout, noise, boxes, teachers, thresholds, momentum; BCP changes its stage after the second iteration."""
    torch.manual_seed(99)
    kind, _ = METHODS[name]
    method = build(name)
    torch.manual_seed(99)
    again = trainer(tmp_path)
    again.fit(method, datamodule=module(poisoned), ckpt_path=str(checkpoint(runs, name, killed_at)), weights_only=True)
    assert isinstance(method, kind)
    expected = torch.load(checkpoint(runs, name, STEPS), weights_only=True)
    (path,) = tmp_path.glob(f"*step={STEPS}.ckpt")
    found = torch.load(path, weights_only=True)
    for key, value in expected["state_dict"].items():
        assert torch.equal(value, found["state_dict"][key]), key
    states = [each["optimizer_states"][0]["state"] for each in (expected, found)]
    assert states[0].keys() == states[1].keys()
    for number, state in states[0].items():
        assert torch.equal(state["momentum_buffer"], states[1][number]["momentum_buffer"])


@pytest.mark.parametrize("name", METHODS)
def test_a_checkpoint_predicts_by_itself(runs: dict[str, Path], name: str, poisoned: Path) -> None:
    predictor = load_predictor(checkpoint(runs, name, STEPS))
    method = build(name).eval()
    method.load_state_dict(torch.load(checkpoint(runs, name, STEPS), weights_only=True)["state_dict"])
    batch = next(iter(module(poisoned).val_dataloader()))
    images = batch["image"].contiguous()
    inputs = [Query(i, o, c, []) for i, o, c in zip(images, batch["original"], batch["cases"], strict=True)]
    with torch.no_grad():
        expected = method.predict_labels({**batch, "image": images})
    found = predictor.to(torch.device("cpu")).answer(inputs)
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one.labels, other)


@pytest.mark.parametrize("name", METHODS)
def test_in_lower_precision_everything_stays_finite(name: str, poisoned: Path) -> None:
    run = trainer(precision="bf16-mixed", steps=3)
    method = build(name)
    run.fit(method, datamodule=module(poisoned))
    assert all(torch.isfinite(value).all() for value in run.callback_metrics.values())
    assert all(value.isfinite().all() for value in method.state_dict().values())
    assert method.network.encoder.levels[0][0].weight.dtype == torch.float32 if name == "unet" else True


@pytest.mark.parametrize("name", SEMI)
@pytest.mark.parametrize("step", [0, 3])
def test_every_trained_parameter_learns_in_every_iteration(name: str, step: int, poisoned: Path) -> None:
    """What DDP asks for; UniMatch's loss on labelled images alone reaches everything."""
    seen: list[list[str]] = []

    class Watch(lightning.Callback):
        def on_before_optimizer_step(self, trainer: Any, method: Any, optimizer: Any) -> None:
            seen.append([n for n, p in method.named_parameters() if p.requires_grad and p.grad is None])

    run = trainer(steps=step + 1)
    run.callbacks.append(Watch())
    run.fit(build(name), datamodule=module(poisoned))
    assert seen[step] == []


@pytest.mark.parametrize("name", ["uamt", "bcp"])
def test_the_teacher_follows_and_is_not_trained(runs: dict[str, Path], name: str) -> None:
    states = [torch.load(checkpoint(runs, name, step), weights_only=True)["state_dict"] for step in (3, 4)]
    key = "encoder.levels.0.0.weight"
    student, teacher = (states[1][f"{part}.{key}"] for part in ("network", "teacher"))
    decay = 0.75 if name == "uamt" else 0.99  # min(1 - 1 / (t + 1), 0.99) after t = 3
    torch.testing.assert_close(teacher, decay * states[0][f"teacher.{key}"] + (1 - decay) * student)
    assert not any(p.requires_grad for n, p in build(name).named_parameters() if n.startswith("teacher"))


def test_bcp_goes_on_from_the_best_of_its_first_stage(poisoned: Path, tmp_path: Path) -> None:
    """Validation says that iteration 2 of 3 was best; stage 2 starts from it, and counts from scratch."""
    method = build("bcp", pretrain_iters=3)
    scores = iter([0.1, 0.9, 0.2, 0.3, 0.4])
    kept: dict[int, Any] = {}

    def score() -> Any:
        value = next(scores)
        return type(
            "Scores", (), {"summary": lambda _: {**dict.fromkeys(("jc", "hd95", "asd")), "dsc": value} | EMPTY}
        )()

    method.val_scores.compute = score  # type: ignore[method-assign, assignment]

    class Watch(lightning.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            kept[trainer.global_step] = {k: v.clone() for k, v in method.network.state_dict().items()}

        def on_before_zero_grad(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            kept[trainer.global_step, "student"] = {k: v.clone() for k, v in method.network.state_dict().items()}
            kept[trainer.global_step, "teacher"] = {k: v.clone() for k, v in method.teacher.state_dict().items()}

    run = trainer(steps=4)
    run.callbacks.append(Watch())
    run.fit(method, datamodule=module(poisoned))
    for key, value in kept[2].items():  # as after two iterations, not after three
        if "weight" in key or "bias" in key:
            assert torch.equal(kept[3, "student"][key], value), key
            assert torch.equal(kept[3, "teacher"][key], value), key
    assert any(not torch.equal(kept[3][key], value) for key, value in kept[2].items())
    assert method.pretrained is None


EMPTY = {"empty_predictions": 0, "num_cases": 1, "per_class": {"lesion": {}}}


@pytest.mark.parametrize(("name", "contents"), [("bcp", "labelled"), ("unimatch", "unlabelled")])
def test_a_batch_that_cannot_be_halved_is_one_message(name: str, contents: str, poisoned: Path) -> None:
    data = module(poisoned)
    setattr(data, f"{contents}_batch_size", 3)
    with pytest.raises(UserError, match=f"data.{contents}_batch_size 4"):
        trainer(steps=1).fit(build(name), datamodule=data)


def test_unimatch_wants_pictures(poisoned: Path) -> None:
    data = module(poisoned)
    data.hparams["normalise"] = "sam"
    with pytest.raises(UserError, match="minmax"):
        trainer(steps=1).fit(build("unimatch"), datamodule=data)


@pytest.mark.parametrize(("name", "branches"), [("uamt_on_sam", 1), ("cps_on_sam", 2), ("unimatch_on_sam", 1)])
def test_an_adapter_is_exported_without_the_teacher(runs: dict[str, Path], name: str, branches: int) -> None:
    adapter = adapter_of_run(checkpoint(runs, name, STEPS))
    method = build(name)
    network = method.networks[0] if name == "cps_on_sam" else method.network
    assert set(adapter.tensors) == {key for key, p in network.sam.named_parameters() if p.requires_grad} | {
        key for key in adapter.tensors if "prompt_encoder" in key
    }
    assert len({key.split(".")[1] for key in adapter.tensors if key.startswith("mask_decoders.")}) == branches
    student = torch.load(checkpoint(runs, name, STEPS), weights_only=True)["state_dict"]
    prefix = "networks.0.sam" if name == "cps_on_sam" else "network.sam"
    for key, value in adapter.tensors.items():
        assert torch.equal(value, student[f"{prefix}.{key}"]), key


def test_a_network_without_sam_exports_no_adapter(runs: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="holds no adapter"):
        adapter_of_run(checkpoint(runs, "uamt", STEPS))


def test_the_frozen_part_of_sam_is_shared_with_the_teacher() -> None:
    method = build("uamt_on_sam")
    own = {p.data_ptr() for p in method.network.parameters() if not p.requires_grad}
    assert own <= {p.data_ptr() for p in method.teacher.parameters()}
    assert not {p.data_ptr() for p in method.network.parameters() if p.requires_grad} & {
        p.data_ptr() for p in method.teacher.parameters()
    }


def test_uamts_passes_must_share_its_samples() -> None:
    with pytest.raises(UserError, match="teacher_passes"):
        build("uamt", teacher_passes=3)


def test_one_pass_of_uamts_teacher_without_batchnorm_is_four() -> None:
    """Merging passes changes BatchNorm's groups, and nothing else."""
    found = []
    for passes in (1, 4, 8):
        method = build("uamt", teacher_passes=passes)
        for part in method.teacher.modules():
            if isinstance(part, torch.nn.BatchNorm2d | torch.nn.Dropout):
                part.eval()
        images = torch.rand(2, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(3))
        found.append(method.ask_teacher(images)[1])
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-5)
    torch.testing.assert_close(found[0], found[2], rtol=0, atol=1e-5)
