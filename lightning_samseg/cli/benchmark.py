"""``python -m lightning_samseg benchmark NAME``: speed claims are ratios, measured side by side in one run."""

import inspect
import json
import re
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import yaml

from lightning_samseg.cli.arguments import Parser
from lightning_samseg.errors import UserError

BENCHMARKS: dict[str, tuple[str, str]] = {
    "metrics": ("lightning_samseg.metrics.benchmark", "benchmark_metrics"),
    "cpc_step": ("lightning_samseg.methods.benchmark_ways", "benchmark_cpc_step"),
    "cheap_step": ("lightning_samseg.methods.benchmark", "benchmark_cheap_step"),
    "semi": ("lightning_samseg.methods.benchmark_semi", "benchmark_semi"),
    "prompts": ("lightning_samseg.prompts.benchmark", "benchmark_prompts"),
    "data": ("data_modules.benchmark", "benchmark_data"),
    "online": ("lightning_samseg.methods.benchmark_online", "benchmark_online"),
    "annotate": ("lightning_samseg.annotate.benchmark", "benchmark_annotate"),
    "sam_fill": ("lightning_samseg.online.benchmark", "benchmark_fill"),
}

_FIX = "correct it, or leave it out"


def main(argv: Sequence[str]) -> int:
    """Run one benchmark, or all, and print its numbers as JSON.

    Raises:
        UserError: If a setting is none of the benchmark's.
    """
    if argv[:1] == ["gpu"]:
        return int(import_module("lightning_samseg.cli.benchmark_gpu").main(argv[1:]))
    parser = Parser(
        prog="python -m lightning_samseg benchmark",
        description=__doc__,
        epilog="benchmark gpu --out FILE.md has options of its own: benchmark gpu --help",
    )
    parser.add_argument("name", choices=[*BENCHMARKS, "all"])
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="KEY=VALUE",
        help="arguments of the benchmark, for example repeats=5 image_size=512",
    )
    # What is typed as an option is a setting, too: --batch 1+1.
    joined = re.sub(r"(?:^|\0)--(?!help)([a-z_]+)[\0=]", r"\0\1=", "\0".join(argv)).lstrip("\0")
    arguments = parser.parse_args(joined.split("\0"))
    settings = dict(map(_setting, arguments.settings))
    for name, (module, function) in BENCHMARKS.items():
        if arguments.name in (name, "all"):
            measure: Callable[..., dict[str, Any]] = getattr(import_module(module), function)
            _check(name, settings, {key: each.default for key, each in inspect.signature(measure).parameters.items()})
            print(json.dumps({name: measure(**settings)}, indent=2))
    return 0


def _setting(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    try:
        if equals and value:
            return key, yaml.safe_load(value)
    except yaml.YAMLError:
        pass
    raise UserError(f"{text} is no setting.", expected="KEY=VALUE, such as repeats=5", fix=_FIX)


def _check(benchmark: str, settings: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Refuse settings that a benchmark does not have, and values of another type than its own."""
    for key, value in settings.items():
        if key not in defaults:
            raise UserError(
                f"The benchmark {benchmark} has no setting {key}.",
                expected=", ".join(defaults),
                fix=_FIX,
            )
        own = type(defaults[key])
        kinds: dict[type, Any] = {tuple: list, float: (float, int)}
        fits = isinstance(value, kinds.get(own, own))
        if (own is not type(None) and not fits) or (isinstance(value, int) and value < 0):
            raise UserError(
                f"The benchmark {benchmark}: {key} has a wrong value.",
                expected=f"{own.__name__}, such as {key}={defaults[key]}",
                found=str(value),
                fix=_FIX,
            )
