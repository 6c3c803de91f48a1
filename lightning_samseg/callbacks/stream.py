"""What a stream leaves in the run folder: ``cases.csv`` and ``prompts.csv`` as it goes, ``metrics.json`` at its end."""

import json
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_samseg.io.text import write_text
from lightning_samseg.log import logger
from lightning_samseg.online.columns import column_label
from lightning_samseg.online.row_files import RowFile, image_fields, read_rows
from lightning_samseg.online.scores import PromptRow, format_summary, summary
from lightning_samseg.online.stream_record import StreamRecord
from lightning_samseg.runs.provenance import provenance, upload_files
from lightning_samseg.runs.record import Record


class StreamWriter(Callback):
    """Appends the rows of every image. A resumed run cuts off those that were written after its checkpoint.

    It must come before the callback that writes checkpoints, which then counts on the rows of the same images. With
    several processes rank 0 writes for all of them.

    Args:
        folder: Folder of the results.
        record: Tells which options changed on the way.
    """

    def __init__(self, folder: str | Path, record: Record) -> None:
        self.folder = Path(folder)
        self.record = record
        self._resumed: dict[str, Any] = {}
        self._seconds = self._sam_seconds = 0.0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the files, or cut them back to the checkpoint."""
        if not trainer.is_global_zero:
            return
        module: Any = pl_module
        if self._resumed:
            module.resume_stream(self.folder / "prompts.csv")
        fields = image_fields(module.column)
        self._images = RowFile(self.folder / "cases.csv", fields, self._resumed.get("cases"))
        self._prompts = RowFile(self.folder / "prompts.csv", PromptRow._fields, self._resumed.get("prompts"))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Append the rows of a step's images."""
        records: list[StreamRecord] = outputs["records"]  # of all processes, on rank 0
        if not records:
            return
        self._prompts.append([row for each in records for row in each.prompts])
        self._images.append([each.image for each in records])
        self._seconds += sum(each.seconds for each in records)
        self._sam_seconds += sum(each.sam_seconds for each in records)

    def state_dict(self) -> dict[str, Any]:
        """Sizes of the files and the times so far; rank 0's counts."""
        if not hasattr(self, "_images"):
            return {}
        return {
            "cases": self._images.size,
            "prompts": self._prompts.size,
            "seconds": self._seconds,
            "sam_seconds": self._sam_seconds,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember what the checkpoint counts on."""
        self._resumed = state_dict
        self._seconds, self._sam_seconds = state_dict["seconds"], state_dict["sam_seconds"]

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the table, from the rows as they stand in the file."""
        if not trainer.is_global_zero:
            return
        rows = read_rows(self._images.path)
        if not rows:
            return
        module: Any = pl_module
        table = summary(rows, module.column)
        prompts = table["prompts"]
        result = {
            "summary": table
            | {
                "seconds_per_prompt": self._seconds / prompts if prompts else None,
                "sam_seconds_per_prompt": self._sam_seconds / prompts if prompts else None,
            },
            "convention": module.convention,
            "unit": "px",
            "iterations": trainer.global_step,
            "images_per_step": getattr(module, "images_per_step", trainer.world_size),
            "processes": trainer.world_size,
            "device": device_name(module.device),
            "generalist": getattr(module.frozen_sam(), "identity", None),
            "changes": self.record.changes,
            **provenance(trainer, module),
        }
        write_text(self.folder / "metrics.json", json.dumps(result, indent=2, allow_nan=False) + "\n")
        # Loggers hear of every n-th image, and would miss where the stream ends.
        last = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("dsc/")}
        for each in trainer.loggers:
            each.log_metrics(last, step=trainer.global_step)
            each.save()
        upload_files(trainer, self.folder / "metrics.json", self._images.path, self._prompts.path)
        logger.info(format_summary(table))
        logger.info(
            f"{prompts} prompts, {table['rectified']} images rectified, {table['without_prompt']} without prompt, "
            f"{table['dropped']} without distance, convention {module.convention}"
        )
        if not table["rectified"]:
            logger.info(
                f"No mask was rectified: {column_label(module.column)} shows a network that no expert ever taught."
            )
        logger.info(
            f"table     {self.folder / 'metrics.json'}\ncases     {self._images.path}\nprompts   {self._prompts.path}"
        )


def device_name(device: torch.device) -> str:
    """Name of a GPU, or ``cpu``."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
