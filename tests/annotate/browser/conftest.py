"""A headless Chromium, and an expert who works in it by mouse and keyboard."""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.annotate.browser.serving import PATIENCE, Serving, serving, write_images


def chromium() -> str:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium on this machine (Debian: chromium); make test-browser installs it")
    return found


@contextmanager
def launched(*more: str) -> Iterator[Any]:
    """A browser until the block ends."""
    api = pytest.importorskip("playwright.sync_api", reason="no playwright; make test-browser installs it")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", *more])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def browser(a_module_leaves_no_trace: None) -> Iterator[Any]:
    with launched() as found:
        yield found


class Expert:
    """Somebody at a page. Places are pixels of the image."""

    def __init__(self, page: Any) -> None:
        self.page, self.errors = page, list[str]()
        page.set_default_timeout(PATIENCE * 1000)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda text: self.errors.append(text.text) if text.type == "error" else None)

    def go(self, url: str) -> "Expert":
        self.page.goto(url)
        return self.ready()

    def get(self, expression: str) -> Any:
        """Of the page's ``annotate``."""
        return self.page.evaluate(f"annotate.{expression}")

    def _holds(self, expression: str) -> bool:
        try:
            return bool(self.page.evaluate(f"Boolean(window.annotate && ({expression}))"))
        except Exception as error:  # playwright's, which is there only where these tests run
            if "Execution context was destroyed" in str(error):  # the page is on its way to another one
                return False
            raise

    def wait(self, expression: str) -> None:
        """Not by the page's own means, which would need the ``eval`` that its policy forbids."""
        end = time.monotonic() + PATIENCE
        while not self._holds(expression):
            assert time.monotonic() < end, f"never: {expression}; {self.page.inner_text('body')[:400]}"
            self.page.wait_for_timeout(20)

    def ready(self, name: str | None = None) -> "Expert":
        """Until an image can be drawn on."""
        self.wait(
            "annotate.session.state === 'ready'" + (f" && annotate.session.image.name === '{name}'" if name else "")
        )
        return self

    def answered(self) -> None:
        """Until all prompts are."""
        self.wait("!annotate.session.waits && !annotate.session.asking")

    def saved(self) -> None:
        """Until the server has all of it."""
        self.wait("!annotate.session.sender.running && !annotate.session.sender.waiting")

    def key(self, *names: str) -> None:
        for name in names:
            self.page.keyboard.press(name)

    def drag(self, *places: Sequence[float], up: bool = True, button: str = "left") -> list[tuple[float, float]]:
        """Press at the first place, move to the others; gives the places that the mouse really was at."""
        zoom, left, top, quarters = self.page.evaluate(
            "(({view}, frame) => [view.zoom, view.panX + frame.left, view.panY + frame.top, view.quarters])"
            "(annotate, document.getElementById('stage').getBoundingClientRect())"
        )
        assert quarters == 0
        points = [(round(x * zoom + left), round(y * zoom + top)) for x, y in places]
        self.page.mouse.move(*points[0])
        self.page.mouse.down(button=button)
        for point in points[1:]:
            self.page.mouse.move(*point)
        if up:
            self.page.mouse.up(button=button)
        return [((x - left) / zoom, (y - top) / zoom) for x, y in points]

    def box(self, *box: float) -> None:
        """Ask about a box, and wait for the answer."""
        self.drag(box[:2], box[2:])
        self.wait("annotate.session.draft.prompts.length")
        self.answered()

    def mask(self) -> NDArray[np.uint8]:
        """What is on the screen."""
        size = self.get("view.height"), self.get("view.width")
        counts = self.get("session.draft.kept().mask.counts")
        return np.repeat(np.arange(len(counts)) % 2, counts).reshape(size).astype(np.uint8)


@pytest.fixture
def expert(browser: Any) -> Iterator[Callable[..., Expert]]:
    """Opens pages, each in a context of its own unless one is given; none may have had an error."""
    opened: list[Expert] = []
    contexts: list[Any] = []

    def open_page(context: Any = None, **options: Any) -> Expert:
        if context is None:
            context = browser.new_context(viewport={"width": 1400, "height": 860}, **options)
            contexts.append(context)
        opened.append(Expert(context.new_page()))
        return opened[-1]

    yield open_page
    for context in contexts:
        context.close()
    for each in opened:
        assert [text for text in each.errors if "Failed to load resource" not in text] == []


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Serving]:
    """Four images."""
    images = write_images(tmp_path / "images", *(f"case{number}.png" for number in range(4)))
    with serving(images, tmp_path / "workspace") as running:
        yield running
