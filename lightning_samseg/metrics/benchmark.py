"""How fast HD95 and ASD are beside medpy, on volumes of ACDC's size."""

import time
from collections.abc import Callable
from importlib import import_module
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_samseg.errors import UserError
from lightning_samseg.metrics import functional as F

SHAPE = (10, 216, 256)
SPACING = (10.0, 1.4, 1.4)
"""mm, (slice, row, column)."""
NUM_CLASSES = 3


def benchmark_metrics(repeats: int = 3, seed: int = 0) -> dict[str, Any]:
    """Time HD95 and ASD of the three classes of heart-like volumes, ours and medpy's in turn on the same masks.

    Args:
        repeats: Volumes, each another generated one; the median is reported.
        seed: Of the volumes.

    Returns:
        ``medpy_ms`` and ``ours_ms``, milliseconds per volume (median), ``speedup`` = their ratio, ``max_difference`` in
        mm over all HD95 and ASD, and the settings ``shape``, ``classes``, ``repeats``.

    Raises:
        UserError: If medpy is not installed.
    """
    try:
        binary = import_module("medpy.metric.binary")
    except ImportError as error:
        raise UserError("The benchmark compares with medpy, which is not installed", fix="pip install medpy") from error

    def medpy(prediction: F.BoolArray, reference: F.BoolArray) -> list[float]:
        return [binary.hd95(prediction, reference, SPACING), binary.asd(prediction, reference, SPACING)]

    timings: dict[str, list[float]] = {"medpy": [], "ours": []}
    differences = []
    for position in range(repeats):
        rng = np.random.default_rng((seed, position))
        reference, prediction = _heart(rng), _heart(rng)
        results = {}
        for name, function in (("medpy", medpy), ("ours", _ours)):
            results[name], seconds = _time_classes(function, prediction, reference)
            timings[name].append(1e3 * seconds)
        differences.append(float(np.abs(np.subtract(results["medpy"], results["ours"])).max()))
    medpy_ms, ours_ms = median(timings["medpy"]), median(timings["ours"])
    return {
        "medpy_ms": medpy_ms,
        "ours_ms": ours_ms,
        "speedup": medpy_ms / ours_ms,
        "max_difference": max(differences),
        "shape": SHAPE,
        "classes": NUM_CLASSES,
        "repeats": repeats,
    }


def _ours(prediction: F.BoolArray, reference: F.BoolArray) -> list[float]:
    distances = F.surface_distances(prediction, reference, SPACING)
    return [F.hd95(distances), F.asd(distances)]


def _time_classes(
    function: Callable[[F.BoolArray, F.BoolArray], list[float]],
    prediction: npt.NDArray[np.uint8],
    reference: npt.NDArray[np.uint8],
) -> tuple[list[list[float]], float]:
    start = time.perf_counter()
    scores = [function(prediction == c, reference == c) for c in range(1, NUM_CLASSES + 1)]
    return scores, time.perf_counter() - start


def _heart(rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Label volume of ACDC's size: 1 a crescent at the left, 2 a ring, 3 the disc inside it, tapering upwards."""
    _, rows, columns = SHAPE
    y, x = np.mgrid[:rows, :columns]
    row, column = np.array([0.5 * rows, 0.5 * columns]) + rng.uniform(-4, 4, size=2)
    radius = rng.uniform(24, 28)
    labels = np.zeros(SHAPE, np.uint8)
    for index, plane in enumerate(labels):
        size = 1.0 - 0.06 * index
        distance = np.hypot(y - row, x - column)
        crescent = np.hypot((y - row) / 1.3, x - column + 1.5 * radius * size) < 0.9 * radius * size
        plane[crescent] = 1
        plane[distance < 1.3 * radius * size] = 2
        plane[distance < 0.8 * radius * size] = 3
    return labels
