"""SAM's logits in passes of several images ahead of the stream: the same numbers with cache, without, and resumed."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_modules.layouts.base import Item
from data_modules.layouts.folder import FolderLayout
from lightning_samseg.models.frozen_sam import FrozenSam
from tests.fakes import truncate
from tests.test_stream_cli import LENGTH, Bench, write_stream

THREE = ("--model.sam_batch", "3")


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setenv("SAMSEG_CACHE", str(tmp_path / "cache"))
    return Bench(tmp_path, write_stream(tmp_path / "data"))


def test_cache_and_start_change_no_number(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shapes: list[int] = []
    encode = FrozenSam.encode
    monkeypatch.setattr(FrozenSam, "encode", lambda self, x: shapes.append(len(x)) or encode(self, x))
    assert bench("without", *THREE, "--model.cache_gb", "0") == 0
    assert set(shapes) == {3}  # whatever the pass is made of: kernels are chosen by the shape
    # 7 images with prompts and one test of neighbours, if these do not matter to the machine's kernels.
    assert len(shapes) == 4 or "one by one instead" in capsys.readouterr().out
    files = sorted((bench.folder / "cache").glob("sam_logits/*/*.logits"))
    assert files == []
    assert bench("filling", *THREE) == 0
    files = sorted((bench.folder / "cache").glob("sam_logits/*/*.logits"))
    assert len(files) == LENGTH - 1
    for file in files[::2]:
        file.unlink()
    files[1].write_bytes(b"damaged")
    assert bench("patching", *THREE) == 0
    shapes.clear()
    assert bench("reading", *THREE) == 0
    assert shapes == []
    for run in ("filling", "patching", "reading"):
        bench.assert_same("without", run)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_every_picture_is_read_once(bench: Bench, monkeypatch: pytest.MonkeyPatch, workers: str) -> None:
    """In the main process or in a worker, not in both; several processes write down what they read."""
    read = FolderLayout.read_image
    log = bench.folder / "read.txt"

    def noted(layout: FolderLayout, item: Item) -> np.ndarray:
        with log.open("a") as file:
            file.write(f"{item.case_id}\n")
        return read(layout, item)

    monkeypatch.setattr(FolderLayout, "read_image", noted)
    assert bench("run", *THREE, "--data.num_workers", workers) == 0
    assert sorted(log.read_text().split()) == [f"case{position}" for position in range(LENGTH)]


def test_a_damaged_picture_ahead_is_complained_about_in_its_turn(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench("whole", *THREE) == 0
    truncate(bench.data / "images" / "case5.png")
    assert bench("cut", *THREE) == 2
    assert "case5.png" in capsys.readouterr().err
    whole, cut = ((bench.folder / run / "cases.csv").read_text().splitlines() for run in ("whole", "cut"))
    assert cut == whole[:6]


def test_looking_ahead_does_not_leak(bench: Bench) -> None:
    """Another mask and picture at position 5 leave every row before it as it was, though SAM has seen them by then."""
    assert bench("run", *THREE) == 0
    picture = np.asarray(Image.open(bench.data / "images" / "case5.png"))
    mask = np.zeros(picture.shape[:2], np.uint8)
    mask[8:15, 30:44] = 255
    Image.fromarray(255 - picture).save(bench.data / "images" / "case5.png")
    Image.fromarray(mask).save(bench.data / "masks" / "case5.png")
    assert bench("other", *THREE) == 0
    for name in ("cases", "prompts"):
        one, other = ([row for row in bench.rows(run, name) if int(row["position"]) < 5] for run in ("run", "other"))
        assert one == other
    assert bench.rows("run")[5] != bench.rows("other")[5]
