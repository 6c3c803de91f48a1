"""Adapted SAMs in a stream as a user types it: as AuxOL's generalist, and learning themselves (DirectOL)."""

import csv
import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from lightning_samseg.__main__ import main
from lightning_samseg.methods import AuxOl, DirectOl
from lightning_samseg.moved_arguments import MOVED
from lightning_samseg.planning import Load, dry_run
from lightning_samseg.prompts.boxes import Box
from tests.fakes import write_folder
from tests.grouped import grouped
from tests.official import write_tiny_sam

pytestmark = pytest.mark.usefixtures("one_thread")

LENGTH = 5
QUIET = {"accelerator": "cpu", "enable_progress_bar": "false", "enable_model_summary": "false"}


class Bench:
    """A base, images, and a run of SAMed with bottlenecks on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base = write_tiny_sam(folder / "sam.pth")
        self.data = write_folder(folder / "data", [f"case{i}" for i in range(LENGTH)])
        model = {"checkpoint": self.base, "adapter_kind": "msa", "lr": 1e-4, "max_iters": 4, "decoder_init": "random"}
        data = {"num_labelled": 2, "labelled_batch_size": 1}
        assert self.run("samed", "fit", "SAMed", model, data, {"max_steps": 4, "limit_val_batches": 0}) == 0
        self.checkpoint = folder / "samed" / "checkpoints" / "last.ckpt"
        self.adapter = folder / "msa.safetensors"
        assert main(["weights", "export", str(self.checkpoint), "--out", str(self.adapter)]) == 0

    def run(
        self, name: str, verb: str, method: str, model: Any, data: Any = None, trainer: Any = None, *more: str
    ) -> int:
        data = {"root": self.data, "image_size": 64, "masks": "binary"} | (data or {})
        trainer = QUIET | {"default_root_dir": self.folder / name} | (trainer or {})
        options = ["--data=data_modules.FolderDataModule", f"--model=lightning_samseg.methods.{method}"]
        moved = MOVED[method]
        model = {moved.get(key, key): value for key, value in ({"backbone": "tiny"} | model).items()}
        for group, values in (("data", data), ("model", model), ("trainer", trainer)):
            options += [f"--{group}.{key}={value}" for key, value in values.items()]
        return main([verb, *options, *more])

    def stream(self, name: str, method: str, *more: str, adapter: Path | None = None, **model: Any) -> int:
        settings = {"checkpoint": self.base, "adapter": adapter or self.adapter, "crop_size": 32, "capacity": 2}
        settings |= {"width": 1 / 16} if method == "AuxOl" else {"lr": 0.01}
        return self.run(name, "fit", method, settings | model, None, None, "--checkpoint_every=2", *more)

    def rows(self, name: str, file: str = "cases") -> list[dict[str, str]]:
        with (self.folder / name / f"{file}.csv").open() as text:
            return list(csv.DictReader(text))

    def summary(self, name: str) -> dict[str, Any]:
        return json.loads((self.folder / name / "metrics.json").read_text())["summary"]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def finished(bench: Bench) -> Bench:
    assert bench.stream("direct", "DirectOl") == 0
    return bench


def test_an_adapted_generalist_of_aux_ol(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """File and checkpoint are one adapter, with one cache entry per image; another adapter has its own."""
    monkeypatch.setenv("SAMSEG_CACHE", str(tmp_path))
    assert bench.stream("file", "AuxOl") == 0
    assert len(list(tmp_path.glob("sam_logits/*/*.logits"))) == LENGTH
    monkeypatch.setattr("lightning_samseg.adapters.adapted_sam.AdaptedSam.predict", lambda *_: 1 / 0)
    assert bench.stream("ckpt", "AuxOl", adapter=bench.checkpoint) == 0
    monkeypatch.undo()
    monkeypatch.setenv("SAMSEG_CACHE", str(tmp_path))
    assert (bench.folder / "file" / "cases.csv").read_bytes() == (bench.folder / "ckpt" / "cases.csv").read_bytes()
    model = {"checkpoint": bench.base, "max_iters": 1, "decoder_init": "random"}
    assert bench.run("lora", "fit", "SAMed", model, {"num_labelled": 2}, {"max_steps": 1, "limit_val_batches": 0}) == 0
    lora = bench.folder / "lora" / "checkpoints" / "last.ckpt"
    assert bench.stream("other", "AuxOl", adapter=lora, prompt="point") == 0
    assert len(list(tmp_path.glob("sam_logits/*/*.logits"))) == 2 * LENGTH
    assert bench.rows("other", "prompts")[0]["kind"] == "point"


@pytest.mark.parametrize("method", [AuxOl, DirectOl])
def test_overlapping_boxes_do_not_add_up_an_adapted_sams_one_answer(bench: Bench, method: type[AuxOl]) -> None:
    """A pixel of 0.3 in two boxes is background, whatever ``sam_alone`` says of SAMs that answer each prompt."""
    settings: dict[str, Any] = {"adapter": str(bench.adapter), "checkpoint": str(bench.base), "cache_gb": 0}
    answer = torch.full((1, 16, 16), 0.3)
    answer[:, :4] = 0.7
    rules: list[dict[str, Any]] = [{"sam_alone": "authors"}, {}]
    for rule in rules if method is AuxOl else rules[1:]:
        module = grouped(method, backbone="tiny", crop_size=32, **rule, **settings)
        module._sam = SimpleNamespace(logits=lambda *_: answer.logit())  # type: ignore[assignment]
        picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        boxes = np.array([[4.0, 2.0, 44.0, 60.0], [20.0, 2.0, 60.0, 60.0], [20.0, 30.0, 60.0, 62.0]])
        logits = module.sam_logits(picture, boxes)
        assert ((logits.sigmoid() - 0.3).abs() < 1e-3)[:, 40, 30].all()  # in all three
        crops = [Box(*map(int, box)) for box in boxes]
        found = module.learner.predict(torch.from_numpy(picture.transpose(2, 0, 1).copy()), logits, crops)
        whole = module.generalist.restore(answer.logit(), module.generalist.geometry(picture))[0]
        assert torch.equal(found.sam, whole > 0)
        assert found.sam[:12].all()
        assert not found.sam[20:].any()


def test_files_are_those_of_aux_ol(finished: Bench) -> None:
    rows, prompts = finished.rows("direct"), finished.rows("direct", "prompts")
    assert [row["case_id"] for row in rows] == [f"case{i}" for i in range(LENGTH)]
    assert {row["alpha"] for row in prompts} == {"0.0"}
    assert rows[0]["sam_clipped_dsc"] == rows[0]["direct_ol_dsc"]  # nothing was learned yet
    result = json.loads((finished.folder / "direct" / "metrics.json").read_text())
    assert " adapter " in result["generalist"]
    table = finished.summary("direct")
    assert set(table["empty_predictions"]) == {"sam", "sam_clipped", "direct_ol"}
    for column in ("sam", "sam_clipped", "direct_ol"):
        assert table[column]["dsc"] == pytest.approx(np.mean([float(row[f"{column}_dsc"]) for row in rows]))
    assert len({row["loss"] for row in prompts}) == len(prompts)
    state = torch.load(finished.folder / "direct" / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["state_dict"] == {}
    assert all(".bottleneck." in name for name in state["online"]["trained"])
    assert state["optimizer_states"][0]["state"]


@pytest.mark.processes
def test_kill_9_and_resume_equals_the_uninterrupted_run(finished: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    learn = DirectOl.training_step

    def dies(module: DirectOl, batch: Any, index: int) -> Any:
        if index == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return learn(module, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(DirectOl, "training_step", dies)
        child = os.fork()
        if child == 0:
            os._exit(finished.stream("cut", "DirectOl"))
        assert os.waitpid(child, 0)[1] & 0x7F == signal.SIGKILL
    assert len(finished.rows("cut")) == 3
    assert finished.stream("cut", "DirectOl", "--ckpt_path=last") == 0
    for name in ("cases.csv", "prompts.csv"):
        one, other = (finished.folder / run / name for run in ("direct", "cut"))
        assert one.read_bytes() == other.read_bytes()
    states = [
        torch.load(finished.folder / run / "checkpoints" / "last.ckpt", weights_only=True)["online"]["trained"]
        for run in ("direct", "cut")
    ]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(each, states[1][name]) for name, each in states[0].items())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"backbone": "sam_vit_b"}, "another backbone"),
        ({"adapter": "nothing.safetensors"}, "no adapter nothing"),
        ({"adapter": "nothing.ckpt"}, "no checkpoint nothing"),
        ({"at_once": 0}, "at_once"),
        ({"checkpoint": "OTHER"}, "other pretrained weights"),
    ],
    ids=str,
)
def test_mistakes(
    bench: Bench, tmp_path: Path, options: dict[str, Any], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if "checkpoint" in options:
        options = {"checkpoint": write_tiny_sam(tmp_path / "other.pth", seed=5)}
    settings = {"checkpoint": bench.base, "adapter": bench.adapter} | options
    assert bench.run("wrong", "fit", "DirectOl", settings) == 2
    message = capsys.readouterr().err
    assert expected in message
    assert "Traceback" not in message
    assert not (bench.folder / "wrong" / "cases.csv").exists()


@pytest.mark.parametrize("method", ["AuxOl", "DirectOl"])
def test_a_scaled_loss_is_refused(
    bench: Bench, method: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both make their steps themselves, past the scaler. On a CPU, Lightning itself takes bf16 for 16-mixed."""
    monkeypatch.setattr(pl.Trainer, "precision", "16-mixed")
    assert bench.stream("scaled", method) == 2
    assert "does not scale its loss: no precision 16-mixed" in capsys.readouterr().err


@pytest.mark.parametrize("file", ["adapter", pytest.param("checkpoint", marks=pytest.mark.slow)])
def test_a_plan_of_either(file: str, bench: Bench) -> None:
    """From both files that hold an adapter; what is trained is in the checkpoints, though it is no submodule."""
    sam = {"backbone": "tiny", "checkpoint": str(bench.base), "adapter": str(getattr(bench, file))}
    small = {"sam": sam, "cache_gb": 0, "batch": {"capacity": 3}}
    network = DirectOl(**small).learner.network.module
    trained = sum(each.numel() for each in network.parameters() if each.requires_grad)
    direct = dry_run(DirectOl, small, Load())
    assert (direct.trained, direct.held) == (trained, trained)
    assert direct.gflop > direct.sam_gflop > 0
    beside = dry_run(AuxOl, {**small, "auxiliary": {"width": 1 / 16}}, Load())
    assert beside.held == beside.trained
    assert beside.parameters - beside.held == direct.parameters - direct.held  # the adapted SAM
    assert beside.sam_gflop == direct.sam_gflop
