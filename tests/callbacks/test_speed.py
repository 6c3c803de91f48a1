from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lightning_samseg.callbacks import speed
from lightning_samseg.callbacks.speed import SpeedMonitor, count_images


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(speed.time, "perf_counter", lambda: self.now)


def test_images_over_the_time_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, logged = Clock(monkeypatch), []
    module: Any = SimpleNamespace(device=torch.device("cpu"), log_dict=lambda values, batch_size: logged.append(values))
    trainer: Any = SimpleNamespace(global_step=0, log_every_n_steps=2, world_size=3)
    batch = {"labelled": {"image": torch.zeros(2, 1)}, "unlabelled": {"image": torch.zeros(3, 1)}}
    monitor = SpeedMonitor()
    monitor.on_train_start(trainer, module)
    for step in range(1, 5):
        clock.now += 2.0
        trainer.global_step = step
        monitor.on_train_batch_end(trainer, module, None, batch, step)
        if step == 2:
            clock.now += 100  # validation
            monitor.on_validation_end(trainer, module)
    assert logged == [{"train/images_per_second": pytest.approx(3 * 10 / 4.0)}] * 2


def test_images_of_every_kind_of_batch() -> None:
    assert count_images({"image": torch.zeros(4, 3, 2, 2)}) == 4
    item = {"position": 0, "cases": ["c"], "original": None}
    assert count_images(item) == 1
    assert count_images([item, item, {"position": 2, "cases": []}]) == 2
