"""OpenMP counts threads for each thread of a program anew."""

import ctypes
import threading
from pathlib import Path

import pytest
import torch

from lightning_samseg.annotate.threads import as_many_threads


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux")
def test_a_thread_computes_with_as_many_as_the_main_one() -> None:
    torch.set_num_threads(3)
    lines = Path("/proc/self/maps").read_text().splitlines()
    paths = {line.split(maxsplit=5)[-1] for line in lines if "libgomp" in line or "libomp" in line}
    openmp = [ctypes.CDLL(path) for path in paths]
    assert openmp
    found: list[set[int]] = []

    def work() -> None:
        found.append({each.omp_get_max_threads() for each in openmp})
        as_many_threads()
        found.append({each.omp_get_max_threads() for each in openmp})

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert 3 not in found[0], "this is what it is for"
    assert 3 in found[1]
