"""The training streams: order, ranks, and that a resumed run equals an uninterrupted one on a real Trainer."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from data_modules import BusiDataModule
from data_modules.loading.samplers import CaseSampler, StreamSampler
from lightning_samseg.errors import UserError
from tests.fakes import truncate, write_busi


def sampler(n=7, batch=3, **options):
    options = {"seed": 5, "stream": 0, **options}
    return StreamSampler(list(range(n)), batch, 100, **options)


def flat(batches):
    return [key for batch in batches for key in batch]


def test_stream_is_a_row_of_permutations():
    keys = flat(itertools.islice(sampler(), 14))  # 42 positions = 6 permutations of 7
    assert [position for _, position in keys] == list(range(42))
    rounds = np.array([index for index, _ in keys]).reshape(6, 7)
    assert (np.sort(rounds, axis=1) == np.arange(7)).all()
    assert len({tuple(row) for row in rounds}) > 1
    assert len(sampler()) == 100


def test_stream_can_start_anywhere():
    whole = list(itertools.islice(sampler(), 20))
    assert list(itertools.islice(sampler(start=lambda: 13), 7)) == whole[13:]


def test_ranks_share_the_stream_without_overlap():
    ranks = [sampler(rank=rank, world_size=3) for rank in range(3)]
    together = [key for step in range(7) for rank in ranks for key in rank.batch(step)]
    assert together == flat(itertools.islice(sampler(), 21))  # three ranks of 3 = one process with 9 per step


def test_streams_and_seeds_differ():
    orders = [[i for i, _ in flat(itertools.islice(s, 5))] for s in (sampler(), sampler(stream=1), sampler(seed=6))]
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_one_image_fills_a_batch():
    assert sampler(n=1, batch=4).batch(2) == [(0, 8), (0, 9), (0, 10), (0, 11)]


def test_cases_stay_whole_and_none_is_repeated():
    case_ids = ["a", "a", "a", "b", "c", "c", "d"]
    ranks = [CaseSampler(case_ids, case_ids, 2, rank, 3) for rank in range(3)]
    taken = [[index for index, _ in flat(rank)] for rank in ranks]
    assert taken == [[0, 1, 2, 6], [3], [4, 5]]
    assert [len(rank) for rank in ranks] == [2, 1, 1]
    assert len(CaseSampler(["a"], ["a"], 2, 1, 2)) == 0


class Toy(LightningModule):
    """Learns from both streams and writes down what it saw."""

    uses_unlabelled = True

    def __init__(self, stop_at: int = -1) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)
        self.seen: list[tuple] = []
        self.stop_at = stop_at

    def training_step(self, batch, batch_idx):
        if len(self.seen) == self.stop_at:
            raise KeyError("power cut")
        labelled, unlabelled = batch["labelled"], batch["unlabelled"]
        assert "mask" not in unlabelled
        self.seen.append(
            (
                [case.case_id for case in labelled["cases"] + unlabelled["cases"]],
                float(labelled["image"].double().sum()),
                float(unlabelled["image"].double().sum()),
                int(labelled["mask"].sum()),
            )
        )
        pooled = torch.cat([labelled["image"], unlabelled["image"]]).mean(dim=(2, 3))
        return ((self.layer(pooled) - labelled["mask"].float().mean()) ** 2).mean()

    def validation_step(self, batch, batch_idx):
        assert len(batch["reference"]) == len(batch["cases"])

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)


def fit(root, folder, workers, max_steps=10, stop_at=-1, ckpt_path=None, every=4, **options):
    torch.manual_seed(0)
    model = Toy(stop_at)
    data = BusiDataModule(
        str(root), split="random", image_size=32, num_labelled=4, labelled_batch_size=2, num_workers=workers
    )
    checkpoint = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=every, save_top_k=-1, save_last=True)
    trainer = Trainer(
        max_steps=max_steps,
        accelerator="cpu",
        callbacks=[checkpoint],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=1,
        **options,
    )
    trainer.fit(model, data, ckpt_path=ckpt_path, weights_only=False)
    return model, trainer


@pytest.fixture(scope="module")
def busi(tmp_path_factory):
    return write_busi(tmp_path_factory.mktemp("busi"))


@pytest.fixture(scope="module")
def uninterrupted(busi, tmp_path_factory):
    return fit(busi, tmp_path_factory.mktemp("whole"), 0)[0]


@pytest.mark.parametrize(
    ("workers", "every", "validate"),
    [
        (0, 4, None),  # checkpoint of step 4 while step 6 was lost
        (1, 4, None),  # a worker had loaded ahead
        (0, 3, 3),  # checkpoint right before a validation
        (0, 4, 2),
    ],
)
def test_resumed_run_equals_uninterrupted_one(busi, uninterrupted, tmp_path, workers, every, validate):
    validating = {"limit_val_batches": 0} if validate is None else {"val_check_interval": validate}
    with pytest.raises(KeyError, match="power cut"):
        fit(busi, tmp_path, workers, stop_at=6 if every == 4 else 5, every=every, **validating)
    model, trainer = fit(busi, tmp_path, workers, ckpt_path=tmp_path / f"step={every}.ckpt", every=every, **validating)
    assert trainer.global_step == 10
    assert model.seen == uninterrupted.seen[every:]
    for name, weights in uninterrupted.state_dict().items():
        assert torch.equal(model.state_dict()[name], weights), name


def test_steps_go_beyond_the_first_pass_and_differ(uninterrupted):
    assert len(uninterrupted.seen) == 10
    labelled = [name for cases, *_ in uninterrupted.seen for name in cases[:2]]
    assert len(set(labelled)) == 4
    assert {labelled.count(name) for name in labelled} == {5}
    assert len({total for _, total, *_ in uninterrupted.seen}) > 5  # the same images, augmented anew


def test_number_of_workers_changes_nothing(busi, uninterrupted, tmp_path):
    assert fit(busi, tmp_path, 2, max_steps=4)[0].seen == uninterrupted.seen[:4]


def test_a_finished_run_can_be_prolonged(busi, uninterrupted, tmp_path):
    fit(busi, tmp_path, 0, max_steps=6, every=3)
    model, trainer = fit(busi, tmp_path, 0, max_steps=10, every=3, ckpt_path=tmp_path / "last.ckpt")
    assert trainer.global_step == 10
    assert model.seen == uninterrupted.seen[6:]


def test_accumulated_gradients_count_batches(busi, uninterrupted, tmp_path):
    model, trainer = fit(busi, tmp_path, 0, max_steps=5, accumulate_grad_batches=2)
    assert trainer.num_training_batches == 10
    assert model.seen == uninterrupted.seen


def test_no_resume_on_other_training_images(busi, tmp_path):
    fit(busi, tmp_path, 0, max_steps=4)
    other = write_busi(tmp_path / "other", benign=9, malignant=9)
    with pytest.raises(UserError, match="other training images"):
        fit(other, tmp_path / "new", 0, ckpt_path=tmp_path / "last.ckpt")


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_image_is_named_also_from_a_worker(tmp_path, workers):
    folder = write_busi(tmp_path)
    for path in folder.glob("*/*).png"):
        truncate(path)
    with pytest.raises(UserError, match=r"\(\d+\)\.png cannot be read") as caught:
        fit(folder, tmp_path / "run", workers)
    assert str(caught.value).count("what to do") == 1


def test_lightning_leaves_the_samplers_alone(busi, monkeypatch):
    """In a distributed run Lightning replaces samplers, unless they are distributed ones already."""
    data = BusiDataModule(str(busi), split="random", image_size=32, num_labelled=4)
    trainer = Trainer(max_steps=3, accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy._lightning_module = Toy()
    data.trainer = trainer
    monkeypatch.setattr(type(trainer._accelerator_connector), "is_distributed", True)
    assert trainer._accelerator_connector.use_distributed_sampler
    for loader in [*data.train_dataloader().flattened, data.val_dataloader()]:
        assert trainer._data_connector._prepare_dataloader(loader, shuffle=False, mode="train") is loader


TWO_PROCESSES = """
import json, sys
from pathlib import Path
from lightning.pytorch import Trainer
from data_modules import BusiDataModule
from tests.data_modules.loading.test_samplers import Toy

class Shared(Toy):
    val = ()
    def on_validation_epoch_start(self):
        self.val = []
    def validation_step(self, batch, batch_idx):
        self.val += [case.case_id for case in batch["cases"]]
    def predict_step(self, batch, batch_idx):
        return [case.case_id for case in batch["cases"]]

if __name__ == "__main__":
    data = BusiDataModule(sys.argv[1], split="random", image_size=32, num_labelled=4, labelled_batch_size=1,
                          unlabelled_batch_size=1, eval_batch_size=1)
    model = Shared()
    trainer = Trainer(max_steps=4, accelerator="cpu", strategy="ddp", devices=2, logger=False, val_check_interval=2,
                      enable_checkpointing=False, enable_progress_bar=False, num_sanity_val_steps=0)
    trainer.fit(model, data)
    test = trainer.predict(model, data)
    seen = {"seen": [cases for cases, *_ in model.seen], "val": model.val, "test": sum(test, [])}
    Path(sys.argv[2], f"rank{trainer.global_rank}.json").write_text(json.dumps(seen))
"""


@pytest.mark.slow
def test_two_processes_share_streams_and_cases(tmp_path):
    folder = write_busi(tmp_path, benign=20, malignant=10)
    script = tmp_path / "two.py"
    script.write_text(TWO_PROCESSES)
    repository = Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, script, folder, tmp_path], check=True, env=environment, timeout=300)
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    data = BusiDataModule(str(folder), split="random", num_labelled=4)
    labelled = [rank["seen"][step][0] for step in (0, 1) for rank in ranks]
    assert sorted(labelled) == sorted(item.case_id for item in data.labelled_items)  # one pass, no overlap
    for part, items in (("val", data.splits.val), ("test", data.splits.test)):
        taken = [name for rank in ranks for name in rank[part]]
        assert sorted(taken) == sorted(item.case_id for item in items)
        assert len(taken) == len(set(taken))
