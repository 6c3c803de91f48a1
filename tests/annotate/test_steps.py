"""What is learned from accepted masks, and when: against streams of ``fit`` that are told the same."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_samseg.annotate import rle
from lightning_samseg.annotate.simulated import prompts_of
from lightning_samseg.errors import UserError
from tests.annotate.conftest import annotate, fit, reference
from tests.annotate.test_parity import assert_same
from tests.comparing import assert_equal

pytestmark = pytest.mark.usefixtures("one_thread")


def test_only_corrected_masks_teach(workspace_engine: Any, data: Path, tmp_path: Path) -> None:
    """Every second mask is accepted as the network offers it: ``fit`` with an expert who looks at the fused Dice."""
    boxes = ["image,x0,y0,x1,y1"]
    with workspace_engine(tmp_path / "w", learn="corrected") as engine:
        for number, (image_id, image) in enumerate(engine.workspace.images.items()):
            mask = reference(data, image.name)
            prompts = prompts_of(mask)
            boxes += [f"{image.name},{','.join(map(str, each['box']))}" for each in prompts]
            offered = engine.ask(image_id, prompts)["fused"]
            engine.accept(image_id, 0, prompts, offered if number % 2 else rle.encode(mask))
        engine.finish()
        accepts = engine.workspace.accepts
        taught = [each["taught"] for each in accepts]
        assert taught == [each["numbers"]["changed"]["aux_ol"] > 0 for each in accepts]
        assert taught == [True, False] * 3
    rows = [row.split(",") for row in (tmp_path / "w" / "cases.csv").read_text().splitlines()]
    assert [row[rows[0].index("feedback")] for row in rows[1:]] == ["expert", "none"] * 3
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "images").symlink_to(data / "images")
    (tmp_path / "data" / "masks").symlink_to(tmp_path / "w" / "masks")
    (tmp_path / "boxes.csv").write_text("\n".join(boxes))
    told = {"expert.below_dice": 1.0, "expert.dice_of": "fused", "prompter.file": tmp_path / "boxes.csv"}
    assert_same(tmp_path / "w", fit(tmp_path, tmp_path / "data", **told))


def test_lessons_that_wait_are_learned_together(workspace_engine: Any, data: Path, tmp_path: Path) -> None:
    """Two at a time: ``fit`` with two images per step; learned again from the journal they make the same steps."""

    def accept(engine: Any, image_id: str) -> None:
        mask = reference(data, engine.workspace.images[image_id].name)
        engine.accept(image_id, 0, prompts_of(mask), rle.encode(mask))

    with workspace_engine(tmp_path / "w", patience=0.0, catch_up=1) as engine:
        engine.stream._save = lambda: None  # as if it were killed
        ids = list(engine.workspace.images)
        for pair in (ids[:2], ids[2:4], ids[4:]):
            for image_id in pair:
                engine.ask(image_id, prompts_of(reference(data, engine.workspace.images[image_id].name)))
            with engine.stream._changed:  # the learner cannot begin with the first alone
                for image_id in pair:
                    accept(engine, image_id)
            engine.finish()
        assert [each["lag"] for each in engine.workspace.accepts] == [0, 1] * 3
    journal = [json.loads(line) for line in (tmp_path / "w" / "journal.jsonl").read_text().splitlines()]
    assert [(each["first"], each["count"]) for each in journal if each["event"] == "step"] == [(0, 2), (2, 2), (4, 2)]
    saved = torch.load(tmp_path / "w" / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["online"]["position"] == 0  # all is learned again
    with workspace_engine(tmp_path / "w") as engine:  # the steps are the journal's, without the option, too
        engine.finish()
    run = fit(tmp_path, data, images_per_step=2)
    for name in ("cases.csv", "prompts.csv"):
        assert (tmp_path / "w" / name).read_text() == (run / name).read_text()
    ours, theirs = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True) for folder in (tmp_path / "w", run)
    )
    assert (ours["online"].pop("images_per_step"), theirs["online"].pop("images_per_step")) == (1, 2)
    for key in ("state_dict", "optimizer_states", "online"):
        assert_equal(ours[key], theirs[key], key)


def test_a_step_has_no_more_lessons_than_the_batch_has_entries(
    workspace_engine: Any, data: Path, tmp_path: Path
) -> None:
    with workspace_engine(tmp_path / "w", patience=0.0, catch_up=2, model={"batch.capacity": 3}) as engine:
        ids = list(engine.workspace.images)
        for image_id in ids[:4]:
            engine.ask(image_id, [])
        with engine.stream._changed:
            for image_id in ids[:4]:
                engine.accept(image_id, 0, [], rle.encode(reference(data, "case3")))
        engine.finish()
        annotate(engine, data, ids[4])
        engine.finish()
    journal = [json.loads(line) for line in (tmp_path / "w" / "journal.jsonl").read_text().splitlines()]
    steps = [(each["first"], each["count"]) for each in journal if each["event"] == "step"]
    assert steps == [(0, 3), (3, 1), (4, 1)]  # alone again where none waits


def test_one_crop_at_a_time_learns_nothing_together(workspace_engine: Any, tmp_path: Path) -> None:
    single = {"batch.policy": "single", "batch.capacity": 1}
    with (
        pytest.raises(UserError, match="leave --catch_up out"),
        workspace_engine(tmp_path / "w", patience=0.0, catch_up=1, model=single),
    ):
        pass
