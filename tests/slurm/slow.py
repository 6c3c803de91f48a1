"""Methods that take their time without work, so that something can happen to a run while it runs."""

import time
from pathlib import Path
from typing import Any

import torch

from lightning_samseg.errors import UserError
from lightning_samseg.methods import AuxOl, CpcSam


class SlowCpcSam(CpcSam):
    """Pauses in every step; fails in the third while a file is there."""

    def __init__(self, pause: float = 0.3, fails_while: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pause, self.fails_while = pause, fails_while

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        time.sleep(self.pause)
        if self.global_step == 2 and self.fails_while and Path(self.fails_while).exists():
            raise UserError("This run fails on purpose.", fix=f"delete {self.fails_while}")
        return super().training_step(batch, batch_idx)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["threads"] = torch.get_num_threads()


class SlowAuxOl(AuxOl):
    """Pauses after every image."""

    def __init__(self, pause: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pause = pause

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        time.sleep(self.pause)
        return super().training_step(batch, batch_idx)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["threads"] = torch.get_num_threads()
