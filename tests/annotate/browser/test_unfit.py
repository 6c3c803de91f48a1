"""A browser that cannot show the page says so, in the place of a blank page."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.annotate.browser.serving import PATIENCE, Serving

pytestmark = pytest.mark.browser

WITHOUT = {
    "arrays' findLast": "delete Array.prototype.findLast",
    "dialogs": "delete HTMLDialogElement.prototype.showModal",
    "streams of text": "delete window.TextDecoderStream",
    "storage": "Object.defineProperty(window, 'sessionStorage', {get() { throw new DOMException('', 'Security') }})",
}


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(PATIENCE * 1000)
    yield page
    context.close()


@pytest.mark.parametrize("feature", WITHOUT)
def test_features_that_are_missing(page: Any, server: Serving, feature: str) -> None:
    page.add_init_script(WITHOUT[feature])
    page.goto(server.url)
    text = page.get_by_role("alert").first.inner_text()
    assert text.startswith("This browser cannot show this page. It lacks ")
    assert feature in text
    assert "Use Chrome or Edge" in text
    assert "is lost" in text
    assert not page.evaluate("Boolean(window.annotate)")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"body": "class {", "content_type": "text/javascript"}, "This page could not start: "),
        ({"status": 502, "body": ""}, "main.js, or what it needs, could not be loaded"),
    ],
)
def test_a_page_that_does_not_start(page: Any, server: Serving, answer: dict[str, Any], words: str) -> None:
    page.route("**/view.js", lambda route: route.fulfill(**answer))
    page.goto(server.url)
    page.get_by_role("alert").filter(has_text=words).first.wait_for()


def test_what_the_server_refuses_is_shown(page: Any, server: Serving) -> None:
    refusal = {"status": 403, "json": {"error": "The request comes from another site."}}
    page.route("**/api/workspace", lambda route: route.fulfill(**refusal))
    page.goto(server.url)
    page.get_by_role("alert").filter(has_text="comes from another site").first.wait_for()
