"""Time of prompt generation: ours beside a plain per-region procedure, and in threads; on the same maps and draws."""

import statistics
import time
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from tqdm import tqdm

from lightning_samseg.prompts.points import Draw, class_points


def benchmark_prompts(
    batch: int = 12,
    size: int = 512,
    num_classes: int = 4,
    specks: Sequence[int] = (0, 100, 1000),
    repeats: int = 3,
    seed: int = 0,
) -> dict[str, Any]:
    """Time both procedures on one thread, on CPU, in this process, and check that they choose the same points.

    Times are CPU seconds of that thread, so that other programs on the machine do not count. Those of ours in threads,
    as many as PyTorch has, can only be seconds of the clock, beside one thread's.

    Args:
        batch: Images.
        size: Side of the label maps in pixels.
        num_classes: ``K``, with background.
        specks: Numbers of squares of 3 x 3 pixels and random class, strewn over each otherwise clean image.
        repeats: Runs of each procedure, in turn; the median is reported.
        seed: Key of the label maps and draws.

    Returns:
        The arguments, and in ``rows`` one dict per number of specks: ``specks`` per image, ``regions`` (components
        per image, mean), ``ours_s`` and ``per_region_s`` (seconds per batch), ``ratio`` and ``same_points``;
        ``one_thread_s``, ``threads_s``, ``threads_ratio`` and ``same_in_threads`` of batches with a generator per
        image, as a training step has.
    """
    rows = []
    threads = cv2.getNumThreads(), torch.get_num_threads()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    try:
        for number in tqdm(specks, desc="prompts", unit="setting"):
            maps = np.stack([_label_map(size, num_classes, number, (seed, number, i)) for i in range(batch)])
            ours_s, plain_s = [], []
            for _ in range(repeats):
                start = time.thread_time()
                ours = _ours(maps, num_classes, seed)
                middle = time.thread_time()
                plain = _per_region(maps, num_classes, seed)
                ours_s.append(middle - start)
                plain_s.append(time.thread_time() - middle)
            rows.append(
                {
                    "specks": number,
                    "regions": float(np.mean([_count_regions(image, num_classes) for image in maps])),
                    "ours_s": statistics.median(ours_s),
                    "per_region_s": statistics.median(plain_s),
                    "ratio": statistics.median(plain_s) / statistics.median(ours_s),
                    "same_points": bool((ours == plain).all()),
                    **_in_threads(maps, num_classes, seed, threads[1], repeats),
                }
            )
    finally:
        cv2.setNumThreads(threads[0])
        torch.set_num_threads(threads[1])
    return {
        "threads": threads[1],
        "batch": batch,
        "size": size,
        "num_classes": num_classes,
        "repeats": repeats,
        "seed": seed,
        "rows": rows,
    }


def per_region_points(labels: NDArray[np.uint8], num_classes: int, draw: Draw) -> NDArray[np.float64]:
    """One centre and one random point per class, the slow way: whole-image passes for every region of every class.

    A restatement, from the description of the authors' procedure, of what :func:`~.points.image_points` must choose:
    label, sum a whole-image mask per region, transform the whole image. The yardstick of the benchmark and the tests.

    Args:
        labels: ``(H, W)`` class ids.
        num_classes: ``K``, with background.
        draw: Uniform draw from 0..n-1.

    Returns:
        ``(K, 2, 3)`` of (x, y, label): centre, random.
    """
    tokens = np.zeros((num_classes, 2, 3))
    stand_in = np.zeros(3)
    for class_id in range(num_classes):
        if not (labels == class_id).any():
            tokens[class_id] = stand_in
            continue
        ids, count = ndimage.label(labels == class_id, structure=np.ones((3, 3)))
        areas = [np.where(ids == i, 1, 0).sum() for i in range(1, count + 1)]
        best = max(i for i in range(1, count + 1) if areas[i - 1] == max(areas))
        component = (ids == best).astype(np.uint8)
        depth = cv2.distanceTransform(np.pad(component, 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
        for slot, candidates in ((1, component > 0), (0, depth == depth.max())):
            rows, columns = np.where(candidates)
            index = draw(len(rows))
            tokens[class_id, slot] = columns[index], rows[index], class_id
        if class_id == 0:
            stand_in = tokens[0, 0].copy()
    return tokens


def _ours(maps: NDArray[np.uint8], num_classes: int, seed: int) -> NDArray[Any]:
    points = class_points(torch.from_numpy(maps), num_classes, np.random.default_rng(seed))
    return np.stack([points.center.numpy(), points.random.numpy()], axis=2)


def _in_threads(maps: NDArray[np.uint8], num_classes: int, seed: int, threads: int, repeats: int) -> dict[str, Any]:
    """Seconds of the clock on one thread and on several, in turn."""
    seconds: dict[int, list[float]] = {1: [], threads: []}
    found = {}
    for _ in range(repeats):
        for number, times in seconds.items():
            torch.set_num_threads(number)
            generators = [np.random.default_rng((seed, i)) for i in range(len(maps))]
            start = time.perf_counter()
            found[number] = class_points(torch.from_numpy(maps), num_classes, generators)
            times.append(time.perf_counter() - start)
    torch.set_num_threads(1)
    one, several = statistics.median(seconds[1]), statistics.median(seconds[threads])
    same = all(torch.equal(*both) for both in zip(found[1], found[threads], strict=True))
    return {"one_thread_s": one, "threads_s": several, "threads_ratio": one / several, "same_in_threads": same}


def _per_region(maps: NDArray[np.uint8], num_classes: int, seed: int) -> NDArray[Any]:
    rng = np.random.default_rng(seed)
    return np.stack([per_region_points(image, num_classes, lambda n: int(rng.integers(n))) for image in maps])[..., :2]


def _label_map(size: int, num_classes: int, specks: int, key: tuple[int, ...]) -> NDArray[np.uint8]:
    """One ellipse per foreground class, overlapping as organs do, then the specks."""
    rng = np.random.default_rng(key)
    labels = np.zeros((size, size), np.uint8)
    for class_id in range(1, num_classes):
        center = rng.integers(size // 4, 3 * size // 4, 2).tolist()
        axes = rng.integers(size // 12, size // 5, 2).tolist()
        cv2.ellipse(labels, center, axes, float(rng.integers(180)), 0, 360, class_id, -1)
    for y, x in rng.integers(0, size - 2, (specks, 2)):
        labels[y : y + 3, x : x + 3] = rng.integers(num_classes)
    return labels


def _count_regions(labels: NDArray[np.uint8], num_classes: int) -> int:
    return sum(cv2.connectedComponents((labels == c).view(np.uint8))[0] - 1 for c in range(num_classes))
