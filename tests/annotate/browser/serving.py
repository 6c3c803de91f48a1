"""A server on generated images with a tiny SAM, in a thread of the test's process: it answers at once."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from numpy.typing import NDArray
from PIL import Image

from lightning_samseg.annotate.engine import Engine
from lightning_samseg.annotate.http import create_app
from lightning_samseg.annotate.images import list_images
from lightning_samseg.annotate.security import local_addresses
from lightning_samseg.annotate.server import bind
from lightning_samseg.annotate.workspace import Workspace
from lightning_samseg.methods.aux_ol import AuxOl
from lightning_samseg.methods.method import with_groups
from lightning_samseg.runs.options import nested

MODEL: dict[str, Any] = {
    "sam.backbone": "tiny",
    "auxiliary.width": 0.0625,
    "crop.size": 32,
    "batch.capacity": 4,
    "learning.lr": 5.0e-3,
    "fusion.kind": "fixed",
    "fusion.alpha": 0.9,  # mostly SAM: a network that has learned nothing outlines nothing
    "learning.order": "image",
    "cache_gb": 0.0,
    "sam_batch": 1,
}
DATA: dict[str, Any] = {
    "image_size": 32,
    "resize": "squash",
    "normalise": "minmax",
    "grey": False,
    "geometry": "half_pixel",
}
PATIENCE = 60.0
"""Seconds for what takes a moment, on a machine with much else to do."""
TOKEN = "t0ken-of_the-test"


def write_images(folder: Path, *names: str, size: tuple[int, int] = (300, 420)) -> Path:
    """A bright disc on noise in each."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, columns = np.ogrid[: size[0], : size[1]]
    for number, name in enumerate(names):
        rng = np.random.default_rng(number)
        disc = (rows - size[0] / 2) ** 2 + (columns - size[1] / 2) ** 2 < (min(size) / 4) ** 2
        picture = rng.normal(80, 12, (*size, 1)) + 70 * disc[..., None]
        Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8).repeat(3, -1)).save(folder / name)
    return folder


@dataclass
class Serving:
    """A running server."""

    engine: Engine
    folder: Path
    port: int

    @property
    def url(self) -> str:
        """What a terminal would print."""
        return f"http://127.0.0.1:{self.port}/#t={TOKEN}"

    def assert_mask(self, name: str, expected: NDArray[Any]) -> None:
        """The mask on the disk, once it is there, is this one to the pixel: it is written after the answer."""
        path, end = self.folder / "masks" / name, time.monotonic() + PATIENCE
        while True:
            found = (np.asarray(Image.open(path)) > 0) if path.is_file() else None
            if (found is not None and np.array_equal(found, expected)) or time.monotonic() > end:
                break
            time.sleep(0.05)
        assert found is not None, f"{path} was never written"
        np.testing.assert_array_equal(found, expected)


@contextmanager
def serving(
    images: Path, folder: Path, port: int = 0, addresses: Sequence[str] = (), **options: Any
) -> Iterator[Serving]:
    """Serve a folder until the block ends."""
    method = AuxOl(**with_groups(AuxOl, nested(MODEL)))
    listed, failed, _ = list_images(images, folder)
    told: list[str] = []
    workspace = Workspace(folder, listed, failed, told.append)
    engine = Engine(workspace, method, "disc", DATA, tell=told.append, **options)
    engine.start()
    socket = bind("127.0.0.1", port)
    number = socket.getsockname()[1]
    facts = {"workspace": str(folder), "settings": {}, "lesson_seconds": None}
    app = create_app(engine, local_addresses(number, addresses), {TOKEN: "tester"}, facts)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]}, name="server")
    thread.start()
    while thread.is_alive() and not server.started:
        time.sleep(0.02)
    try:
        yield Serving(engine, folder, number)
    finally:
        server.should_exit = True
        engine.close()
        thread.join(20)
        socket.close()
