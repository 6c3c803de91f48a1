"""Memory stays flat over epochs, in the main process and in workers, also with long lists of files."""

import gc
import itertools
import json
import multiprocessing
import subprocess
import sys
import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import data_modules
from data_modules import BusiDataModule
from data_modules.layouts.base import Item, Layout, Splits
from data_modules.layouts.busi import BusiLayout
from data_modules.loading.cache import DecodedCache
from data_modules.loading.dataset import SegmentationDataset
from data_modules.loading.samplers import StreamLoader, StreamSampler
from tests.fakes import write_busi

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]


class Many(Layout):
    """A long list of images that are made when they are read."""

    class_names = ("a",)

    def __init__(self, count, keeps=False):
        self.count, self.keeps, self.kept = count, keeps, []

    def splits(self):
        items = [
            Item(f"case_{n:06d}", Path(f"images/case_{n:06d}.png"), (Path(f"masks/case_{n:06d}.png"),), "", f"p{n}")
            for n in range(self.count)
        ]
        return Splits(items[:1], items, items[:1])

    def read_image(self, item):
        pixels = np.full((64, 64), len(item.case_id) + item.class_id, np.uint8)
        if self.keeps:
            self.kept.append(pixels)
        return pixels

    def read_label(self, item, size):
        return np.zeros(size, np.uint8)


OURS = tracemalloc.Filter(True, str(Path(data_modules.__file__).parent / "*"), all_frames=True)


def held():
    """Bytes that the package has called for and that are still there.

    The rest of the process may grow as it likes: threads of tqdm or of a logger that an earlier test has left, caches
    of libraries.
    """
    gc.collect()
    return sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces([OURS]).traces)


def growth(levels):
    """The least that is gained from one epoch to the next: what grows without end grows in every one.

    A cache that fills, or a page that is touched for the first time, does not; when these are met hangs on the machine
    and on what else it does.
    """
    return min(later - earlier for earlier, later in pairwise(levels))


def hoard(monkeypatch):
    """Make the layout keep one image in ten."""
    read, count, kept = BusiLayout.read_image, itertools.count(), []

    def keeps(layout, item):
        pixels = read(layout, item)
        if next(count) % 10 == 0:
            kept.append(pixels)
        return pixels

    monkeypatch.setattr(BusiLayout, "read_image", keeps)


@pytest.mark.parametrize("grows", [False, True])
def test_objects_of_the_main_process_do_not_grow(tmp_path, monkeypatch, grows):
    monkeypatch.setenv("SAMSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(DecodedCache.__init__, "__defaults__", (None, 0.0))
    if grows:
        hoard(monkeypatch)
    data = BusiDataModule(str(write_busi(tmp_path)), split="random", image_size=32, cache_gb=0 if grows else 1)
    loader = data.val_dataloader()
    dataset = SegmentationDataset(
        data.layout, data.splits.train, data.view, "labelled", data._augmentation(), cache_gb=data.cache_gb
    )
    stream = iter(StreamLoader(dataset, sampler=StreamSampler(dataset, 7, 1, seed=0, stream=0), batch_size=None))

    def epoch():
        for _ in loader:
            pass
        for _ in range(4):  # 28 images: two permutations of 14
            next(stream)

    epoch()  # imports what is imported late
    levels = []
    tracemalloc.start(25)  # frames of each allocation: the innermost are numpy's, h5py's or OpenCV's
    try:
        for _ in range(4):
            epoch()
            levels.append(held())
    finally:
        tracemalloc.stop()
    assert (growth(levels) > 5_000) == grows, levels  # bytes; a single 32 x 32 image of three channels is 12,288


SCRIPT = """
import json
from data_modules.base import SegmentationDataModule
from tests.data_modules.test_memory import Many, private_kib

for keeps in (False, True):
    data = SegmentationDataModule(Many(1000, keeps), image_size=16, eval_batch_size=64, num_workers=2, cache_gb=0)
    loader = data.val_dataloader()
    levels = []
    for _ in range(4):
        for _ in loader:
            pass
        levels.append(private_kib())
    print(json.dumps(levels))
    del loader, data  # and the workers
"""


def private_kib():
    """KiB of pages of the worker processes that are not shared, by process."""
    kib = {}
    for process in multiprocessing.active_children():
        lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
        kib[process.pid] = sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
    return kib


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux")
def test_workers_do_not_grow_with_a_long_list():
    """In a new interpreter: workers share the pages of the process that forks them until something touches them."""
    run = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, check=True)
    for line, grows in zip(run.stdout.splitlines()[-2:], (False, True), strict=True):
        levels = json.loads(line)
        assert len(levels[0]) == 2
        assert levels[0].keys() == levels[-1].keys()  # the same processes
        for process in levels[0]:  # an image has 4 KiB, and a worker reads 500 of them
            assert (growth([each[process] for each in levels]) > 1000) == grows, levels
