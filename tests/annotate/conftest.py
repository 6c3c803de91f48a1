"""A generated stream, the run of ``fit`` on it, and an expert who answers from the reference masks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lightning_samseg.__main__ import main
from lightning_samseg.annotate import rle
from lightning_samseg.annotate.engine import Engine
from lightning_samseg.annotate.images import list_images
from lightning_samseg.annotate.simulated import prompts_of
from lightning_samseg.annotate.workspace import Workspace
from lightning_samseg.methods import AuxOl
from lightning_samseg.methods.method import with_groups
from lightning_samseg.runs.options import nested
from lightning_samseg.types import PromptKind

LENGTH = 6
TWO_OBJECTS, EMPTY = 1, 3
MODEL: dict[str, Any] = {
    "sam.backbone": "tiny",
    "auxiliary.width": 0.0625,
    "crop.size": 32,
    "batch.capacity": 4,
    "learning.lr": 5.0e-3,
    "fusion.kind": "adaptive",
    "learning.order": "image",
    "cache_gb": 0.0,
    "sam_batch": 1,
}
DATA: dict[str, Any] = {"image_size": 32, "resize": "squash", "normalise": "minmax", "grey": False}
DATA |= {"geometry": "half_pixel", "stream_class": "disc"}


def write_stream(root: Path, length: int = LENGTH) -> Path:
    """Bright discs; one image with two, one without any."""
    rows, columns = np.ogrid[:40, :56]
    for position in range(length):
        rng = np.random.default_rng(position)
        mask = np.zeros((40, 56), bool)
        for number in range(2 if position == TWO_OBJECTS else 0 if position == EMPTY else 1):
            y, x, radius = rng.uniform(14, 26), rng.uniform(13, 16) + 26 * number, rng.uniform(6, 9)
            mask |= (rows - y) ** 2 + (columns - x) ** 2 < radius**2
        image = np.clip(rng.normal(90, 15, (40, 56, 3)) + 70 * mask[..., None], 0, 255).astype(np.uint8)
        for folder, pixels in (("images", image), ("masks", mask.astype(np.uint8) * 255)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / folder / f"case{position}.png")
    return root


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``images`` and ``masks``."""
    return write_stream(tmp_path_factory.mktemp("stream"))


def reference(data: Path, name: str) -> np.ndarray:
    """Reference mask of an image, 0 and 1."""
    return (np.asarray(Image.open(data / "masks" / f"{name}.png")) > 0).astype(np.uint8)


def fit(folder: Path, data: Path, *more: str, **model: Any) -> Path:
    """Let ``fit`` walk through the stream; gives the run folder."""
    options = [f"--model.{name}={value}" for name, value in {**MODEL, **model}.items()]
    fixed = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--data.masks=binary"]
    run = folder / "fit"
    command = ["fit", "--model=lightning_samseg.methods.AuxOl", "--data=data_modules.FolderDataModule"]
    common = [f"--data.root={data}", "--data.image_size=32", f"--trainer.default_root_dir={run}"]
    assert main([*command, *options, *fixed, *common, *more]) == 0
    return run


@pytest.fixture(scope="session")
def fitted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of ``fit`` with box prompts."""
    return fit(tmp_path_factory.mktemp("fitted"), data)


@pytest.fixture
def workspace_engine(data: Path) -> Callable[..., Any]:
    """Opens an engine on a workspace; closes it at the end of the block."""

    @contextmanager
    def opened(folder: Path, images: Path | None = None, **options: Any) -> Iterator[Engine]:
        model = MODEL | options.pop("model", {})
        method = AuxOl(**with_groups(AuxOl, nested(model)))
        listed, failed, _ = list_images(data / "images" if images is None else images, folder)
        told: list[str] = []
        workspace = Workspace(folder, listed, failed, told.append)
        engine = Engine(workspace, method, "disc", DATA, tell=told.append, **{"patience": float("inf")} | options)
        engine.start()
        try:
            yield engine
        finally:
            engine.close()

    return opened


def annotate(engine: Engine, data: Path, image_id: str, tab: str = "a", kind: PromptKind = "box") -> dict[str, Any]:
    """Do with an image what an expert does who knows its reference."""
    opened = engine.open(image_id, tab, "")
    mask = reference(data, opened["image"]["name"])
    prompts = prompts_of(mask, kind)
    engine.ask(image_id, prompts)
    revision = engine.draft(image_id, opened["revision"], prompts, rle.encode(mask), {"strokes": 1})
    return engine.accept(image_id, revision, prompts, rle.encode(mask), {"strokes": 2, "seconds": 1.5}, tab=tab)
