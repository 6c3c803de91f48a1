"""A grid as one Slurm array: a manifest with one command a line, a batch script, and a note of what was submitted."""

import json
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lightning_samseg.grids.grid import Run
from lightning_samseg.grids.profile import Profile
from lightning_samseg.io.files import atomic_write
from lightning_samseg.runs import slurm

SUBMISSIONS = "submissions.json"


@dataclass(frozen=True)
class Submission:
    """One array that was handed to Slurm."""

    job: str
    """Its id."""
    submitted: str
    """Local time, ISO 8601."""
    profile: str
    """File of the profile."""
    manifest: str
    runs: tuple[str, ...]
    """Names of the runs; task i of the array is number i of them."""


def script(runs: Sequence[Run], profile: Profile, manifest: Path, name: str) -> str:
    """Write the batch script of an array.

    Args:
        runs: One task each.
        profile: What each asks of Slurm.
        manifest: File that will hold a line for each task: the run folder, then the arguments of the command line.
        name: Of the job.

    Returns:
        Bash, for sbatch.
    """
    gpus = f"gpu:{profile.gpu_type + ':' if profile.gpu_type else ''}{profile.gpus}" if profile.gpus else None
    logs = manifest.parent.absolute() / "%A_%a.log"
    options = {
        "job-name": f"grid-{name}",  # never bash or interactive, with which Lightning would not see Slurm
        "partition": profile.partition,
        "account": profile.account,
        "qos": profile.qos,
        "time": profile.time,
        "array": f"0-{len(runs) - 1}%{profile.at_once}",
        "nodes": str(profile.nodes),
        "ntasks-per-node": str(profile.processes_per_node),
        "cpus-per-task": str(profile.cpus),
        "gres": gpus,
        "mem": profile.memory,
        "signal": f"SIGUSR1@{profile.save_ahead}",
        "requeue": "",
        "open-mode": "append",
        "output": str(logs),
    }
    head = [
        f"#SBATCH --{key}={_quoted(value)}" if value else f"#SBATCH --{key}"
        for key, value in options.items()
        if value is not None
    ]
    python = profile.python or sys.executable
    lines = [
        "#!/bin/bash",
        *head,
        *(f"#SBATCH {option}" for option in profile.extra),
        "",
        f"cd {shlex.quote(str(Path.cwd()))} || exit 1",
        *profile.setup,
        f"export SRUN_CPUS_PER_TASK={profile.cpus}  # srun no longer takes it from sbatch",
        f'line=$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" {shlex.quote(str(manifest.absolute()))})',
        '[ -n "$line" ] || exit 1  # no manifest; without a command, the program would print its help and be done',
        'eval "run=($line)"  # the run folder, then what follows python -m lightning_samseg',
        'mkdir -p "${run[0]}"',
        f'srun --open-mode=append --output="${{run[0]}}/output.log" {shlex.quote(python)} -u -m lightning_samseg '
        '"${run[@]:1}"',
    ]
    return "\n".join(lines) + "\n"


def manifest_text(runs: Sequence[Run], profile: Profile) -> str:
    """One line a run, quoted for bash: its folder, then its arguments; trainings go on from ``last.ckpt``."""
    lines = [
        # Inside shlex's single quotes: a line break in a value must not make two lines of one run.
        shlex.join([run.folder, *run.resuming_argv, *profile.trainer_options]).replace("\n", "'$'\\n''")
        for run in runs
    ]
    return "".join(f"{line}\n" for line in lines)


def next_manifest(folder: Path) -> Path:
    """Name of the next manifest of a grid; none is ever changed, because waiting tasks read theirs when they start."""
    number = len(read_submissions(folder)) + 1
    while (path := folder / "slurm" / f"manifest-{number}.txt").exists():
        number += 1
    return path


def submit(runs: Sequence[Run], profile: Profile, profile_file: Path, name: str) -> Submission:
    """Hand runs to Slurm as one array, and remember it.

    Args:
        runs: Runs of one grid folder.
        profile: What each asks of Slurm.
        profile_file: Where that was read.
        name: Of the job.

    Returns:
        What was submitted, as noted in ``submissions.json`` in the grid's folder.

    Raises:
        UserError: If Slurm is missing or refuses; the manifest is then taken away.
    """
    folder = Path(runs[0].folder).parent
    manifest = next_manifest(folder)
    with atomic_write(manifest) as temporary:
        temporary.write_text(manifest_text(runs, profile), encoding="utf-8")
    try:
        job = slurm.submit(script(runs, profile, manifest, name))
    except BaseException:
        manifest.unlink()
        raise
    done = Submission(
        job, time.strftime("%Y-%m-%dT%H:%M:%S%z"), str(profile_file), str(manifest), tuple(run.name for run in runs)
    )
    with atomic_write(folder / SUBMISSIONS) as temporary:
        content = [asdict(submission) for submission in [*read_submissions(folder), done]]
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return done


def read_submissions(folder: Path) -> list[Submission]:
    """What was submitted from a grid's folder, oldest first."""
    path = folder / SUBMISSIONS
    if not path.is_file():
        return []
    entries = json.loads(path.read_text(encoding="utf-8"))
    return [Submission(**{**entry, "runs": tuple(entry["runs"])}) for entry in entries]


def _quoted(value: str) -> str:
    return f'"{value}"' if " " in value else value
