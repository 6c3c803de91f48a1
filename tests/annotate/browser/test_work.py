"""An image from its prompt to its mask: what an expert does all day."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_samseg.annotate import rle
from lightning_samseg.errors import UserError
from tests.annotate.browser.conftest import Expert
from tests.annotate.browser.serving import Serving, serving, write_images

pytestmark = pytest.mark.browser

BOX = (120, 60, 300, 240)


def test_box_correct_undo_accept_next_reopen(expert: Callable[..., Expert], server: Serving) -> None:
    page = expert().go(server.url)
    image_id = page.get("session.image.id")
    assert page.get("tools.name") == "box"
    drawn = page.drag(BOX[:2], BOX[2:])
    page.answered()
    sent = [*np.floor(drawn[0]).astype(int).tolist(), *np.ceil(drawn[1]).astype(int).tolist()]
    assert page.get("session.draft.prompts") == [{"box": sent}]
    fused = page.mask()
    answer = server.engine.ask(image_id, [{"box": sent}])
    assert 0 < fused.sum() < fused.size
    np.testing.assert_array_equal(fused, rle.decode(answer["fused"], fused.shape))
    np.testing.assert_array_equal(shown_sam(page), sam_of(answer))

    page.key("d")
    page.drag((30, 30), (80, 40))
    brushed = page.mask()
    assert brushed.sum() > fused.sum()
    page.key("e")
    page.drag((60, 20), (60, 60))
    erased = page.mask()
    assert erased.sum() < brushed.sum()
    for name, mask in (
        ("Control+z", brushed),
        ("Control+z", fused),
        ("Control+z", 0 * fused),
        ("Control+Shift+z", fused),
    ):
        page.key(name)
        np.testing.assert_array_equal(page.mask(), mask)
    page.key("Control+y", "Control+y")
    np.testing.assert_array_equal(page.mask(), erased)
    page.key("Control+z")
    page.saved()
    assert server.engine.workspace.known[image_id].draft is not None

    page.key("Enter")
    page.ready("case1")
    page.wait("annotate.numbers.accepted === 1")
    server.assert_mask("case0.png", brushed)
    spent = server.engine.workspace.accepts[0]["effort"]
    assert (spent["strokes"], spent["undos"]) == (2, 4)
    assert 0 < spent["seconds"] < 300

    page.key("PageUp")
    page.wait("annotate.session.state === 'accepted'")
    np.testing.assert_array_equal(page.mask(), brushed)
    page.key("d")
    page.drag((200, 280), (220, 280))
    np.testing.assert_array_equal(page.mask(), brushed)  # it is closed
    page.key("o")
    page.ready("case0")
    page.key("d")
    page.drag((200, 280), (220, 280))
    corrected = page.mask()
    assert corrected.sum() > brushed.sum()
    page.key("Enter")
    page.ready("case1")
    page.wait("!annotate.session.sender.running")
    server.assert_mask("case0.png", corrected)
    assert len(server.engine.workspace.accepts) == 1


def shown_sam(page: Expert) -> np.ndarray:
    """What SAM's outline on the screen goes around."""
    size = page.get("view.height"), page.get("view.width")
    return np.array(page.page.evaluate("[...annotate.view.sam]")).reshape(size)


def sam_of(answer: dict[str, Any]) -> np.ndarray:
    """All of SAM's masks in one."""
    shape = answer["prompts"][0]["sam"]["size"]
    return np.logical_or.reduce([rle.decode(each["sam"], shape) for each in answer["prompts"]]).astype(int)


def test_objects_starts_nothing_and_skip(expert: Callable[..., Expert], server: Serving) -> None:
    page = expert().go(server.url)
    page.box(20, 20, 150, 150)
    one = page.mask()
    page.box(200, 120, 400, 280)
    both = page.mask()
    assert both.sum() > one.sum() > 0
    assert len(page.get("session.draft.prompts")) == 2
    page.page.get_by_role("button", name="Remove object 2").click()
    np.testing.assert_array_equal(page.mask(), one)
    page.key("Control+z")
    np.testing.assert_array_equal(page.mask(), both)
    page.key("2")
    sam = page.mask()
    np.testing.assert_array_equal(sam, shown_sam(page))
    page.key("3")
    assert page.mask().sum() == 0
    page.key("1")
    np.testing.assert_array_equal(page.mask(), both)

    page.key("0")  # it was touched: Enter confirms
    assert page.get("session.image.name") == "case0"
    assert page.mask().sum() == 0
    assert page.get("session.draft.prompts") == []
    page.key("Enter")
    page.ready("case1")
    page.key("Enter")  # nothing drawn, nothing said
    page.page.get_by_text("Nothing is outlined").wait_for()
    page.key("0")
    page.ready("case2")
    page.key("s")
    page.page.get_by_label("Why?").fill("poor quality")
    page.key("Enter")
    page.ready("case3")
    states = {each["name"]: (each["state"], each["reason"]) for each in page.get("images.all")}
    assert states["case2"] == ("skipped", "poor quality")
    assert [each["prompts"] for each in server.engine.workspace.accepts] == [[], []]
    page.page.get_by_role("button", name="case2").click()
    page.wait("annotate.session.state === 'skipped'")
    page.key("o")
    page.ready("case2")


def test_without_a_mouse(expert: Callable[..., Expert], server: Serving) -> None:
    page = expert().go(server.url)
    page.page.locator("#stage").focus()
    page.key(
        "Shift+ArrowLeft",
        "x",
        *["Control+Shift+ArrowRight"] * 3,
        *["Control+Shift+ArrowDown"] * 2,
        "Shift+ArrowDown",
        "x",
    )
    page.answered()
    (prompt,) = page.get("session.draft.prompts")
    x0, y0, x1, y1 = prompt["box"]
    assert (x1 - x0, y1 - y0) == (31, 22)
    before = page.mask().sum()
    page.key("d", *["["] * 20, "x", "Shift+ArrowUp", "x")
    assert page.mask().sum() >= before
    page.key("Enter")
    page.ready("case1")


def test_a_refused_prompt_says_why_and_is_gone(
    expert: Callable[..., Expert], server: Serving, monkeypatch: Any
) -> None:
    page = expert().go(server.url)
    ask = server.engine.ask

    def refuse(*arguments: Any) -> Any:
        raise UserError("This box is of no use.", fix="draw another")

    monkeypatch.setattr(server.engine, "ask", refuse)
    page.drag(BOX[:2], BOX[2:])
    page.page.get_by_text("This box is of no use.").wait_for()
    assert page.get("session.draft.prompts") == []
    monkeypatch.setattr(server.engine, "ask", ask)
    page.box(*BOX)
    assert page.mask().sum() > 0


def test_blind_images_start_from_sam(expert: Callable[..., Expert], tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", "a.png", "b.png")
    with serving(images, tmp_path / "workspace", blind=1.0) as server:
        page = expert().go(server.url)
        page.box(*BOX)
        np.testing.assert_array_equal(page.mask(), shown_sam(page))
        page.key("1")
        page.page.get_by_text("hidden until it is accepted").wait_for()
        page.key("Enter")
        page.ready("b")
        page.wait("annotate.numbers.blind.accepted === 1")


def test_a_larger_box_by_one_key(expert: Callable[..., Expert], server: Serving) -> None:
    page = expert().go(server.url)
    page.box(*BOX)
    (before,) = page.get("session.draft.prompts")
    page.key("m")
    page.page.get_by_text("No paint crosses").wait_for()
    page.key("d")
    page.drag((200, 150), (350, 150))
    drawn = page.mask()
    page.page.get_by_text("saved, but not learned from").wait_for()
    page.page.get_by_role("button", name="Larger box").wait_for()
    page.key("m")
    page.answered()
    (larger,) = page.get("session.draft.prompts")
    assert larger["box"][:2] == before["box"][:2]
    assert larger["box"][2] == np.nonzero(drawn[150])[0].max() + 1
    assert page.get("session.answers.crops(annotate.session.draft.prompts)") == [larger["box"]]
    np.testing.assert_array_equal(page.mask(), drawn)  # the drawing stays
    page.wait("document.getElementById('enlarge').hidden")
    page.key("Control+z")
    assert page.get("session.draft.prompts") == [before]
    page.key("Control+y", "Enter")
    page.ready("case1")
    page.wait("annotate.numbers.accepted === 1")
    assert server.engine.workspace.accepts[0]["prompts"] == [larger]
    server.assert_mask("case0.png", drawn)
