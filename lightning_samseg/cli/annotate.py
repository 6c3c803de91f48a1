"""``python -m lightning_samseg annotate --input FOLDER``: an expert corrects masks in a browser, the network learns."""

import argparse
import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning_samseg.cli.arguments import Parser
from lightning_samseg.errors import UserError
from lightning_samseg.models.backbones import BACKBONES

DESCRIPTION = """\
Annotate a folder of images in the browser: draw a box, see SAM's mask and the corrected one of AuxOL, mend it, press
Enter. Each accepted mask is learned from, in the background, so that the next ones need less work."""
EPILOG = """\
WORKSPACE gets masks/ (as predict writes them), journal.jsonl (everything that happened), cases.csv and prompts.csv (as
fit writes them) and checkpoints/last.ckpt, which predict takes, too. Started again, it goes on where it was: nothing
that was accepted, and no stroke, is lost. Options that a workspace was made with need not be given again.

On another machine: ssh -L 8765:127.0.0.1:8765 MACHINE, start it there with --no_browser, open the printed address.
Behind a proxy: --allow_host with the address that the browser shows."""
EXTRA = ("starlette", "uvicorn", "python_multipart")


def main(argv: Sequence[str]) -> int:
    """Serve a workspace until Ctrl-C.

    Args:
        argv: Arguments after ``annotate``.

    Returns:
        Exit status 0.

    Raises:
        UserError: For mistakes a user can mend.
    """
    arguments = _parser().parse_args(argv)
    given = arguments.input.expanduser()
    output = (arguments.output or Path("runs") / f"annotate_{given.resolve().name}").expanduser()
    _check(arguments, given, output)

    from lightning_samseg.annotate.start import Options, annotate  # late: torch

    annotate(
        Options(
            given,
            output,
            class_name=arguments.class_name,
            prompt=arguments.prompt,
            backbone=arguments.backbone,
            weights=arguments.weights,
            checkpoint=arguments.ckpt_path,
            model=None if arguments.config is None else _model(arguments.config),
            order=arguments.order,
            blind=arguments.blind,
            learn=arguments.learn,
            patience=arguments.patience,
            catch_up=arguments.catch_up,
            device=arguments.device,
            host=arguments.host,
            port=arguments.port,
            allow_host=arguments.allow_host,
            people=arguments.people,
            browser=not arguments.no_browser,
            label_studio=arguments.label_studio or arguments.label_studio_url is not None,
            label_studio_url=arguments.label_studio_url,
            monai_label=arguments.monai_label,
        )
    )
    return 0


def _check(arguments: argparse.Namespace, given: Path, output: Path) -> None:
    """Refuse, before anything slow, what cannot work."""
    if missing := [name for name in EXTRA if find_spec(name) is None]:
        raise UserError(
            f"annotate needs the package {missing[0]}.",
            fix="pip install 'lightning-samseg[annotate]', or in a checkout pip install -e '.[annotate]'",
        )
    if not given.exists():
        raise UserError(f"There is no file or folder {given}.", fix="check --input")
    if output.is_dir() and any(output.iterdir()) and not (output / "workspace.json").is_file():
        begun = {path.name for path in output.iterdir()} <= {"run.lock", "status.json"}
        if not begun:
            raise UserError(f"{output} is no workspace and not empty.", fix="give another --output")
    if arguments.blind is not None and not 0 <= arguments.blind <= 1:
        raise UserError(f"--blind {arguments.blind}", expected="a share in 0..1", fix="use 0.2, or leave it out")
    if math.isnan(arguments.patience) or arguments.patience < 0:
        raise UserError(f"--patience {arguments.patience}", expected="seconds, or inf", fix="leave it out for 1.5")
    if arguments.catch_up is not None and arguments.catch_up < 1:
        raise UserError(f"--catch_up {arguments.catch_up}", expected="at least 1", fix="leave it out")
    if arguments.catch_up is not None and math.isinf(arguments.patience):
        raise UserError(
            "--patience inf is the strict stream of fit, in which no lesson waits; --catch_up would join some.",
            fix="leave one of them out",
        )
    if arguments.label_studio_url is not None and not given.is_dir():
        raise UserError(f"--input {given}", expected="a folder, for what is fetched from Label Studio", fix="give one")
    if not 0 <= arguments.port <= 65535:
        raise UserError(f"--port {arguments.port}", expected="0..65535", fix="leave it out for 8765")


def _names(text: str) -> list[str]:
    """Names of people, as ``--people`` has them."""
    names = [name.strip() for name in text.split(",")]
    if not all(names) or len(set(names)) < len(names):
        raise UserError(f"--people {text}", expected="names, each once", fix="write --people anna,ben")
    return names


def _model(path: Path) -> dict[str, Any]:
    """Arguments of ``AuxOl`` in a configuration of ``fit``; its data and trainer mean nothing here."""
    from lightning_samseg.io.yaml_files import read_yaml
    from lightning_samseg.methods.aux_ol import AuxOl
    from lightning_samseg.moved_arguments import check_moved

    content = read_yaml(path, "a configuration of fit with a section model")
    model = content.get("model") if isinstance(content, dict) else None
    arguments = model.get("init_args", {}) if isinstance(model, dict) else None
    name = str(model.get("class_path", "AuxOl")).rpartition(".")[2] if isinstance(model, dict) else "none"
    if name != "AuxOl" or not isinstance(arguments, dict):
        raise UserError(
            f"{path} does not say how AuxOL is built.",
            expected="model: {class_path: lightning_samseg.methods.AuxOl, init_args: {...}}",
            found=f"model {name}",
            fix="give a configuration such as experiments/quickstart/aux_ol.yaml",
        )
    check_moved(AuxOl, arguments, path)
    return arguments


def _parser() -> Parser:
    parser = Parser(
        prog="python -m lightning_samseg annotate",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--input", type=Path, required=True, metavar="FOLDER", help="images and volumes, or one of them")
    add("--output", type=Path, metavar="WORKSPACE", help="folder of the results (runs/annotate_FOLDER)")
    add("--class", dest="class_name", metavar="NAME", help="what is annotated (object); one class a workspace")
    add("--prompt", choices=["box", "point"], help="how objects are pointed out (box)")
    add("--backbone", choices=list(BACKBONES), metavar="NAME", help="SAM (lite_medsam)")
    add("--weights", metavar="FILE", help="its weights instead of the cached ones")
    add("--ckpt_path", type=Path, metavar="FILE", help="start from what AuxOL has learned: last.ckpt of a run")
    add("--config", type=Path, metavar="FILE", help="configuration of fit, of which AuxOL's options are taken")
    add("--order", choices=["sorted", "shuffled"], help="in which images are offered (sorted, by name)")
    add("--blind", type=float, metavar="SHARE", help="of images that start from SAM's mask, to measure unbiased (0)")
    help_patience = "longest wait of an answer for lessons that are still being learned; inf: as in fit (1.5)"
    add("--patience", type=float, default=1.5, metavar="SECONDS", help=help_patience)
    help_learn = "from all accepted masks, or only from those that you have changed against the network's (all)"
    add("--learn", choices=["all", "corrected"], help=help_learn)
    help_catch_up = "lessons that may wait; more are learned together in one step, which journal.jsonl notes (no limit)"
    add("--catch_up", type=int, metavar="K", help=help_catch_up)
    add(
        "--people",
        type=_names,
        default=[],
        metavar="NAMES",
        help="anna,ben: an address for each; they never get the same image",
    )
    add("--device", default="auto", metavar="NAME", help="auto (a GPU where there is one), cpu, cuda, cuda:1")
    add("--port", type=int, default=8765, metavar="N", help="to listen on (8765); 0: any that is free")
    add("--host", default="127.0.0.1", metavar="ADDRESS", help="to listen on (127.0.0.1: this machine alone)")
    help_allow = (
        "name, name:port, or behind a proxy the whole address (https://hub.test/user/anna/) at which browsers "
        "find the page, besides this machine's; may be repeated"
    )
    add("--allow_host", action="append", default=[], metavar="ADDRESS", help=help_allow)
    add("--label_studio", action="store_true", help="also be an ML backend of Label Studio, and say how to connect it")
    add(
        "--label_studio_url",
        metavar="URL",
        help="address of a Label Studio project (http://HOST/projects/1), with a key in LABEL_STUDIO_API_KEY: its "
        "uploads are fetched into --input, annotations made while annotate was away are asked for",
    )
    add("--monai_label", action="store_true", help="also be a server of MONAI Label, for 3D Slicer (volumes)")
    add("--no_browser", action="store_true", help="only print the address")
    return parser
