"""Reloads, two tabs, a server that is gone, a full disk: no stroke is lost but the one under the mouse."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.annotate.browser.conftest import Expert
from tests.annotate.browser.serving import Serving, serving, write_images

pytestmark = pytest.mark.browser

BOX = (120, 60, 300, 240)


def test_a_reload_in_the_middle_of_a_stroke(expert: Callable[..., Expert], server: Serving) -> None:
    page = expert().go(server.url)
    page.box(*BOX)
    fused = page.mask()
    page.key("d")
    page.drag((30, 30), (80, 40))
    brushed = page.mask()
    page.saved()
    page.drag((30, 200), (60, 220), (90, 200), up=False)
    page.page.reload()
    page.ready("case0")
    np.testing.assert_array_equal(page.mask(), brushed)
    page.key("Control+z")
    np.testing.assert_array_equal(page.mask(), fused)
    page.key("Control+z")
    assert page.mask().sum() == 0
    page.key("Control+y", "Control+y")
    np.testing.assert_array_equal(page.mask(), brushed)
    page.key("Enter")
    page.ready("case1")
    server.assert_mask("case0.png", brushed)


def test_a_browser_that_was_killed(expert: Callable[..., Expert], server: Serving) -> None:
    page = expert().go(server.url)
    page.key("d")
    page.drag((30, 30), (80, 40))
    page.saved()
    brushed = page.mask()
    page.page.close()
    other = expert()
    other.page.goto(server.url)
    other.wait("annotate.session.state === 'ready'")  # the next image: the other's lease still holds
    assert other.get("session.image.name") == "case1"
    other.page.get_by_role("button", name="case0").click()
    other.page.get_by_role("button", name="Take over").click()
    other.ready("case0")
    np.testing.assert_array_equal(other.mask(), brushed)


def test_the_server_goes_and_comes_back(expert: Callable[..., Expert], tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", "a.png", "b.png")
    with serving(images, tmp_path / "workspace") as first:
        port = first.port
        page = expert().go(first.url)
        page.box(*BOX)
        page.saved()
    page.wait("!annotate.there")
    page.key("d")
    page.drag((30, 30), (80, 40))
    page.drag((30, 250), (80, 260))
    brushed = page.mask()
    page.page.get_by_text("strokes are kept in this browser").wait_for()
    with serving(images, tmp_path / "workspace", port=port) as second:
        page.wait("annotate.there")
        page.saved()
        page.key("Enter")
        page.ready("b")
        second.assert_mask("a.png", brushed)


def test_an_accept_that_nobody_heard_is_sent_after_a_reload(expert: Callable[..., Expert], tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", "a.png", "b.png")
    with serving(images, tmp_path / "workspace") as first:
        port, url = first.port, first.url
        page = expert().go(url)
        page.key("d")
        page.drag((30, 30), (80, 40))
        page.saved()
        brushed = page.mask()
        page.page.route("**/accept", lambda route: route.abort())
        page.key("Enter")
        page.wait("annotate.session.image.name === 'b' && annotate.saving === 'kept'")
    page.page.unroute("**/accept")
    with serving(images, tmp_path / "workspace", port=port) as second:
        page.page.goto("about:blank")
        page.page.goto(url)
        page.ready("b")
        page.wait("annotate.images.all[0].state === 'accepted'")
        second.assert_mask("a.png", brushed)


def test_a_full_disk(expert: Callable[..., Expert], server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    page = expert().go(server.url)
    draft = server.engine.draft

    def full(*arguments: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(server.engine, "draft", full)
    page.key("d")
    page.drag((30, 30), (80, 40))
    page.page.get_by_text("disk is full").wait_for()
    monkeypatch.setattr(server.engine, "draft", draft)
    page.saved()
    known = server.engine.workspace.known[page.get("session.image.id")]
    assert known.draft is not None
    assert known.draft.mask == page.get("session.draft.kept().mask")


def test_two_tabs(expert: Callable[..., Expert], server: Serving) -> None:
    one = expert().go(server.url)
    one.key("d")
    one.drag((30, 30), (80, 40))
    one.saved()
    two = expert(one.page.context)
    two.page.goto(server.url)
    two.ready("case1")  # not the one that is open
    two.page.get_by_role("button", name="case0").click()
    two.page.get_by_role("button", name="Take over").click()
    two.ready("case0")
    np.testing.assert_array_equal(two.mask(), one.mask())
    one.wait("annotate.session.state === 'elsewhere'")
    before = one.mask()
    one.drag((30, 200), (80, 220))
    np.testing.assert_array_equal(one.mask(), before)  # read only
    two.key("d")
    two.drag((200, 30), (230, 30))
    two.saved()
    one.page.get_by_role("button", name="Take over").click()
    one.ready("case0")
    np.testing.assert_array_equal(one.mask(), two.mask())
    two.wait("annotate.session.state === 'elsewhere'")


@pytest.mark.parametrize("choice", ["mine", "theirs"])
def test_two_drafts_of_one_image(expert: Callable[..., Expert], server: Serving, choice: str) -> None:
    page = expert().go(server.url)
    image_id = page.get("session.image.id")
    page.key("d")
    page.drag((30, 30), (80, 40))
    page.saved()
    known = server.engine.workspace.known[image_id]
    theirs = {"size": [300, 420], "counts": [500, 200, 300 * 420 - 700]}
    server.engine.draft(image_id, known.revision, [], theirs, {})
    page.drag((30, 200), (80, 220))
    mine = page.get("session.draft.kept().mask")
    page.page.get_by_role("button", name="See both").click()
    page.page.locator(f"[data-settle={choice}]").click()
    page.ready("case0")
    page.saved()
    wanted = {"mine": mine, "theirs": theirs}[choice]
    assert page.get("session.draft.kept().mask") == wanted
    assert server.engine.workspace.known[image_id].draft.mask == wanted
