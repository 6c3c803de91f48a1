"""From the command line to a server, and mistakes on the way; serving itself is over at once."""

import json
import socket
import threading
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from lightning_samseg.__main__ import main
from lightning_samseg.annotate import images, rle, start
from lightning_samseg.annotate.events import Events
from lightning_samseg.annotate.leases import HeldError, Leases
from lightning_samseg.io.images import read_image
from lightning_samseg.io.volumes import open_volume, read_volume
from tests import disks
from tests.comparing import assert_equal

pytestmark = pytest.mark.usefixtures("one_thread")


class Typed:
    """Types the command; in the place of the server stands what a test does with the engine."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys
        self.work: Any = lambda engine: None
        monkeypatch.setattr(start, "serve", lambda app, engine, port: (port.close(), self.work(engine)))

    def __call__(self, given: Path, *options: str, work: Any = lambda engine: None) -> tuple[int, str]:
        self.work = work
        fixed = ["--output", str(self.folder / "w"), "--backbone", "tiny", "--no_browser", "--port", "0"]
        status = main(["annotate", "--input", str(given), *fixed, *options])
        shown = self.capsys.readouterr()
        return status, shown.out + shown.err


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    return Typed(tmp_path, monkeypatch, capsys)


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """Three grey images: 8 bits, 16 bits, and turned by EXIF."""
    folder = tmp_path / "images"
    (folder / "deep").mkdir(parents=True)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (40, 56), np.uint8)).save(folder / "a.png")
    Image.fromarray(rng.integers(0, 4000, (30, 20)).astype(np.uint16)).save(folder / "deep" / "b.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(rng.integers(0, 255, (24, 32, 3), np.uint8)).save(folder / "c.png", exif=exif)
    return folder


def accept_all(engine: Any) -> None:
    """Accept a mask that has no symmetry for every image."""
    for image_id, image in engine.workspace.images.items():
        if engine.workspace.known[image_id].state == "open":
            height, width = engine.workspace.pixels.size(image)
            mask = np.zeros((height, width), np.uint8)
            mask[2:7, 3 : 5 + image.index] = 1
            engine.accept(image_id, 0, [{"box": [1, 1, width - 2, height - 3]}], rle.encode(mask))
    engine.finish()


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


def test_an_unreadable_image_in_the_middle(typed: Typed, given: Path) -> None:
    (given / "b.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    (given / "bb.nii.gz").write_bytes(b"no volume")

    def work(engine: Any) -> None:
        broken = next(image for image in engine.workspace.images.values() if image.name == "b")
        with pytest.raises(images.UserError):
            engine.open(broken.id, "a", "")
        assert engine.board.describe(broken.id)["state"] == "failed"
        upcoming = {image.name for image in engine.board.upcoming(None, 9)}
        assert upcoming == {"a", "c", "deep/b"}

    status, shown = typed(given, work=work)
    assert status == 0, shown
    assert "b cannot be annotated" in shown
    assert "bb cannot be read" in shown


def test_an_image_over_the_limits(typed: Typed, given: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MOST_PIXELS", 1000)

    def work(engine: Any) -> None:
        with pytest.raises(images.UserError, match="too large for the page"):
            engine.open(engine.board.next_image(), "a", "")

    assert typed(given, work=work)[0] == 0


def test_input_that_changed(typed: Typed, given: Path) -> None:
    typed(given, work=accept_all)
    kept = read_image(typed.folder / "w" / "masks" / "a.png")
    (given / "a.png").unlink()
    Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(given / "c.png")
    Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(given / "d.png")

    def work(engine: Any) -> None:
        states = {engine.board.describe(name)["name"]: known.state for name, known in engine.workspace.known.items()}
        assert states == {"a": "gone", "c": "accepted", "d": "open", "deep/b": "accepted"}

    status, shown = typed(given, work=work)
    assert status == 0, shown
    assert "1 files are no longer there, such as a.png" in shown
    assert "1 files have changed since the last start, such as c.png" in shown
    assert "1 files are new, such as d.png" in shown
    assert np.array_equal(read_image(typed.folder / "w" / "masks" / "a.png"), kept)


def test_other_weights(typed: Typed, given: Path) -> None:
    typed(given)
    path = typed.folder / "w" / "workspace.json"
    content = json.loads(path.read_text())
    content["settings"]["weights_sha256"] = "0" * 64
    path.write_text(json.dumps(content))
    status, shown = typed(given)
    assert (status, "made with other weights of SAM" in shown) == (2, True)


def test_a_broken_line_in_the_middle(typed: Typed, given: Path) -> None:
    typed(given, work=accept_all)
    path = typed.folder / "w" / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1].replace(b'"box":[1', b'"box":[2') + lines[2])
    before = path.read_bytes()
    status, shown = typed(given)
    assert (status, "line 2, is damaged" in shown) == (2, True)
    path.write_bytes(lines[0] + lines[2])
    status, shown = typed(given)
    assert (status, "lines are missing or twice" in shown) == (2, True)
    path.write_bytes(lines[0])
    status, shown = typed(given)
    assert (status, "ends before its checkpoint" in shown) == (2, True)
    path.write_bytes(before)


def test_a_full_disk(typed: Typed, given: Path, tmp_path: Path) -> None:
    from starlette.testclient import TestClient

    from lightning_samseg.annotate.http import create_app

    def work(engine: Any) -> None:
        client = TestClient(create_app(engine, ["testserver"], {"t": ""}), headers={"Authorization": "Bearer t"})
        image_id = engine.board.next_image()
        height, width = engine.workspace.pixels.size(engine.workspace.images[image_id])
        body = {"revision": 0, "prompts": [], "mask": rle.encode(np.eye(height, width))}
        ballast = disks.fill(engine.workspace.folder)
        for call, path in ((client.put, "draft"), (client.post, "accept")):
            answer = call(f"/api/images/{image_id}/{path}", json=body)
            assert (answer.status_code, "disk is full" in answer.json()["error"]) == (507, True)
        assert engine.workspace.known[image_id].state == "open"
        ballast.unlink()
        answer = client.post(f"/api/images/{image_id}/accept", json=body)
        assert (answer.status_code, answer.json()["position"]) == (200, 0)
        engine.finish()

    with disks.disk(tmp_path / "w", 60_000):
        status, shown = typed(given, work=work)
        assert status == 0, shown
        assert typed(given)[0] == 0


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


def test_places_that_cannot_work(typed: Typed, given: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "No images found" in typed(tmp_path / "empty")[1]
    assert "There is no file or folder" in typed(tmp_path / "nowhere")[1]
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        status, shown = typed(given, "--port", str(other.getsockname()[1]))
        assert (status, "taken by another program" in shown) == (2, True)
    assert not (tmp_path / "w").exists()
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "thesis.tex").touch()
    assert "is no workspace and not empty" in typed(given)[1]


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

    async def listen(after: int | None) -> list[Any]:
        heard: list[Any] = []
        async for event in events.listen(after, beat=0.05):
            heard.append(None if event is None else event.data["text"])
        return heard

    def later() -> None:
        time.sleep(0.15)
        events.publish("note", {"text": "after"})
        time.sleep(0.1)
        events.close()

    async def both() -> tuple[list[Any], list[Any]]:
        thread = threading.Thread(target=later)
        thread.start()
        return tuple(await asyncio.gather(listen(None), listen(0)))  # type: ignore[return-value]

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
