"""Each semi-supervised method from the command line: curves, pictures, and the masks that its checkpoint predicts."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from data_modules import BusiDataModule
from lightning_samseg.__main__ import main
from lightning_samseg.cli.train import parse
from lightning_samseg.io.masks import read_stored_mask
from tests.fakes import write_busi, write_folder
from tests.predicting import predict

SEMI = Path(__file__).parents[1] / "experiments" / "semi"
CURVES: dict[str, tuple[str, ...]] = {
    "bcp": ("stage", "dice", "cross_entropy", "confidence", "component_share"),
    "cps": ("supervised_1", "supervised_2", "cross_1", "cross_2", "consistency_weight", "pseudo_dsc_1", "agreement"),
    "dc_net": ("supervised", "features", "directed", "cross", "threshold", "kept", "pseudo_dsc"),
    "mc_net_plus": ("supervised", "consistency", "consistency_weight", "confidence", "pseudo_dsc"),
    "semi_sam": ("supervised", "consistency", "sam", "sam_weight", "sam_prompted", "sam_agreement", "pseudo_dsc"),
    "uamt": ("supervised", "consistency", "consistency_weight", "threshold", "kept", "agreement"),
    "unimatch": ("supervised", "strong_1", "strong_2", "perturbed", "confidence", "kept", "pseudo_dsc"),
    "urpc": ("supervised", "consistency", "consistency_scale3", "consistency_weight", "confidence", "pseudo_dsc"),
}
STEPS = 4


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # the networks are tiny


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data") / "mine", [f"case{number}" for number in range(12)], (40, 56))


@pytest.fixture(scope="module", params=CURVES)
def run(request: pytest.FixtureRequest, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A finished run of the method's config on a folder of one's own."""
    name, folder = request.param, tmp_path_factory.mktemp("run")
    layers = [part for each in ("demo", name) for part in ("--config", str(SEMI / f"{each}.yaml"))]
    options = {
        "data": "data_modules.FolderDataModule",
        "data.root": pictures,
        "data.image_size": 32,
        "data.num_labelled": 4,
        "data.labelled_batch_size": 2,
        "data.unlabelled_batch_size": 4,
        "model.network.in_channels": 3,
        "trainer.max_steps": STEPS,
        "trainer.val_check_interval": 2,
        "trainer.log_every_n_steps": 1,
        "trainer.enable_progress_bar": "false",
        "trainer.default_root_dir": folder,
        **({"model.sam.backbone": "tiny"} if name == "semi_sam" else {}),
    }
    assert main(["fit", *layers, *(f"--{option}={value}" for option, value in options.items())]) == 0
    return name, folder


def test_curves_and_pictures(run: tuple[str, Path]) -> None:
    """A line per iteration of the loss and its parts, and the same validation images each time."""
    name, folder = run
    with (folder / "logs" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for curve in ("loss", "empty_predictions", *CURVES[name]):
        values = [float(row[f"train/{curve}"]) for row in rows if row.get(f"train/{curve}")]
        # BCP labels nothing in its first stage, which is a quarter of the run.
        expected = STEPS - 1 if name == "bcp" and curve in ("empty_predictions", *CURVES["bcp"][3:]) else STEPS
        assert len(values) == expected, curve
        assert all(map(math.isfinite, values)), curve
    assert len([row for row in rows if row.get("val/dsc")]) == STEPS // 2
    images = folder / "logs" / "images"
    drawn = [sorted(path.name for path in place.iterdir()) for place in (images / "val").iterdir()]
    assert drawn
    assert all(len(steps) == STEPS // 2 for steps in drawn)
    assert any((images / "test").iterdir())


def test_a_checkpoint_predicts_what_its_own_test_has_scored(
    run: tuple[str, Path], pictures: Path, tmp_path: Path
) -> None:
    _, folder = run
    output = tmp_path / "out"
    assert predict(folder / "checkpoints" / "best.ckpt", pictures / "images", output) == 0
    with (folder / "cases.csv").open(newline="") as file:
        scored = list(csv.DictReader(file))
    assert scored
    for row in scored:
        mask = read_stored_mask(output / "masks" / f"{row['case_id']}.png").values > 0
        truth = read_stored_mask(pictures / "masks" / f"{row['case_id']}.png").values > 0
        assert float(row["dsc"]) == pytest.approx(2 * (mask & truth).sum() / max(1, mask.sum() + truth.sum()))


def test_labelled_subsets_are_nested_and_the_same_for_every_method(tmp_path: Path) -> None:
    """The first N of one order, whatever the method, the seed of the run and its batches."""
    root = write_busi(tmp_path / "Dataset_BUSI_with_GT", benign=24, malignant=16)
    chosen: dict[int, list[str]] = {}
    for name in CURVES:
        layers = [part for each in ("busi", name) for part in ("--config", str(SEMI / f"{each}.yaml"))]
        given = parse(["fit", *layers, f"--data.root={root}", "--data.split=random"]).data.init_args
        for count, seed in ((10, 1), (20, 2)):
            data = BusiDataModule(**{**given, "num_labelled": count, "seed": seed})
            found = [item.case_id for item in data.labelled_items]
            assert chosen.setdefault(count, found) == found, name
            assert not {*found} & {item.case_id for item in data.unlabelled_items}
            assert not {*found} & {item.case_id for part in (data.splits.val, data.splits.test) for item in part}
    assert len(chosen[10]) == 10
    assert chosen[20][:10] == chosen[10]
    assert np.unique(chosen[20]).size == 20
