"""Bad input of ``annotate``: each a clear message in its place, and nothing lost."""

import errno
import json
import socket
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from lightning_samseg.annotate import images, rle
from lightning_samseg.annotate.http import create_app
from lightning_samseg.io.images import read_image
from lightning_samseg.runs.folder import Claim
from tests import disks
from tests.annotate.conftest import LENGTH, Typed, accept_all, annotate
from tests.annotate.test_parity import assert_same, run_through

pytestmark = pytest.mark.usefixtures("one_thread")


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


def test_limits_are_those_of_a_canvas(typed: Typed, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("1", (images.MOST_SIDE + 1, 1)).save(tmp_path / "images" / "long.png")

    def work(engine: Any) -> None:
        with pytest.raises(images.UserError, match=r"expected: at most 16,384 pixels a side(.|\n)*found: 16385 x 1"):
            engine.open(engine.board.next_image(), "a", "")

    status, shown = typed(tmp_path / "images", work=work)
    assert (status, "long cannot be annotated" in shown) == (0, True), shown


def test_input_that_changed(typed: Typed, given: Path) -> None:
    typed(given, work=accept_all)
    kept = read_image(typed.folder / "w" / "masks" / "a.png")
    (given / "a.png").unlink()
    Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(given / "c.png")
    Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(given / "d.png")

    def work(engine: Any) -> None:
        states = {engine.board.describe(name)["name"]: known.state for name, known in engine.workspace.known.items()}
        assert states == {"a": "gone", "c": "accepted", "d": "open", "deep/b": "accepted"}
        gone = next(name for name, known in engine.workspace.known.items() if known.state == "gone")
        with pytest.raises(images.UserError, match="a is no longer in the folder; what was accepted of it stays"):
            engine.open(gone, "a", "")

    status, shown = typed(given, work=work)
    assert status == 0, shown
    assert "1 files are no longer there, such as a.png" in shown
    assert "1 files have changed since the last start, such as c.png" in shown
    assert "1 files are new, such as d.png" in shown
    assert "3 of 4 images accepted" in shown
    assert np.array_equal(read_image(typed.folder / "w" / "masks" / "a.png"), kept)


def test_files_replaced_by_others_of_another_size(typed: Typed, given: Path) -> None:
    """What was drawn on the earlier files is kept apart, and new masks are of the new files' size."""

    def volume(*shape: int) -> None:
        nibabel.save(nibabel.Nifti1Image(np.zeros(shape, np.int16), np.eye(4)), given / "v.nii.gz")

    def ids(engine: Any) -> dict[str, str]:
        return {image.name: image_id for image_id, image in engine.workspace.images.items()}

    def before(engine: Any) -> None:
        name = ids(engine)
        engine.open(name["c"], "a", "")
        engine.draft(name["c"], 0, [{"box": [1, 1, 23, 31]}], rle.encode(np.ones((32, 24))), {})
        for slice_ in ("v_slice_1", "v_slice_2"):
            engine.accept(name[slice_], 0, [], rle.encode(np.ones((30, 20))))

    volume(20, 30, 3)
    assert typed(given, work=before)[0] == 0
    accepted = typed.folder / "w" / "masks" / "v.nii.gz"
    kept = accepted.read_bytes()
    volume(10, 12, 3)
    Image.fromarray(np.zeros((20, 10, 3), np.uint8)).save(given / "c.png")

    def after(engine: Any) -> None:
        assert accepted.read_bytes() == kept  # no start touches what was accepted
        name, draft = ids(engine), engine.workspace.folder / "drafts" / f"{ids(engine)['c']}.24x32.json"
        opened = engine.open(name["c"], "a", "")
        assert (opened["size"], opened["mask"], opened["prompts"], opened["revision"]) == ([20, 10], None, [], 2)
        assert json.loads(draft.read_text())["draft"]["mask"]["size"] == [32, 24]
        assert f"24 x 32 pixels, which was replaced by one of 10 x 20: it is kept in {draft}" in engine.notes[-1]
        assert engine.accept(name["c"], 2, [], rle.encode(np.ones((20, 10))))["position"] == 2
        opened = engine.reopen(name["v_slice_1"], "a", "")
        assert (opened["size"], opened["accepted"], opened["prompts"]) == ([12, 10], None, [])
        mask = rle.encode(np.eye(12, 10))
        assert engine.accept(name["v_slice_1"], opened["revision"], [], mask)["corrected"]
        engine.finish()

    status, shown = typed(given, work=after)
    assert status == 0, shown
    labels = np.asarray(nibabel.load(accepted).dataobj)
    assert labels.shape == (10, 12, 3)
    np.testing.assert_array_equal(labels.transpose(2, 1, 0), [np.eye(12, 10), np.zeros((12, 10)), np.zeros((12, 10))])
    assert read_image(typed.folder / "w" / "masks" / "c.png").shape == (20, 10)
    journal = [json.loads(line) for line in (typed.folder / "w" / "journal.jsonl").read_text().splitlines()]
    assert [each["mask"]["size"] for each in journal] == [[30, 20], [30, 20], [20, 10], [12, 10]]
    status, shown = typed(given, work=lambda engine: None)
    assert (status, "6 of" in shown, "is no draft" in shown) == (0, False, False), shown


def test_a_mask_that_cannot_be_written_is_told(
    workspace_engine: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the reason: a thread that writes masks would swallow it."""

    def broken(*arguments: Any) -> None:
        raise ValueError("an odd header")

    with workspace_engine(tmp_path / "w") as engine:
        with monkeypatch.context() as patched:
            patched.setattr("lightning_samseg.annotate.workspace.write_mask", broken)
            annotate(engine, data, engine.board.next_image())
            engine._masks.submit(lambda: None).result()
        assert "is not written yet: ValueError('an odd header'). It is safe in" in engine.notes[-1]
    assert (tmp_path / "w" / "masks" / "case0.png").is_file()  # at the next write


def test_a_second_server(typed: Typed, given: Path) -> None:
    assert typed(given)[0] == 0
    before = {path: path.stat().st_mtime_ns for path in (typed.folder / "w").iterdir() if path.name != "status.json"}
    with Claim(typed.folder / "w", "annotate"):
        status, shown = typed(given)
    assert (status, "is in use" in shown, "Traceback" in shown) == (2, True, False), shown
    after = {path: path.stat().st_mtime_ns for path in before if path.exists()}
    assert {path.name: time for path, time in after.items()} == {
        path.name: time for path, time in before.items() if path in after
    }


def test_a_disk_that_fills_up_while_it_learns(workspace_engine: Any, data: Path, fitted: Path, tmp_path: Path) -> None:
    """Learning stops and says so; accepts go on, and the next start learns what is missing, to the bits of ``fit``."""

    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "w" / "prompts.csv"))

    with workspace_engine(tmp_path / "w", patience=0.0) as engine:
        run_through(engine, data, 1)
        engine.finish()
        engine.stream._prompts.append = full
        run_through(engine, data, 1)
        with pytest.raises(images.UserError, match="Learning has stopped"):
            engine.finish()
        assert "No space left on device" in engine.notes[-1]
        assert "safe and will be learned from at the next start" in engine.notes[-1]
    with workspace_engine(tmp_path / "w") as engine:
        run_through(engine, data)
        engine.finish()
        assert engine.stream.count == LENGTH
    assert_same(tmp_path / "w", fitted)


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
