"""napari's client, on napari's own model of a viewer where it is installed, and on a stand-in for it everywhere."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lightning_samseg.annotate.client import Client
from lightning_samseg.annotate.napari import Napari
from tests.annotate.browser.serving import Serving, serving, write_images

pytestmark = pytest.mark.usefixtures("one_thread")


class Layer(SimpleNamespace):
    """Data and the one signal that is listened to."""

    def add_rectangles(self, corners: np.ndarray) -> None:
        (y0, x0), (y1, x1) = corners
        self.data.append(np.array([[y0, x0], [y1, x0], [y1, x1], [y0, x1]]))


class Layers(dict[str, Any]):
    selection = SimpleNamespace(active=None)


class StandIn:
    """As much of ``ViewerModel`` as the client uses."""

    def __init__(self) -> None:
        self.layers, self.keys, self.status = Layers(), {}, ""

    def bind_key(self, key: str, action: Any, overwrite: bool) -> None:
        self.keys[key] = action

    def add_image(self, data: np.ndarray, name: str, rgb: bool) -> Layer:
        return self._add(name, data)

    def add_labels(self, data: np.ndarray, name: str, opacity: float = 1.0) -> Layer:
        return self._add(name, data)

    def add_shapes(self, ndim: int, name: str, **_: str) -> Layer:
        return self._add(name, [])

    def add_points(self, data: np.ndarray, name: str, **_: Any) -> Layer:
        return self._add(name, data)

    def _add(self, name: str, data: Any) -> Layer:
        heard: list[Any] = []
        paint = SimpleNamespace(connect=heard.append, __call__=lambda: [each(None) for each in heard])
        self.layers[name] = Layer(data=data, events=SimpleNamespace(paint=paint))
        return self.layers[name]


@pytest.fixture(params=["stand-in", "napari"])
def viewer(request: pytest.FixtureRequest) -> Any:
    if request.param == "stand-in":
        return StandIn()
    return pytest.importorskip("napari.components").ViewerModel()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Serving]:
    with serving(write_images(tmp_path / "images", "a.png", "b.png", size=(60, 84)), tmp_path / "w") as server:
        yield server


@pytest.fixture
def client(viewer: Any, served: Serving) -> Iterator[Napari]:
    tab = Client(served.url, "napari")
    yield Napari(viewer, tab)
    tab.close()


def press(viewer: Any, key: str) -> None:
    """What a window does on a key."""
    bound: dict[Any, Callable[[Any], None]] = viewer.keys if isinstance(viewer, StandIn) else viewer.keymap
    next(action for name, action in bound.items() if str(name).lower() == key)(viewer)


def test_box_paint_accept_next(viewer: Any, served: Serving, client: Napari) -> None:
    assert viewer.layers["image"].data.shape[:2] == (60, 84)
    viewer.layers["prompts"].add_rectangles(np.array([[14.5, 26.5], [44.4, 56.6]]))
    assert client.prompts() == [{"box": [27, 15, 57, 45]}]
    press(viewer, "s")
    assert viewer.layers["sam"].data.shape == (60, 84)
    painted = viewer.layers["current_object"].data.copy()
    painted[10:20, 30:40] = 1
    viewer.layers["current_object"].data = painted
    client.keep()
    first = client.image_id
    again = served.engine.open(first, "napari", "")
    assert again["prompts"] == [{"box": [27, 15, 57, 45]}]
    assert again["revision"] == client.revision
    press(viewer, "c")
    assert viewer.status == "accepted as image 1 of the stream; N for the next one"
    served.assert_mask("a.png", painted > 0)
    press(viewer, "n")
    assert client.image_id != first
    assert not viewer.layers["current_object"].data.any()
    press(viewer, "c")  # nothing here
    press(viewer, "n")
    assert viewer.status == "No image is left: all are accepted or skipped."
    assert [each["prompts"] for each in served.engine.workspace.accepts] == [[{"box": [27, 15, 57, 45]}], []]


def test_an_image_is_shown_as_it_was_left(viewer: Any, client: Napari) -> None:
    viewer.layers["prompts"].add_rectangles(np.array([[9.5, 9.5], [29.5, 29.5]]))
    viewer.layers["current_object"].data = np.pad(np.ones((5, 5), np.uint8), ((3, 52), (2, 77)))
    client.keep()
    client.show(str(client.image_id))
    assert client.prompts() == [{"box": [10, 10, 30, 30]}]
    assert viewer.layers["current_object"].data.sum() == 25


def test_what_the_server_refuses_is_shown(viewer: Any, served: Serving, client: Napari) -> None:
    served.engine.board.leases.take(str(client.image_id), "another", "", True)
    served.engine.draft(str(client.image_id), client.revision, [], None, {})
    press(viewer, "c")
    assert viewer.status
    assert not served.engine.workspace.accepts
