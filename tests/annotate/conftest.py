"""A generated stream, the run of ``fit`` on it, and an expert who answers from the reference masks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_samseg.__main__ import main
from lightning_samseg.annotate import rle, start
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
    """The run of ``fit`` with box prompts, with one thread: the modules' own fixture for that comes after this one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return fit(tmp_path_factory.mktemp("fitted"), data)
    finally:
        torch.set_num_threads(threads)


@contextmanager
def open_engine(data: Path, folder: Path, images: Path | None = None, **options: Any) -> Iterator[Engine]:
    """Open an engine on a workspace, on the stream or other images; close it at the end of the block."""
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


@pytest.fixture
def workspace_engine(data: Path) -> Callable[..., Any]:
    """:func:`open_engine` on the generated stream."""
    return partial(open_engine, data)


def annotate(engine: Engine, data: Path, image_id: str, tab: str = "a", kind: PromptKind = "box") -> dict[str, Any]:
    """Do with an image what an expert does who knows its reference."""
    opened = engine.open(image_id, tab, "")
    mask = reference(data, opened["image"]["name"])
    prompts = prompts_of(mask, kind)
    engine.ask(image_id, prompts)
    revision = engine.draft(image_id, opened["revision"], prompts, rle.encode(mask), {"strokes": 1})
    return engine.accept(image_id, revision, prompts, rle.encode(mask), {"strokes": 2, "seconds": 1.5}, tab=tab)


class Typed:
    """Types the command; in the place of the server stands what a test does with the engine."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys
        self.work: Any = lambda engine: None
        monkeypatch.setattr(start, "serve", lambda app, engine, port: (port.close(), self.work(engine)))

    def __call__(self, given: Path, *options: str, work: Any = lambda engine: None) -> tuple[int, str]:
        self.work = work
        fixed = ["--output", str(self.folder / "w"), "--backbone", "tiny", "--no_browser", "--port", "0"]
        status = main(["annotate", "--input", str(given), *fixed, *options])
        shown = self.capsys.readouterr()
        return status, shown.out + shown.err


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    return Typed(tmp_path, monkeypatch, capsys)


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """Three grey images: 8 bits, 16 bits, and turned by EXIF."""
    folder = tmp_path / "images"
    (folder / "deep").mkdir(parents=True)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (40, 56), np.uint8)).save(folder / "a.png")
    Image.fromarray(rng.integers(0, 4000, (30, 20)).astype(np.uint16)).save(folder / "deep" / "b.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(rng.integers(0, 255, (24, 32, 3), np.uint8)).save(folder / "c.png", exif=exif)
    return folder


def accept_all(engine: Any) -> None:
    """Accept a mask that has no symmetry for every image."""
    for image_id, image in engine.workspace.images.items():
        if engine.workspace.known[image_id].state == "open":
            height, width = engine.workspace.pixels.size(image)
            mask = np.zeros((height, width), np.uint8)
            mask[2:7, 3 : 5 + image.index] = 1
            engine.accept(image_id, 0, [{"box": [1, 1, width - 2, height - 3]}], rle.encode(mask))
    engine.finish()
