"""What a test can change in its process. The next one starts from the state that this one found."""

import gc
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from lightning_samseg.io import volumes

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT)
OPEN = Path("/proc/self/fd")
STAY = ("tqdm_monitor", "Otel")
"""Threads that tqdm and W&B's telemetry keep to the end of the process."""


class State(NamedTuple):
    """What can be put back."""

    folder: Path
    environment: dict[str, str]
    handlers: list[Any]
    threads: int
    dtype: torch.dtype
    grad: bool
    deterministic: int
    matmul_precision: str
    cudnn: tuple[bool, bool]
    numpy_errors: dict[str, Any]


def state() -> State:
    """The process as it is now."""
    return State(
        Path.cwd(),
        {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"},
        [signal.getsignal(each) for each in SIGNALS],
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.get_deterministic_debug_mode(),
        torch.get_float32_matmul_precision(),
        (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        np.geterr(),
    )


def put_back(before: State) -> None:
    """Undo what was changed since."""
    now = state()
    if now == before:
        return
    os.chdir(before.folder)
    for name in now.environment.keys() - before.environment.keys():
        del os.environ[name]
    os.environ.update(before.environment)
    for number, handler in zip(SIGNALS, before.handlers, strict=True):
        signal.signal(number, handler)
    torch.set_num_threads(before.threads)
    torch.set_default_dtype(before.dtype)
    torch.set_grad_enabled(before.grad)
    torch.set_deterministic_debug_mode(before.deterministic)
    torch.set_float32_matmul_precision(before.matmul_precision)
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = before.cudnn
    np.seterr(**before.numpy_errors)


def end_services() -> None:
    """What is kept open on purpose: the project's last volumes, and W&B's service."""
    volumes._decode.cache_clear()
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown()


def seed() -> None:
    """Start every global source of random numbers anew: what a test draws does not hang on those before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


class Belongings(NamedTuple):
    """What cannot be put back, and must be closed by whoever has opened it."""

    threads: set[str]
    processes: set[str]
    files: dict[str, str]


def belongings() -> Belongings:
    """What the process has open now."""
    return Belongings(
        {f"{each.name} {each.ident}" for each in threading.enumerate() if not each.name.startswith(STAY)},
        {f"{child.name} {child.pid}" for child in multiprocessing.active_children()},
        dict(opened()),
    )


def opened() -> Iterator[tuple[str, str]]:
    """Number and target of every open file, where the system tells.

    Without devices, which Python itself keeps open, and what is installed, as the fonts that matplotlib keeps open.
    """
    for each in OPEN.iterdir() if OPEN.is_dir() else ():
        with suppress(FileNotFoundError):  # the folder itself, which is open while it is read
            target = str(each.readlink())
            if not target.startswith("/dev/") and "site-packages" not in target:
                yield each.name, target


def left_open(before: Belongings) -> str:
    """What is open now and was not before, in words; empty if nothing is.

    What only waits for the garbage collector is not counted, nor what ends within a second.
    """
    for attempt in range(10):
        now = belongings()
        parts = [*sorted(now.threads - before.threads), *sorted(now.processes - before.processes)]
        if len(now.files) > len(before.files):
            parts += [target for number, target in now.files.items() if before.files.get(number) != target]
        if not parts:
            return ""
        gc.collect() if attempt == 0 else time.sleep(0.1)
    return ", ".join(parts)
