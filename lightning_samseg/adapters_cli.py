"""``python -m lightning_samseg weights export | import | merge``: adapters out of runs, out of the authors' files, into plain SAM."""

import argparse
import inspect
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import torch

from lightning_samseg.callbacks.results import git_commit
from lightning_samseg.cli import read_checkpoint
from lightning_samseg.errors import UserError
from lightning_samseg.io import weights
from lightning_samseg.io.adapters import (
    Adapter,
    check_base,
    infer_architecture,
    read_adapter,
    trained_part,
    write_adapter,
)
from lightning_samseg.io.files import atomic_write
from lightning_samseg.methods import BaseMethod
from lightning_samseg.models.convert import from_authors_adapter, is_authors_adapter, merge_adapter
from lightning_samseg.models.sam import VIT_SHAPES, BackboneName


def main(argv: Sequence[str]) -> int:
    """Run one of the verbs.

    Args:
        argv: Arguments after ``weights``, the verb first.

    Returns:
        Exit status 0.

    Raises:
        UserError: For mistakes a user can mend.
    """
    parser = argparse.ArgumentParser(prog="python -m lightning_samseg weights")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    exporting = verbs.add_parser("export", help="the trained part of a run's checkpoint, as one file to share")
    exporting.add_argument("file", type=Path, metavar="CKPT", help="best.ckpt or last.ckpt of a run folder")
    exporting.add_argument("--out", type=Path, required=True, metavar="FILE.safetensors")
    exporting.add_argument("--checkpoint", metavar="BASE", help="the run's --model.checkpoint, if it is elsewhere now")

    importing = verbs.add_parser("import", help="an official SAM or MedSAM file, or a checkpoint of SAMed or CPC-SAM")
    importing.add_argument("file", type=Path, metavar="FILE")
    importing.add_argument(
        "--out", type=Path, default=weights.weights_dir(), metavar="DIR", help="default: %(default)s"
    )
    about_authors = "for SAMed and CPC-SAM: "
    importing.add_argument(
        "--backbone", choices=get_args(BackboneName), help=about_authors + "base weights (default: SAM's of that size)"
    )
    importing.add_argument("--checkpoint", metavar="BASE", help=about_authors + "base weights that are not published")
    importing.add_argument(
        "--image-size",
        type=int,
        default=512,
        metavar="S",
        help=about_authors + "network input in pixels (default: 512)",
    )
    importing.add_argument(
        "--lora-blocks", type=_numbers, metavar="I,J,…", help=about_authors + "adapted blocks (default: all)"
    )

    merging = verbs.add_parser("merge", help="work an adapter into its base: a plain SAM for other programs")
    merging.add_argument("file", type=Path, metavar="ADAPTER")
    merging.add_argument("--out", type=Path, required=True, metavar="FILE.pth")
    merging.add_argument("--checkpoint", metavar="BASE", help="base weights (default: the backbone's)")
    merging.add_argument("--allow-other-base", action="store_true", help="also where the adapter was made on others")

    args = parser.parse_args(argv)
    try:
        print({"export": export_run, "import": import_file, "merge": merge}[args.verb](args))
    except OSError as error:
        raise UserError(f"{args.out} cannot be written.", found=str(error), fix="choose another --out") from error
    return 0


def export_run(args: argparse.Namespace) -> str:
    """Write the adapter that a Lightning checkpoint of ours contains; returns what to tell the user."""
    out = _new_file(args.out, ".safetensors")
    checkpoint = read_checkpoint(args.file)
    settings: dict[str, Any] = checkpoint.get("hyper_parameters", {})
    method = settings.get("_class_path")
    prefixes = {key.split(".")[0] for key in checkpoint["state_dict"] if ".mask_decoders." in key}
    if prefixes != {"sam"} or "backbone" not in settings:
        raise UserError(
            f"{args.file} holds no adapter.",
            expected="a run of one adapted SAM: CpcSam (with one or two branches) or SAMed",
            found="two models that share nothing" if len(prefixes) > 1 else str(method or "another network"),
            fix="give the checkpoint of such a run; others are used as they are, with --ckpt_path",
        )
    tensors = trained_part(
        {k.removeprefix("sam."): v for k, v in checkpoint["state_dict"].items() if k.startswith("sam.")}
    )
    # A method built in Python with the default size does not record it.
    image_size = settings.get("image_size", inspect.signature(BaseMethod).parameters["image_size"].default)
    adapter = Adapter(
        infer_architecture(tensors, settings["backbone"], image_size, settings.get("lora_alpha")),
        tensors,
        _base_sha256(settings["backbone"], args.checkpoint or settings.get("checkpoint")),
        {
            "class_path": method,
            # The base weights' place on this machine means nothing elsewhere; their hash does.
            "init_args": {k: v for k, v in settings.items() if not k.startswith("_") and k != "checkpoint"},
        },
        git_commit=git_commit(),
    )
    write_adapter(adapter, out)
    return _describe(adapter, out)


def import_file(args: argparse.Namespace) -> str:
    """Recognise a file by its content and put it where the framework can use it; returns what to tell the user."""
    if not args.file.is_file():
        raise UserError(f"There is no file {args.file}.", fix="check the path")
    size = args.file.stat().st_size
    if any(known.size == size for known in weights.CHECKPOINTS.values()):
        digest = weights.sha256_file(args.file)
        for name, known in weights.CHECKPOINTS.items():
            if known.sha256 == digest:
                return _import_official(name, args.file, args.out)
    state = weights.load_state_dict(args.file)
    if is_authors_adapter(state):
        return _import_authors(state, args)
    if any(key.startswith("image_encoder.") for key in state):
        raise UserError(
            f"{args.file} holds SAM weights, but is none of the published files.",
            expected="a file with the size and sha256 of " + ", ".join(weights.CHECKPOINTS),
            found=f"{size:,} bytes, sha256 {weights.sha256_file(args.file)}",
            fix=f"if it should be a published file, fetch it again; if it is your own, use it "
            f"with --model.checkpoint {args.file}",
        )
    raise UserError(
        f"{args.file} is nothing that can be imported.",
        expected="an official SAM, MedSAM or LiteMedSAM file, or a checkpoint of SAMed or CPC-SAM (w_a_000, w_b_000, …)",
        found=", ".join(list(state)[:3]),
        fix="an adapter of this framework needs no import; a run's checkpoint goes to `weights export`",
    )


def merge(args: argparse.Namespace) -> str:
    """Write base and adapter as one plain SAM checkpoint; returns what to tell the user."""
    out = _new_file(args.out, ".pth")
    adapter = read_adapter(args.file)
    architecture = adapter.architecture
    if args.checkpoint is None and architecture.backbone not in weights.CHECKPOINTS:
        raise UserError(
            f"The backbone {architecture.backbone} of {args.file} has no published weights.",
            fix="give the base weights it was trained from with --checkpoint FILE",
        )
    base = Path(args.checkpoint) if args.checkpoint else weights.resolve(architecture.backbone)
    state = weights.load_state_dict(base)
    if not args.allow_other_base:
        check_base(adapter, weights.sha256_file(base), str(args.file))
    scale = architecture.lora_alpha / architecture.lora_rank if architecture.lora_rank else 0.0
    merged, notes = merge_adapter(state, adapter.tensors, scale)
    with atomic_write(out) as temporary:
        torch.save(merged, temporary)
    return "\n".join(
        [
            f"{out}: {base} with the adapter merged, {len(merged)} entries in official names",
            *(f"  note: {note}" for note in notes),
            f"  here: --model.backbone {architecture.backbone} --model.checkpoint {out}",
        ]
    )


def _import_official(name: str, source: Path, folder: Path) -> str:
    """Copy a file that has the published hash, under its published name."""
    target = folder / weights.CHECKPOINTS[name].file
    if target.is_file() and target.resolve() != source.resolve():
        _refuse_other(target, weights.CHECKPOINTS[name].sha256)
    elif not target.is_file():
        with atomic_write(target) as temporary:
            shutil.copyfile(source, temporary)
    if folder.resolve() == weights.weights_dir().resolve():
        weights.verify(name)
        return f"{name}: {target}\n  use: --model.backbone {name}"
    return f"{name}: {target}\n  use: --model.backbone {name} --model.checkpoint {target}"


def _import_authors(state: dict[str, torch.Tensor], args: argparse.Namespace) -> str:
    """Write a checkpoint of SAMed or CPC-SAM as an adapter."""
    out = _new_file(args.out / f"{args.file.stem}.safetensors", ".safetensors")
    matrix = next(value for key, value in state.items() if key.startswith("w_a_"))
    fitting = [name for name, shape in VIT_SHAPES.items() if matrix.ndim == 2 and shape.dim == matrix.shape[1]]
    backbone: BackboneName = args.backbone or (fitting[0] if fitting else "sam_vit_b")  # type: ignore[assignment]
    if backbone not in fitting:
        raise UserError(
            f"{args.file} is not made for the backbone {backbone}.",
            expected=" or ".join(fitting) or "LoRA of a SAM Vision Transformer",
            found=f"w_a_* of shape {tuple(matrix.shape)}",
            fix=f"set --backbone {fitting[0]}" if fitting else "check the file",
        )
    tensors = from_authors_adapter(state, VIT_SHAPES[backbone].depth, args.lora_blocks, str(args.file))
    adapter = Adapter(
        infer_architecture(tensors, backbone, args.image_size),
        tensors,
        _base_sha256(backbone, args.checkpoint),
        git_commit=git_commit(),
    )
    write_adapter(adapter, out)
    assumed = [] if args.backbone or args.checkpoint else [f"base weights {backbone}"]
    if args.image_size == 512:
        assumed.append("512 px, the authors' default")
    note = f"\n  not in the file, so taken for granted: {', '.join(assumed)}" if assumed else ""
    return _describe(adapter, out) + note


def _base_sha256(backbone: str, checkpoint: str | None) -> str | None:
    """Hash of the base weights: of a file where one is named, else of the backbone's published file."""
    if checkpoint is None:
        return weights.CHECKPOINTS[backbone].sha256 if backbone in weights.CHECKPOINTS else None
    if not Path(checkpoint).is_file():
        raise UserError(
            f"The base weights {checkpoint} are not there, so the adapter cannot name them.",
            fix="say where that file is with --checkpoint FILE",
        )
    return weights.sha256_file(checkpoint)


def _describe(adapter: Adapter, path: Path) -> str:
    shape = adapter.architecture
    count = sum(value.numel() for value in adapter.tensors.values())
    return (
        f"{path}: {count:,} numbers for {shape.backbone} at {shape.image_size} px\n"
        f"  {shape.num_classes} classes, {shape.branches} branches, upsampling {shape.upsampling}, LoRA rank {shape.lora_rank} "
        f"alpha {shape.lora_alpha:g} in {'all' if shape.lora_blocks is None else len(shape.lora_blocks)} blocks\n"
        f"  base weights sha256 {adapter.base_weights_sha256}"
    )


def _new_file(path: Path, suffix: str) -> Path:
    if path.suffix != suffix:
        raise UserError(f"{path} has the wrong ending.", expected=suffix, fix=f"use --out {path.with_suffix(suffix)}")
    if path.exists():
        raise UserError(f"{path} exists.", fix="choose another --out, or delete it")
    return path


def _refuse_other(path: Path, sha256: str) -> None:
    if weights.sha256_file(path) != sha256:
        raise UserError(f"{path} exists and is another file.", fix="choose another --out, or delete it")


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]
