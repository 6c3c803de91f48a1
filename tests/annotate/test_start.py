"""From the command line to a server; serving itself is over at once."""

import json
import threading
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from lightning_samseg.annotate import rle
from lightning_samseg.annotate.events import Events
from lightning_samseg.annotate.leases import HeldError, Leases
from lightning_samseg.io.images import read_image
from lightning_samseg.io.volumes import open_volume, read_volume
from tests.annotate.conftest import Typed, accept_all
from tests.comparing import assert_equal

pytestmark = pytest.mark.usefixtures("one_thread")


def test_masks_lie_on_their_images(typed: Typed, given: Path) -> None:
    status, shown = typed(given, "--class", "lesion", work=accept_all)
    assert status == 0, shown
    masks = typed.folder / "w" / "masks"
    for name in ("a.png", "deep/b.png", "c.png"):
        mask, image = read_image(masks / name), read_image(given / name)
        assert mask.shape == image.shape[:2]
        assert mask[2:7, 3:5].all()
        assert mask.sum() == 10
    assert Image.open(masks / "c.png").size == Image.open(given / "c.png").size  # as stored, with the same EXIF
    assert "3 of 3 images accepted" in shown
    status, shown = typed(given)  # options that were chosen need not be given again
    assert (status, "class lesion" in shown) == (0, True)
    status, shown = typed(given, "--class", "polyp")
    assert (status, "started with another class" in shown) == (2, True)


@pytest.mark.parametrize(
    ("said", "kind", "window", "loss"),
    [
        ("{}", "best_so_far", 20, "structure"),
        ("{crop: {size: 32}}", "best_so_far", 20, "structure"),
        ("{fusion: {kind: adaptive}}", "adaptive", 5, "structure"),
        ("{learning: {lr: 0.001}}", "best_so_far", 20, "dice"),
    ],
)
def test_a_group_of_ones_own_is_not_mixed_with_ours(
    said: str, kind: str, window: int, loss: str, typed: Typed, given: Path, tmp_path: Path
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"model: {{class_path: lightning_samseg.methods.AuxOl, init_args: {said}}}")

    def work(engine: Any) -> None:
        fusion = engine.method.learner.fusion.config
        assert (fusion.kind, fusion.window, engine.method.hparams["learning"]["loss"]) == (kind, window, loss)

    status, shown = typed(given, "--config", str(config), work=work)
    assert status == 0, shown


def test_volumes_go_slice_by_slice(typed: Typed, tmp_path: Path) -> None:
    folder = tmp_path / "volumes"
    folder.mkdir()
    affine = np.diag([0.7, 0.8, 5.0, 1.0])
    voxels = np.random.default_rng(0).integers(-900, 900, (20, 30, 3)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(voxels, affine), folder / "v.nii.gz")

    def work(engine: Any) -> None:
        names = [image.name for image in engine.workspace.images.values()]
        assert names == [f"v_slice_{number}" for number in (1, 2, 3)]
        first = engine.pixels(next(iter(engine.workspace.images)))
        assert (first.dtype, first.shape) == (np.int16, (30, 20))
        accept_all(engine)

    assert typed(folder, work=work)[0] == 0
    mask = open_volume(typed.folder / "w" / "masks" / "v.nii.gz")
    assert mask.spacing == pytest.approx((5.0, 0.8, 0.7))
    sums = read_volume(mask).sum((1, 2)).tolist()
    assert sums == [10, 15, 20]


def test_a_workspace_from_before_arguments_stood_in_groups(typed: Typed, given: Path, tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    settings = {"model": {"backbone": "tiny", "crop.size": 32}}
    (tmp_path / "w" / "workspace.json").write_text(json.dumps({"format": 1, "id": "a", "settings": settings}))
    status, shown = typed(given)
    assert (status, "expected: model.sam.backbone\n" in shown, "found: model.backbone\n" in shown) == (2, True, True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--blind", "2"), "a share in 0..1"),
        (("--patience", "-1"), "seconds, or inf"),
        (("--catch_up", "0"), "at least 1"),
        (("--catch_up", "2", "--patience", "inf"), "the strict stream of fit"),
        (("--learn", "some"), "invalid choice"),
        (("--allow_host", "ftp://box"), "copy it from the browser's address bar"),
        (("--people", "anna,,ben"), "names, each once"),
        (("--host", "0.0.0.0"), "not encrypted"),
        (("--port", "99999"), "0..65535"),
        (("--device", "cuda:77"), "cannot be used"),
        (("--order", "uncertain"), "invalid choice"),
    ],
)
def test_options_that_cannot_work(typed: Typed, given: Path, options: tuple[str, ...], words: str) -> None:
    status, shown = typed(given, *options)
    assert (status, words in shown) == (2, True), shown


def test_leases_end() -> None:
    now = 0.0
    leases = Leases(lambda: now)
    leases.take("x", "one", "anna")
    now = 59.0
    leases.sign_of_life("one")
    now = 118.0
    with pytest.raises(HeldError):
        leases.take("x", "two", "ben")
    now = 120.0
    assert not leases.take("x", "two", "ben")  # nothing was taken away: it had ended
    assert leases.take("x", "one", "anna", take_over=True)
    leases.take("y", "one", "anna")
    assert leases.holder("x") is None  # a tab has one image


def test_events_are_heard_and_heard_again() -> None:
    import asyncio

    events = Events()
    events.publish("note", {"text": "before"})

    beats, ends = [threading.Event() for _ in range(2)], [threading.Event() for _ in range(2)]

    async def listen(number: int, after: int | None) -> list[Any]:
        heard: list[Any] = []
        async for event in events.listen(after, beat=0.05):
            heard.append(None if event is None else event.data["text"])
            if event is None:
                beats[number].set()
            elif event.data["text"] == "after":
                ends[number].set()
        return heard

    def later() -> None:
        for beat in beats:
            assert beat.wait(60)
        events.publish("note", {"text": "after"})
        for end in ends:
            end.wait(60)
        events.close()

    async def both() -> tuple[list[Any], list[Any]]:
        thread = threading.Thread(target=later)
        thread.start()
        return tuple(await asyncio.gather(listen(0, None), listen(1, 0)))  # type: ignore[return-value]

    new, all_ = asyncio.run(both())
    assert [text for text in new if text] == ["after"]
    assert new[0] is None  # the heartbeat
    assert [text for text in all_ if text] == ["before", "after"]


def test_runs_there_and_back() -> None:
    rng = np.random.default_rng(0)
    for shape in ((1, 1), (1, 7), (5, 1), (13, 17)):
        for share in (0.0, 0.3, 1.0):
            mask = (rng.random(shape) < share).astype(np.uint8)
            value = rle.encode(mask)
            assert sum(value["counts"]) == mask.size
            assert np.array_equal(rle.decode(json.loads(json.dumps(value)), shape), mask)
    assert rle.encode(np.array([[1, 1, 0], [0, 1, 1]])) == {"size": [2, 3], "counts": [0, 2, 2, 2]}


def test_it_starts_from_what_a_run_has_learned(typed: Typed, given: Path, fitted: Path) -> None:
    path = fitted / "checkpoints" / "last.ckpt"
    weights = torch.load(path, weights_only=True)["state_dict"]

    def work(engine: Any) -> None:
        assert engine.stream.count == 0
        assert_equal(dict(engine.method.state_dict()), dict(weights))
        accept_all(engine)
        assert engine.stream.count == 3

    status, shown = typed(given, "--ckpt_path", str(path), work=work)
    assert status == 0, shown
    status, shown = typed(given, work=lambda engine: engine.finish())
    assert status == 0, shown
    status, shown = typed(given, "--ckpt_path", str(path))
    assert (status, "has a network of its own" in shown) == (2, True)
    other = typed.folder / "other"
    status, shown = typed(given, "--output", str(other), "--ckpt_path", str(given / "a.png"))
    assert (status, "is not a checkpoint" in shown) == (2, True)
