"""One contract for all data sets, so that any config can swap one for another."""

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

import data_modules
from lightning_samseg.errors import UserError
from lightning_samseg.io.images import write_image
from tests.fakes import write_acdc, write_busi, write_folder, write_glas, write_polyp, write_retouch

SETS = {
    "AcdcDataModule": (
        lambda root: write_acdc(root, {"patient001": 3, "patient002": 3}, {"patient003": 2}, {"patient004": 2}),
        {},
        ["ACDC"],
    ),
    "BusiDataModule": (write_busi, {"split": "random"}, ["benign", "malignant"]),
    "FolderDataModule": (lambda root: write_folder(root, [f"a{n}" for n in range(10)]), {}, ["folder"]),
    "GlasDataModule": (lambda root: write_glas(root, train=12), {}, ["benign", "malignant"]),
    "PolypDataModule": (
        lambda root: write_polyp(root, train=30, test={"CVC-300": 2, "Kvasir": 2}),
        {},
        ["Kvasir", "CVC-300"],
    ),
    "RetouchDataModule": (write_retouch, {"empty": "drop"}, ["Cirrus", "Spectralis", "Topcon"]),
    "DemoDataModule": (lambda root: None, {"num_benign": 5, "num_malignant": 5}, ["benign", "malignant"]),
    "DemoStreamDataModule": (
        lambda root: None,
        {"num_per_set": 1, "num_train": 10},
        ["CVC-ClinicDB", "CVC-ColonDB", "ETIS-LaribPolypDB", "Kvasir", "CVC-300"],
    ),
}


class Learner(LightningModule):
    def __init__(self, uses_unlabelled=False, uses_stream=False):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.uses_unlabelled, self.uses_stream = uses_unlabelled, uses_stream
        self.seen = {"train": [], "validation": [], "test": []}

    def training_step(self, batch, batch_idx):
        self.seen["train"].append(batch)
        return self.layer(torch.ones(1)).sum()

    def validation_step(self, batch, batch_idx):
        self.seen["validation"].append(batch)

    def test_step(self, batch, batch_idx):
        self.seen["test"].append(batch)

    def predict_step(self, batch, batch_idx):
        return batch

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(**options):
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(accelerator="cpu", num_sanity_val_steps=0, **quiet, **options)


@pytest.fixture(scope="module", params=SETS)
def make(request, tmp_path_factory):
    root = tmp_path_factory.mktemp(request.param) / "data"
    write, options, sets = SETS[request.param]
    write(root)
    module = getattr(data_modules, request.param)

    def build(**further):
        return module(str(root), **{"image_size": 32, "num_labelled": 3, **options, **further})

    build.sets = sets
    return build


def test_every_data_set_is_here():
    assert {*SETS, "SegmentationDataModule"} == set(data_modules.__all__)


def test_training_evaluation_and_prediction(make):
    model, data = Learner(uses_unlabelled=True), make()
    trainer(max_steps=2).fit(model, data)
    trainer().test(model, make(), verbose=False)
    predicted = trainer().predict(Learner(), make())
    for batch in model.seen["train"]:
        assert set(batch["labelled"]) == {"image", "mask", "cases"}
        assert set(batch["unlabelled"]) == {"image", "cases"}
        assert batch["labelled"]["image"].shape == (3, 3, 32, 32)
        assert batch["labelled"]["mask"].max() <= data.num_classes == len(data.class_names)
    for part in ("validation", "test"):
        batches = model.seen[part]
        assert len({case.case_id for batch in batches for case in batch["cases"]}) >= 1
        for batch in batches:
            assert set(batch) == {"image", "mask", "cases", "reference", "original"}
            for case, reference, original in zip(batch["cases"], batch["reference"], batch["original"], strict=True):
                assert reference.shape == case.original_size == original.shape[:2]
                assert (reference.dtype, original.dtype) == (np.uint8, np.uint8)
    assert set(predicted[0]) == {"image", "cases", "original"}
    tested = {case.case_id for batch in model.seen["test"] for case in batch["cases"]}
    assert {case.case_id for batch in predicted for case in batch["cases"]} == tested
    trained = {case.case_id for batch in model.seen["train"] for part in batch.values() for case in part["cases"]}
    assert not trained & tested


def test_pictures_of_ones_own_are_predicted_whatever_the_data_set_is_made_of(make, tmp_path):
    picture = np.arange(40 * 30, dtype=np.uint8).reshape(40, 30)
    write_image(tmp_path / "own.png", picture)
    (batch,) = make(predict_from=str(tmp_path)).predict_dataloader()
    assert [case.original_size for case in batch["cases"]] == [(40, 30)]
    np.testing.assert_array_equal(batch["original"][0][..., 0], picture)
    (tmp_path / "ct.nii").write_bytes(b"")
    with pytest.raises(UserError, match="volumes are for predict --ckpt_path"):
        make(predict_from=str(tmp_path / "ct.nii")).predict_dataloader()


def test_the_stream(make):
    model, data = Learner(uses_stream=True), make(num_workers=1)
    trainer(max_epochs=1, limit_val_batches=0).fit(model, data)
    items = model.seen["train"]
    assert [item["position"] for item in items] == list(range(len(items)))
    assert list(dict.fromkeys(item["set_name"] for item in items)) == make.sets
    names = [item["cases"][0].case_id for item in items]
    assert len(set(names)) == len(names)
    for item in items:
        height, width = item["reference"].shape
        assert item["original"].shape == (height, width, 3)
        assert item["cases"][0].original_size == item["cases"][0].content_size == (height, width)
        assert item["cases"][0].num_slices == 1
        assert item["reference"].any()
        assert set(np.unique(item["reference"])) <= {0, 1}
    trainer().test(model, make(), verbose=False)
    assert [item["cases"][0].case_id for item in model.seen["test"]] == names
