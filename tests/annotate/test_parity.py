"""The strong test: an expert at the engine, or away in the middle, ends in the very bits of ``fit``."""

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_samseg.prediction.predictor import load_predictor
from tests.annotate.conftest import LENGTH, annotate, fit
from tests.comparing import assert_equal

pytestmark = pytest.mark.usefixtures("one_thread")


def assert_same(workspace: Path, run: Path) -> None:
    """Rows, network, optimizer, batch, alphas and position, bit by bit."""
    for name in ("cases.csv", "prompts.csv"):
        assert (workspace / name).read_text() == (run / name).read_text()
    ours, theirs = (torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True) for folder in (workspace, run))
    for key in ("global_step", "state_dict", "optimizer_states", "online", "weights_sha256", "method"):
        assert_equal(ours[key], theirs[key], key)


def test_boxes(workspace_engine: Any, data: Path, fitted: Path, tmp_path: Path) -> None:
    with workspace_engine(tmp_path / "w") as engine:
        image_id = engine.board.next_image(None, "a")
        while image_id is not None:
            image_id = annotate(engine, data, image_id)["next"]
        engine.finish()
    assert_same(tmp_path / "w", fitted)


def run_through(engine: Any, data: Path, count: int | None = None, kind: str = "box") -> None:
    """Annotate that many images, or all."""
    image_id = engine.board.next_image(None, "a")
    while image_id is not None and count != 0:
        image_id = annotate(engine, data, image_id, kind=kind)["next"]
        count = None if count is None else count - 1


def test_points(workspace_engine: Any, data: Path, tmp_path: Path) -> None:
    points = {"prompter.kind": "point", "prompter.point_crop": "authors", "fusion.kind": "fixed"}
    with workspace_engine(tmp_path / "w", model=points) as engine:
        run_through(engine, data, kind="point")
        engine.finish()
    assert_same(tmp_path / "w", fit(tmp_path, data, **points))


def test_a_stop_in_the_middle(workspace_engine: Any, data: Path, fitted: Path, tmp_path: Path) -> None:
    with workspace_engine(tmp_path / "w") as engine:
        run_through(engine, data, 2)  # what has not been learned is left to the next start
        image_id = engine.board.next_image(None, "a")
        engine.open(image_id, "a", "")
        engine.draft(image_id, 0, [{"box": [1, 2, 30, 30]}], {"size": [40, 56], "counts": [2240]}, {"strokes": 1})
    with workspace_engine(tmp_path / "w") as engine:
        assert len(engine.workspace.accepts) == 2
        opened = engine.open(image_id, "a", "")
        assert (opened["revision"], opened["prompts"]) == (1, [{"box": [1, 2, 30, 30]}])
        run_through(engine, data, 1)
    with workspace_engine(tmp_path / "w") as engine:
        run_through(engine, data)
        engine.finish()
    assert_same(tmp_path / "w", fitted)


def test_lessons_behind_the_checkpoint_are_learned_again(
    workspace_engine: Any, data: Path, fitted: Path, tmp_path: Path
) -> None:
    with workspace_engine(tmp_path / "w") as engine:
        engine.stream._save = lambda: None  # as if it were killed: no checkpoint but the first
        run_through(engine, data, 4)
    with workspace_engine(tmp_path / "w") as engine:
        engine.finish()
        assert engine.stream.count == 4
        run_through(engine, data)
        engine.finish()
    assert_same(tmp_path / "w", fitted)


def test_an_expert_faster_than_the_learner(workspace_engine: Any, data: Path, tmp_path: Path) -> None:
    """With ``--patience 0`` records say their lag; learning them again from their files ends in the same bits."""

    def rest(engine: Any) -> None:
        for _ in range(2):
            engine.finish()
            run_through(engine, data, 1)
        engine.finish()

    with workspace_engine(tmp_path / "w", patience=0.0) as engine:
        learn, turns = engine.method.learner.learn_together, threading.Semaphore(0)

        def slowly(*arguments: Any) -> Any:
            turns.acquire()
            return learn(*arguments)

        engine.method.learner.learn_together = slowly
        try:
            run_through(engine, data, 4)
            assert [each["lag"] for each in engine.workspace.accepts] == [0, 1, 2, 3]
            assert [each["learned"] for each in engine.workspace.accepts] == [0, 0, 0, 0]
            engine._masks.submit(lambda: None).result()  # no file is on its way
            shutil.copytree(tmp_path / "w", tmp_path / "again")  # four lessons are stored, none is learned
        finally:
            turns.release(LENGTH)  # or a failure would wait for the learner for ever
        rest(engine)
        assert [each["lag"] for each in engine.workspace.accepts[4:]] == [0, 0]
    with workspace_engine(tmp_path / "again", patience=0.0) as engine:
        rest(engine)
    assert_same(tmp_path / "again", tmp_path / "w")


def test_a_stream_of_fit_begins_with_what_the_workspace_has_learned(
    workspace_engine: Any, data: Path, fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with workspace_engine(tmp_path / "w") as engine:
        run_through(engine, data)
        engine.finish()
    learned = tmp_path / "w" / "checkpoints" / "last.ckpt"
    run = fit(tmp_path, data, f"--ckpt_path={learned}")
    assert f"has been learned from {LENGTH} accepted images" in capsys.readouterr().out
    rows = (run / "cases.csv").read_text().splitlines()
    assert len(rows) == LENGTH + 1
    assert rows != (fitted / "cases.csv").read_text().splitlines()
    before, after = (torch.load(path, weights_only=True) for path in (learned, run / "checkpoints" / "last.ckpt"))
    steps = [each["optimizer_states"][0]["state"][0]["step"] for each in (before, after)]
    assert steps[1] == 2 * steps[0]
    other = {"sam.backbone": "tiny", "auxiliary.width": 0.125}
    with pytest.raises(AssertionError):
        fit(tmp_path / "other", data, f"--ckpt_path={learned}", **other)
    assert "belongs to another model" in capsys.readouterr().err


def test_the_checkpoint_predicts(workspace_engine: Any, data: Path, fitted: Path, tmp_path: Path) -> None:
    with workspace_engine(tmp_path / "w") as engine:
        run_through(engine, data, 1)
    predictor = load_predictor(tmp_path / "w" / "checkpoints" / "last.ckpt")
    assert (predictor.class_names, predictor.method.prompt_kind) == (("disc",), "box")
