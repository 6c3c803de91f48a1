"""The configs of AuxOL, laid over one another: data, SAM, prompts, presets."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lightning_samseg.cli.train import parse
from lightning_samseg.methods import AuxOl
from lightning_samseg.models.unet import UNETS
from lightning_samseg.online.fusion import Fusion, FusionConfig
from lightning_samseg.runs.options import flat

FOLDER = Path(__file__).parents[1] / "experiments" / "aux_ol"
DATA = {"polyp": "Polyp", "busi": "Busi", "glas": "Glas", "fluid": "Retouch"}
SAMS = {None: ("sam_vit_h", "own"), "medsam": ("medsam_vit_b", "sam"), "lite_medsam": ("lite_medsam", "own")}
PROMPTS = {None: "box", "points": "point"}
PRESETS = ("preset_paper", "preset_code")
OVERLAYS = ("imagenet_encoder", "pseudo_labels", "preset_fast")
ADAPTED = ("polyp_adapted_aux_ol", "polyp_adapted_direct_ol")


def parsed(*names: str | None, options: tuple[str, ...] = ()) -> Any:
    layers = [part for name in names if name for part in ("--config", str(FOLDER / f"{name}.yaml"))]
    return parse(["fit", *layers, *options])


def test_there_is_nothing_else() -> None:
    layers = {name for name in (*DATA, *SAMS, *PROMPTS, *PRESETS, *OVERLAYS, *ADAPTED) if name}
    assert {path.stem for path in FOLDER.glob("*.yaml")} == layers


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("sam", SAMS)
@pytest.mark.parametrize("data", DATA)
def test_layers_are_what_their_names_say(data: str, sam: str | None, prompt: str | None) -> None:
    config = parsed(data, sam, prompt)
    arguments, kind = config.model.init_args, PROMPTS[prompt]
    assert (arguments.sam.backbone, arguments.sam.preprocessing) == SAMS[sam]
    assert (arguments.prompter.kind, arguments.prompter.min_object_side) == (kind, 16)
    ours = sam == "lite_medsam" and kind == "box"
    assert (arguments.fusion.kind, arguments.fusion.window) == (("best_so_far", 20) if ours else ("adaptive", 5))
    assert arguments.fusion.start == "sam"
    assert arguments.learning.loss == ("structure" if sam == "lite_medsam" else "dice")
    assert config.trainer.default_root_dir == f"runs/aux_ol_{data}_{arguments.sam.backbone}_{kind}"
    assert config.data.class_path == f"data_modules.{DATA[data]}DataModule"
    # The paper streams test sets; of the polyps, there is nothing else in the stream.
    assert config.data.init_args.stream_part == ("all" if data == "polyp" else "test")


@pytest.mark.parametrize("name", ADAPTED)
def test_the_adapted_ones_name_the_checkpoint_of_a_run_that_exists(name: str) -> None:
    config = parsed(name)
    adapter = Path(config.model.init_args.sam.adapter)
    (made_by,) = FOLDER.parent.glob(f"supervised/{adapter.parts[1]}.yaml")
    trained = parse(["fit", "--config", str(made_by)])
    assert trained.trainer.default_root_dir == str(Path(*adapter.parts[:2]))
    assert trained.model.init_args.sam.backbone == config.model.init_args.sam.backbone
    assert trained.data.init_args.root == config.data.init_args.root


@pytest.mark.parametrize("preset", [None, *PRESETS, *OVERLAYS])
@pytest.mark.parametrize("layers", [("polyp",), ("glas", "medsam", "points"), ("fluid", "lite_medsam")], ids=str)
def test_configs_and_presets_parse_and_build(layers: tuple[str, ...], preset: str | None) -> None:
    arguments = parsed(*layers, preset).model.init_args.as_dict()
    arguments["sam"]["backbone"], arguments["auxiliary"]["encoder_weights"] = "tiny", None
    if arguments["auxiliary"]["network"] in UNETS:
        arguments["auxiliary"]["width"] = 1 / 16
    assert AuxOl(**arguments).uses_stream


def differing(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    """Options, by dotted name, that two tables of groups have otherwise."""
    before, now = flat(one), flat(other)
    assert before.keys() == now.keys()
    return {name for name, value in before.items() if now[name] != value}


def test_presets_name_the_same_options_and_differ_where_paper_and_code_do() -> None:
    paper, code = (yaml.safe_load((FOLDER / f"{name}.yaml").read_text())["model"]["init_args"] for name in PRESETS)
    assert differing(paper, code) == {
        "sam.preprocessing",
        "prompter.objects",
        "prompter.point_crop",
        "crop.resize",
        "fusion.start",
        "fusion.alpha_from",
        "batch.policy",
        "learning.loss",
        "learning.replay_without_feedback",
        "sam_alone",
        "expert.inclusive",
    }


def test_overlays_change_what_they_name_and_keep_the_rest() -> None:
    arguments = {
        name: parsed("polyp", "medsam", name).model.init_args.as_dict() for name in (None, *OVERLAYS, "preset_code")
    }
    alone = arguments[None]
    assert differing(alone, arguments["imagenet_encoder"]) == {"auxiliary.network", "auxiliary.encoder_weights"}
    assert arguments["imagenet_encoder"]["auxiliary"] == alone["auxiliary"] | {
        "network": "unet/resnet18",
        "encoder_weights": "imagenet",
    }
    assert differing(alone, arguments["preset_fast"]) == {
        "sam.backbone",
        "auxiliary.network",
        "auxiliary.precision",
        "crop.size",
        "fusion.kind",
        "fusion.window",
        "learning.loss",
        "learning.update_entries",
        "learning.entries",
    }
    assert differing(alone, arguments["pseudo_labels"]) == {"fusion.kind", "expert.rate", "expert.pseudo_confidence"}
    assert arguments["pseudo_labels"]["expert"] == alone["expert"] | {"rate": 0, "pseudo_confidence": 0.9}
    assert arguments["preset_code"]["expert"] == alone["expert"] | {"inclusive": True}
    layered = parsed("polyp", "medsam", "preset_code", options=("--model.expert.below_dice=0.85",))
    assert layered.model.init_args.expert.as_dict() == alone["expert"] | {"inclusive": True, "below_dice": 0.85}


def test_nobody_teaches_and_sams_weight_stays_one_unless_it_is_fixed() -> None:
    """What Fig. 3's runs at 0 % are: clipped SAM by construction, and half of each."""
    choices = yaml.safe_load((FOLDER.parent / "grids" / "aux_ol_fig3.yaml").read_text())["axes"]["feedback"]
    config = FusionConfig(**parsed("polyp").model.init_args.fusion)
    for name, weight in (("none", 1.0), ("none_fixed", 0.5)):
        options = {key.removeprefix("model."): value for key, value in choices[name]["set"].items()}
        assert options.pop("expert.rate") == 0
        changes = {key.removeprefix("fusion."): value for key, value in options.items()}
        fusion = Fusion(dataclasses.replace(config, **changes))
        assert float(fusion.value(torch.device("cpu"))) == weight
        assert not fusion.wants("none")
