"""``python -m lightning_samseg predict --input …``: masks for a file or a folder, from a checkpoint alone."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from lightning_samseg.cli.arguments import Parser
from lightning_samseg.errors import UserError
from lightning_samseg.models.backbones import BACKBONES

DESCRIPTION = """\
Predict masks for your own images: png, jpg, tif, bmp, webp, gif, jp2 of any depth and mode; NIfTI and MHA/MHD volumes,
slice by slice along the last axis of the file. The checkpoint says how: no config is needed."""
EPILOG = """\
DIR gets masks/ (same names, sizes and sub-folders; volumes in their own format with their own geometry, class ids in
uint8), predictions.csv, and on request probabilities/ and overlays/. Files that cannot be read are listed at the end
and in failed.csv, and do not stop the rest; the exit status is then 1.

With --config FILE instead of --input, the images of a run's own data set are predicted."""


def main(argv: Sequence[str]) -> int:
    """Predict.

    Args:
        argv: Arguments after ``predict``.

    Returns:
        Exit status: 0, or 1 if some files could not be read.

    Raises:
        UserError: For mistakes a user can mend.
    """
    arguments = _parser().parse_args(argv)
    source, output = arguments.input.expanduser(), arguments.output.expanduser()
    _check(arguments, source, output)

    from lightning_samseg.prediction.loop import predict_files  # late: torch

    failed = predict_files(
        source,
        output,
        checkpoint=arguments.ckpt_path,
        backbone=arguments.backbone,
        weights=arguments.weights,
        prompts=arguments.prompts,
        prompt=arguments.prompt,
        probabilities=arguments.probabilities,
        overlays=arguments.overlays,
        device=arguments.device,
        precision=arguments.precision,
        batch_size=arguments.batch_size,
        threads=arguments.threads,
        trust=arguments.trust,
    )
    return 1 if failed else 0


def _check(arguments: argparse.Namespace, source: Path, output: Path) -> None:
    """Refuse, before anything slow, what cannot work."""
    if (arguments.ckpt_path is None) == (arguments.method is None):
        raise UserError(
            "Either a checkpoint or the method zero_shot predicts.",
            found="neither" if arguments.method is None else "both",
            fix="give --ckpt_path RUN/checkpoints/best.ckpt, or --method zero_shot --prompts FILE",
        )
    if arguments.method is not None and arguments.prompts is None:
        raise UserError(
            "Zero-shot SAM has to be told where the objects are.",
            expected="a CSV file with image,x0,y0,x1,y1 (or image,x,y), or COCO's JSON",
            fix="add --prompts FILE",
        )
    if not source.exists():
        raise UserError(f"There is no file or folder {source}.", fix="check --input")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} is there already and not empty.", fix="give another --output, or remove it")
    for name in ("batch_size", "threads"):
        if (value := getattr(arguments, name)) is not None and value < 1:
            raise UserError(f"--{name} {value}", expected="at least 1", fix="leave it out")
    if arguments.overlays < 0:
        raise UserError(f"--overlays {arguments.overlays}", expected="0 or more", fix="leave it out")


def _parser() -> Parser:
    parser = Parser(
        prog="python -m lightning_samseg predict",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--input", type=Path, required=True, metavar="PATH", help="an image, a volume, or a folder of them")
    add("--output", type=Path, required=True, metavar="DIR", help="folder for the results; must be new or empty")
    add("--ckpt_path", type=Path, metavar="FILE", help="RUN/checkpoints/best.ckpt; of AuxOL last.ckpt")
    add("--method", choices=["zero_shot"], help="instead of a checkpoint: SAM as it is, prompted by --prompts")
    add("--backbone", choices=list(BACKBONES), default="lite_medsam", metavar="NAME", help="its SAM (lite_medsam)")
    add("--weights", metavar="FILE", help="weights of the frozen SAM instead of the cached ones (AuxOL, zero_shot)")
    add("--prompts", type=Path, metavar="FILE", help="CSV or COCO file with boxes or points (AuxOL, zero_shot)")
    add("--prompt", choices=["box", "point"], default="box", help="what zero_shot takes from --prompts (box)")
    add("--trust", action="store_true", help="import a method of your own that a checkpoint names: its code runs")
    add("--probabilities", action="store_true", help="also write class probabilities: .npz, float16 (class, ...)")
    help_overlays = "also draw contours; of a volume on at most N slices (8)"
    add("--overlays", type=int, nargs="?", const=8, default=0, metavar="N", help=help_overlays)
    add("--device", default="auto", metavar="NAME", help="auto (a GPU where there is one), cpu, cuda, cuda:1, mps")
    precisions = ["32-true", "bf16-mixed", "16-mixed"]
    add("--precision", choices=precisions, help="number format; without it the run's own")
    add("--batch_size", type=int, metavar="N", help="images at a time; without it the run's own")
    help_threads = "threads that read ahead (2 for each process of 4 cores and more, else 1)"
    add("--threads", type=int, default=2 if (os.cpu_count() or 1) >= 4 else 1, metavar="N", help=help_threads)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
