"""``metrics.json`` and ``cases.csv`` of a test, and the table on the screen."""

import json
import math
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_samseg.io.tables import write_table
from lightning_samseg.io.text import write_text
from lightning_samseg.log import logger
from lightning_samseg.metrics import CaseRow, CaseScores
from lightning_samseg.runs.provenance import provenance, upload_files
from lightning_samseg.runs.record import Record


class ResultsWriter(Callback):
    """Writes the scores of a finished test; those of a validation are in the loggers alone.

    Args:
        folder: Folder of the results.
        record: Tells which options changed on the way.
    """

    def __init__(self, folder: str | Path, record: Record) -> None:
        self.folder = Path(folder)
        self.record = record

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the test's scores; of a module that keeps none by cases, whatever it has logged."""
        scores = getattr(pl_module, "test_scores", None)
        if isinstance(scores, CaseScores):
            self._write(trainer, pl_module, scores)
        elif trainer.is_global_zero:
            values = {name: float(value) for name, value in trainer.callback_metrics.items()}
            logged = {name: value if math.isfinite(value) else None for name, value in values.items()}
            result = {"summary": logged, **self._origin(trainer, pl_module)}
            self._finish(trainer, result, "\n".join(f"{name:<24}{value:.4g}" for name, value in values.items()))

    def _write(self, trainer: Trainer, pl_module: Any, scores: CaseScores) -> None:
        table = scores.compute()  # gathers all ranks, so every rank calls it
        if not trainer.is_global_zero:
            return
        details = table.summary()
        headline = ("dsc", "jc", "hd95", "asd")
        names = [str(name) for name in getattr(getattr(trainer, "datamodule", None), "class_names", None) or ()]
        result = {
            "summary": {name: details[name] for name in headline},
            **{name: value for name, value in details.items() if name not in headline},
            "class_names": names,
            **self._origin(trainer, pl_module),
        }
        write_table(self.folder / "cases.csv", CaseRow._fields, table.rows)
        self._finish(trainer, result, format_summary(details, names), self.folder / "cases.csv")

    def _origin(self, trainer: Trainer, pl_module: Any) -> dict[str, Any]:
        return {
            "iterations": trainer.global_step or None,
            "processes": trainer.world_size,
            "checkpoint": str(trainer.ckpt_path) if trainer.ckpt_path else None,
            "changes": self.record.changes,
            **provenance(trainer, pl_module),
        }

    def _finish(self, trainer: Trainer, result: dict[str, Any], table: str, *cases: Path) -> None:
        path = self.folder / "metrics.json"
        write_text(path, json.dumps(result, indent=2, allow_nan=False) + "\n")
        upload_files(trainer, path, *cases)
        logger.info(table)
        logger.info("\n".join([f"table     {path}", *(f"cases     {each}" for each in cases)]))


def format_summary(details: dict[str, Any], class_names: list[str] | None = None) -> str:
    """The scores as a small table for the screen, a row per class and one for their mean."""
    unit = details["unit"]
    lines = [f"{'class':<16}{'DSC %':>9}{'JC %':>9}{f'HD95 {unit}':>12}{f'ASD {unit}':>12}"]
    rows = [(class_name(key, class_names), part) for key, part in details["per_class"].items()]
    for name, part in [*rows, ("mean", details)] if len(rows) > 1 else rows:
        cells = [percent(part["dsc"], 9), percent(part["jc"], 9), number(part["hd95"], 12), number(part["asd"], 12)]
        lines.append(f"{name:<16}{''.join(cells)}")
    lines.append(
        f"{details['num_cases']} cases, convention {details['convention']}, "
        f"{details['empty_predictions']} empty predictions, {details['empty_references']} empty references, "
        f"{details['dropped']} distances left out"
    )
    return "\n".join(lines)


def class_name(class_id: str, names: list[str] | None) -> str:
    """Name of a foreground class from its id, 1 to C, as written in the summary."""
    return names[int(class_id) - 1] if names and int(class_id) <= len(names) else f"class {class_id}"


def percent(value: float | None, width: int) -> str:
    """A fraction in percent, or a dash."""
    return f"{'-':>{width}}" if value is None else f"{100 * value:{width}.2f}"


def number(value: float | None, width: int) -> str:
    """A distance, or a dash."""
    return f"{'-':>{width}}" if value is None else f"{value:{width}.2f}"
