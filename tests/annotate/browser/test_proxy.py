"""The page behind a reverse proxy, below a path of its own."""

import http.client
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from lightning_samseg.annotate.client import Client
from tests.annotate.browser.conftest import Expert
from tests.annotate.browser.serving import TOKEN, serving, write_images

pytestmark = pytest.mark.browser

PREFIX = "/user/anna"
HOP_BY_HOP = {"connection", "transfer-encoding", "keep-alive"}


class Proxy(BaseHTTPRequestHandler):
    """As jupyter-server-proxy (its path cut off) or nginx (its path left) passes requests on."""

    upstream: int
    cuts: bool
    seen: list[str]

    def do_GET(self) -> None:
        type(self).seen.append(self.path)
        if self.path != PREFIX and not self.path.startswith(f"{PREFIX}/"):
            self.send_error(404)
            return
        path = self.path[len(PREFIX) :] or "/" if self.cuts else self.path
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        connection = http.client.HTTPConnection("127.0.0.1", self.upstream, timeout=120)
        connection.request(self.command, path, body, dict(self.headers))
        answer = connection.getresponse()
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        self.end_headers()
        while part := answer.read1():
            self.wfile.write(part)
            self.wfile.flush()

    do_POST = do_PUT = do_GET  # noqa: N815 - as the standard library looks for them

    def log_message(self, *arguments: Any) -> None:
        pass


@contextmanager
def proxy(cuts: bool) -> Iterator[tuple[str, type[Proxy]]]:
    """Its address, and the handler, whose upstream is still to be set."""
    handler = type("Handler", (Proxy,), {"cuts": cuts, "seen": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}{PREFIX}", handler
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("cuts", [True, False])
def test_below_a_path(expert: Callable[..., Expert], tmp_path: Path, cuts: bool) -> None:
    images = write_images(tmp_path / "images", "a.png", "b.png")
    with proxy(cuts) as (address, handler), serving(images, tmp_path / "w", addresses=[f"{address}/"]) as server:
        handler.upstream = server.port
        page = expert().go(f"{address}{'/' if cuts else ''}#t={TOKEN}")
        assert page.page.url == f"{address}/"
        page.box(120, 60, 300, 240)
        page.key("d")
        page.drag((30, 30), (80, 40))
        page.saved()
        drawn = page.mask()
        page.page.reload()
        page.ready("a")
        page.key("Enter")
        page.ready("b")
        page.wait("annotate.counts.learned === 1")  # by an event, which the proxy passed on
        server.assert_mask("a.png", drawn)
        assert all(path.startswith(PREFIX) for path in handler.seen)
        client = Client(f"{address}/#t={TOKEN}")
        assert client.workspace()["numbers"]["accepted"] == 1
        client.close()
