"""How fast training slices of ACDC are delivered, beside the way of CPC-SAM's published code, in one thread."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import h5py
import numpy as np
import scipy.ndimage
import torch
from torch.utils.data import default_collate

from data_modules.augment import CpcSamAugmentation
from data_modules.generated.volumes import write_demo_acdc
from data_modules.layouts.acdc import AcdcLayout
from data_modules.layouts.acdc_native import find_frames, prepare_frame, write_lists
from data_modules.layouts.base import Item, Layout
from data_modules.loading.cache import DecodedCache
from data_modules.loading.dataset import SegmentationDataset
from data_modules.loading.samplers import StreamLoader, StreamSampler
from lightning_samseg.io.images import write_image
from lightning_samseg.transforms import View
from lightning_samseg.types import Batch

Draw = tuple[str, int, int]
"""One augmentation: ``("none", 0, 0)``, ``("turn", k, axis)`` or ``("rotate", angle, 0)``."""


def benchmark_data(
    root: str | None = None, image_size: int = 512, batch_size: int = 6, batches: int = 8, repeats: int = 5
) -> dict[str, Any]:
    """Time labelled training batches, ours and the authors' way in turn, from h5 files to ``(B, 3, S, S)``.

    The authors' way is CPC-SAM's ``RandomGenerator``: rotation by 90 degrees and flip, or small rotation, then
    ``scipy.ndimage.zoom`` of order 3 for the image and 0 for the label, collated, then repeated to three channels.

    Args:
        root: Folder of ACDC as ``AcdcDataModule`` takes it, with lists of its own; generated slices if None.
        image_size: S, side of the network input in pixels.
        batch_size: B, slices per batch.
        batches: Batches per round and way.
        repeats: Rounds, after one that is not counted; the median is reported.

    Returns:
        ``authors_ms``, ``ours_ms`` (slices decoded before) and ``ours_uncached_ms``, CPU milliseconds per slice, and
        elapsed ones with ``_wall_ms``; ``speedup``, ``authors_ms`` over ``ours_ms``; ``label_agreement``, share of
        equal pixels, and ``image_difference``, the median absolute one over the images' range, with the same
        augmentations drawn; ``png_ms`` and ``png_cached_ms``, CPU milliseconds to decode a 2048 x 1536 PNG with its
        mask, and to read it from the cache.

    Raises:
        UserError: If ``root`` holds no ACDC.
    """
    with TemporaryDirectory() as folder, _one_thread():
        layout = AcdcLayout(root or str(_generated(Path(folder))), split="files")
        items = layout.splits().train
        view = View(image_size, normalise="stored", geometry="corner_aligned")
        cached, plain = (
            SegmentationDataset(layout, items, view, "labelled", CpcSamAugmentation(), (0, 0)) for _ in range(2)
        )
        cached.cache = DecodedCache(layout, 1, Path(folder) / "slices")
        ways: dict[str, Iterator[Any]] = {
            "authors": _authors_batches(_sampler(plain, batch_size), items, image_size),
            "ours": iter(StreamLoader(cached, sampler=_sampler(cached, batch_size), batch_size=None)),
            "ours_uncached": iter(StreamLoader(plain, sampler=_sampler(plain, batch_size), batch_size=None)),
        }
        cpu, wall = ({name: list[float]() for name in ways} for _ in range(2))
        for item in items:
            cached.cache.read(item, labelled=True)
        for round_ in range(repeats + 1):
            for name, stream in ways.items():
                seconds, elapsed = _timed(partial(_take, stream, batches))
                if round_:  # the first one is warm-up
                    cpu[name].append(1e3 * seconds / (batches * batch_size))
                    wall[name].append(1e3 * elapsed / (batches * batch_size))
        agreement, difference = compare(items, view, 12)
        png, from_cache = _decoding(Path(folder))
    return {
        **{f"{name}_ms": median(times) for name, times in cpu.items()},
        **{f"{name}_wall_ms": median(times) for name, times in wall.items()},
        "speedup": median(cpu["authors"]) / median(cpu["ours"]),
        "label_agreement": agreement,
        "image_difference": difference,
        "png_ms": png,
        "png_cached_ms": from_cache,
        "image_size": image_size,
        "batch_size": batch_size,
        "slices": batches * batch_size * repeats,
    }


def compare(items: list[Item], view: View, count: int) -> tuple[float, float]:
    """Compare both ways where they draw the same augmentations.

    Args:
        items: Slices of ACDC.
        view: Ours.
        count: Samples, each of another slice and seed.

    Returns:
        Share of label pixels that are equal, and the median absolute difference of the images over their range.
    """
    augmentation = CpcSamAugmentation()
    equal, differences = [], []
    for seed in range(count):
        item = items[seed * len(items) // count]
        image, label = _read(item.image)
        # Every pixel of this image is unique: how it moves tells what was drawn.
        pattern = np.arange(1, image.size + 1, dtype=np.float32).reshape(image.shape)
        moved, _ = augmentation(pattern, None, seed)
        theirs = authors_sample(image, label, _draw_of(pattern, moved), view.size)
        turned, kept = augmentation(image, label, seed)
        assert kept is not None
        ours, mask = view.fit_image(view.normalised(turned))[0][0], view.fit_mask(kept)
        equal.append(float((mask == theirs[1]).mean()))
        differences.append(float(np.median(np.abs(ours - theirs[0])) / np.ptp(theirs[0])))
    return float(np.mean(equal)), float(np.mean(differences))


def authors_sample(image: np.ndarray, label: np.ndarray, draw: Draw, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Augment and resize one slice in the authors' way, with SciPy.

    Args:
        image: float32 ``(H, W)``.
        label: uint8 ``(H, W)``.
        draw: The augmentation.
        size: S.

    Returns:
        float32 and uint8 ``(S, S)``.
    """
    kind, amount, axis = draw
    if kind == "turn":
        image, label = (np.flip(np.rot90(array, amount), axis=axis).copy() for array in (image, label))
    elif kind == "rotate":
        image, label = (scipy.ndimage.rotate(array, amount, order=0, reshape=False) for array in (image, label))
    factors = size / image.shape[0], size / image.shape[1]
    return scipy.ndimage.zoom(image, factors, order=3), scipy.ndimage.zoom(label, factors, order=0)


def _authors_batches(sampler: StreamSampler, items: list[Item], size: int) -> Iterator[Batch]:
    rng = np.random.default_rng(0)
    for keys in sampler:
        samples = []
        for index, _ in keys:
            image, label = authors_sample(*_read(items[index].image), _draw(rng), size)
            samples.append((torch.from_numpy(image.astype(np.float32))[None], torch.from_numpy(label)))
        images, masks = default_collate(samples)
        yield Batch(image=images.repeat(1, 3, 1, 1), mask=masks)


def _draw(rng: np.random.Generator) -> Draw:
    if rng.random() > 0.5:
        return "turn", int(rng.integers(0, 4)), int(rng.integers(0, 2))
    return ("rotate", int(rng.integers(-20, 20)), 0) if rng.random() > 0.5 else ("none", 0, 0)


def _draw_of(pattern: np.ndarray, moved: np.ndarray) -> Draw:
    """The draw that brings ``pattern`` closest to ``moved``."""
    draws: list[Draw] = [("none", 0, 0)]
    draws += [("turn", k, axis) for k in range(4) for axis in range(2)]
    for draw in draws:
        kind, amount, axis = draw
        if np.array_equal(pattern if kind == "none" else np.flip(np.rot90(pattern, amount), axis), moved):
            return draw
    rotated = {a: scipy.ndimage.rotate(pattern, a, order=0, reshape=False) for a in range(-20, 20)}
    return "rotate", max(rotated, key=lambda angle: (rotated[angle] == moved).mean()), 0


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with h5py.File(path, "r") as file:
        return file["image"][:].astype(np.float32), file["label"][:].astype(np.uint8)


def _sampler(dataset: SegmentationDataset, batch_size: int) -> StreamSampler:
    return StreamSampler(dataset, batch_size, 1, seed=0, stream=0)


def _generated(folder: Path) -> Path:
    native, prepared = folder / "native", folder / "prepared"
    frames, _ = find_frames(write_demo_acdc(native, train=2, val=1, test=1))
    for frame in frames:
        prepare_frame(frame, prepared)
    write_lists([frame.case for frame in frames], prepared)
    return prepared


def _decoding(folder: Path) -> tuple[float, float]:
    rows, columns = np.mgrid[:1536, :2048]
    noise = np.random.default_rng(0).integers(0, 8, (1536, 2048, 3))
    picture = np.stack([rows // 7, columns // 9, (rows + columns) // 15], axis=-1) % 248 + noise
    item = Item("a", folder / "a.png", (folder / "a_mask.png",))
    write_image(item.image, picture.astype(np.uint8))
    write_image(item.masks[0], np.hypot(rows - 700, columns - 900) < 300)
    times = []
    for limit in (0, 1):
        cache = DecodedCache(Layout(), limit, folder / "decoded", slow=0)
        cache.read(item, labelled=True)
        times.append(1e3 * median(_timed(partial(cache.read, item, labelled=True))[0] for _ in range(3)))
    return times[0], times[1]


def _take(stream: Iterator[Any], count: int) -> None:
    for _ in range(count):
        next(stream)


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    """CPU and elapsed seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])
