"""The configs of AuxOL: every cell of Tables 1 and 2 has one, which quotes the paper's values and builds."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lightning_samseg.cli.train import parse
from lightning_samseg.methods import AuxOl
from lightning_samseg.online.expert import Expert
from lightning_samseg.online.fusion import Fusion
from lightning_samseg.reports.paper import paper_tables

FOLDER = Path(__file__).parents[1] / "experiments" / "aux_ol"
GENERALISTS = {"sam_h": "SAM-H", "medsam": "MedSAM"}
STREAMS = {
    "busi_benign": "BUSI benign",
    "busi_malignant": "BUSI malignant",
    "glas_benign": "GlaS benign",
    "glas_malignant": "GlaS malignant",
    "fluid_cirrus": "Cirrus",
    "fluid_topcon": "Topcon",
    "fluid_spectralis": "Spectralis",
}
PRESETS = ("preset_paper", "preset_code")
OVERLAYS = ("imagenet_encoder", "pseudo_labels")
ADAPTED = ("polyp_adapted_aux_ol", "polyp_adapted_direct_ol")


def comment(name: str) -> str:
    lines = (FOLDER / f"{name}.yaml").read_text().splitlines()
    return " ".join(line.lstrip("# ") for line in lines if line.startswith("#"))


def quoted(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d+\.\d+", text)]


def test_there_is_a_config_for_every_cell() -> None:
    names = {
        f"{stream}_{generalist}_{prompt}"
        for stream in ("polyp", *STREAMS)
        for generalist in (*GENERALISTS, "lite_medsam")
        for prompt in ("box", "point")
    }
    assert {path.stem for path in FOLDER.glob("*.yaml")} == names | {*PRESETS, *OVERLAYS, *ADAPTED}


@pytest.mark.parametrize("prompt", ["box", "point"])
@pytest.mark.parametrize("generalist", GENERALISTS)
def test_they_quote_the_papers_values(generalist: str, prompt: str) -> None:
    tables = paper_tables()["aux_ol"]["tables"]
    row = f"{GENERALISTS[generalist]}, {prompt}"
    expected = []
    for part in tables["Table 1"]["columns"].values():
        without, with_aux_ol = part["rows"][row], part["rows"][f"{row}, AuxOL"]
        expected += [*without, *with_aux_ol]
    assert quoted(comment(f"polyp_{generalist}_{prompt}")) == expected
    for stream, column in STREAMS.items():
        rows = tables["Table 2"]["columns"][column]["rows"]
        (dsc, hd), (aux_dsc, aux_hd) = rows[row], rows[f"{row}, AuxOL"]
        assert quoted(comment(f"{stream}_{generalist}_{prompt}")) == [dsc, aux_dsc, hd, aux_hd]


def parsed(*paths: Path) -> Any:
    return parse(["fit", *(part for path in paths for part in ("--config", str(path)))])


def test_every_config_is_what_its_name_says() -> None:
    backbones = {"sam_h": "sam_vit_h", "medsam": "medsam_vit_b", "lite_medsam": "lite_medsam"}
    for path in sorted(FOLDER.glob("*.yaml")):
        if path.stem in (*PRESETS, *OVERLAYS, *ADAPTED):
            continue
        config = yaml.safe_load(path.read_text())
        stream, generalist, prompt = re.fullmatch(r"(\w+?)_(sam_h|medsam|lite_medsam)_(\w+)", path.stem).groups()  # type: ignore[union-attr]
        arguments = config["model"]["init_args"]
        assert (arguments["backbone"], arguments["prompt"]) == (backbones[generalist], prompt)
        assert config["trainer"] == {"default_root_dir": f"runs/aux_ol_{path.stem}"}
        sets = config["data"]["init_args"].get("stream_sets", [])
        assert [name.lower() for name in sets] == stream.split("_")[1:]
        # The paper streams test sets; of the polyps, there is nothing else in the stream.
        assert config["data"]["init_args"].get("stream_part") == (None if stream == "polyp" else "test")


@pytest.mark.parametrize("name", ADAPTED)
def test_the_adapted_ones_name_the_checkpoint_of_a_run_that_exists(name: str) -> None:
    config = parsed(FOLDER / f"{name}.yaml")
    adapter = Path(config.model.init_args.adapter)
    (made_by,) = FOLDER.parent.glob(f"supervised/{adapter.parts[1]}.yaml")
    trained = parsed(made_by)
    assert trained.trainer.default_root_dir == str(Path(*adapter.parts[:2]))
    assert trained.model.init_args.backbone == config.model.init_args.backbone
    assert trained.data.init_args.root == config.data.init_args.root


@pytest.mark.parametrize("preset", [None, *PRESETS, *OVERLAYS])
@pytest.mark.parametrize("name", ["polyp_sam_h_box", "glas_benign_medsam_point", "fluid_cirrus_lite_medsam_box"])
def test_configs_and_presets_parse_and_build(name: str, preset: str | None) -> None:
    config = parsed(FOLDER / f"{name}.yaml", *([] if preset is None else [FOLDER / f"{preset}.yaml"]))
    arguments = config.model.init_args.as_dict() | {"backbone": "tiny", "encoder_weights": None}
    if arguments["auxiliary"] == "unet17m":
        arguments["width"] = 1 / 16
    assert AuxOl(**arguments | {"expert": Expert(**arguments["expert"])}).uses_stream


def test_presets_name_the_same_options_and_differ_where_paper_and_code_do() -> None:
    paper, code = (yaml.safe_load((FOLDER / f"{name}.yaml").read_text())["model"]["init_args"] for name in PRESETS)
    assert paper.keys() == code.keys()
    assert {name for name in paper if paper[name] != code[name]} == {
        "preprocessing",
        "objects",
        "point_crop",
        "loss",
        "policy",
        "replay_without_feedback",
        "alpha_start",
        "alpha_from",
        "crop_resize",
        "sam_alone",
        "expert",
    }


def test_overlays_change_what_they_name_and_keep_the_rest_of_the_expert() -> None:
    base = FOLDER / "polyp_medsam_box.yaml"
    arguments = {
        name: parsed(base, *([] if name == "alone" else [FOLDER / f"{name}.yaml"])).model.init_args.as_dict()
        for name in ("alone", *OVERLAYS, "preset_code")
    }
    alone = arguments["alone"]
    network = {"auxiliary": "unet/resnet18", "encoder_weights": "imagenet"}
    assert arguments["imagenet_encoder"] == alone | network
    labels = alone["expert"] | {"rate": 0, "pseudo_confidence": 0.9}
    assert arguments["pseudo_labels"] == alone | {"fusion": "fixed", "expert": labels}
    assert arguments["preset_code"]["expert"] == alone["expert"] | {"inclusive": True}
    layered = parse(
        ["fit", "--config", str(base), "--config", str(FOLDER / "preset_code.yaml"), "--model.expert.below_dice=0.85"]
    )
    assert layered.model.init_args.expert.as_dict() == alone["expert"] | {"inclusive": True, "below_dice": 0.85}


def test_nobody_teaches_and_sams_weight_stays_one_unless_it_is_fixed() -> None:
    """What Fig. 3's runs at 0 % are: clipped SAM by construction, and half of each."""
    choices = yaml.safe_load((FOLDER.parent / "grids" / "aux_ol_fig3.yaml").read_text())["axes"]["feedback"]
    config = parsed(FOLDER / "polyp_sam_h_box.yaml").model.init_args
    for name, weight in (("none", 1.0), ("none_fixed", 0.5)):
        options = {key.removeprefix("model."): value for key, value in choices[name]["set"].items()}
        assert options.pop("expert.rate") == 0
        chosen = {key: options.get(key, config[key]) for key in ("fusion", "alpha", "alpha_start", "alpha_from")}
        fusion = Fusion(chosen["fusion"], chosen["alpha"], start=chosen["alpha_start"], alpha_from=chosen["alpha_from"])
        assert float(fusion.value(torch.device("cpu"))) == weight
        assert not fusion.wants("none")
