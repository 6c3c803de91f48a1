"""The calls of the page, and who may make them."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from lightning_samseg.annotate import rle
from lightning_samseg.annotate.http import create_app
from lightning_samseg.annotate.security import HEADERS, local_addresses
from lightning_samseg.annotate.simulated import prompts_of
from lightning_samseg.errors import UserError
from tests.annotate.conftest import reference

pytestmark = pytest.mark.usefixtures("one_thread")
TOKEN, OTHER = "t" * 43, "u" * 43


@pytest.fixture
def served(workspace_engine: Any, tmp_path: Path) -> Iterator[tuple[Any, TestClient]]:
    """An engine and a client that has its token."""
    with workspace_engine(tmp_path / "w") as engine:
        app = create_app(engine, local_addresses(8765), {TOKEN: "anna", OTHER: "ben"}, most_bytes=200_000)
        headers = {"Authorization": f"Bearer {TOKEN}"}
        yield engine, TestClient(app, "http://127.0.0.1:8765", headers=headers, raise_server_exceptions=False)


def test_an_image_from_open_to_accepted(served: tuple[Any, TestClient], data: Path) -> None:
    engine, client = served
    overview = client.get("/api/workspace").json()
    assert (overview["class"], overview["prompt"], overview["author"], overview["learned"]) == (
        "disc",
        "box",
        "anna",
        0,
    )
    assert [image["name"] for image in overview["images"]] == [f"case{number}" for number in range(6)]
    assert {image["state"] for image in overview["images"]} == {"open"}
    image_id = overview["next"]
    base = f"/api/images/{image_id}"

    pixels = client.get(f"{base}/pixels")
    assert (pixels.headers["shape"], pixels.headers["dtype"]) == ("40,56,3", "uint8")
    from PIL import Image

    shown = np.frombuffer(pixels.content, "<u1").reshape(40, 56, 3)
    assert np.array_equal(shown, np.asarray(Image.open(data / "images" / "case0.png")))
    low, high = map(float, pixels.headers["window"].split(","))
    assert (low, high) == pytest.approx(tuple(np.percentile(shown, (0.5, 99.5))))

    opened = client.post(f"{base}/open", json={"tab": "one"}).json()
    assert (opened["revision"], opened["prompts"], opened["mask"], opened["size"]) == (0, [], None, [40, 56])
    assert opened["image"]["lease"] == {"tab": "one", "author": "anna"}

    mask = reference(data, "case0")
    prompts = prompts_of(mask)
    quick = client.post(f"{base}/ask", json={"prompts": prompts, "sam_only": True}).json()
    full = client.post(f"{base}/ask", json={"prompts": prompts}).json()
    assert quick["fused"] is None
    assert quick["sam"] == full["sam"]
    assert full["prompts"][0]["crop"] == prompts[0]["box"]
    assert full["alpha"] == 0.5
    fused = rle.decode(full["fused"], (40, 56))
    assert np.array_equal(fused, rle.decode(full["prompts"][0]["fused"], (40, 56)))
    made = engine.records.newest(image_id)
    assert np.array_equal(fused, made.prediction.mask.numpy())

    draft = {"revision": 0, "prompts": prompts, "mask": full["fused"], "effort": {"strokes": 1}}
    answer = client.put(f"{base}/draft", json=draft)
    assert (answer.status_code, answer.headers["revision"]) == (204, "1")
    body = json.dumps({"revision": 1, "prompts": prompts, "mask": rle.encode(mask), "effort": {"strokes": 3}})
    packed = {"Content-Encoding": "gzip"}
    accepted = client.post(f"{base}/accept", content=gzip.compress(body.encode()), headers=packed).json()
    assert (accepted["position"], accepted["corrected"], accepted["revision"]) == (0, False, 2)
    assert accepted["next"] == overview["images"][1]["id"]
    changed = int((fused != mask).sum())
    assert accepted["numbers"]["changed"]["aux_ol"] == changed
    assert accepted["numbers"]["strokes"] == 3
    assert accepted == client.post(f"{base}/accept", content=body).json()  # once more: answered, not learned
    engine.finish()
    assert client.get("/api/workspace").json()["learned"] == 1

    again = client.post(f"{base}/reopen", json={"tab": "one"}).json()
    assert again["accepted"] == rle.encode(mask)
    body = json.dumps({"revision": 2, "prompts": prompts, "mask": full["fused"]})
    corrected = client.post(f"{base}/accept", content=body).json()
    assert (corrected["position"], corrected["corrected"]) == (0, True)
    engine.finish()
    assert engine.stream.count == 1


def test_skip_and_back(served: tuple[Any, TestClient]) -> None:
    engine, client = served
    image_id = engine.board.next_image()
    answer = client.post(f"/api/images/{image_id}/skip", json={"revision": 0, "reason": "blurred"}).json()
    assert answer["next"] != image_id
    assert engine.board.describe(image_id)["reason"] == "blurred"
    client.post(f"/api/images/{image_id}/reopen", json={"tab": "a"})
    assert engine.board.describe(image_id)["state"] == "open"


def test_two_tabs(served: tuple[Any, TestClient]) -> None:
    engine, client = served
    image_id = engine.board.next_image()
    base = f"/api/images/{image_id}"
    client.post(f"{base}/open", json={"tab": "one"})
    draft = {"prompts": [], "mask": rle.encode(np.eye(40, 56))}
    assert client.put(f"{base}/draft", json={"revision": 0, **draft}).status_code == 204
    refused = client.post(f"{base}/open", json={"tab": "two"}, headers={"Authorization": f"Bearer {OTHER}"})
    assert (refused.status_code, refused.json()["lease"]) == (409, {"tab": "one", "author": "anna"})
    assert engine.board.next_image(None, "two") != image_id  # offered to nobody else
    taken = client.post(f"{base}/open", json={"tab": "two", "take_over": True}).json()
    assert (taken["revision"], taken["mask"]) == (2, draft["mask"])
    late = client.put(f"{base}/draft", json={"revision": 1, "prompts": [], "mask": rle.encode(np.zeros((40, 56)))})
    assert (late.status_code, late.json()["revision"], late.json()["mask"]) == (409, 2, draft["mask"])


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"{", 400, "no JSON"),
        (b"[" * 100_000, 400, "no JSON"),
        (b"[]", 400, "no JSON object"),
        (b'{"revision": NaN}', 400, "no number"),
        (b'{"prompts": []}', 400, "revision"),
        (b'{"revision": 5, "mask": {"size": [40, 56], "counts": [2240]}}', 409, "changed elsewhere"),
        (b'{"revision": 0, "mask": null}', 422, "no mask"),
        (b'{"revision": 0, "mask": {"size": [40, 57], "counts": [2280]}}', 422, "size [40, 57]"),
        (b'{"revision": 0, "mask": {"size": [40, 56], "counts": [2239]}}', 422, "add up to 2239"),
        (b'{"revision": 0, "mask": {"size": [40, 56], "counts": [2241, -1]}}', 422, "no whole number"),
        (b'{"revision": 0, "mask": {"size": [40, 56], "counts": [true, 2239]}}', 422, "no whole number"),
        (b'{"revision": 0, "mask": {"size": [40, 56], "counts": [1e3, 1240]}}', 422, "no whole number"),
        (b'{"revision": 0, "mask": {"size": [40, 56], "counts": [2240]}, "prompts": {}}', 422, "a list"),
        (b'{"revision": 0, "mask": {"size": [40, 56], "counts": [2240]}, "prompts": [{"point": [1, 2]}]}', 422, "box"),
        (
            b'{"revision": 0, "mask": {"size": [40, 56], "counts": [2240]}, "prompts": [{"box": [1, 2, 1e999, 4]}]}',
            422,
            "",
        ),
        (
            b'{"revision": 0, "mask": {"size": [40, 56], "counts": [2240]}, "prompts": [{"box": [9, 2, 3, 4]}]}',
            422,
            "box",
        ),
        (
            b'{"revision": 0, "mask": {"size": [40, 56], "counts": [2240]}, "prompts": [{"box": [90, 2, 99, 4]}]}',
            422,
            "box",
        ),
    ],
)
def test_what_is_not_understood(served: tuple[Any, TestClient], body: bytes, status: int, words: str) -> None:
    engine, client = served
    answer = client.post(f"/api/images/{engine.board.next_image()}/accept", content=body)
    assert answer.status_code == status
    assert words in answer.json()["error"]
    assert engine.workspace.journal.length == 0


@pytest.mark.parametrize("name", ["..", "%2e%2e", "..%2f..%2fetc", "/etc/passwd", "a%00b", "nothing"])
def test_images_are_named_by_id_alone(served: tuple[Any, TestClient], name: str) -> None:
    assert served[1].get(f"/api/images/{name}/pixels").status_code in (404, 405)
    page = served[1].get(f"/{name}")
    assert page.status_code in (200, 404, 405)
    assert "root:" not in page.text


class TestWhoMayTalk:
    """Every line of the security section that needs no browser."""

    @pytest.mark.parametrize("host", ["127.0.0.1:8765", "localhost:8765", "LocalHost:8765", "[::1]:8765"])
    def test_our_names(self, served: tuple[Any, TestClient], host: str) -> None:
        assert served[1].get("/api/workspace", headers={"Host": host}).status_code == 200

    @pytest.mark.parametrize(
        "host", ["evil.test:8765", "", "127.0.0.1.evil.test:8765", "127.0.0.1", "127.0.0.1:80", "127.0.0.1:8765@evil"]
    )
    def test_a_rebound_name(self, served: tuple[Any, TestClient], host: str) -> None:
        for path in ("/api.js", "/api/workspace"):
            assert served[1].get(path, headers={"Host": host}).status_code == 400

    @pytest.mark.parametrize("origin", ["http://evil.test", "null", "https://127.0.0.1:8765", "http://127.0.0.1:9999"])
    def test_another_site(self, served: tuple[Any, TestClient], origin: str) -> None:
        answer = served[1].get("/api/workspace", headers={"Origin": origin})
        assert answer.status_code == 403
        assert not any(name.startswith("access-control") for name in answer.headers)

    def test_our_own_origin(self, served: tuple[Any, TestClient]) -> None:
        headers = {"Origin": "http://127.0.0.1:8765", "Sec-Fetch-Site": "same-origin"}
        assert served[1].get("/api/workspace", headers=headers).status_code == 200

    @pytest.mark.parametrize("site", ["cross-site", "same-site"])
    def test_a_fetch_from_elsewhere(self, served: tuple[Any, TestClient], site: str) -> None:
        for mode, status in (("navigate", 403), ("no-cors", 403), ("cors", 403)):
            headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode}
            assert served[1].get("/api/workspace", headers=headers).status_code == status
            page = served[1].get("/api.js", headers=headers)
            assert page.status_code == (200 if mode == "navigate" else 403)  # a link to the page shows nothing secret

    @pytest.mark.parametrize(
        "given", [None, "", "Bearer", "Bearer x", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer é"]
    )
    def test_a_wrong_token(self, served: tuple[Any, TestClient], given: str | None) -> None:
        client = TestClient(served[1].app, "http://127.0.0.1:8765")
        headers = {} if given is None else {"Authorization": given.encode("latin-1")}
        for call in (client.get, client.post, client.put):
            answer = call("/api/workspace", headers=headers)
            assert answer.status_code == 401
        assert client.get("/api.js").status_code == 200

    def test_an_address_behind_a_proxy(self, served: tuple[Any, TestClient]) -> None:
        """With its path cut off by the proxy, or left; encrypted from there to the browser."""
        engine = served[0]
        ours = local_addresses(8765, ["https://Hub.Test/User/anna/"])
        assert ours[0] == "https://hub.test/User/anna"
        app = create_app(engine, ours, {TOKEN: "anna"})
        client = TestClient(app, "https://hub.test", headers={"Authorization": f"Bearer {TOKEN}"})
        same = {"Origin": "https://hub.test", "Sec-Fetch-Site": "same-origin"}
        body = {"tab": "one"}
        call = f"/api/images/{engine.board.next_image()}/open"
        for path in (call, f"/User/anna{call}"):
            assert client.post(path, json=body, headers=same).status_code == 200
            assert client.post(path, json=body, headers=same | {"Host": "127.0.0.1:8765"}).status_code == 200
            for origin in ("http://hub.test", "https://evil.test", "https://hub.test:8443"):
                refused = client.post(path, json=body, headers={"Origin": origin})
                assert (refused.status_code, "--allow_host" in refused.json()["error"]) == (403, True)
            assert client.post(path, json=body, headers={"Authorization": "Bearer x"}).status_code == 401
        for path in ("/User/anna/", "/User/anna/api.js", "/", "/api.js"):
            assert client.get(path).status_code == 200
        moved = client.get("/User/anna", follow_redirects=False)
        assert (moved.status_code, moved.headers["location"]) == (308, "anna/")
        assert moved.headers["content-security-policy"] == HEADERS["Content-Security-Policy"]
        for path in (f"/user/ben{call}", f"/user/anna{call}", "/Userapi/workspace"):
            assert client.post(path, json=body, headers=same).status_code in (404, 405)
        assert client.get("/api.js", headers={"Host": "hub.test:8765"}).status_code == 400
        assert client.get("/api.js", headers={"Host": "hub.test:443"}).status_code == 200

    @pytest.mark.parametrize(
        ("given", "address"),
        [
            ("box", "http://box:8765"),
            ("box:99", "http://box:99"),
            ("BOX:80", "http://box"),
            ("fd00::1", None),
            ("[fd00::1]", "http://[fd00::1]:8765"),
            ("http://box", "http://box"),
            ("https://box:443/a/b/", "https://box/a/b"),
            ("https://box:444", "https://box:444"),
            ("ftp://box", None),
            ("https://anna@box", None),
            ("https://box/?a=b", None),
            ("https://box/#t=x", None),
            ("https://box/api/", None),
            ("https:///a", None),
            ("box:0x1", None),
            ("a b", None),
            ("", None),
        ],
    )
    def test_what_allow_host_takes(self, given: str, address: str | None) -> None:
        if address is not None:
            assert local_addresses(8765, [given])[0] == address
            return
        with pytest.raises(UserError, match=r"such as https://hub\.test/user/anna/"):
            local_addresses(8765, [given])

    def test_headers(self, served: tuple[Any, TestClient]) -> None:
        kept_by = {"/api.js": "no-cache", "/api/workspace": "no-store", "/api/images/x/pixels": "no-store"}
        for path, kept in kept_by.items():
            answer = served[1].get(path)
            assert {name: answer.headers[name] for name in HEADERS} == HEADERS
            assert answer.headers["cache-control"] == kept
            assert "set-cookie" not in answer.headers
        assert "unsafe" not in HEADERS["Content-Security-Policy"]

    def test_too_large(self, served: tuple[Any, TestClient]) -> None:
        engine, client = served
        url = f"/api/images/{engine.board.next_image()}/accept"
        assert client.post(url, content=b" " * 200_001).status_code == 413
        chunks = (b" " * 1000 for _ in range(201))  # chunked: no length is sent
        assert client.post(url, content=chunks).status_code == 413
        assert client.post(url, content=b"x", headers={"Content-Length": "-1"}).status_code == 413
        bomb = gzip.compress(b" " * 65_000_000)
        assert len(bomb) < 200_000
        assert client.post(url, content=bomb, headers={"Content-Encoding": "gzip"}).status_code == 413

    def test_no_token_in_what_is_written(self, served: tuple[Any, TestClient], capfd: Any) -> None:
        engine, client = served
        image_id = engine.board.next_image()
        mask = rle.encode(np.zeros((40, 56)))
        client.post(f"/api/images/{image_id}/accept", json={"revision": 0, "prompts": [], "mask": mask})
        engine.finish()
        engine._masks.submit(lambda: None).result()  # no file is on its way
        written = b"".join(path.read_bytes() for path in engine.workspace.folder.rglob("*") if path.is_file())
        assert TOKEN.encode() not in written
        assert TOKEN not in "".join(capfd.readouterr())
        assert json.loads((engine.workspace.folder / "journal.jsonl").read_text())["author"] == "anna"
