"""``predict --input`` on bad input."""

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import torch

from lightning_samseg.__main__ import main
from lightning_samseg.cli.predict import BACKBONES
from lightning_samseg.models.backbones import BackboneName
from tests.fakes import truncate
from tests.predicting import altered, run_on, without, write_pictures


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    return run_on(pictures, tmp_path_factory.mktemp("run"))


MISTAKES: dict[str, tuple[list[str], str]] = {
    "no checkpoint": (["--input", "IMAGES", "--output", "OUT"], "Either a checkpoint or the method"),
    "both": (["--ckpt_path", "RUN", "--method", "zero_shot", "--input", "IMAGES", "--output", "OUT"], "found: both"),
    "missing checkpoint": (["--ckpt_path", "no.ckpt", "--input", "IMAGES", "--output", "OUT"], "no checkpoint no.ckpt"),
    "missing input": (["--ckpt_path", "RUN", "--input", "nowhere", "--output", "OUT"], "no file or folder nowhere"),
    "empty input": (["--ckpt_path", "RUN", "--input", "EMPTY", "--output", "OUT"], "No images found"),
    "prompts": (["--ckpt_path", "RUN", "--input", "IMAGES", "--output", "OUT", "--prompts", "x"], "without prompts"),
    "zero-shot alone": (["--method", "zero_shot", "--input", "IMAGES", "--output", "OUT"], "add --prompts FILE"),
    "no place": (["--ckpt_path", "RUN", "--input", "IMAGES", "--output", "BELOW"], "cannot be made"),
    "device": (["--ckpt_path", "RUN", "--input", "IMAGES", "--output", "OUT", "--device", "tpu9"], "--device cpu"),
    "batch size": (["--ckpt_path", "RUN", "--input", "IMAGES", "--output", "OUT", "--batch_size", "0"], "at least 1"),
    "foreign": (["--ckpt_path", "FOREIGN", "--input", "IMAGES", "--output", "OUT"], "--trust"),
    "no method": (["--ckpt_path", "FOREIGN", "--input", "IMAGES", "--output", "OUT", "--trust"], "which is none"),
    "learns only": (["--ckpt_path", "DIRECT", "--input", "IMAGES", "--output", "OUT"], "while it learns only"),
    "untold": (["--ckpt_path", "UNTOLD", "--input", "IMAGES", "--output", "OUT"], "how its training images"),
    "unknown": (["--ckpt_path", "UNKNOWN", "--input", "IMAGES", "--output", "OUT"], "does not say which method"),
    "no arguments": (["--ckpt_path", "PLAIN", "--input", "IMAGES", "--output", "OUT"], "without hyper_parameters"),
    "no state": (["--ckpt_path", "NO_STATE", "--input", "IMAGES", "--output", "OUT"], "without online"),
    "damaged": (["--ckpt_path", "CUT", "--input", "IMAGES", "--output", "OUT"], "not a checkpoint of a run of"),
    "other version": (["--ckpt_path", "NEWER", "--input", "IMAGES", "--output", "OUT"], "another version"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_message(
    tmp_path: Path, run: Path, pictures: Path, mistake: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options, message = MISTAKES[mistake]
    (tmp_path / "empty").mkdir()
    places = {"RUN": run, "IMAGES": pictures / "images", "OUT": tmp_path / "out", "EMPTY": tmp_path / "empty"}
    places["BELOW"] = pictures / "images" / "case0.png" / "out"  # below a file
    if mistake in ("foreign", "no method"):
        places["FOREIGN"] = altered(run, tmp_path / "foreign.ckpt", method="os.system")
    elif mistake == "unknown":
        places["UNKNOWN"] = altered(run, tmp_path / "unknown.ckpt", method="lightning_samseg.methods.next_year.Net")
    elif mistake == "no arguments":
        places["PLAIN"] = without(run, tmp_path / "plain.ckpt", "hyper_parameters")
    elif mistake == "no state":
        places["NO_STATE"] = altered(run, tmp_path / "no_state.ckpt", method="lightning_samseg.methods.AuxOl")
    elif mistake == "learns only":
        places["DIRECT"] = altered(run, tmp_path / "direct.ckpt", method="lightning_samseg.methods.direct_ol.DirectOl")
    elif mistake == "untold":
        places["UNTOLD"] = without(run, tmp_path / "untold.ckpt", "datamodule_hyper_parameters")
    elif mistake == "damaged":
        places["CUT"] = altered(run, tmp_path / "cut.ckpt")
        truncate(places["CUT"])
    elif mistake == "other version":
        arguments = torch.load(run, weights_only=True)["hyper_parameters"]
        places["NEWER"] = altered(run, tmp_path / "newer.ckpt", hyper_parameters={**arguments, "arch_v2": 1})
    assert main(["predict", *[str(places.get(option, option)) for option in options]]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "what to do:" in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_another_preparation_than_the_trainings_is_noticed(
    tmp_path: Path, run: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "trainer: {accelerator: cpu, logger: false, enable_progress_bar: false}\n"
        "model:\n  class_path: lightning_samseg.methods.UNet\n"
        "  init_args: {network: {name: smp/unet/timm-mobilenetv3_small_minimal_100}}\n"
        f"data:\n  class_path: data_modules.FolderDataModule\n  init_args: {{root: {pictures}, image_size: 32}}\n"
    )
    options = ["test", "--config", str(config), "--ckpt_path", str(run), "--overlays", "0"]
    for number, normalise in enumerate(("minmax", "sam")):
        folder = ["--trainer.default_root_dir", str(tmp_path / str(number))]
        assert main([*options, *folder, "--data.normalise", normalise]) == 0
        printed = capsys.readouterr().out
        assert ("warning: data.normalise is sam" in printed) == (normalise == "sam")
    assert "was trained with minmax" in printed


def test_help_and_mistakes_need_no_torch() -> None:
    code = "import sys; from lightning_samseg.__main__ import main\n"
    code += "status = main(['predict', '--input', 'nowhere', '--output', 'x', '--ckpt_path', 'y'])\n"
    code += "assert not {'torch', 'numpy', 'lightning'} & set(sys.modules); sys.exit(status)"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=root)
    assert (done.returncode, done.stderr.splitlines()[0]) == (2, "error: There is no file or folder nowhere.")


def test_backbones_offered_are_those_there_are() -> None:
    assert set(BACKBONES) == set(get_args(BackboneName))
