"""napari as the page of a workspace, with micro-sam's layers and keys.

``python -m lightning_samseg.annotate.napari URL``, with the address that ``annotate`` has printed. Boxes are drawn as
rectangles in the layer ``prompts``, or points set in ``point_prompts``; S asks for the mask, which comes into
``current_object`` to be painted, filled and erased there; C accepts it; N goes to the next image. What is painted is
kept by the server after every stroke, so that nothing is lost with napari.
"""

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_samseg.annotate import rle
from lightning_samseg.annotate.client import Client
from lightning_samseg.errors import UserError

CURRENT = "current_object"


class Napari:
    """One viewer on one workspace.

    Args:
        viewer: ``napari.Viewer``, or a ``ViewerModel`` without a window.
        client: Its tab.
    """

    def __init__(self, viewer: Any, client: Client) -> None:
        self.viewer, self.client = viewer, client
        self.kind: str = client.workspace()["prompt"]
        self.image_id: str | None = None
        self.upcoming: str | None = client.workspace()["next"]
        self.revision = 0
        for key, action in {"s": self.ask, "c": self.accept, "n": self.next}.items():
            viewer.bind_key(key, _guarded(viewer, action), overwrite=True)
        self.next()

    @property
    def size(self) -> tuple[int, int]:
        """``(H, W)`` of the image."""
        height, width = self.viewer.layers[CURRENT].data.shape
        return int(height), int(width)

    def next(self) -> None:
        """Show the next image that is open, as it was left."""
        if self.image_id is not None:
            self.keep()
            offered = self.client.workspace()
            self.upcoming = offered["next"] if self.upcoming in (None, self.image_id) else self.upcoming
        if self.upcoming is None:
            self.viewer.status = "No image is left: all are accepted or skipped."
            return
        self.show(self.upcoming)

    def show(self, image_id: str) -> None:
        """Show an image."""
        opened, pixels = self.client.open(image_id), self.client.pixels(image_id)
        self.image_id, self.revision, self.upcoming = image_id, opened["revision"], None
        self.viewer.layers.clear()
        self.viewer.add_image(pixels, name="image", rgb=pixels.ndim == 3)
        mask = opened["mask"] or opened["accepted"]
        size = (pixels.shape[0], pixels.shape[1])
        start = np.zeros(size, np.uint8) if mask is None else rle.decode(mask, size)
        self.viewer.add_labels(np.zeros(size, np.uint8), name="sam", opacity=0.3)
        current = self.viewer.add_labels(start, name=CURRENT)
        current.events.paint.connect(lambda _: self.keep())
        places = [each[self.kind] for each in opened["prompts"]]
        if self.kind == "box":
            layer = self.viewer.add_shapes(ndim=2, name="prompts", face_color="transparent", edge_color="yellow")
            for x0, y0, x1, y1 in places:
                layer.add_rectangles(np.array([[y0, x0], [y1, x1]], float) - 0.5)
            layer.mode = "add_rectangle"
        else:
            rows = np.array([[y, x] for x, y in places], float).reshape(-1, 2)
            self.viewer.add_points(rows, name="point_prompts", ndim=2, face_color="yellow").mode = "add"
        self.viewer.status = opened["image"]["name"]

    def prompts(self) -> list[dict[str, Any]]:
        """What is drawn. napari counts rows first, from the middle of a pixel; the server's boxes are half open."""
        height, width = self.size
        if self.kind == "point":
            places = self.viewer.layers["point_prompts"].data
            return [{"point": [float(x), float(y)]} for y, x in places]
        drawn = [np.asarray(shape)[:, ::-1] + 0.5 for shape in self.viewer.layers["prompts"].data]
        bounds = [np.rint(np.concatenate([corners.min(0), corners.max(0)])) for corners in drawn]
        return [{"box": np.clip(each, 0, [width, height] * 2).astype(int).tolist()} for each in bounds]

    def mask(self) -> dict[str, list[int]]:
        """What is painted."""
        return rle.encode(self.viewer.layers[CURRENT].data)

    def ask(self) -> None:
        """Answer what is drawn: SAM's mask and, to be corrected, the fused one."""
        answered = self.client.ask(self._shown(), self.prompts())
        self._paint("sam", answered["sam"])
        self._paint(CURRENT, answered["fused"] or answered["sam_clipped"])
        self.viewer.layers.selection.active = self.viewer.layers[CURRENT]
        alpha = answered["alpha"]
        share = "" if alpha is None else f", {100 * (1 - alpha):.0f} % of the mask from the network"
        self.viewer.status = f"{answered['learned']} lessons learned, {answered['pending']} pending{share}"
        self.keep()

    def accept(self) -> None:
        """Accept what is painted."""
        answered = self.client.accept(self._shown(), self.revision, self.prompts(), self.mask())
        self.revision, self.upcoming = answered["revision"], answered["next"]
        self.viewer.status = f"accepted as image {answered['position'] + 1} of the stream; N for the next one"

    def keep(self) -> None:
        """Let the server keep what is on the screen."""
        opened = self._shown()
        self.revision = self.client.draft(opened, self.revision, self.prompts(), self.mask())

    def _shown(self) -> str:
        if self.image_id is None:
            raise UserError("No image is open.", fix="press N")
        return self.image_id

    def _paint(self, layer: str, mask: Any) -> None:
        data: NDArray[np.uint8] = rle.decode(mask, self.size)
        self.viewer.layers[layer].data = data


def _guarded(viewer: Any, action: Any) -> Any:
    def run(_: Any) -> None:
        try:
            action()
        except UserError as error:
            viewer.status = str(error).splitlines()[0]
            print(error, file=sys.stderr)

    return run


def main(url: str) -> None:
    """Open a window.

    Raises:
        UserError: If napari is not installed, or the server does not answer.
    """
    try:
        import napari  # type: ignore[import-not-found]
    except ImportError as error:
        raise UserError("This needs napari.", fix="pip install 'napari[all]'") from error
    viewer = napari.Viewer(title="lightning_samseg")
    Napari(viewer, Client(url, tab="napari"))
    napari.run()


if __name__ == "__main__":
    try:
        main(*sys.argv[1:2] or ("",))
    except UserError as mistake:
        sys.exit(f"error: {mistake}")
