"""What is asked of a Label Studio server, by one that speaks as version 1.23 does."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

from lightning_samseg.annotate import rle
from lightning_samseg.annotate.label_studio import LabelStudio
from lightning_samseg.annotate.label_studio_client import KEY, Studio
from lightning_samseg.errors import UserError
from tests.annotate.conftest import Typed, reference
from tests.annotate.test_label_studio import Connected, brush, task_of

PERSONAL, LEGACY, ACCESS = "head.body.sign", "0123456789abcdef" * 2 + "01234567", "short.lived.token"
EXPORT = "/api/projects/3/export?exportType=JSON&download_all_tasks=true"


class Server:
    """Paths and what they answer: bytes, something for JSON, a status, or an address to go to."""

    def __init__(self, paths: dict[str, Any]) -> None:
        self.paths = {"/api/token/refresh": {"access": ACCESS}, **paths}
        self.asked: list[tuple[str, str]] = []
        """Path and Authorization of each request."""
        self.url = ""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        key = request.headers.get("Authorization", "")
        self.asked.append((request.path, key))
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        found = self.paths.get(request.path, 404)
        if request.path == "/api/token/refresh":
            known = request.command == "POST" and json.loads(body) == {"refresh": PERSONAL}
        else:
            known = key in (f"Bearer {ACCESS}", f"Token {LEGACY}")
        if not known:
            found = 401
        if isinstance(found, str):
            request.send_response(302)
            request.send_header("Location", found)
            request.end_headers()
            return
        request.send_response(found if isinstance(found, int) else 200)
        request.end_headers()
        request.wfile.write(found if isinstance(found, bytes) else json.dumps(found).encode())


@contextmanager
def serving(paths: dict[str, Any]) -> Iterator[Server]:
    told = Server(paths)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told.answer(self)

        do_POST = do_GET  # noqa: N815 - as the standard library looks for it

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    told.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield told
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def task(url: str, *annotations: dict[str, Any]) -> dict[str, Any]:
    return {"id": 1, "data": {"image": url, "score": 3}, "annotations": list(annotations)}


def annotation(number: int, regions: Any, when: str = "2026-11-26T10:00:00.000000Z", **more: Any) -> dict[str, Any]:
    return {"id": number, "updated_at": when, "result": regions, "lead_time": 2.0, "was_cancelled": False, **more}


@pytest.mark.parametrize("key", [PERSONAL, LEGACY])
def test_uploads_are_fetched_once_and_from_nowhere_else(tmp_path: Path, key: str) -> None:
    tasks = [
        task("/data/upload/3/1a2b-one%20lesion.png"),
        task("/data/upload/3/3c4d-two.JPG"),
        task("/data/local-files/?d=case0.png"),
        *(
            task(f"/data/upload/{name}")
            for name in ("3/..%2f..%2fa.png", "../3/a.png", "3/.a.png", "3/a.exe", "x/a.png")
        ),
        *(task(f"/data/upload/3/{name}") for name in ("a%00.png", "a%5cb.png", "b/c.png")),
        task("http://evil.test/data/upload/3/a.png"),
        {"data": None},
        {},
    ]
    uploads = {"/data/upload/3/1a2b-one%20lesion.png": b"one", "/data/upload/3/3c4d-two.JPG": b"two"}
    with serving({EXPORT: tasks, **uploads}) as server:
        tasks.append(task(f"{server.url}/data/upload/3/1a2b-one%20lesion.png"))  # named in full
        studio = Studio(f"{server.url}/projects/3/data?tab=2", key)
        new = studio.fetch_uploads(tmp_path, studio.tasks())
        assert [path.relative_to(tmp_path).as_posix() for path in new] == [
            "upload/3/1a2b-one lesion.png",
            "upload/3/3c4d-two.JPG",
        ]
        assert [path.read_bytes() for path in new] == [b"one", b"two"]
        assert sorted(path.name for path in tmp_path.rglob("*")) == [
            "1a2b-one lesion.png",
            "3",
            "3c4d-two.JPG",
            "upload",
        ]
        asked = {path for path, _ in server.asked}
        assert asked - {"/api/token/refresh"} == {EXPORT, *uploads}
        assert studio.fetch_uploads(tmp_path, studio.tasks()) == []
        assert [path for path, _ in server.asked].count("/data/upload/3/3c4d-two.JPG") == 1


def test_another_server_gets_no_key(tmp_path: Path) -> None:
    with serving({}) as other, serving({EXPORT: [], "/data/upload/3/a.png": f"{other.url}/a.png"}) as server:
        studio = Studio(f"{server.url}/projects/3", LEGACY)
        with pytest.raises(UserError, match="sends us to another server"):
            studio.fetch_uploads(tmp_path, [task("/data/upload/3/a.png")])
        assert other.asked == []
        assert list(tmp_path.rglob("*.png")) == []


@pytest.mark.parametrize(
    ("paths", "key", "words"),
    [
        ({EXPORT: []}, "wrong", "status 401"),
        ({EXPORT: []}, "wrong.personal.token", "status 401"),
        ({EXPORT: 403}, LEGACY, "let its user into the project"),
        ({}, LEGACY, "status 404"),
        ({EXPORT: {"detail": "no"}}, LEGACY, "does not answer as Label Studio does"),
        ({EXPORT: b"<html>"}, LEGACY, "does not answer as Label Studio does"),
        ({"/api/token/refresh": [], EXPORT: []}, PERSONAL, "does not know access tokens"),
    ],
)
def test_what_a_server_refuses(paths: dict[str, Any], key: str, words: str) -> None:
    with serving(paths) as server, pytest.raises(UserError, match=words) as caught:
        Studio(f"{server.url}/projects/3", key).tasks()
    assert key not in str(caught.value)


def test_a_server_that_is_not_there() -> None:
    with pytest.raises(UserError, match="start it first"):
        Studio("http://127.0.0.1:9/projects/1", LEGACY).tasks()


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8080", "127.0.0.1:8080/projects/1", "ftp://x/projects/1", "http://a@x/projects/1", ""]
)
def test_addresses_that_name_no_project(url: str) -> None:
    with pytest.raises(UserError, match="as the browser shows it"):
        Studio(url, LEGACY)


def test_a_project_below_a_path() -> None:
    studio = Studio("https://hub.test/studio/projects/12/settings/ml", LEGACY)
    assert (studio.base, studio.project) == ("https://hub.test/studio", "12")


@pytest.mark.parametrize("key", [None, "", " \n", "a\nb"])
def test_keys_that_are_none(monkeypatch: pytest.MonkeyPatch, key: str | None) -> None:
    monkeypatch.delenv(KEY, raising=False)
    with pytest.raises(UserError, match=KEY):
        Studio("http://127.0.0.1:8080/projects/1", key)


def test_annotations_that_were_missed(workspace_engine: Any, data: Path, tmp_path: Path) -> None:
    """By id and time, however it is written; what was corrected here since, or skipped there, stays as it is."""
    masks = {name: reference(data, name) for name in ("case0", "case1", "case2")}
    tasks = [
        task_of("case0") | {"annotations": [annotation(1, [brush(masks["case0"])])]},
        task_of("case1") | {"annotations": [annotation(3, [], was_cancelled=True)]},
        task_of("case2")
        | {
            "annotations": [
                annotation(5, [brush(masks["case2"])], "2026-11-26T12:00:00Z"),
                annotation(4, [], "2026-11-26T11:00:00Z"),
            ]
        },
        task_of("elsewhere") | {"annotations": [annotation(6, [])]},
    ]
    with workspace_engine(tmp_path / "w") as engine:
        studio = LabelStudio(engine, None, tasks)
        studio.start()
        studio.close()
        by_name = {each["name"]: each for each in engine.workspace.accepts}
        assert list(by_name) == ["case0", "case2"]
        assert by_name["case0"]["mask"] == rle.encode(masks["case0"])
        known = {image.name: engine.workspace.known[image_id] for image_id, image in engine.workspace.images.items()}
        assert known["case2"].accepted == rle.encode(masks["case2"])  # the later one
        assert known["case1"].state == "open"
        assert "3 annotations are taken whose web hook did not come" in engine.notes[-2]
        assert "1 annotations of the project cannot be used" in engine.notes[-1]
        image_id = next(iter(engine.workspace.images))
        corrected = rle.encode(np.eye(40, 56))
        engine.accept(image_id, known["case0"].revision, [], corrected)
    tasks[0]["annotations"][0]["updated_at"] = "2026-11-26T11:00:00+01:00"
    with workspace_engine(tmp_path / "w") as engine, serving({EXPORT: tasks}) as server:
        connected = Connected(engine)
        connected.studio.studio = Studio(f"{server.url}/projects/3", PERSONAL)
        length = engine.workspace.journal.length
        assert connected.call("webhook", {"action": "START_TRAINING"}).status_code == 200
        connected.studio._worker.submit(lambda: None).result()
        assert engine.workspace.known[image_id].accepted == corrected
        assert engine.workspace.journal.length == length
        tasks[1]["annotations"].append(annotation(7, [brush(masks["case1"])]))
        connected.call("webhook", {"action": "START_TRAINING"})
        connected.studio._worker.submit(lambda: None).result()
        assert engine.workspace.accepts[-1]["mask"] == rle.encode(masks["case1"])
        connected.studio.close()
    written = b"".join(path.read_bytes() for path in (tmp_path / "w").rglob("*") if path.is_file())
    assert not any(secret.encode() in written for secret in (PERSONAL, ACCESS))


def test_a_task_that_is_skipped_there(workspace_engine: Any, tmp_path: Path) -> None:
    with workspace_engine(tmp_path / "w") as engine:
        connected = Connected(engine)
        body = {
            "action": "ANNOTATION_CREATED",
            "task": task_of("case0"),
            "annotation": annotation(1, [], was_cancelled=True),
        }
        assert connected.call("webhook", body).json() == {"status": "skipped"}
        connected.studio.close()
        known = engine.workspace.known[next(iter(engine.workspace.images))]
        assert (known.state, known.reason) == ("skipped", "skipped in Label Studio")
        assert engine.workspace.accepts == []


def test_from_the_command_line(typed: Typed, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    url, mask = "/data/upload/3/1a2b-case0.png", reference(data, "case0")
    picture = (data / "images" / "case0.png").read_bytes()
    monkeypatch.setenv(KEY, LEGACY)

    def work(engine: Any) -> None:
        engine.finish()
        assert [image.name for image in engine.workspace.images.values()] == ["upload/3/1a2b-case0"]

    with serving({EXPORT: [task(url, annotation(1, [brush(mask)]))], url: picture}) as server:
        status, shown = typed(tmp_path / "empty", "--label_studio_url", f"{server.url}/projects/3", work=work)
    assert status == 0, shown
    assert "1 pictures are fetched from Label Studio" in shown
    assert "1 annotations are taken" in shown
    assert LEGACY not in shown
    monkeypatch.delenv(KEY)
    status, shown = typed(tmp_path / "empty", "--label_studio_url", "http://127.0.0.1:9/projects/3")
    assert (status, KEY in shown) == (2, True)
