"""For those who read by ear, by high contrast, or by keyboard."""

from collections.abc import Callable

import pytest

from tests.annotate.browser.conftest import Expert
from tests.annotate.browser.serving import Serving

pytestmark = pytest.mark.browser

CONTRAST = """
(selector) => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = numbers(colour).slice(0, 3).map((value) => value / 255)
      .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (node) => {
    const colour = getComputedStyle(node).backgroundColor;
    return numbers(colour)[3] === 0 && node.parentElement ? ground(node.parentElement) : colour;
  };
  return [...document.querySelectorAll(selector)].filter((node) => node.checkVisibility() && node.textContent.trim())
    .map((node) => {
      const [a, b] = [light(getComputedStyle(node).color), light(ground(node))].sort((x, y) => y - x);
      return [node.textContent.trim().slice(0, 40), (a + 0.05) / (b + 0.05)];
    });
}
"""


def test_every_control_has_a_name_and_every_text_contrast(expert: Callable[..., Expert], server: Serving) -> None:
    page = expert().go(server.url)
    page.box(120, 60, 300, 240)
    page.key("Enter")
    page.wait("annotate.numbers.accepted === 1")
    page.ready("case1")
    page.box(120, 60, 300, 240)
    for kind in ("button", "radio", "slider", "spinbutton", "progressbar"):
        for control in page.page.get_by_role(kind).all():
            assert control.evaluate("(node) => node.getAttribute('aria-label') || node.textContent.trim()"), kind
    low = [
        (text, round(value, 2))
        for text, value in page.page.evaluate(CONTRAST, "span, th, td, dt, dd, h1, h2, p, kbd, button:not(:disabled)")
        if value < 4.5  # WCAG 2.2, AA
    ]
    assert low == []


def test_keys_can_be_changed_and_do_nothing_in_a_field(expert: Callable[..., Expert], server: Serving) -> None:
    page = expert().go(server.url)
    page.key("F1")
    page.page.get_by_role("button", name="Eraser").last.click()
    page.key("q")
    page.key("Escape")
    page.key("q")
    assert page.get("tools.name") == "eraser"
    page.page.reload()
    page.ready()
    page.key("e")
    assert page.get("tools.name") == "box"
    page.key("s")
    page.page.get_by_label("Why?").press_sequentially("bed")
    assert page.get("tools.name") == "box"
    assert page.page.get_by_label("Why?").input_value() == "bed"
    page.page.get_by_role("button", name="Cancel").click()
    assert page.get("session.image.name") == "case0"


def test_tab_walks_through_the_page(expert: Callable[..., Expert], server: Serving) -> None:
    page = expert().go(server.url)
    seen = []
    for _ in range(40):
        page.key("Tab")
        seen.append(page.page.evaluate("document.activeElement.id || document.activeElement.dataset.does || ''"))
    assert {"previous", "brush", "stage", "size", "accept"} <= set(seen)
