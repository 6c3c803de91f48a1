import fcntl
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_samseg.online.cache import LogitsCache, cache_key

IMAGE = np.arange(6 * 5 * 3, dtype=np.uint8).reshape(6, 5, 3)
BOXES = np.array([[0.0, 1.0, 3.0, 4.0]])
ENTRY = 32 + 128 + 4 * 1000  # checksum, header of the array, 1000 numbers


def entry(seed: int) -> torch.Tensor:
    return torch.randn(10, 100, generator=torch.Generator().manual_seed(seed))


def key(number: int) -> str:
    return cache_key("sam", IMAGE, BOXES + number, "box")


def files(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*/*.logits")}


def forbidden() -> torch.Tensor:
    raise AssertionError("computed although it is in the cache")


def test_what_comes_out_is_what_went_in(tmp_path: Path) -> None:
    cache = LogitsCache(tmp_path, 10**6)
    logits = entry(0)
    logits[0, :3] = torch.tensor([float("inf"), -0.0, 1e-42])
    assert cache.get_or_compute(key(0), lambda: logits) is logits
    again = LogitsCache(tmp_path, 10**6).get_or_compute(key(0), forbidden)
    assert again.dtype == torch.float32
    assert again.numpy().tobytes() == logits.numpy().tobytes()
    half = torch.tensor([1.5, -0.0, 6e-8, 65504.0], dtype=torch.float16)
    cache.put(key(2), half)
    assert cache.get(key(2)).numpy().tobytes() == half.numpy().tobytes()  # type: ignore[union-attr]
    empty = cache.get_or_compute(key(1), lambda: torch.zeros(0, 4, 4))
    assert cache.get(key(1)).shape == empty.shape  # type: ignore[union-attr]


def test_the_key_depends_on_everything() -> None:
    other = IMAGE.copy()
    other[5, 4, 2] += 1
    keys = [
        cache_key("sam", IMAGE, BOXES, "box"),
        cache_key("medsam", IMAGE, BOXES, "box"),
        cache_key("sam", other, BOXES, "box"),
        cache_key("sam", IMAGE.reshape(5, 6, 3), BOXES, "box"),
        cache_key("sam", IMAGE, BOXES + 0.25, "box"),
        cache_key("sam", IMAGE, BOXES.reshape(2, 2), "point"),
        cache_key("sam", IMAGE, np.concatenate([BOXES, BOXES]), "box"),
    ]
    assert len(set(keys)) == len(keys)
    assert keys[0] == cache_key("sam", np.asfortranarray(IMAGE), BOXES.astype(np.float32), "box")


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "foreign"])
def test_a_damaged_file_is_computed_again(tmp_path: Path, damage: str) -> None:
    cache = LogitsCache(tmp_path, 10**6)
    cache.put(key(0), entry(0))
    (path,) = tmp_path.glob("*/*.logits")
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    path.write_bytes({"flip": bytes(content), "truncate": content[:-9], "empty": b"", "foreign": b"x" * 50}[damage])
    assert cache.get(key(0)) is None
    assert not files(tmp_path)
    assert torch.equal(cache.get_or_compute(key(0), lambda: entry(0)), entry(0))
    assert torch.equal(cache.get_or_compute(key(0), forbidden), entry(0))


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    cache = LogitsCache(tmp_path, 10 * ENTRY)
    for number in range(10):
        cache.put(key(number), entry(number))
        path = tmp_path / key(number)[:2] / f"{key(number)}.logits"
        assert path.stat().st_size == ENTRY
        os.utime(path, (1000 + number, 1000 + number))
    assert cache.get(key(0)) is not None  # now used last
    LogitsCache(tmp_path, 10 * ENTRY).put(key(10), entry(10))  # another process finds what is there
    assert files(tmp_path) == {key(number) for number in (0, *range(3, 11))}


def test_processes_that_write_at_the_same_time_keep_to_the_limit(tmp_path: Path) -> None:
    caches = [LogitsCache(tmp_path, 10 * ENTRY) for _ in range(3)]
    for number in range(21):
        caches[number % 3].put(key(number), entry(number))
        assert len(files(tmp_path)) <= 10


def test_leftovers_of_killed_processes_go(tmp_path: Path) -> None:
    (tmp_path / "ab").mkdir()
    old, new = tmp_path / "ab" / ".x.1.part.logits", tmp_path / "ab" / ".y.2.part.logits"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (1000, 1000))
    LogitsCache(tmp_path, 10**6).put(key(0), entry(0))
    assert (old.exists(), new.exists()) == (False, True)


def test_a_disk_that_takes_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    cache = LogitsCache(tmp_path / "file", 10**6)
    assert torch.equal(cache.get_or_compute(key(0), lambda: entry(0)), entry(0))


def test_a_file_that_cannot_be_marked_as_used_is_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a folder of somebody else, or on a read-only disk."""
    cache = LogitsCache(tmp_path, 10**6)
    cache.put(key(0), entry(0))

    def refuses(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "utime", refuses)
    assert torch.equal(cache.get_or_compute(key(0), forbidden), entry(0))


def hammer(folder: Path, seed: int) -> bool:
    torch.set_num_threads(1)
    cache = LogitsCache(folder, 6 * ENTRY)  # processes keep removing each other's files
    order = np.random.default_rng(seed).integers(0, 12, 150)
    return all(torch.equal(cache.get_or_compute(key(n), lambda n=n: entry(n)), entry(n)) for n in map(int, order))


def test_several_processes_share_a_folder(tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert all(pool.starmap(hammer, [(tmp_path, seed) for seed in range(4)]))
    assert not list(tmp_path.glob("*/.*.part*"))


def slowly(folder: Path, number: int, made: Path) -> bool:
    """Compute an entry in half a second and leave a mark."""
    torch.set_num_threads(1)

    def compute() -> torch.Tensor:
        time.sleep(0.5)
        (made / str(os.getpid())).touch()
        return entry(number)

    return torch.equal(LogitsCache(folder, 10**6).get_or_compute(key(number), compute), entry(number))


def test_what_one_process_computes_the_others_wait_for(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    with multiprocessing.get_context("fork").Pool(3) as pool:
        assert all(pool.starmap(slowly, [(tmp_path / "cache", 1, tmp_path / "made")] * 3, chunksize=1))
    assert len(list((tmp_path / "made").iterdir())) == 1


def test_nobody_waits_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that holds the claim and never ends: here, this one."""
    monkeypatch.setattr("lightning_samseg.online.cache.PATIENCE_S", 0.1)
    cache = LogitsCache(tmp_path, 10**6)
    (tmp_path / key(0)[:2]).mkdir()
    with (tmp_path / key(0)[:2] / ".claim").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert torch.equal(cache.get_or_compute(key(0), lambda: entry(0)), entry(0))
    with pytest.raises(RuntimeError, match="of the computation"):
        cache.get_or_compute(key(1), failing)
    assert torch.equal(cache.get_or_compute(key(1), lambda: entry(1)), entry(1))


def failing() -> torch.Tensor:
    raise RuntimeError("of the computation")
