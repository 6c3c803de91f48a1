from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_samseg.callbacks.logger_images import log_image
from lightning_samseg.io.images import read_image, write_image


class Recording(WandbLogger):
    def __init__(self) -> None:
        self.given: list[tuple[str, list[np.ndarray], int]] = []

    def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
        self.given.append((key, images, step))  # type: ignore[arg-type]


def trainer(*loggers: Any, main: bool = True) -> Any:
    return SimpleNamespace(loggers=list(loggers), is_global_zero=main)


def test_every_logger_gets_the_picture(tmp_path: Path) -> None:
    picture = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    csv, board, wandb = CSVLogger(tmp_path, "logs"), TensorBoardLogger(tmp_path, "tb", version=""), Recording()
    log_image(trainer(csv, board, wandb), "val/case", picture, 30)
    log_image(trainer(csv, board, wandb), "test/best_1", picture, 30, wandb=False)
    np.testing.assert_array_equal(read_image(tmp_path / "logs" / "images" / "val" / "case" / "000030.png"), picture)
    assert [(key, step) for key, _, step in wandb.given] == [("val/case", 30)]
    np.testing.assert_array_equal(wandb.given[0][1][0], picture)
    board.experiment.close()
    events = EventAccumulator(board.log_dir)
    events.Reload()
    assert set(events.Tags()["images"]) == {"val/case", "test/best_1"}
    image = events.Images("val/case")[0]
    assert (image.step, image.width, image.height) == (30, 5, 4)


def test_grey_pictures_and_files(tmp_path: Path) -> None:
    grey, wandb = np.full((3, 2), 7, np.uint8), Recording()
    write_image(tmp_path / "grey.png", grey)
    log_image(trainer(wandb), "a", grey, 0)
    log_image(trainer(wandb), "b", tmp_path / "grey.png", 0)
    for _, images, _ in wandb.given:
        assert images[0].shape == (3, 2, 3)
        assert (images[0] == 7).all()
    assert len(wandb.given) == 2


def test_the_main_process_alone() -> None:
    wandb = Recording()
    log_image(trainer(wandb, main=False), "a", np.zeros((2, 2, 3), np.uint8), 0)
    assert wandb.given == []
