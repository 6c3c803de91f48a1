"""What every loader yields, and what users can do wrong."""

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningModule, Trainer

import data_modules
from data_modules import BusiDataModule
from lightning_samseg.errors import UserError
from lightning_samseg.io.images import read_image, write_image
from tests.fakes import white, write_busi


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_busi(tmp_path_factory.mktemp("busi"), benign=14, malignant=6, normal=5)


class Recorder(LightningModule):
    def __init__(self, uses_unlabelled=False):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.uses_unlabelled = uses_unlabelled
        self.train_batches, self.val_batches = [], []

    def training_step(self, batch, batch_idx):
        self.train_batches.append(batch)
        return self.layer(torch.ones(1)).sum()

    def validation_step(self, batch, batch_idx):
        self.val_batches.append(batch)

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
    return Trainer(accelerator="cpu", **quiet, **{"max_steps": 3, "num_sanity_val_steps": 0, **options})


def busi(root, **options):
    return BusiDataModule(str(root), **{"split": "random", "image_size": 32, "num_labelled": 4, **options})


def test_training_batches(root):
    model = Recorder()
    trainer().fit(model, busi(root, labelled_batch_size=5))
    assert len(model.train_batches) == 3
    batch = model.train_batches[0]
    assert set(batch) == {"image", "mask", "cases"}
    assert batch["image"].shape == (5, 3, 32, 32)
    assert batch["image"].dtype == torch.float32
    assert batch["mask"].shape == (5, 32, 32)
    assert batch["mask"].dtype == torch.int64
    assert set(batch["mask"].unique().tolist()) == {0, 1}
    case = batch["cases"][0]
    assert case.original_size == (40, 48)
    assert case.content_size == (32, 32)
    assert (case.spacing, case.slice_index, case.num_slices) == (None, 0, 1)
    assert read_image(case.source).shape == (40, 48, 3)


def test_semi_supervised_batches_never_open_the_other_masks(root, tmp_path):
    folder = write_busi(tmp_path)
    data = busi(folder, labelled_batch_size=2, unlabelled_batch_size=3)
    names = {item.case_id for item in data.unlabelled_items}
    assert len(names) == 10
    for item in data.unlabelled_items:
        for mask in item.masks:
            mask.write_text("unreadable")
    model = Recorder(uses_unlabelled=True)
    trainer(max_steps=8).fit(model, data)
    batch = model.train_batches[0]
    assert set(batch) == {"labelled", "unlabelled"}
    assert set(batch["labelled"]) == {"image", "mask", "cases"}
    assert set(batch["unlabelled"]) == {"image", "cases"}
    assert len(batch["labelled"]["cases"]), len(batch["unlabelled"]["cases"]) == (2, 3)
    seen = {case.case_id for batch in model.train_batches for case in batch["unlabelled"]["cases"]}
    assert seen == names
    labelled = {case.case_id for batch in model.train_batches for case in batch["labelled"]["cases"]}
    assert labelled == {item.case_id for item in data.labelled_items}


def test_evaluation_batches(root):
    data = busi(root, eval_batch_size=3)
    model = Recorder()
    trainer().validate(model, data, verbose=False)
    cases = [case for batch in model.val_batches for case in batch["cases"]]
    assert [case.case_id for case in cases] == [item.case_id for item in data.splits.val]
    batch = next(iter(data.test_dataloader()))
    assert set(batch) == {"image", "mask", "cases", "reference", "original"}
    for case, item, reference, original, mask in zip(
        batch["cases"], data.splits.test, batch["reference"], batch["original"], batch["mask"], strict=False
    ):
        assert case.case_id == item.case_id
        assert (reference.shape, reference.dtype) == ((40, 48), "uint8")
        assert (original == read_image(item.image)).all()
        assert (reference == sum(white(path) for path in item.masks).astype("uint8")).all()
        assert abs(mask.float().mean() - reference.mean()) < 0.03
    assert len(list(data.test_dataloader())) == 2  # 4 images, 3 at a time


def test_prediction_batches(root, tmp_path):
    data = busi(root)
    batches = trainer().predict(Recorder(), data)
    assert set(batches[0]) == {"image", "cases", "original"}
    assert [c.case_id for b in batches for c in b["cases"]] == [item.case_id for item in data.splits.test]
    source = data.splits.test[0].image
    for target in (source, tmp_path):
        write_image(tmp_path / "one.png", read_image(source))
        (batch,) = busi(root, predict_from=str(target)).predict_dataloader()
        assert torch.equal(batch["image"], batches[0]["image"][:1])
    with pytest.raises(UserError, match="No images found"):
        busi(root, predict_from=str(root)).predict_dataloader()


def test_labelled_images_nest_and_none_means_all(root):
    ten = [item.case_id for item in busi(root, num_labelled=10).labelled_items]
    assert [item.case_id for item in busi(root, num_labelled=4).labelled_items] == ten[:4]
    assert len(busi(root, num_labelled=None).labelled_items) == 14
    assert busi(root, num_labelled=None).unlabelled_items == []


def test_classes_and_normal_images(root):
    assert (busi(root).num_classes, busi(root).class_names) == (1, ("lesion",))
    absent = BusiDataModule("absent", classes="category")  # known without reading the disk
    assert (absent.num_classes, absent.class_names) == (2, ("benign", "malignant"))
    data = busi(root, include_normal=True, classes="category", num_labelled=None, eval_batch_size=25)
    (batch,) = data._once(data.splits.train, "evaluation")
    for case, mask in zip(batch["cases"], batch["mask"], strict=True):
        expected = {"benign": {0, 1}, "malignant": {0, 2}, "normal": {0}}[case.case_id.split()[0]]
        assert set(mask.unique().tolist()) == expected


def test_grey_is_what_the_authors_read(root):
    (colour,), (grey,) = busi(root, grey=False).val_dataloader(), busi(root).val_dataloader()
    torch.testing.assert_close(colour["image"], grey["image"])  # BUSI is grey inside
    assert (grey["image"] == grey["image"][:, :1]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 100}, r"multiple of 16(.|\n)*found: 100(.|\n)*--data.image_size 96"),
        ({"image_size": 0}, "image_size must be at least 16"),
        ({"labelled_batch_size": 0}, "labelled_batch_size must be at least 1"),
        ({"num_workers": -1}, "num_workers must be at least 0"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"num_labelled": 0}, "num_labelled must be at least 1"),
    ],
)
def test_arguments_out_of_range(root, options, message):
    with pytest.raises(UserError, match=message):
        busi(root, **options)


def test_more_labelled_images_than_there_are(root):
    with pytest.raises(UserError, match=r"15 labelled images .* only 14"):
        trainer().fit(Recorder(), busi(root, num_labelled=15))


def test_nothing_left_to_learn_without_labels(root):
    with pytest.raises(UserError, match="No unlabelled images are left"):
        trainer().fit(Recorder(uses_unlabelled=True), busi(root, num_labelled=None))


def test_training_needs_a_number_of_steps(root):
    with pytest.raises(UserError, match=r"counted in steps(.|\n)*found: -1"):
        trainer(max_steps=-1, max_epochs=2).fit(Recorder(), busi(root))
    with pytest.raises(UserError, match="overfit_batches"):
        trainer(overfit_batches=1).fit(Recorder(), busi(root))


def test_mask_of_another_size_stops_the_training(tmp_path):
    folder = write_busi(tmp_path)
    for path in folder.glob("*/*_mask.png"):
        write_image(path, white(path)[:-1])
    with pytest.raises(UserError, match=r"mask.png: the mask has another size"):
        trainer().fit(Recorder(), busi(folder))


def test_missing_root_is_one_message(tmp_path):
    with pytest.raises(UserError, match="There is no data folder"):
        trainer().fit(Recorder(), busi(tmp_path / "absent"))


def test_arguments_are_in_the_help_and_in_the_checkpoint(root, tmp_path):
    parser = ArgumentParser()
    parser.add_class_arguments(BusiDataModule, "data")
    text = " ".join(parser.format_help().split())
    for argument in (
        "root",
        "classes",
        "num_labelled",
        "image_size",
        "normalise",
        "resize",
        "augment",
        "seed",
        "split",
    ):
        assert f"--data.{argument}" in text
    assert "--data.layout" not in text
    assert "--data.common" not in text
    assert "a multiple of 16" in text
    data = busi(root, normalise="percentile")
    run = trainer()
    run.fit(Recorder(), data)
    run.save_checkpoint(tmp_path / "a.ckpt")
    stored = torch.load(tmp_path / "a.ckpt", weights_only=True)["datamodule_hyper_parameters"]
    assert stored["normalise"] == "percentile"
    assert stored["root"] == str(root)
    assert "layout" not in stored


def test_package_offers_the_modules():
    assert data_modules.BusiDataModule is BusiDataModule
    assert {getattr(data_modules, name).__name__ for name in data_modules.__all__} == set(data_modules.__all__)
    with pytest.raises(AttributeError):
        _ = data_modules.NoSuchDataModule
