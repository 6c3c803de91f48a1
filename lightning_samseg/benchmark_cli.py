"""``python -m lightning_samseg benchmark NAME``: speed claims are ratios, measured side by side in one run."""

import argparse
import json
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

BENCHMARKS: dict[str, tuple[str, str]] = {
    "metrics": ("lightning_samseg.metrics.benchmark", "benchmark_metrics"),
    "cpc_step": ("lightning_samseg.methods.benchmark", "benchmark_cpc_step"),
    "prompts": ("lightning_samseg.prompts.benchmark", "benchmark_prompts"),
}


def main(argv: Sequence[str]) -> int:
    """Run one benchmark, or all, and print its numbers as JSON."""
    parser = argparse.ArgumentParser(prog="python -m lightning_samseg benchmark", description=__doc__)
    parser.add_argument("name", choices=[*BENCHMARKS, "all"])
    parser.add_argument("--repeats", type=int, default=3, help="measurements per variant, of which the median counts")
    arguments = parser.parse_args(argv)
    for name, (module, function) in BENCHMARKS.items():
        if arguments.name in (name, "all"):
            measure: Callable[..., dict[str, Any]] = getattr(import_module(module), function)
            print(json.dumps({name: measure(repeats=arguments.repeats)}, indent=2))
    return 0
