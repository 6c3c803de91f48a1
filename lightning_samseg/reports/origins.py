"""What grids say of run folders: their names and the cells of the papers' tables that they fill."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_samseg.errors import UserError
from lightning_samseg.reports.groups import Origin
from lightning_samseg.reports.paper import Cell, filled_by, paper_values
from lightning_samseg.reports.runs import REPORT_MARK


def find_origins(
    paths: Sequence[Path], cells: Mapping[Path, Mapping[str, str] | Sequence[Mapping[str, str]]]
) -> dict[Path, Origin]:
    """Collect what is known of run folders.

    Args:
        paths: Folders; every ``grid*.json`` in and below them, or beside a run folder, is read.
        cells: Run folder -> its cell or cells, over those of the files.

    Returns:
        Resolved run folder -> origin.

    Raises:
        UserError: If a file is no grid's or a cell is in no paper.
    """
    names: dict[Path, str | None] = {}
    found: dict[Path, list[Mapping[str, str]]] = {}
    for file in _grid_files(paths):
        for run in _load(file):
            folder = _run_folder(file, str(run["folder"]))
            names[folder] = _without_seed(str(run.get("name") or folder.name), run.get("seed"))
            stated = run.get("cells") or [run.get("cell")]  # a run of several grids fills several
            found.setdefault(folder, []).extend(cell for cell in stated if cell)
    for folder, given in cells.items():
        resolved = folder.resolve()
        names.setdefault(resolved, re.sub(r"-seed\d+$", "", folder.name))
        found[resolved] = [cell for cell in ([given] if isinstance(given, Mapping) else given) if cell]
    for entries in found.values():
        for cell in entries:
            for place in filled_by({key: str(cell[key]) for key in Cell._fields}):
                paper_values(place)
    return {
        folder: Origin(names[folder], tuple({key: str(cell[key]) for key in Cell._fields} for cell in entries))
        for folder, entries in found.items()
    }


def _grid_files(paths: Sequence[Path]) -> list[Path]:
    files: dict[Path, None] = {}
    for path in paths:
        for file in sorted(path.resolve().parent.glob("grid*.json")):  # the path is a run of a grid
            files[file] = None
        for place, folders, names in os.walk(path):
            if REPORT_MARK in names:
                folders.clear()
                continue
            folders[:] = sorted(name for name in folders if name not in ("checkpoints", "logs", "overlays", "wandb"))
            for name in sorted(names):
                if name.startswith("grid") and name.endswith(".json"):
                    files[(Path(place) / name).resolve()] = None
    return list(files)


def _load(file: Path) -> list[dict[str, Any]]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        runs = content["runs"]
        return [run for run in runs if isinstance(run["folder"], str)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} does not describe a grid's runs.",
            expected='{"runs": [{"name": …, "folder": …, "cell": …}]}',
            found=f"{type(error).__name__}: {error}",
            fix="write it anew with `grid run` or `grid submit`, or rename it if it is something else",
        ) from error


def _run_folder(file: Path, folder: str) -> Path:
    """The folder as called, or beside the file: whichever is there."""
    candidates = (file.parent / folder, Path(folder), file.parent / Path(folder).name)
    return next((path for path in candidates if path.is_dir()), candidates[0]).resolve()


def _without_seed(name: str, seed: Any) -> str:
    return name.removesuffix(f"-seed{seed}") if seed is not None else name
