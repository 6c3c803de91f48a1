"""``python -m lightning_samseg VERB …``: one help page, one place where mistakes become messages."""

import io
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

from lightning_samseg import errors
from lightning_samseg.errors import UserError, described, explained, first_line
from lightning_samseg.runs.error_log import write_log

TRAINING_VERBS = ("fit", "validate", "test", "predict")
OTHER_VERBS = {
    "annotate": "lightning_samseg.cli.annotate",
    "data": "lightning_samseg.cli.data",
    "grid": "lightning_samseg.cli.grid",
    "report": "lightning_samseg.cli.report",
    "weights": "lightning_samseg.cli.weights",
    "benchmark": "lightning_samseg.cli.benchmark",
    "plan": "lightning_samseg.cli.plan",
    "doctor": "lightning_samseg.cli.doctor",
}
HELP = """\
usage: python -m lightning_samseg VERB [options]

train and evaluate (options: VERB --help, and VERB --config FILE --print_config)
  fit        train; with --test_after_fit true also test the best checkpoint
  validate   score a checkpoint on the validation images
  test       score a checkpoint on the test images
  predict    write the masks a checkpoint predicts: --ckpt_path FILE --input FOLDER --output DIR

annotate your own images
  annotate   in the browser, with a network that learns from every mask: --input FOLDER

look after things
  data       list, verify, show, split and prepare data sets, write generated samples of them
  grid       list, run, submit to Slurm, watch and collect the runs of an ablation grid
  plan       before a run or a grid: parameters, GFLOP, peak memory, disk, hours; no GPU needed
  report     finished runs as tables, figures and a page, beside the papers' numbers
  weights    list, fetch and verify pretrained weights; import, export and merge adapters
  benchmark  measure speed side by side: gpu, cpc_step, cheap_step, data, online, sam_fill, prompts, metrics
  doctor     versions, devices, weights, W&B, Slurm; whether a step of both methods runs here

A run starts with a configuration, for example
  python -m lightning_samseg fit --config experiments/quickstart/cpc_sam.yaml
and every entry of it can be overridden by its dotted name, for example
  --model.optimizer.lr 5e-4 --data.num_labelled 20 --trainer.max_steps 1000 --trainer.default_root_dir runs/mine
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        argv: Arguments after the program's name; those of the process if None.

    Returns:
        Exit status: 0; 2 after a mistake that was explained on standard error, 1 after another failure or if
        ``predict`` could not read some of the images, 130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    errors.names_flags = True
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show must not end a run
    try:
        status = dispatch(arguments)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        status, message = explain(error, arguments)
        print(f"error: {message}", file=sys.stderr)
        return status


def explain(error: Exception, arguments: Sequence[str]) -> tuple[int, str]:
    """Give the exit status and the message for what ended the program; ``SAMSEG_DEBUG=1`` shows where it arose.

    Args:
        error: The exception. What no message of ours explains goes into a log with its traceback.
        arguments: Those of the program.
    """
    if os.environ.get("SAMSEG_DEBUG"):
        traceback.print_exception(error)
    if (message := explained(error)) is not None:
        return 2, message
    known = described(error)
    problem = known or UserError(
        "The program failed in a way that it does not know.",
        found=f"{type(error).__name__}: {first_line(error)}",
        fix="report it with the log, which says where it failed",
    )
    return 2 if known else 1, f"{problem}\n  log: {write_log(error, arguments)}"


def dispatch(arguments: list[str]) -> int:
    """Import what a verb needs, and nothing else, and run it."""
    verb = arguments[0] if arguments else "--help"
    if verb in ("-h", "--help", "help"):
        print(HELP)
        return 0
    if verb == "--version":
        print(import_module("lightning_samseg").__version__)
        return 0
    if verb in OTHER_VERBS:
        return int(import_module(OTHER_VERBS[verb]).main(arguments[1:]) or 0)
    if verb in TRAINING_VERBS:
        # Before torch is imported: its CPU allocator then asks for huge pages, a tenth of a step on a laptop.
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
        if verb == "predict" and _without_config(arguments[1:]):
            return int(import_module("lightning_samseg.cli.predict").main(arguments[1:]))
        import_module("lightning_samseg.runs.requeue").listen()
        import_module("lightning_samseg.cli.train").run(arguments)
        return 0
    raise UserError(
        f"There is no verb {verb!r}.",
        expected=", ".join([*TRAINING_VERBS, *OTHER_VERBS]),
        fix="python -m lightning_samseg --help",
    )


def _without_config(options: list[str]) -> bool:
    names = {option.split("=")[0] for option in options}
    return not names or bool(names & {"--input", "--help", "-h"})


if __name__ == "__main__":
    sys.exit(main())
