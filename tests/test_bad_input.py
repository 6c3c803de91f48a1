"""Wrong inputs over all verbs: each ends in one message, with what was found, what was expected and what to do."""

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from data_modules import FolderDataModule
from lightning_samseg.__main__ import main
from tests.fakes import truncate, write_folder
from tests.predicting import trained, unet
from tests.reports.run_folders import write_case_run

Content = str | bytes | Callable[[Path], Any]
NAMES = [f"s{number:02d}" for number in range(10)]
UTF_16 = "s00\ns01\n".encode("utf-16")
BOX = "image,x0,y0,x1,y1\n"
FIT = "fit --config {s}/unet.yaml --trainer.default_root_dir run"
MINE = f"{FIT} --data.root data"
STREAM = "fit --config {s}/stream.yaml --trainer.default_root_dir run"
TEST = "test --config {s}/unet.yaml --trainer.default_root_dir run"
PREDICT = "predict --input {s}/data/images --output out"
CKPT = f"{PREDICT} --ckpt_path {{s}}/run/checkpoints/best.ckpt"
ZERO = f"{PREDICT} --method zero_shot --backbone tiny"
GRID = {"configs": ["{s}/unet.yaml"], "axes": {"lr": {"low": {"set": {"model.optimizer.lr": 0.1}}, "high": {}}}}


def dataset(**changes: Content) -> Callable[[Path], None]:
    """A folder of one's own with something wrong in it; the names stand for files, ``masks__s01_png`` for one."""

    def write(root: Path) -> None:
        write_folder(root, NAMES[:6])
        for name, content in changes.items():
            put(root / name.replace("__", "/").replace("_", "."), content)

    return write


def put(path: Path, content: Content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if callable(content):
        content(path)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content, encoding="utf-8", newline="")


def grid(**changes: Any) -> str:
    return yaml.safe_dump({**GRID, "folder": "runs", **changes})


def picture(*shape: int) -> Callable[[Path], Any]:
    return lambda path: Image.fromarray(np.zeros(shape, np.uint8)).save(path)


def lightning_checkpoint(path: Path) -> None:
    """Of somebody else's project, with all that a training goes on from."""
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    optimizers = {"optimizer_states": [optimizer.state_dict()], "lr_schedulers": []}
    loops = {"fit_loop": {}, "validate_loop": {}, "test_loop": {}, "predict_loop": {}}
    known = {"epoch": 1, "global_step": 5, "pytorch-lightning_version": "2.4.0", "callbacks": {}}
    hyper = {"hparams_name": "kwargs", "hyper_parameters": {"hidden": 8}}
    torch.save({**known, **optimizers, **hyper, "loops": loops, "state_dict": model.state_dict()}, path)


# What takes weights, and what somebody else's file is answered with.
WITH_WEIGHTS = {
    "predict": CKPT.replace("{s}/run/checkpoints/best.ckpt", "FILE"),
    "test": f"{TEST} --ckpt_path FILE",
    "fit": f"{FIT} --ckpt_path FILE",
    "SAMed": "fit --config {s}/samed.yaml --trainer.default_root_dir run --model.sam.checkpoint FILE",
    "AuxOl": f"{STREAM} --model.sam.checkpoint FILE",
}
NOT_OURS = "not a checkpoint of a run of lightning_samseg|best.ckpt or last.ckpt of a run folder|check --ckpt_path"
THEIRS: list[tuple[str, Content, list[str]]] = [
    (
        "a foreign state_dict",
        lambda path: torch.save({"layer.weight": torch.zeros(2)}, path),
        [f"{NOT_OURS}|weights alone"] * 3 + ["image_encoder.*|layer.weight|leave the checkpoint out"] * 2,
    ),
    (
        "a foreign Lightning checkpoint",
        lightning_checkpoint,
        [
            "does not say which method",
            "belongs to another model",
            "belongs to another model",
            *["image_encoder.*|leave the checkpoint out"] * 2,
        ],
    ),
    (
        "a pickled module",
        lambda path: torch.save(torch.nn.Linear(2, 1), path),
        [NOT_OURS] * 3 + ["state dict alone"] * 2,
    ),
    ("a text", "weights: none\n", [NOT_OURS] * 3 + ["cannot be read as a checkpoint"] * 2),
]

# Command; parts of the message, separated by |; files to write before.
WRONG: dict[str, tuple[str, str, dict[str, Content]]] = {
    # options and configurations, which all verbs that run one share
    "no verb of ours": ("train", "no verb 'train'|fit, validate, test, predict|--help", {}),
    "no config": ("fit", "lacks --data, --model|experiments/quickstart|add --config FILE", {}),
    "unknown option": (f"{FIT} --model.lrr 1", "UNet has no option lrr|--model.help", {}),
    "unknown option of a trainer": (f"{FIT} --trainer.step 1", "--trainer.step|--help", {}),
    "a word for a number": (f"{FIT} --model.optimizer.lr fast", "--model.optimizer.lr|expected: float|found: fast", {}),
    "half a pixel": (f"{FIT} --data.image_size 64.5", "--data.image_size|expected: int|found: 64.5", {}),
    "unknown precision": (f"{FIT} --trainer.precision 17", "--trainer.precision|'bf16-mixed'|found: 17", {}),
    "unknown accelerator": (f"{FIT} --trainer.accelerator npu", "invalid accelerator|npu|cuda", {}),
    "unknown data module": (f"{FIT} --data data_modules.Nope", "--data data_modules.Nope|no attribute 'Nope'", {}),
    "unknown method": (f"{FIT} --model nope.Method", "--model nope.Method|No module named 'nope'", {}),
    "config is missing": ("fit --config nope.yaml", "no configuration|nope.yaml|check --config", {}),
    "config is a folder": ("fit --config {s}", "no configuration|not a file|check --config", {}),
    "config is no YAML": ("fit --config c.yaml", "c.yaml, line 2|options of a run|correct", {"c.yaml": "a: 1\nb: {"}),
    "config is UTF-16": ("fit --config c.yaml", "c.yaml is not UTF-8|UTF-16|save it as UTF-8", {"c.yaml": UTF_16}),
    "config is Latin-1": (
        "fit --config c.yaml",
        r"c.yaml, line 2: not UTF-8|gr\xf6\xdfe|save it as UTF-8",
        {"c.yaml": "a: 1\ngröße: 2".encode("latin-1")},
    ),
    "config is empty": ("fit --config c.yaml", "c.yaml holds no options|found: nothing|quickstart", {"c.yaml": ""}),
    "config gives a key twice": (
        "fit --config c.yaml",
        "c.yaml, line 2|'seed_everything' is given twice",
        {"c.yaml": "seed_everything: 1\nseed_everything: 2\n"},
    ),
    "variable of the shell in a config": (
        f"{FIT} --data.root ${{HOME}}/data",
        "${oc.env:NAME}|'HOME' not found|write ${oc.env:HOME}",
        {},
    ),
    # data
    "no data folder": (f"{FIT} --data.root nowhere", "no data folder nowhere|--data.root", {}),
    "data folder is a file": (f"{FIT} --data.root file", "no data folder file|--data.root", {"file": ""}),
    "no images": (f"{FIT} --data.root .", "No images found in images|png, jpg|--data.root", {"images/a.txt": ""}),
    "no mask": (MINE, "s01.png has no mask|a mask named s01|add it", {"data": dataset(masks__s01_png=Path.unlink)}),
    "image is cut": (MINE, "s01.png|damaged|copy the file", {"data": dataset(images__s01_png=truncate)}),
    "mask of another size": (MINE, "s01.png|32|9 x 8|export", {"data": dataset(masks__s01_png=picture(8, 9))}),
    "list is UTF-16": (MINE, "train.txt is not UTF-8|UTF-16|save it", {"data": dataset(splits__train_txt=UTF_16)}),
    "list is empty": (MINE, "train.txt names no image|one case id a line", {"data": dataset(splits__train_txt="#\n")}),
    "list names an image twice": (
        MINE,
        "train.txt names s00 twice|each image once|lines 1 and 3|remove",
        {"data": dataset(splits__train_txt="s00\ns01\ns00.png\n")},
    ),
    "list names what is not there": (
        MINE,
        "1 of the 4 images|case ids such as s00, s01|no s77|mend the lists",
        {"data": dataset(splits__train_txt="s00\ns77\n", splits__val_txt="s01\n", splits__test_txt="s02\n")},
    ),
    "one list alone": (MINE, "no list|val.txt|one case id a line", {"data": dataset(splits__train_txt="s00\n")}),
    "classes without ids": (MINE, "classes.yaml|'1: lesion'|write one", {"data": dataset(classes_yaml="- a\n- b\n")}),
    "two classes of one name": (
        MINE,
        "classes.yaml|ON|ids 1, 2|own name",
        {"data": dataset(classes_yaml="1: ON\n2: ON")},
    ),
    "group is no pattern": (f"{MINE} --data.group (", "data.group|found: (|for instance", {"data": dataset()}),
    "group finds no patient": (f"{MINE} --data.group x", "'x'|'s00'|finds the patient", {"data": dataset()}),
    "more labels than images": (f"{FIT} --data.num_labelled 99", "99|7", {}),
    # runs
    "run folder below a file": (
        "fit --config {s}/unet.yaml --trainer.default_root_dir file/run",
        "file/run cannot be|Not a directory|a file where a folder should be",
        {"file": ""},
    ),
    "run folder holds a run": (
        "fit --config {s}/unet.yaml --trainer.default_root_dir {s}/run",
        "holds an earlier run|--ckpt_path last",
        {},
    ),
    "checkpoint is missing": (f"{FIT} --ckpt_path no.ckpt", "no checkpoint no.ckpt|--ckpt_path", {}),
    "W&B's key is wrong": (f"{FIT} --wandb.project p", "Weights & Biases|has 3|--wandb.offline true", {}),
    "unknown backbone": (
        "fit --config {s}/samed.yaml --trainer.default_root_dir run --model.sam.backbone resnet",
        "--model.sam.backbone|lite_medsam|found: resnet",
        {},
    ),
    "weights are no weights": (
        "fit --config {s}/samed.yaml --trainer.default_root_dir run --model.sam.checkpoint w.pth",
        "w.pth",
        {"w.pth": "no weights"},
    ),
    "validate without weights": (TEST.replace("test", "validate", 1), "needs trained weights|add --ckpt_path", {}),
    "test without weights": (TEST, "needs trained weights|--ckpt_path FILE|add --ckpt_path", {}),
    "test of text": (f"{TEST} --ckpt_path x.ckpt", "x.ckpt is not a checkpoint|best.ckpt", {"x.ckpt": "text"}),
    "test of another model": (
        f"{TEST} --ckpt_path {{s}}/run/checkpoints/best.ckpt --model.network.name smp/unet/resnet18",
        "belongs to another model|differing entries|config.yaml",
        {},
    ),
    "test of SAM's weights": (
        f"{TEST} --ckpt_path sam.pth",
        "sam.pth is not a checkpoint|best.ckpt or last.ckpt|--model.sam.checkpoint",
        {"sam.pth": lambda path: torch.save({"image_encoder.pos_embed": torch.zeros(2)}, path)},
    ),
    **{
        f"{verb} with {kind}": (command.replace("FILE", "theirs.ckpt"), f"theirs.ckpt|{said}", {"theirs.ckpt": content})
        for kind, content, told in THEIRS
        for verb, command, said in zip(WITH_WEIGHTS, WITH_WEIGHTS.values(), told, strict=True)
    },
    # streams
    "prompts for another stream": (
        f"{STREAM} --model.prompter.file p.csv",
        "p.csv, line 2: 'x'|s00",
        {"p.csv": f"{BOX}x,1,2,3,4"},
    ),
    "points for boxes": (
        f"{STREAM} --model.prompter.file p.csv",
        "no column x0|--model.prompter.kind point",
        {"p.csv": "image,x,y\n"},
    ),
    "stream list names another image": (
        f"{STREAM} --data.stream_order list --data.stream_list l.txt",
        "l.txt names what is not in the stream: s77|case ids such as s0|mend the list",
        {"l.txt": "s00\ns77\n"},
    ),
    # predict
    "predict with nothing": (PREDICT, "Either a checkpoint|found: neither|give --ckpt_path", {}),
    "predict nothing": (CKPT.replace("{s}/data/images", "nowhere"), "no file or folder nowhere|--input", {}),
    "predict a folder of text": (
        CKPT.replace("{s}/data/images", "."),
        "No images found|.png|a.txt|--input",
        {"a.txt": ""},
    ),
    "predict onto results": (CKPT, "out is there already|another --output", {"out/a.txt": ""}),
    "predict on no device": (f"{CKPT} --device tpu9", "device 'tpu9'|--device cpu", {}),
    "predict in batches of none": (f"{CKPT} --batch_size 0", "--batch_size 0|at least 1", {}),
    "predict by a word": (f"{CKPT} --threads x", "--threads|invalid int value: 'x'|--help", {}),
    "prompts for a method without": (f"{CKPT} --prompts p.csv", "without prompts|leave it out", {"p.csv": BOX}),
    "zero-shot without prompts": (ZERO, "where the objects are|image,x0,y0,x1,y1|--prompts FILE", {}),
    "prompts without a head": (
        f"{ZERO} --prompts p.csv",
        "no column image|image,x0,y0,x1,y1|found: s00,1,2,3,4|--prompt point",
        {"p.csv": "s00,1,2,3,4"},
    ),
    "prompts with a word": (
        f"{ZERO} --prompts p.csv",
        "line 4: not a box|found: 1,a,3,4",
        {"p.csv": f"{BOX}\n\ns00,1,a,3,4"},
    ),
    "prompts upside down": (
        f"{ZERO} --prompts p.csv",
        "line 2: not a box|x0 < x1|converted",
        {"p.csv": f"{BOX}s00,9,2,3,4"},
    ),
    "prompts of Excel": (f"{ZERO} --prompts p.csv", "p.csv is not UTF-8|Excel|CSV", {"p.csv": b"PK\x03\x04..."}),
    "prompts for no image": (
        f"{ZERO} --prompts p.csv",
        "line 2: 'x.png'|of --input|correct the name",
        {"p.csv": f"{BOX}x.png,1,2,3,4"},
    ),
    "prompts without images": (
        f"{ZERO} --prompts p.json",
        "p.json cannot be read|COCO|KeyError: 'images'",
        {"p.json": "{}"},
    ),
    "damaged checkpoint": (
        CKPT.replace("{s}/run/checkpoints/best", "cut"),
        "cut.ckpt is not|damaged|--ckpt_path",
        {"cut.ckpt": lambda path: put(path, b"PK\x03\x04")},
    ),
    "predict a run without weights": ("predict --config {s}/unet.yaml", "needs trained weights|add --ckpt_path", {}),
    # data
    "data without a verb": ("data", "VERB|data --help", {}),
    "data list of something": ("data list busi", "busi|data --help", {}),
    "verify what nobody knows": ("data verify nope --root {s}/data", "nope|folder|data list", {}),
    "verify a layout that is not there": ("data verify nope.Layout --root .", "nope.Layout|No module|module.Class", {}),
    "verify nothing": ("data verify folder --root nowhere", "no data folder nowhere|--data.root", {}),
    "show into nowhere": (
        "data show folder --root {s}/data --out file/s.png",
        "file cannot be|File exists|choose another name",
        {"file": ""},
    ),
    "show half a picture": (
        "data show folder --root {s}/data --out s.png --count x",
        "--count|invalid int value: 'x'",
        {},
    ),
    "split without rest": (
        "data split --root data --train 0.9 --val 0.1",
        "--train 0.9 --val 0.1|--train 0.7",
        {"data": dataset()},
    ),
    "split again": (
        "data split --root data",
        "lists in data/splits already|--overwrite",
        {"data": dataset(splits__train_txt="s00")},
    ),
    "split two images": (
        "data split --root .",
        "leaves no|2 images|at least 5|add images",
        {"x": lambda path: write_folder(path.parent, NAMES[:2])},
    ),
    "prepare nothing": ("data prepare acdc --source . --out out", "No ACDC patients|training/patient001|--source", {}),
    "prepare into itself": ("data prepare retouch --source . --out .", "the same folder|another folder", {}),
    "demo onto a file": ("data demo busi --out file", "file is there already|another folder", {"file": ""}),
    "clear what": ("data cache --clean", "--clean|--help", {}),
    # grids
    "no grid": ("grid list g.yaml", "no grid file g.yaml|experiments/grids", {}),
    "grid is no YAML": ("grid list g.yaml", "g.yaml, line 1|experiments/README.md", {"g.yaml": "axes: ["}),
    "grid with an unknown key": ("grid list g.yaml", "unknown key 'axis'|axes|correct it", {"g.yaml": grid(axis={})}),
    "grid of a config that is gone": (
        "grid list g.yaml",
        "found: nope.yaml|as seen from",
        {"g.yaml": grid(configs=["nope.yaml"])},
    ),
    "grid whose runs would not start": (
        "grid list g.yaml --check",
        "Run low would not start|UNet has no option lrr|--help",
        {"g.yaml": grid(axes={"a": {"low": {"set": {"model.lrr": 1}}}})},
    ),
    "grid with half a setting": (
        "grid list g.yaml --set data.root",
        "--set data.root=DIR|found: data.root|add =",
        {"g.yaml": grid()},
    ),
    "grid with no job": ("grid run g.yaml --jobs 0", "jobs|0", {"g.yaml": grid()}),
    "grid without profile": (
        "grid submit g.yaml --profile p.yaml",
        "no profile p.yaml|experiments/slurm",
        {"g.yaml": grid()},
    ),
    "grid with half a profile": (
        "grid submit g.yaml --profile p.yaml",
        "p.yaml: it has no partition|partition: ...",
        {"g.yaml": grid(), "p.yaml": "gpus: 1"},
    ),
    "grid without Slurm": (
        "grid submit g.yaml --profile p.yaml",
        "sbatch|grid run",
        {"g.yaml": grid(), "p.yaml": "partition: gpu\ntime: '1:00:00'"},
    ),
    "cancel without Slurm": ("grid cancel g.yaml", "sbatch", {"g.yaml": grid()}),
    "status of what": ("grid status", "FILE|grid status --help", {}),
    "collect nothing": (
        "grid collect g.yaml --out out",
        "No run of g.yaml is finished|grid status",
        {"g.yaml": grid()},
    ),
    # weights
    "weights of what": ("weights fetch", "--all|weights fetch --help", {}),
    "weights that nobody has": ("weights fetch sam_vit_x", "sam_vit_x|sam_vit_b", {}),
    "list of weights of what": ("weights list sam", "sam|--help", {}),
    "export nothing": ("weights export no.ckpt --out a.safetensors", "no checkpoint no.ckpt|check", {}),
    "export a U-Net": (
        "weights export {s}/run/checkpoints/best.ckpt --out a.safetensors",
        "holds no adapter|CpcSam|SAMed",
        {},
    ),
    "export under a wrong ending": (
        "weights export {s}/run/checkpoints/best.ckpt --out a.pth",
        "a.pth|.safetensors|use --out",
        {},
    ),
    "import nothing": ("weights import no.pth", "no file no.pth|check the path", {}),
    "import text": ("weights import a.pth", "a.pth", {"a.pth": "text"}),
    "import by a word": ("weights import a.pth --lora-blocks a,b", "--lora-blocks|'a,b'|--help", {"a.pth": ""}),
    "merge what is no adapter": ("weights merge a.safetensors --out m.pth", "a.safetensors", {"a.safetensors": "text"}),
    "merge nothing": ("weights merge no.safetensors --out m.pth", "no.safetensors", {}),
    # report, benchmark, doctor
    "report of nothing": ("report --out out", "nothing to report|name run folders", {}),
    "report of a folder that is not there": ("report nowhere --out out", "no folder nowhere|name run folders", {}),
    "report of no run": ("report . --out out", "No finished run|config.yaml, metrics.json", {}),
    "report onto pictures": (
        "report {s}/runs --out out",
        "out is there and is no report|a.png|another folder",
        {"out/a.png": ""},
    ),
    "report against nobody": ("report {s}/runs --out out --baseline Nobody", "Nobody|CPC-SAM", {}),
    "report of a grid that is not there": ("report --grid g.yaml --out out", "no grid file g.yaml", {}),
    "benchmark of what": ("benchmark speed", "invalid choice: 'speed'|cpc_step|--help", {}),
    "benchmark with an unknown setting": ("benchmark prompts size2=3", "no setting size2|repeats|correct it", {}),
    "benchmark with a word": ("benchmark prompts repeats=many", "repeats|expected: int|found: many", {}),
    "benchmark with half a setting": ("benchmark prompts repeats", "repeats is no setting|KEY=VALUE|leave it out", {}),
    "doctor of what": ("doctor knee", "knee|doctor --help", {}),
    "doctor without a folder": ("doctor --root", "--root: expected one argument|--help", {}),
}


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, a checkpoint, configurations and a finished run that nothing is wrong with."""
    folder = tmp_path_factory.mktemp("shared")
    data = write_folder(folder / "data", NAMES)
    trained(folder / "run", unet(), FolderDataModule(str(data), image_size=32, labelled_batch_size=2))
    write_case_run(folder / "runs" / "one")
    encoder = "smp/unet/timm-mobilenetv3_small_minimal_100"
    for name, model in {
        "unet": {"class_path": "lightning_samseg.methods.UNet", "init_args": {"network": {"name": encoder}}},
        "samed": {"class_path": "lightning_samseg.methods.SAMed", "init_args": {"sam": {"backbone": "tiny"}}},
        "stream": {
            "class_path": "lightning_samseg.methods.AuxOl",
            "init_args": {
                "sam": {"backbone": "tiny"},
                "auxiliary": {"width": 1 / 16},
                "crop": {"size": 32},
                "cache_gb": 0,
            },
        },
    }.items():
        trainer = {"accelerator": "cpu", "max_steps": 2, "enable_progress_bar": False, "enable_model_summary": False}
        arguments = {"root": str(data), "image_size": 32, "labelled_batch_size": 2}
        content = {
            "trainer": trainer,
            "model": model,
            "data": {"class_path": "data_modules.FolderDataModule", "init_args": arguments},
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return folder


@pytest.mark.parametrize("case", WRONG)
def test_one_message(case: str, shared: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    command, parts, files = WRONG[case]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path.parent))  # for logs
    monkeypatch.setenv("PATH", str(tmp_path))  # no Slurm
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "abc")
    for name, content in files.items():
        text = content.replace("{s}", str(shared)) if isinstance(content, str) else content
        put(tmp_path / name, text)
    before = {place: tree(place) for place in (tmp_path, shared)}

    status = main([word.replace("{s}", str(shared)) for word in shlex.split(command)])

    screen = capsys.readouterr()
    said = screen.err if "error: " in screen.err else screen.out
    assert status in (1, 2), said
    for part in parts.split("|"):
        assert part in said
    assert "what to do: " in said
    assert (screen.out + screen.err).count("what to do: ") == 1
    assert "Traceback" not in screen.out + screen.err
    assert "report it with the log" not in said
    assert tree(shared) == before[shared]
    left = {path: text for path, text in tree(tmp_path).items() if before[tmp_path].get(path) != text}
    if left.pop("run/status.json", None):  # a run that had begun
        assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "failed"
        left = {
            path: text
            for path, text in left.items()
            if not re.match(r"run/(error\.log|config\.yaml|wandb|logs/|cases\.csv|prompts\.csv)", path)
        }
    assert not left


def tree(place: Path) -> dict[str, bytes]:
    return {path.relative_to(place).as_posix(): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def test_all_verbs_are_there_and_enough() -> None:
    verbs = {
        " ".join(command.split()[:2]) if command.split()[0] in ("data", "grid", "weights") else command.split()[0]
        for command, _, _ in WRONG.values()
    }
    assert {"fit", "validate", "test", "predict", "report", "benchmark", "doctor"} <= verbs
    assert {f"data {verb}" for verb in ("list", "verify", "show", "split", "prepare", "cache")} <= verbs
    assert {f"grid {verb}" for verb in ("list", "run", "submit", "status", "collect", "cancel")} <= verbs
    assert {f"weights {verb}" for verb in ("list", "fetch", "export", "import", "merge")} <= verbs
    assert len(WRONG) >= 80
