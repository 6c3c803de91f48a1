"""What is drawn is what is on the disk, to the pixel: at any zoom and any density of the screen."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.annotate.browser.conftest import Expert
from tests.annotate.browser.serving import serving, write_images

pytestmark = pytest.mark.browser

SIZE = (600, 800)
Places = Sequence[tuple[float, float]]


def centres() -> NDArray[np.float64]:
    rows, columns = np.indices(SIZE) + 0.5
    return np.stack([columns, rows], -1)


def stroke(places: Places, radius: float) -> NDArray[np.bool_]:
    """Pixels whose centre is within a distance of a line."""
    inside = np.zeros(SIZE, bool)
    for a, b in zip(places, [*places[1:], places[-1]], strict=True):
        start, along = np.array(a), np.subtract(b, a)
        length = along @ along
        t = np.clip((centres() - start) @ along / length, 0, 1)[..., None] if length else 0.0
        inside |= np.linalg.norm(centres() - start - t * along, axis=-1) <= radius
    return inside


def outline(places: Places) -> NDArray[np.bool_]:
    """Pixels whose centre a closed line goes around an odd number of times, or through."""
    x, y = centres()[..., 0], centres()[..., 1]
    odd, through = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
    for (ax, ay), (bx, by) in zip(places, [*places[1:], places[0]], strict=True):
        if ay != by:
            spans, at = (ay <= y) != (by <= y), ax + (y - ay) / (by - ay) * (bx - ax)
            odd ^= spans & (at < x)
            through |= spans & (at == x)
    return odd | through


def zoom_to(expert: Expert, zoom: float) -> None:
    expert.get(f"view.zoomAt({zoom} / annotate.view.zoom)")
    expert.get("view.centre(400, 300)")
    assert expert.get("view.zoom") == pytest.approx(zoom, abs=1e-12)


@pytest.mark.parametrize("density", [1, 1.5, 2])
def test_masks_on_the_disk_are_the_drawn_ones(expert: Callable[..., Expert], tmp_path: Path, density: float) -> None:
    images = write_images(tmp_path / "images", "a.png", "b.png", "c.png", size=SIZE)
    with serving(images, tmp_path / "workspace") as server:
        page = expert(device_scale_factor=density).go(server.url)
        assert page.page.evaluate("devicePixelRatio") == density
        expected: dict[str, Any] = {}
        for name, zoom in (("a", 0.37), ("b", 1.0), ("c", 5.0)):
            page.ready(name)
            zoom_to(page, zoom)
            reach = min(250.0, 90 * 3 / zoom)  # of what the screen shows
            expected[name] = draw_all(page, reach)
            np.testing.assert_array_equal(page.mask(), expected[name])
            page.saved()
            page.key("Enter")
        page.wait("annotate.session.state === 'empty'")
        for name, mask in expected.items():
            assert 0 < mask.sum() < mask.size
            server.assert_mask(f"{name}.png", mask)


def draw_all(page: Expert, reach: float) -> NDArray[np.bool_]:
    """Brush, eraser, lasso, polygon, and what they should have drawn."""
    u = reach / 10

    def places(*steps: tuple[float, float]) -> Places:
        return [(400 + u * x, 300 + u * y) for x, y in steps]

    page.get(f"tools.settings.size = {max(1, round(3 * u))}")
    radius = page.get("tools.settings.size") / 2
    page.key("d")
    mask = stroke(page.drag(*places((-8, -7), (-2, -7.3), (4, -5), (4.3, 1), (-7, 2.2))), radius)
    page.key("e")
    mask &= ~stroke(page.drag(*places((-3, -9), (-2.5, 0), (-2.7, 4))), radius)
    page.key("d")
    mask &= ~stroke(page.drag(*places((4.3, -1.3), (6, 2)), button="right"), radius)
    page.key("l")
    mask |= outline(page.drag(*places((2, 3), (8, 3.3), (8.7, 7), (5, 8), (1, 7), (6, 4))))
    page.key("g")
    corners = [page.drag(place)[0] for place in places((-8, 4), (-3, 5), (-2, 9), (-9, 8.5))]
    page.key("Enter")
    return mask | outline(corners)


def test_a_stroke_on_12_megapixels_takes_less_than_a_frame(
    expert: Callable[..., Expert], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = write_images(tmp_path / "images", "large.png")
    small = Image.open(images / "large.png").convert("L")
    small.resize((4000, 3000), Image.Resampling.NEAREST).save(images / "large.png", compress_level=1)
    with serving(images, tmp_path / "workspace") as server:
        page = expert().go(server.url)
        page.get("tools.settings.size = 80")
        page.key("d")
        page.page.evaluate(
            "(({tools}) => { const move = tools.move.bind(tools); window.moves = []; tools.move = (place) => {"
            "const start = performance.now(); move(place); window.moves.push(performance.now() - start); }; })"
            "(annotate)"
        )
        page.page.wait_for_timeout(500)
        for zoom in (page.get("view.zoom"), 3.0):
            zoom_to(page, zoom)
            page.get("view.centre(2000, 1500)")
            page.page.wait_for_timeout(300)
            page.page.evaluate("annotate.view.frames.length = window.moves.length = 0")
            reach = 120 / zoom  # in a spiral, to 380 pixels of the screen
            turns = np.linspace(0, 6.3, 80)
            page.drag(*((2000 + reach * np.cos(t) * t / 2, 1500 + reach * np.sin(t) * t / 2) for t in turns))
            frames, moves = np.array(page.get("view.frames")), np.array(page.page.evaluate("window.moves"))
            with capsys.disabled():
                print(f"\n12 MP at zoom {zoom:.2f}, brush of 80 px: {np.median(moves):.2f} ms into the mask, ", end="")
                print(f"{np.median(frames):.2f} ms onto the screen, 95 %: {np.percentile(frames, 95):.1f} ms")
            assert len(frames) > 10
            assert np.median(frames) + np.median(moves) < 16  # to draw the whole image anew would take longer
        page.saved()
