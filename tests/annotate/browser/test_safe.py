"""Nobody else gets in, and no name of a file becomes a script."""

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlparse

import pytest

from tests.annotate.browser.conftest import Expert, launched
from tests.annotate.browser.serving import TOKEN, Serving, serving, write_images

pytestmark = pytest.mark.browser


def test_a_page_of_another_name_on_the_same_address_gets_nothing(server: Serving) -> None:
    with launched("--host-resolver-rules=MAP evil.test 127.0.0.1") as browser:
        page = browser.new_page()
        answer = page.goto(f"http://evil.test:{server.port}/")
        assert answer.status == 400
        assert "annotate" not in page.content()
        call = (
            f"fetch('/api/workspace', {{headers: {{Authorization: 'Bearer {TOKEN}'}}}}).then((answer) => answer.status)"
        )
        assert page.evaluate(call) == 400
        assert page.goto(f"http://localhost:{server.port}/").status == 200


def test_a_name_that_is_html(expert: Callable[..., Expert], tmp_path: Path) -> None:
    name = "<img src=x onerror=document.title='owned'>"
    images = write_images(tmp_path / "images", f"{name}.png", "z.png")
    with serving(images, tmp_path / "workspace") as server:
        page = expert().go(server.url)
        assert page.page.inner_text("#name") == name
        page.key("s")
        page.page.get_by_label("Why?").fill(name)
        page.key("Enter")
        page.ready("z")
        assert page.page.locator("img").count() == 0
        assert page.page.title() != "owned"


def test_the_token_leaves_the_address_and_goes_nowhere_else(expert: Callable[..., Expert], server: Serving) -> None:
    page = expert()
    requests: list[tuple[str, dict[str, str]]] = []
    page.page.on("request", lambda request: requests.append((request.url, request.headers)))
    page.go(server.url)
    assert TOKEN not in page.page.url
    assert all(TOKEN not in url for url, _ in requests)
    assert {urlparse(url).netloc for url, _ in requests} <= {f"127.0.0.1:{server.port}", ""}
    assert all("referer" not in headers or TOKEN not in headers["referer"] for _, headers in requests)
    assert page.page.context.cookies() == []
    page.page.reload()
    page.ready("case0")
    stranger = expert()
    stranger.page.goto(f"http://127.0.0.1:{server.port}/")
    stranger.page.get_by_label("Address or token").fill("another")
    stranger.page.keyboard.press("Enter")
    stranger.page.get_by_text("does not know this token").wait_for()
    stranger.page.get_by_label("Address or token").fill(server.url)
    stranger.page.keyboard.press("Enter")
    stranger.ready()
