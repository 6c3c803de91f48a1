"""A cluster profile: what one run asks of Slurm. The keys are described in ``experiments/slurm/README.md``."""

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from lightning_samseg.errors import UserError
from lightning_samseg.io.yaml_files import read_yaml

_TIME = re.compile(r"(\d+-)?\d+(:\d+){0,2}")


@dataclass(frozen=True)
class Profile:
    """What one run of a grid asks of Slurm."""

    partition: str
    time: str | None = None
    """Limit of one stretch, as ``12:00:00`` or ``1-00``; a run that needs longer is put back into the queue. None:
    twice what is estimated for the GPU, and an hour."""
    nodes: int = 1
    gpus: int = 1
    """GPUs on each node, one process each; 0: on the CPU."""
    gpu_type: str | None = None
    """Slurm's name of the kind of GPU, such as a100."""
    processes: int = 1
    """Processes on each node where there are no GPUs."""
    cpus: int = 4
    """Cores of each process."""
    memory: str | None = None
    """Of each node, as 64G."""
    account: str | None = None
    qos: str | None = None
    at_once: int = 8
    """Most runs of a grid at a time."""
    save_ahead: int = 300
    """Seconds before the limit (and at preemption) at which a run is told to save; longer than a validation."""
    python: str | None = None
    """Interpreter on the nodes; None for the one that submits."""
    setup: tuple[str, ...] = ()
    """Lines of bash before the run, such as ``module load cuda``."""
    extra: tuple[str, ...] = ()
    """Further options of sbatch, such as ``--exclude=node7``."""

    @property
    def processes_per_node(self) -> int:
        """``--ntasks-per-node``, and Lightning's ``devices``."""
        return self.gpus or self.processes

    @property
    def trainer_options(self) -> list[str]:
        """The trainer's share: Lightning wants the numbers that Slurm has."""
        options = [f"--trainer.devices={self.processes_per_node}", f"--trainer.num_nodes={self.nodes}"]
        return options if self.gpus else ["--trainer.accelerator=cpu", *options]


def read_profile(path: str | Path) -> Profile:
    """Read a profile.

    Args:
        path: YAML file with the keys of :class:`Profile`.

    Returns:
        The profile.

    Raises:
        UserError: If the file is missing, a key is unknown or missing, or a value has the wrong form.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"There is no profile {path}.", fix="see experiments/slurm for examples")
    content = read_yaml(path, "the keys that experiments/slurm/README.md describes")
    if not isinstance(content, dict):
        _fail(path, "it is not a mapping", expected="partition, time, ...", found=str(content))
    fields = {field.name: field for field in dataclasses.fields(Profile)}
    for key in content:
        if key not in fields:
            _fail(path, f"unknown key {key!r}", expected=", ".join(fields))
    if content.get("partition") in (None, ""):
        _fail(path, "it has no partition", expected="partition: ...; sinfo lists partitions with their limits")
    return Profile(**{key: _value(path, key, value, str(fields[key].type)) for key, value in content.items()})


def _value(path: Path, key: str, value: Any, kind: str) -> Any:
    if value is None and "None" in kind:
        return None
    if "tuple" in kind:
        if not isinstance(value, list) or not all(isinstance(line, str) and "\n" not in line for line in value):
            _fail(path, f"{key} is not a list of lines", found=str(value))
        if key == "extra" and not all(line.startswith("-") for line in value):
            _fail(path, "extra has something that is no option", expected="lines such as --exclude=node7")
        return tuple(value)
    if "int" in kind:
        least = 0 if key in ("gpus", "save_ahead") else 1
        if type(value) is not int or value < least:
            _fail(path, f"{key} is wrong", expected=f"a whole number from {least}", found=str(value))
        return value
    if key == "time" and (not isinstance(value, str) or not _TIME.fullmatch(value)):
        _fail(path, "time is wrong", expected="text in quotes: '12:00:00' (YAML reads 12:00:00 as a number), '1-00'")
    if not isinstance(value, str) or not value.strip() or "\n" in value:
        _fail(path, f"{key} is wrong", expected="one line of text", found=str(value))
    return value


def _fail(path: Path, problem: str, *, expected: str | None = None, found: str | None = None) -> NoReturn:
    fix = "correct it; the keys are described in experiments/slurm/README.md"
    raise UserError(f"{path}: {problem}.", expected=expected, found=found, fix=fix)
