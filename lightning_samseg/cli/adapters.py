"""``python -m lightning_samseg weights``: export an adapter, import the authors' files, merge into a plain SAM."""

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from lightning_samseg.adapters.checkpoints import adapter_of_run
from lightning_samseg.adapters.convert import from_authors_adapter, is_authors_adapter, merge_adapter
from lightning_samseg.adapters.files import Adapter, check_base, infer_architecture, read_adapter, write_adapter
from lightning_samseg.cli.arguments import Parser
from lightning_samseg.errors import UserError
from lightning_samseg.io.files import atomic_write
from lightning_samseg.models import weights
from lightning_samseg.models.backbones import BACKBONES, CHECKPOINTS, BackboneName
from lightning_samseg.runs.provenance import git_commit

AUTHORS_IMAGE_SIZE = 512
"""Network input of the published SAMed and CPC-SAM, which their files do not tell."""


def main(argv: Sequence[str]) -> int:
    """Run one of the verbs.

    Args:
        argv: Arguments after ``weights``, the verb first.

    Returns:
        Exit status 0.

    Raises:
        UserError: For mistakes a user can mend.
    """
    parser = Parser(prog="python -m lightning_samseg weights")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    exporting = verbs.add_parser(
        "export", description="Write the trained part of a run's checkpoint as one file to share."
    )
    exporting.add_argument("file", type=Path, metavar="CKPT", help="best.ckpt or last.ckpt of a run folder")
    exporting.add_argument("--out", type=Path, required=True, metavar="FILE.safetensors")

    importing = verbs.add_parser(
        "import",
        description="Take in a file of `weights list` that has a hash: it is verified and copied to DIR. Or turn a "
        "checkpoint of SAMed or CPC-SAM into an adapter in DIR; the other options are for these.",
    )
    importing.add_argument("file", type=Path, metavar="FILE")
    importing.add_argument(
        "--out", type=Path, default=weights.weights_dir(), metavar="DIR", help="default: %(default)s"
    )
    importing.add_argument("--backbone", choices=list(BACKBONES), help="base weights; default: SAM's of that size")
    importing.add_argument("--checkpoint", metavar="BASE", help="base weights that are not published")
    importing.add_argument(
        "--image-size", type=int, metavar="S", help=f"network input in pixels; default: {AUTHORS_IMAGE_SIZE}"
    )
    importing.add_argument("--lora-blocks", type=_block_numbers, metavar="I,J,…", help="adapted blocks; default: all")

    merging = verbs.add_parser(
        "merge", description="Work an adapter into its base weights: a plain SAM for other programs."
    )
    merging.add_argument("file", type=Path, metavar="ADAPTER")
    merging.add_argument("--out", type=Path, required=True, metavar="FILE.pth")
    merging.add_argument("--checkpoint", metavar="BASE", help="base weights; default: the backbone's published ones")
    merging.add_argument("--allow-other-base", action="store_true", help="even if the adapter was made on others")

    args = parser.parse_args(argv)
    try:
        print({"export": export_run, "import": import_file, "merge": merge}[args.verb](args))
    except UserError:  # also that a file is not there
        raise
    except OSError as error:
        raise UserError(
            "A file cannot be read or written.", found=str(error), fix="check paths, permissions and free space"
        ) from error
    return 0


def export_run(args: argparse.Namespace) -> str:
    """Write the adapter that a Lightning checkpoint of ours contains; returns what to tell the user."""
    out = _new_file(args.out, ".safetensors")
    adapter = adapter_of_run(args.file, git_commit())
    write_adapter(adapter, out)
    return _describe(adapter, out)


def import_file(args: argparse.Namespace) -> str:
    """Recognise a file by its content and put it where the framework can use it; returns what to tell the user."""
    if not args.file.is_file():
        raise UserError(f"There is no file {args.file}.", fix="check the path")
    size = args.file.stat().st_size
    if any(known.size == size for known in CHECKPOINTS.values()):
        digest = weights.sha256_file(args.file)
        for name, known in CHECKPOINTS.items():
            if known.sha256 == digest:
                return _import_published(name, args.file, args.out)
    state = weights.load_state_dict(args.file)
    if is_authors_adapter(state):
        return _import_authors(state, args)
    if any(key.startswith("image_encoder.patch_embed.") for key in state):
        raise UserError(
            f"{args.file} holds SAM weights, but is none of the published files.",
            expected="the sha256 of one of " + ", ".join(CHECKPOINTS),
            found=f"{size:,} bytes, sha256 {weights.sha256_file(args.file)}",
            fix="if it should be a published file, fetch it again; if it is your own, use it as it is: "
            f"--model.sam.checkpoint {args.file}",
        )
    raise UserError(
        f"{args.file} is nothing that can be imported.",
        expected="a published file of `weights list`, or one of SAMed or CPC-SAM (w_a_000, w_b_000, …)",
        found=", ".join(list(state)[:3]),
        fix="an adapter of this framework needs no import; a run's checkpoint goes to `weights export`",
    )


def merge(args: argparse.Namespace) -> str:
    """Write base and adapter as one plain SAM checkpoint; returns what to tell the user."""
    out = _new_file(args.out, ".pth")
    adapter = read_adapter(args.file)
    architecture = adapter.architecture
    if architecture.adapter_kind == "msa":
        raise UserError(
            f"{args.file} cannot be merged.",
            expected="LoRA, which is an update of weights that SAM has",
            found="bottleneck adapters (msa), which compute something that no weight of a plain SAM does",
            fix="use the adapter as it is (--model.adapter.file), or train with --model.adapter.kind lora",
        )
    if args.checkpoint is None and architecture.backbone not in CHECKPOINTS:
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
    lines = [f"{out}: {base} with the adapter merged, {len(merged)} entries in official names"]
    lines += [f"  note: {note}" for note in notes]
    return "\n".join([*lines, f"  here: --model.sam.backbone {architecture.backbone} --model.sam.checkpoint {out}"])


def _import_published(name: str, source: Path, folder: Path) -> str:
    """Copy a file that has a published hash, under its published name."""
    target = folder / CHECKPOINTS[name].file
    if not target.is_file():
        with atomic_write(target) as temporary:
            shutil.copyfile(source, temporary)
    elif weights.sha256_file(target) != CHECKPOINTS[name].sha256:
        raise UserError(f"{target} exists and is another file.", fix="choose another --out, or delete it")
    if folder.resolve() == weights.weights_dir().resolve():
        return f"{name}: {weights.verify(name)}\n  use: --model.sam.backbone {name}"
    return f"{name}: {target}\n  use: --model.sam.backbone {name} --model.sam.checkpoint {target}"


def _import_authors(state: dict[str, torch.Tensor], args: argparse.Namespace) -> str:
    """Write a checkpoint of SAMed or CPC-SAM as an adapter."""
    out = _new_file(args.out / f"{args.file.stem}.safetensors", ".safetensors")
    width = next(value.shape[-1] for key, value in state.items() if key.startswith("w_a_"))
    fitting = [name for name, each in BACKBONES.items() if each.shape is not None and each.shape.dim == width]
    backbone: BackboneName = args.backbone or (fitting[0] if fitting else "sam_vit_b")
    if backbone not in fitting:
        shape = BACKBONES[backbone].shape
        raise UserError(
            f"{args.file} was not made for the backbone {backbone}.",
            expected="a Vision Transformer" if shape is None else f"LoRA of width {shape.dim}",
            found=f"LoRA of width {width}",
            fix=f"set --backbone {' or '.join(fitting)}" if fitting else "check the file",
        )
    tensors = from_authors_adapter(state, BACKBONES[backbone].attention_blocks, args.lora_blocks, str(args.file))
    image_size = args.image_size or AUTHORS_IMAGE_SIZE
    architecture = infer_architecture(tensors, backbone, image_size)
    adapter = Adapter(architecture, tensors, _base_sha256(backbone, args.checkpoint), git_commit=git_commit())
    write_adapter(adapter, out)
    assumed = [] if args.backbone or args.checkpoint else [f"--backbone {backbone}"]
    assumed += [] if args.image_size else [f"--image-size {image_size}"]
    note = f"\n  the file does not tell, so taken for granted: {' '.join(assumed)}" if assumed else ""
    return _describe(adapter, out) + note


def _base_sha256(backbone: str, checkpoint: str | None) -> str | None:
    """Hash of the base weights: of a file where one is named, else of the backbone's published file."""
    if checkpoint is None:
        return weights.published(backbone).sha256 if backbone in CHECKPOINTS else None
    if not Path(checkpoint).is_file():
        raise UserError(
            f"The base weights {checkpoint} are not there, so the adapter cannot name them.",
            fix="say where that file is with --checkpoint FILE",
        )
    return weights.sha256_file(checkpoint)


def _describe(adapter: Adapter, path: Path) -> str:
    count = sum(value.numel() for value in adapter.tensors.values())
    architecture = ", ".join(f"{name} {value}" for name, value in asdict(adapter.architecture).items())
    return (
        f"{path}: adapter of {count:,} numbers\n  {architecture}\n  base weights sha256 {adapter.base_weights_sha256}"
    )


def _new_file(path: Path, suffix: str) -> Path:
    if path.suffix != suffix:
        raise UserError(f"{path} has the wrong ending.", expected=suffix, fix=f"use --out {path.with_suffix(suffix)}")
    if path.exists():
        raise UserError(f"{path} exists.", fix="choose another --out, or delete it")
    return path


def _block_numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]
