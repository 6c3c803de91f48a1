"""Which cases are shown, and by which score."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from lightning.pytorch.loggers import WandbLogger

from lightning_samseg.callbacks import gallery
from lightning_samseg.callbacks.gallery import CaseGallery, table_row
from lightning_samseg.metrics.functional import dsc
from lightning_samseg.types import IGNORED, Case


class Recording(WandbLogger):
    def __init__(self) -> None:
        self.tables: list[tuple[str, list[str], list[list[Any]]]] = []

    def log_table(
        self, key: str, columns: Any = None, data: Any = None, dataframe: Any = None, step: Any = None
    ) -> None:
        self.tables.append((key, columns, data))


def batch(*entries: tuple[Case, np.ndarray, np.ndarray]) -> tuple[Any, list[np.ndarray]]:
    cases, references, predictions = (list(part) for part in zip(*entries, strict=True))
    return {
        "cases": cases,
        "original": [np.zeros((*r.shape, 3), np.uint8) for r in references],
        "reference": references,
    }, predictions


def strip(width: int, classes: int = 1) -> np.ndarray:
    labels = np.zeros((8, 10), np.uint8)
    labels[2:6, :width] = classes
    return labels


def case(name: str, index: int = 0, slices: int = 1) -> Case:
    return Case(name, "x", (8, 10), (8, 8), None, index, slices)


def run(monkeypatch: pytest.MonkeyPatch, batches: list[Any], limit: int = 2) -> tuple[list[str], Recording]:
    given: list[str] = []
    monkeypatch.setattr(gallery, "log_image", lambda trainer, name, image, step, wandb: given.append(name))
    logger = Recording()
    trainer: Any = SimpleNamespace(
        loggers=[logger],
        is_global_zero=True,
        world_size=1,
        global_step=5,
        datamodule=SimpleNamespace(class_names=("a", "b")),
    )
    callback, module = CaseGallery(limit), object()
    callback.on_test_start(trainer, module)  # type: ignore[arg-type]
    for number, (inputs, predictions) in enumerate(batches):
        callback.on_test_batch_end(trainer, module, predictions, inputs, number)  # type: ignore[arg-type]
    callback.on_test_end(trainer, module)  # type: ignore[arg-type]
    return given, logger


def test_worst_and_best_by_dsc(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [(case(f"c{width}"), strip(8), strip(width)) for width in (3, 8, 5, 1, 7, 6)]
    given, logger = run(monkeypatch, [batch(*entries[:4]), batch(*entries[4:])])
    assert given == ["test/worst_1", "test/worst_2", "test/best_1", "test/best_2"]
    ((name, columns, rows),) = logger.tables
    assert name == "test/cases"
    assert columns == ["case", "slice", "dsc", "masks"]
    assert [row[0] for row in rows] == ["c1", "c3", "c7", "c8"]
    assert [row[2] for row in rows] == pytest.approx([dsc(strip(w) > 0, strip(8) > 0) for w in (1, 3, 7, 8)])


def test_few_cases_are_shown_once(monkeypatch: pytest.MonkeyPatch) -> None:
    given, _ = run(monkeypatch, [batch(*[(case(f"c{w}"), strip(8), strip(w)) for w in (3, 8, 5)])], limit=4)
    assert given == ["test/worst_1", "test/worst_2", "test/best_1"]


def test_a_volume_is_one_case_shown_by_its_fullest_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    volume = [(case("v", i, 3), strip(width), strip(4)) for i, width in enumerate((0, 6, 2))]
    _, logger = run(monkeypatch, [batch(volume[2], volume[0]), batch(volume[1])])
    ((_, _, rows),) = logger.tables
    together = dsc(np.stack([v[2] for v in volume]) > 0, np.stack([v[1] for v in volume]) > 0)
    assert [row[:3] for row in rows] == [["v", 1, pytest.approx(together)]]


def test_mean_over_the_classes_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    reference, prediction = strip(4), strip(4)
    reference[7, :4] = 2
    prediction[7, :2] = 2
    empty = strip(0)
    _, logger = run(monkeypatch, [batch((case("two"), reference, prediction), (case("none"), empty, empty))])
    scores = {row[0]: row[2] for row in logger.tables[0][2]}
    assert scores == {"two": pytest.approx((1 + 4 / 6) / 2), "none": 1.0}


def test_masks_of_the_table_have_names() -> None:
    shown = gallery.Shown(0.5, case("c"), np.zeros((8, 10, 3), np.uint8), strip(4), strip(3))
    image = table_row(shown, ("lesion",))[3]
    assert set(image._masks) == {"reference", "prediction"}
    np.testing.assert_array_equal(image._masks["prediction"]._val["mask_data"], strip(3))
    assert image._masks["reference"]._val["class_labels"] == {0: "background", 1: "lesion"}


def test_cases_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    def shown(score: float) -> gallery.Shown:
        return gallery.Shown(score, case(f"c{score}"), np.zeros((8, 10, 3), np.uint8), strip(4), strip(3))

    def gather(parts: list[Any], mine: Any) -> None:
        parts[:] = [mine, {"other": shown(0.1)}]

    monkeypatch.setattr(gallery.torch.distributed, "all_gather_object", gather)
    assert set(gallery._gather({"mine": shown(0.5)}, 2)) == {"mine", "other"}
    assert set(gallery._gather({"mine": shown(0.5)}, 1)) == {"mine"}


def test_ignored_pixels_are_named_and_not_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    reference, prediction = strip(4), strip(8)
    reference[:, 4:] = IGNORED
    _, logger = run(monkeypatch, [batch((case("one"), reference, prediction), (case("none"), strip(0), strip(0)))])
    rows = {row[0]: row for row in logger.tables[0][2]}
    assert rows["one"][2] == 1.0
    assert rows["one"][3]._masks["reference"]._val["class_labels"][IGNORED] == "ignored"
