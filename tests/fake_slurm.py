"""A Slurm that answers from text files."""

from pathlib import Path

import pytest

SCRIPTS = {
    "sbatch": 'cat > "$DIR/job.sh"; [ -f "$DIR/refusal" ] && { cat "$DIR/refusal" >&2; exit 1; }; '
    'n=$(cat "$DIR/count" 2>/dev/null || echo 40); echo $((n + 1)) | tee "$DIR/count"',
    "squeue": '[ -f "$DIR/down" ] && { echo "slurm_load_jobs error: Unable to contact controller" >&2; exit 1; }; '
    'cat "$DIR/squeue" 2>/dev/null || { echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1; }',
    "scontrol": 'echo "$@" >> "$DIR/asked"; [ "$1" = requeue ] && exit 0; cat "$DIR/scontrol" 2>/dev/null',
    "sacct": '[ -f "$DIR/sacct" ] || { echo "Slurm accounting storage is disabled" >&2; exit 1; }; cat "$DIR/sacct"',
    "scancel": 'echo "$@" > "$DIR/cancelled"',
}


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of the answers: write ``squeue``, ``scontrol``, ``sacct``; read ``job.sh`` and ``cancelled``."""
    answers, commands = tmp_path / "answers", tmp_path / "bin"
    answers.mkdir()
    commands.mkdir()
    for name, script in SCRIPTS.items():
        (commands / name).write_text(f"#!/bin/bash\nDIR={answers}\n{script}\n")
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:/usr/bin:/bin")
    return answers
