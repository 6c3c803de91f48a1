"""What a stream leaves in the run folder: ``cases.csv`` and ``prompts.csv`` as it goes, ``metrics.json`` at its end."""

import json
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

import lightning_samseg
from lightning_samseg.callbacks.results import git_commit
from lightning_samseg.io.files import atomic_write
from lightning_samseg.online.trace import ImageRow, PromptRow, Round, RowFile, format_summary, read_rows, summary
from lightning_samseg.types import StreamItem


class StreamWriter(Callback):
    """Appends the rows of every image. A resumed run cuts off those that were written after its checkpoint.

    It must come before the callback that writes checkpoints, which then counts on the rows of the same image.

    Args:
        folder: Folder of the results.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._resumed: dict[str, Any] = {}
        self._seconds = self._sam_seconds = 0.0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the files, or cut them back to the checkpoint."""
        self._images = RowFile(self.folder / "cases.csv", ImageRow._fields, self._resumed.get("cases"))
        self._prompts = RowFile(self.folder / "prompts.csv", PromptRow._fields, self._resumed.get("prompts"))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: StreamItem, batch_idx: int
    ) -> None:
        """Append the rows of one image."""
        done: Round = outputs["round"]
        self._prompts.append(done.prompts)
        self._images.append([done.image])
        self._seconds += done.seconds
        self._sam_seconds += done.sam_seconds

    def state_dict(self) -> dict[str, Any]:
        """Sizes of the files and the times so far."""
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
        rows = read_rows(self._images.path)
        if not rows:
            return
        module: Any = pl_module
        table = summary(rows)
        prompts = table["prompts"]
        result = {
            "summary": table
            | {
                "seconds_per_prompt": self._seconds / prompts if prompts else None,
                "sam_seconds_per_prompt": self._sam_seconds / prompts if prompts else None,
            },
            "convention": module.convention,
            "unit": "px",
            "method": f"{type(module).__module__}.{type(module).__qualname__}",
            "iterations": trainer.global_step,
            "weights_sha256": module.weights_sha256,
            "seed": module.seed,
            "device": device_name(module.device),
            "git_commit": git_commit(),
            "versions": {"lightning_samseg": lightning_samseg.__version__, "torch": torch.__version__},
        }
        with atomic_write(self.folder / "metrics.json") as temporary:
            temporary.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")
        print(format_summary(table))
        print(
            f"{prompts} prompts, {table['rectified']} images rectified, {table['without_prompt']} without prompt, "
            f"{table['dropped']} without distance, convention {module.convention}"
        )
        if not table["rectified"]:
            print("No mask was rectified: SAM + AuxOL is SAM mixed with a network that no expert ever taught.")
        print(
            f"table     {self.folder / 'metrics.json'}\ncases     {self._images.path}\nprompts   {self._prompts.path}"
        )


def device_name(device: torch.device) -> str:
    """Name of a GPU, or ``cpu``."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
