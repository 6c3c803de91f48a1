"""``test``, ``predict`` of a run and ``predict --input`` agree on pictures that are turned, deep, or unusual TIFFs."""

from pathlib import Path
from typing import Any

import lightning
import numpy as np
import tifffile
from PIL import Image, ImageOps

from data_modules import FolderDataModule
from data_modules.layouts.folder import FolderLayout
from lightning_samseg.callbacks.predictions import PredictionWriter
from lightning_samseg.io.images import read_image
from lightning_samseg.io.picture import TAG, to_displayed
from tests.predicting import predict, rows, trained, unet

RNG = np.random.default_rng(0)
SIZE = (30, 44)


def picture(path: Path, orientation: int) -> None:
    blocks = np.kron(RNG.integers(0, 256, (5, 6, 3), dtype=np.uint8), np.ones((6, 8, 1), np.uint8))
    exif = Image.Exif()
    exif[TAG] = orientation
    Image.fromarray(blocks[:, : SIZE[1]]).save(path, exif=exif)


def tif(path: Path, dtype: str = "u2", **options: Any) -> None:
    values = RNG.integers(0, 60000, (3, *SIZE) if options.get("planarconfig") == "separate" else SIZE)
    tifffile.imwrite(path, values.astype(dtype), **options)


FILES: dict[str, tuple[Any, dict[str, Any]]] = {
    **{f"exif{number}.jpg": (picture, {"orientation": number}) for number in range(1, 9)},
    "png.png": (picture, {"orientation": 6}),
    "webp.webp": (picture, {"orientation": 5}),
    "planes.tif": (tif, {"photometric": "rgb", "planarconfig": "separate"}),
    "double.tif": (tif, {"dtype": "f8"}),
    "white.tif": (tif, {"photometric": "miniswhite", "compression": "lzw"}),
    "signed.tif": (tif, {"dtype": "i4", "tile": (16, 16), "compression": "zlib"}),
    "wide.tif": (tif, {"dtype": "u4", "bigtiff": True}),
    "turned.tif": (tif, {"extratags": [(TAG, "H", 1, 8, True)]}),
}


def write_all(root: Path) -> Path:
    """Masks are drawn on the pictures as displayed, and say nothing of an orientation."""
    for name in ("images", "masks", "splits"):
        (root / name).mkdir(parents=True)
    for name, (write, options) in FILES.items():
        path = root / "images" / name
        write(path, **options)
        mask = np.zeros(read_image(path).shape[:2], np.uint8)
        mask[3:20, 5:15] = 255
        Image.fromarray(mask).save(root / "masks" / f"{path.stem}.png")
    stems = [Path(name).stem for name in FILES]
    for part, names in (("train", stems[:2]), ("val", stems[2:3]), ("test", stems[3:])):
        (root / "splits" / f"{part}.txt").write_text("".join(f"{name}\n" for name in names))
    return root


def test_three_ways_to_the_same_masks_and_these_pair_again(tmp_path: Path) -> None:
    root = write_all(tmp_path / "data")
    data = FolderDataModule(str(root), image_size=32, labelled_batch_size=2, eval_batch_size=4)
    method = unet()
    path, own = trained(tmp_path, method, data)
    lightning.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[PredictionWriter(tmp_path)]
    ).predict(method, datamodule=data, return_predictions=False)
    out = tmp_path / "out"
    assert predict(path, root / "images", out, "--probabilities", "--overlays") == 0
    measured = {Path(row["path"]).name: row for row in rows(out)}
    assert len(own) == len(FILES) - 3
    for (source, _), expected in own.items():
        name, stem = Path(source).name, Path(source).stem
        for written in (tmp_path / "predictions" / f"{stem}.png", out / "masks" / f"{stem}.png"):
            np.testing.assert_array_equal(read_image(written), expected)
            with Image.open(written) as mask:  # as a viewer shows it
                np.testing.assert_array_equal(np.asarray(ImageOps.exif_transpose(mask)), expected)
                assert mask.size[::-1] == SIZE  # and as the file of the picture stores its pixels
                stored = np.asarray(mask)
        orientation = FILES[name][1].get("orientation", 8 if stem == "turned" else 1)
        np.testing.assert_array_equal(to_displayed(stored, orientation), expected)
        with np.load(out / "probabilities" / f"{stem}.npz") as file:
            assert file["probabilities"].shape == (2, *SIZE)
            share = np.take_along_axis(file["probabilities"], stored[None].astype(int), 0)
            assert (share >= 0.5).all()
        assert (measured[name]["rows"], measured[name]["columns"]) == tuple(map(str, SIZE))
        assert int(measured[name]["pixels"]) == expected.sum()
        assert read_image(out / "overlays" / f"{stem}.png").shape[:2] == expected.shape
    assert any(0 < expected.mean() < 1 for expected in own.values())

    # The written masks beside their pictures are read as what was predicted.
    (root / "masks").rename(tmp_path / "drawn")
    (out / "masks").rename(root / "masks")
    layout = FolderLayout(str(root), masks="indexed")
    for item in layout.items():
        size = layout.read_image(item).shape[:2]
        label = layout.read_label(item, (size[0], size[1]))
        if (found := own.get((str(item.image), 0))) is not None:
            np.testing.assert_array_equal(label, found)
