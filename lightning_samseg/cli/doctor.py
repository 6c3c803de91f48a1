"""``python -m lightning_samseg doctor``: is all here that a run needs? A line each, and what to do."""

import mmap
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from lightning_samseg.cli.arguments import Parser
from lightning_samseg.errors import UserError
from lightning_samseg.io.files import cache_dir
from lightning_samseg.models.backbones import CHECKPOINTS
from lightning_samseg.models.weights import is_verified, locate, verify

SLOW_PAGE = 2e-6
"""Seconds to get a page of 4 KiB; 0.1 to 0.7 us are usual."""
LEAST_FREE = 5e9
"""Bytes that a run's checkpoints and pictures, or a download of SAM-H's weights, can take."""


class Finding(NamedTuple):
    """One line of the report."""

    subject: str
    text: str
    what_to_do: str | None = None
    """What to do; None where all is well."""


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report.

    Args:
        argv: Arguments after ``doctor``; those of the process if None.

    Returns:
        Exit status: 0 if no problem was found, else 1.
    """
    parser = Parser(
        prog="python -m lightning_samseg doctor",
        description="Versions, weights, W&B, folders, Slurm, devices, and a tiny step of three methods on each device.",
    )
    parser.add_argument("--root", type=Path, default=Path("runs"), help="folder for runs to look at (runs)")
    folder = parser.parse_args(argv).root
    problems = 0
    for examine in (packages, weights, wandb_state, lambda: folders(folder), slurm, memory, devices):
        for finding in examine():
            problems += finding.what_to_do is not None
            mark = "ok     " if finding.what_to_do is None else "PROBLEM"
            print(f"{mark} {finding.subject:<12} {finding.text}", flush=True)
            if finding.what_to_do is not None:
                print(f"{'':21}what to do: {finding.what_to_do}", flush=True)
    print("No problem found." if not problems else f"{problems} problem{'s' * (problems > 1)} found.")
    return min(problems, 1)


def packages() -> Iterator[Finding]:
    """Python, and every package this one needs, in a version it can work with."""
    from packaging.requirements import Requirement

    yield Finding("python", f"{sys.version.split()[0]} at {sys.executable}")
    shown = []
    for line in metadata.requires("lightning-samseg") or ():
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            version = None
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            wanted = f"{requirement.name}{requirement.specifier}"
            found = "is missing" if version is None else f"is {version}"
            yield Finding(requirement.name, f"{found}, expected {wanted}", f"python -m pip install '{wanted}'")
        else:
            shown.append(f"{requirement.name} {version}")
    yield Finding("packages", ", ".join(shown))
    yield from annotate_extra()


def annotate_extra() -> Iterator[Finding]:
    """What ``annotate`` needs beside the rest; it need not be there, but if it is, in a version that works."""
    from packaging.requirements import Requirement

    shown, missing = [], []
    for line in metadata.requires("lightning-samseg") or ():
        requirement = Requirement(line)
        if requirement.marker is None or 'extra == "annotate"' not in str(requirement.marker):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            missing.append(requirement.name)
            continue
        shown.append(f"{requirement.name} {version}")
        if not requirement.specifier.contains(version, prereleases=True):
            wanted = f"{requirement.name}{requirement.specifier}"
            yield Finding("annotate", f"{requirement.name} is {version}", f"python -m pip install '{wanted}'")
    absent = f"not installed: {', '.join(missing)}; python -m pip install 'lightning-samseg[annotate]'"
    yield Finding("annotate", absent if missing else ", ".join(shown) or "this installation knows no such extra")


def weights() -> Iterator[Finding]:
    """Pretrained weights in the cache: those that were not hashed yet are hashed now. None need be there."""
    absent = []
    for name, checkpoint in CHECKPOINTS.items():
        if checkpoint.sha256 is None:  # each user names a file of his own
            continue
        path = locate(name)
        if not path.is_file():
            absent.append(name)
            continue
        try:
            known = is_verified(name)
            if not known:
                verify(name)
            yield Finding(name, f"verified{'' if known else ' now'}, {path}")
        except UserError as error:
            yield Finding(name, str(error).splitlines()[0], f"delete {path}, then: weights fetch {name}")
    if absent:
        yield Finding("not cached", f"{', '.join(absent)} (python -m lightning_samseg weights fetch NAME)")


def wandb_state() -> Iterator[Finding]:
    """Whether runs with ``--wandb`` go online. A key is looked for, never shown."""
    from lightning_samseg.runs.loggers import has_wandb_key, wandb_mode

    mode = wandb_mode(None) or f"WANDB_MODE={os.environ['WANDB_MODE']}"
    key = "a key is set" if has_wandb_key() else "no key"
    hint = "; `wandb login`, or `wandb sync` afterwards" if mode == "offline" else ""
    yield Finding("W&B", f"{key}, runs are {mode}{hint}")


def folders(runs: Path) -> Iterator[Finding]:
    """Whether the cache and the folder for runs can be written, and have space left."""
    for subject, folder, variable in (("cache", cache_dir(), "SAMSEG_CACHE"), ("runs", runs, "")):
        there = folder.absolute()
        while not there.exists():
            there = there.parent
        move = f"set {variable} to another folder" if variable else "use another --trainer.default_root_dir"
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            yield Finding(subject, f"{there} cannot be written", move)
            continue
        free = shutil.disk_usage(there).free
        text = f"{folder}, {free / 1e9:,.0f} GB free"
        yield Finding(subject, text, f"make space, or {move}" if free < LEAST_FREE else None)


def slurm() -> Iterator[Finding]:
    """Whether this machine submits jobs."""
    if not shutil.which("sbatch"):
        yield Finding("Slurm", "not here; grids run one after the other")
        return
    try:
        done = subprocess.run(["sbatch", "--version"], capture_output=True, text=True, timeout=20)
        answer = subprocess.run(["sinfo", "-h"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError) as error:
        yield Finding("Slurm", f"sbatch is here and does not work: {error}", "ask the cluster's administrators")
        return
    controller = (
        "its controller answers" if answer.returncode == 0 else "no controller answers: nothing can be submitted"
    )
    yield Finding("Slurm", f"{done.stdout.strip() or 'sbatch'}, {controller}")


def memory() -> Iterator[Finding]:
    """Whether fresh memory is slow, as on a virtual machine or in a container whose memory is being reclaimed.

    A training step on a CPU asks for gigabytes and gives them back, unless the C library keeps them. No problem to be
    solved before a run, so only said.
    """
    if not sys.platform.startswith("linux"):
        return
    fresh, again = (min(times) for times in zip(*(_touch_pages() for _ in range(5)), strict=True))
    text = f"{1e6 * fresh:.2f} us to get a page of memory, {1e6 * again:.2f} us to write to it again"
    if fresh > SLOW_PAGE:
        text += ", which is slow; on a CPU, MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=2000000000 before `python -m "
        text += "lightning_samseg fit` keeps memory that was freed"
    yield Finding("memory", text)


def _touch_pages(count: int = 4096) -> tuple[float, float]:
    """Seconds per page of this thread, which other programs do not disturb: for fresh ones, and for the same again."""
    import numpy as np

    with mmap.mmap(-1, count * mmap.PAGESIZE) as fresh:
        start = time.thread_time()
        np.ndarray(count, np.uint8, fresh, strides=(mmap.PAGESIZE,))[:] = 1
        middle = time.thread_time()
        np.ndarray(count, np.uint8, fresh, strides=(mmap.PAGESIZE,))[:] = 2
        return (middle - start) / count, (time.thread_time() - middle) / count


def devices() -> Iterator[Finding]:
    """What each device is and can do, and whether a step of both methods runs on it."""
    import torch

    cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not cuda and shutil.which("nvidia-smi"):
        text = f"nvidia-smi is here, but torch {torch.__version__} finds no GPU"
        yield Finding("cuda", text, "install a torch that fits the driver (pytorch.org), or check CUDA_VISIBLE_DEVICES")
    places = [("cpu", "cpu", 1), *((f"cuda:{i}", "gpu", [i]) for i in range(cuda))]
    if torch.backends.mps.is_available():
        places.append(("mps", "mps", 1))
    for name, accelerator, which in places:
        yield Finding(name, _describe(name))
        steps: list[tuple[str, Callable[..., float]]] = [
            *(("CPC-SAM", cpc_sam_step), ("AuxOL", aux_ol_step), ("UniMatch", unimatch_step))
        ]
        for method, step in steps:
            try:
                loss = step(accelerator, which, _precision(name))
            except Exception as error:  # whatever the device or a library throws is the finding
                text = f"a step of {method} fails: {type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
                reinstall = "python -m pip install --force-reinstall torch lightning"
                yield Finding(name, text, reinstall if name == "cpu" else "set --trainer.accelerator cpu meanwhile")
                continue
            finite = loss == loss and abs(loss) != float("inf")
            text = f"a step of {method} in {_precision(name)}, loss {loss:.3f}"
            yield Finding(name, text, None if finite else "train with --trainer.precision 32-true")


def _describe(name: str) -> str:
    import torch

    from lightning_samseg.models.precision import multiplies_bf16

    if not name.startswith("cuda"):
        fast = multiplies_bf16(torch.device("cpu"))
        return f"{os.cpu_count()} cores, bf16 {'by AMX or AVX512' if fast else 'slow'}" if name == "cpu" else name
    properties = torch.cuda.get_device_properties(name)
    capability = torch.cuda.get_device_capability(name)
    newer = capability >= (8, 0)  # Ampere brought both
    return (
        f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, compute capability {capability[0]}."
        f"{capability[1]}, bf16 {'yes' if newer else 'no'}, TF32 {'yes' if newer else 'no'}"
    )


def _precision(name: str) -> Any:
    import torch

    return "bf16-mixed" if name.startswith("cuda") and torch.cuda.get_device_capability(name) >= (8, 0) else "32-true"


def cpc_sam_step(accelerator: str, devices: Any, precision: Any) -> float:
    """Loss of one training step of CPC-SAM on a toy backbone: prompts, both branches, backward, AdamW."""
    import torch

    from lightning_samseg.methods.cpc_sam import CpcSam
    from lightning_samseg.models.sam_config import PretrainedSam

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        batch = _semi_batch(unlabelled=2)
        method = CpcSam(PretrainedSam("tiny"), image_size=64, ssl_start_iter=0)
        trainer = _fit(method, batch, accelerator, devices, precision)
    return float(trainer.callback_metrics["train/loss"])


def _semi_batch(unlabelled: int) -> dict[str, Any]:
    """Two labelled images of noise with a square in the mask, and unlabelled ones."""
    import torch

    mask = torch.zeros(2, 64, 64, dtype=torch.long)
    mask[:, 16:40, 16:40] = 1
    return {
        "labelled": {"image": torch.rand(2, 3, 64, 64), "mask": mask},
        "unlabelled": {"image": torch.rand(unlabelled, 3, 64, 64)},
    }


def unimatch_step(accelerator: str, devices: Any, precision: Any) -> float:
    """Loss of one training step of UniMatch on the small U-Net: strong views, boxes, dropped features, SGD."""
    import torch

    from lightning_samseg.methods.unimatch import UniMatch
    from lightning_samseg.optim import OptimizerConfig

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        batch = _semi_batch(unlabelled=4)
        method = UniMatch(image_size=64, optimizer=OptimizerConfig(name="sgd", lr=0.01))
        trainer = _fit(method, batch, accelerator, devices, precision)
    return float(trainer.callback_metrics["train/loss"])


def aux_ol_step(accelerator: str, devices: Any, precision: Any) -> float:
    """Loss of the auxiliary network on the first image of a stream: SAM, prediction, rectification, one update."""
    import numpy as np
    import torch

    from lightning_samseg.methods.aux_ol import AuxOl
    from lightning_samseg.models.sam_config import SamConfig
    from lightning_samseg.models.unet import AuxiliaryConfig
    from lightning_samseg.online.crop_network import CropConfig
    from lightning_samseg.types import Case

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        reference = np.zeros((48, 64), np.uint8)
        reference[10:30, 20:44] = 1
        picture = np.repeat(60 + 120 * reference[..., None], 3, axis=2).astype(np.uint8)
        case = Case("doctor", "doctor.png", reference.shape, reference.shape)
        item = {"position": 0, "set_name": "a", "cases": [case], "original": picture, "reference": reference}
        method = AuxOl(SamConfig("tiny"), auxiliary=AuxiliaryConfig(width=1 / 16), crop=CropConfig(32), cache_gb=0)
        losses: list[float] = []
        step = method.training_step

        def remember(batch: Any, batch_idx: int) -> Any:
            outputs = step(batch, batch_idx)
            losses.extend(prompt.loss for done in outputs["records"] for prompt in done.prompts)
            return outputs

        method.training_step = remember  # type: ignore[method-assign]
        _fit(method, item, accelerator, devices, precision)
    return losses[0]


def _fit(method: Any, batch: Any, accelerator: str, devices: Any, precision: Any) -> Any:
    import logging
    import warnings

    import lightning
    from torch.utils.data import DataLoader

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    batches: Any = [batch]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(
            accelerator=accelerator,
            devices=devices,
            precision=precision,
            max_steps=1,
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        trainer.fit(method, DataLoader(batches, batch_size=None, collate_fn=lambda item: item))
    return trainer
