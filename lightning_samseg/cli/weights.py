"""``python -m lightning_samseg weights``: list, fetch and verify pretrained checkpoints. Starts without torch.

The verbs that open checkpoints need it, and are in ``adapters_cli``.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module

from lightning_samseg.cli.arguments import Parser
from lightning_samseg.errors import UserError
from lightning_samseg.models.backbones import CHECKPOINTS
from lightning_samseg.models.weights import fetch, is_verified, locate, verify, weights_dir

ADAPTER_VERBS = {
    "export": "the trained part of a run's checkpoint, as one file to share",
    "import": "take in a published file of the list, or a checkpoint of SAMed or CPC-SAM",
    "merge": "work an adapter into its base weights: a plain SAM for other programs",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the verbs.

    Args:
        argv: Arguments after ``weights``; those of the process if None.

    Returns:
        Exit status: 0 if everything asked for is there and right, 2 if not.
    """
    parser = Parser(
        prog="python -m lightning_samseg weights",
        description="Pretrained checkpoints. They are kept in $SAMSEG_CACHE/weights; here: " + str(weights_dir()),
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    verbs.add_parser("list", help="what there is, how large, and what of it is on this machine")
    fetched = [name for name, checkpoint in CHECKPOINTS.items() if checkpoint.sha256 is not None]
    names = " ".join(fetched)
    fetching = verbs.add_parser("fetch", help="download, or go on with a download that was broken off")
    fetching.add_argument("names", nargs="*", metavar="NAME", help=names)
    fetching.add_argument("--all", action="store_true", help="every checkpoint in the list")
    verifying = verbs.add_parser("verify", help="hash files again; status 2 if one is missing or wrong")
    verifying.add_argument("names", nargs="*", metavar="NAME", help=f"{names}; all of them if none is named")
    for name, text in ADAPTER_VERBS.items():
        verbs.add_parser(name, help=text, add_help=False)
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in ADAPTER_VERBS:
        return int(import_module("lightning_samseg.cli.adapters").main(arguments))
    args = parser.parse_args(arguments)
    if args.verb == "list":
        print(_table())
        return 0
    if args.verb == "verify":
        return _each(args.names or fetched, lambda name: f"{name}: right, {verify(name)}")
    if bool(args.names) == args.all:
        fetching.error("give one or more names, or --all")
    return _each(args.names or fetched, _fetch)


def _each(names: Iterable[str], action: Callable[[str], str]) -> int:
    """Go through all names even if one fails, so that one message per problem is seen."""
    status = 0
    for name in names:
        try:
            print(action(name), flush=True)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            status = 2
    return status


def _fetch(name: str) -> str:
    path = fetch(name)
    checkpoint = CHECKPOINTS[name]
    return f"{name}: {path}\n  licence {checkpoint.licence}; please cite {checkpoint.citation}"


def _table() -> str:
    rows = [("name", "size", "cached", "verified", "licence", "path")]
    for name, checkpoint in CHECKPOINTS.items():
        if checkpoint.sha256 is None:
            where = f"no hash is known: download {checkpoint.url}, then --model.sam.checkpoint FILE"
            rows.append((name, f"~{checkpoint.size / 1e6:,.0f} MB", "-", "-", checkpoint.licence, where))
            continue
        path = locate(name)
        cached, verified = path.is_file(), is_verified(name)
        marks = ("yes" if cached else "no", "yes" if verified else "not yet" if cached else "-")
        rows.append((name, f"{checkpoint.size / 1e6:,.0f} MB", *marks, checkpoint.licence, str(path)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)
