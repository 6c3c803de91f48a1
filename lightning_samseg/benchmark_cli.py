"""``python -m lightning_samseg benchmark NAME``: speed claims are ratios, measured side by side in one run."""

import argparse
import inspect
import json
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import yaml

from lightning_samseg.errors import UserError

BENCHMARKS: dict[str, tuple[str, str]] = {
    "metrics": ("lightning_samseg.metrics.benchmark", "benchmark_metrics"),
    "cpc_step": ("lightning_samseg.methods.benchmark", "benchmark_cpc_step"),
    "prompts": ("lightning_samseg.prompts.benchmark", "benchmark_prompts"),
    "data": ("data_modules.benchmark", "benchmark_data"),
    "online": ("lightning_samseg.online.benchmark", "benchmark_online"),
    "sam_fill": ("lightning_samseg.online.benchmark", "benchmark_fill"),
}


def main(argv: Sequence[str]) -> int:
    """Run one benchmark, or all, and print its numbers as JSON.

    Raises:
        UserError: If a setting is none of the benchmark's.
    """
    parser = argparse.ArgumentParser(prog="python -m lightning_samseg benchmark", description=__doc__)
    parser.add_argument("name", choices=[*BENCHMARKS, "all"])
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="KEY=VALUE",
        help="arguments of the benchmark, for example repeats=5 image_size=512",
    )
    arguments = parser.parse_args(argv)
    settings = {
        key: yaml.safe_load(value) for key, _, value in (setting.partition("=") for setting in arguments.settings)
    }
    for name, (module, function) in BENCHMARKS.items():
        if arguments.name in (name, "all"):
            measure: Callable[..., dict[str, Any]] = getattr(import_module(module), function)
            known = list(inspect.signature(measure).parameters)
            if unknown := settings.keys() - set(known):
                raise UserError(
                    f"The benchmark {name} has no setting {', '.join(sorted(unknown))}.",
                    expected=", ".join(known),
                    fix="leave it out, or correct its name",
                )
            print(json.dumps({name: measure(**settings)}, indent=2))
    return 0
