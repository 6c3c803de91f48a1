"""The pictures of a stream: which cases are kept, what they show, and that every logger gets them."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_samseg.callbacks import StreamFigures
from lightning_samseg.callbacks import stream_figures as figures
from lightning_samseg.io.images import read_image
from lightning_samseg.online.predictions import PromptPrediction, assemble
from lightning_samseg.online.row_files import RowFile, image_fields
from lightning_samseg.online.scores import ImageRow, PromptRow
from lightning_samseg.online.stream_record import StreamRecord
from lightning_samseg.prompts.boxes import Box

HEIGHT, WIDTH = 40, 61
CROP = Box(10, 5, 30, 25)
GAINS = (math.nan, 0.1, -0.2, 0.3, 0.05, -0.3)  # the first image has no prompt


def shown(position: int) -> tuple[np.ndarray, np.ndarray]:
    """Picture and reference."""
    reference = np.zeros((HEIGHT, WIDTH), np.uint8)
    reference[8:20, 12:26] = 1
    return np.full((HEIGHT, WIDTH, 3), 10 * position, np.uint8), reference


def image_row(position: int) -> ImageRow:
    gain, prompts = GAINS[position], int(position > 0)
    scores = (0.4, 5.0, 0.5, 4.0, 0.5 + (gain if prompts else 0.0), 3.0)
    alpha = 0.5 if prompts else math.nan
    return ImageRow(position, "ab"[position > 3], f"case{position}", 0, prompts, "expert", alpha, *scores, *[0] * 4)


def done(position: int) -> StreamRecord:
    """SAM says the crop's left half, the auxiliary network its upper half; the weight is 0: the network wins."""
    if position == 0:
        return StreamRecord(assemble(0, (), torch.zeros(HEIGHT, WIDTH)), image_row(0), [], *shown(0))
    sam, aux = torch.full((2, 20, 20), -5.0)
    sam[:, :10], aux[:10] = 5, 5
    prompt = PromptPrediction(CROP, torch.zeros(3, 32, 32), torch.zeros(32, 32), sam, aux, torch.tensor(0.0))
    whole = torch.zeros(HEIGHT, WIDTH)
    whole[CROP.slices] = sam.sigmoid()
    places = (CROP.x0, CROP.y0, CROP.x1, CROP.y1)
    row = PromptRow(position, f"case{position}", 0, 0, "box", math.nan, math.nan, *places, 0.5, 0.6, 0.2, 0, 1, 0)
    return StreamRecord(assemble(position, (prompt,), whole), image_row(position), [row], *shown(position))


class Recording(WandbLogger):
    def __init__(self) -> None:
        self.given: list[str] = []

    def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
        assert step == len(GAINS)
        self.given.append(key)


def write_rows(folder: Path, rounds: list[StreamRecord]) -> None:
    RowFile(folder / "cases.csv", image_fields("direct_ol")).append([each.image for each in rounds])
    RowFile(folder / "prompts.csv", PromptRow._fields).append([row for each in rounds for row in each.prompts])


def run(callback: StreamFigures, rounds: list[StreamRecord]) -> None:
    for each in rounds:
        callback.on_train_batch_end(None, None, {"records": [each]}, None, 0)  # type: ignore[arg-type]


def trainer(*loggers: Any, main: bool = True) -> Any:
    return SimpleNamespace(loggers=list(loggers), is_global_zero=main, global_step=len(GAINS))


def test_every_logger_gets_every_figure(tmp_path: Path) -> None:
    rounds = [done(position) for position in range(len(GAINS))]
    write_rows(tmp_path, rounds)
    csv, board, wandb = CSVLogger(tmp_path, "logs"), TensorBoardLogger(tmp_path, "tb", version=""), Recording()
    callback = StreamFigures(tmp_path)
    run(callback, rounds)
    assert not (tmp_path / "figures").exists()  # drawn at the end
    callback.on_fit_end(trainer(csv, board, wandb), SimpleNamespace(column="direct_ol"))  # type: ignore[arg-type]
    names = {"alpha", "running_dsc", "gain", "first", "best_gain", "worst_gain"}
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == names
    assert {key.removeprefix("figures/") for key in wandb.given} == names
    board.experiment.close()
    events = EventAccumulator(board.log_dir)
    events.Reload()
    assert set(events.Tags()["images"]) == {f"figures/{name}" for name in names}
    assert events.Images("figures/alpha")[0].step == len(GAINS)
    assert not (tmp_path / "logs").exists()  # they are files already


def test_the_cases_are_the_first_the_best_and_the_worst(tmp_path: Path) -> None:
    callback = StreamFigures(tmp_path)
    run(callback, [done(position) for position in range(4)])
    resumed = StreamFigures(tmp_path)
    resumed.load_state_dict(callback.state_dict())
    run(resumed, [done(position) for position in range(4, len(GAINS))])
    assert {name: chosen.position for name, chosen in resumed._chosen.items()} == {
        "first": 1,
        "best_gain": 3,
        "worst_gain": 5,
    }


def test_a_strip_shows_each_mask_in_its_panel() -> None:
    callback = figures.StreamFigures(Path())
    run(callback, [done(2)])
    strip = figures.draw_strip(callback._chosen["first"], image_row(2), "SAM + AuxOL")
    assert strip.shape == (HEIGHT + figures.CAPTION_HEIGHT, 5 * WIDTH, 3)
    panels = np.split(strip[figures.CAPTION_HEIGHT :], 5, axis=1)
    assert (panels[0] == 20).all()
    coloured = [(panel != 20).any(2) & ~(panel == 255).all(2) for panel in panels]
    rows, columns = CROP.slices
    boxes = []
    for mask in coloured[1:]:
        ys, xs = np.nonzero(mask)
        boxes.append((xs.min(), ys.min(), xs.max() + 1, ys.max() + 1))
    assert boxes[0] == (CROP.x0, CROP.y0, CROP.x0 + 10, CROP.y1)  # SAM: the left half
    assert boxes[1] == boxes[2] == (CROP.x0, CROP.y0, CROP.x1, CROP.y0 + 10)  # network and fusion: the upper half
    assert boxes[3] == (12, 8, 26, 20)  # the reference
    assert (rows.start, columns.start) == (CROP.y0, CROP.x0)


def test_the_curves_show_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib.figure

    drawn = []
    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", lambda self, path, dpi: drawn.append(self.axes[0]))
    rows = [image_row(position) for position in range(len(GAINS))]
    figures.draw_curves(rows, [1.0, 0.4, 0.3], tmp_path, "aux_ol")
    alpha, running, gain = drawn
    np.testing.assert_array_equal(alpha.lines[0].get_ydata(), [1.0, 0.4, 0.3])
    means = {line.get_label(): line.get_ydata() for line in running.lines}
    np.testing.assert_allclose(means["SAM"], 40)
    np.testing.assert_allclose(means["SAM + AuxOL"][[0, 1, 5]], [50, 55, 50 + 100 * -0.05 / 6])
    np.testing.assert_allclose([bar.get_height() for bar in gain.patches], [0, 10, -20, 30, 5, -30])
    (border,) = [line for line in running.lines if line.get_linestyle() == ":"]
    np.testing.assert_array_equal(border.get_xdata(), [4.5, 4.5])


def test_other_processes_draw_nothing(tmp_path: Path) -> None:
    StreamFigures(tmp_path).on_fit_end(trainer(main=False), None)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_figure_is_a_picture(tmp_path: Path) -> None:
    figures.draw_curves([image_row(position) for position in range(len(GAINS))], [0.5], tmp_path, "direct_ol")
    for name in ("alpha", "running_dsc", "gain"):
        assert read_image(tmp_path / f"{name}.png").std() > 5
