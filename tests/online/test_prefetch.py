"""Passes over several images: what is asked for, what is kept, and that neither cache nor neighbours change a bit."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_samseg.errors import UserError
from lightning_samseg.models.frozen_sam import FrozenSam
from lightning_samseg.online.cache import LogitsCache
from lightning_samseg.online.prefetch import Request, SamPrefetcher, requests_of, sam_prefetcher
from lightning_samseg.online.prompter import Prompter
from lightning_samseg.types import Case, StreamItem
from tests.comparing import assert_equal


def request(number: int) -> Request:
    image = np.random.default_rng(number).integers(0, 255, (30 + number, 44, 3), dtype=np.uint8)
    return Request(image, np.array([[3.0, 4.0, 20.0, 25.0], [10.0, 2.0, 40.0, 20.0 + number]]))


STREAM = [request(number) for number in range(7)]


class Recorder:
    """Answers an image by its mean; ``leaky`` adds a trace of the pass's first image."""

    def __init__(self, leaky: bool = False) -> None:
        self.leaky = leaky
        self.passes: list[list[int]] = []

    def __call__(self, requests: Sequence[Request]) -> list[Tensor]:
        self.passes.append([len(each.image) - 30 for each in requests])
        trace = requests[0].image.mean() / 100 if self.leaky else 0
        return [torch.full((2, 4, 4), each.image.mean() + trace, dtype=torch.float32) for each in requests]


def answers_of(prefetcher: SamPrefetcher, start: int = 0) -> list[Tensor]:
    return [prefetcher.logits(STREAM[at], iter(STREAM[at + 1 :])) for at in range(start, len(STREAM))]


def test_one_pass_serves_the_next_images() -> None:
    recorder = Recorder()
    answers = answers_of(SamPrefetcher(recorder, "sam", "box", batch=3))
    assert recorder.passes == [[0, 1, 2], [2], [3, 4, 5], [6]]  # the second is the test of the neighbours
    for each, answer in zip(STREAM, answers, strict=True):
        assert answer.dtype == torch.float16
        torch.testing.assert_close(answer, torch.full((2, 4, 4), each.image.mean(), dtype=torch.float16))


def test_one_image_at_a_time_never_looks_ahead() -> None:
    def unread() -> Request:
        raise AssertionError("read without need")

    recorder = Recorder()
    prefetcher = SamPrefetcher(recorder, "sam", "box", batch=1)
    prefetcher.logits(STREAM[0], (unread() for _ in range(3)))
    assert recorder.passes == [[0]]


def test_what_is_cached_is_not_computed(tmp_path: Path) -> None:
    first = answers_of(SamPrefetcher(Recorder(), "sam", "box", 3, LogitsCache(tmp_path, 10**7)), start=3)
    recorder = Recorder()
    prefetcher = SamPrefetcher(recorder, "sam", "box", 3, LogitsCache(tmp_path, 10**7))
    again = answers_of(prefetcher)
    assert recorder.passes == [[0, 1, 2], [2]]
    for one, other in zip(first, again[3:], strict=True):
        assert torch.equal(one, other)
    third = Recorder()
    answers_of(SamPrefetcher(third, "sam", "box", 3, LogitsCache(tmp_path, 10**7)))
    assert third.passes == []
    answers_of(SamPrefetcher(third, "another sam", "box", 3, LogitsCache(tmp_path, 10**7)))
    answers_of(SamPrefetcher(third, "sam", "box", 2, LogitsCache(tmp_path, 10**7)))
    assert third.passes == [[0, 1, 2], [2], [3, 4, 5], [6], [0, 1], [1], [2, 3], [4, 5], [6]]


def test_neighbours_that_matter_are_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever was there, each image is answered as alone: with cache, without, and from the middle."""
    expected = [compute([each])[0].half() for each in STREAM for compute in [Recorder(leaky=True)]]
    for cache in (None, LogitsCache(tmp_path, 10**7), LogitsCache(tmp_path, 10**7)):
        for start in (4, 0):
            answers = answers_of(SamPrefetcher(Recorder(leaky=True), "sam", "box", 3, cache), start)
            assert all(torch.equal(one, other) for one, other in zip(answers, expected[start:], strict=True))
    assert "one by one instead" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["box", "point"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_real_sam_gives_the_same_bits_in_any_company(kind: str, precision: str, tmp_path: Path) -> None:
    generalist = FrozenSam("tiny")
    stream = STREAM if kind == "box" else [Request(each.image, each.prompts[:, :2]) for each in STREAM]
    cache = LogitsCache(tmp_path, 10**8)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
        runs = []
        for batch, kept, start in ((3, None, 0), (3, cache, 2), (3, cache, 0), (3, cache, 0), (1, None, 0)):
            prefetcher = sam_prefetcher(generalist, kind, batch, kept, precision)  # type: ignore[arg-type]
            runs.append(
                [prefetcher.logits(each, iter(stream[at + 1 :])) for at, each in enumerate(stream) if at >= start]
            )
        single = [
            generalist.predict(each.image, **{"boxes" if kind == "box" else "points": each.prompts})[0]  # type: ignore[arg-type]
            for each in stream
        ]
    for run in (runs[1], runs[2][2:], runs[3][2:]):
        assert all(torch.equal(one, other) for one, other in zip(run, runs[0][2:], strict=True))
    assert all(torch.equal(one, other) for one, other in zip(runs[2], runs[0], strict=True))
    step = 2**-11 if precision == "32-true" else 2**-8  # half a last bit: of float16, in which it is kept, or bfloat16
    for one, alone, published in zip(runs[0], runs[4], single, strict=True):
        assert torch.equal(alone, published.half())
        assert_equal(one.float(), alone.float(), within=16 * step)


def item(position: int, objects: bool = True) -> StreamItem:
    mask = np.zeros((20, 24), np.uint8)
    mask[4:9, 3 + position : 9 + position] = objects
    case = Case(str(position), f"{position}.png", (20, 24), (20, 24))
    picture = np.full((20, 24, 3), position, np.uint8)
    return StreamItem(position=position, set_name="a", cases=[case], original=picture, reference=mask)


def test_the_images_that_follow() -> None:
    """One without an object is left out; behind the end of the stream, or a mistake, nothing is asked."""
    items = [item(0), item(1, objects=False), item(2), StreamItem(position=3, set_name="", cases=[]), item(4)]
    found = list(requests_of(items, Prompter()))
    assert [int(each.image[0, 0, 0]) for each in found] == [0, 2]
    np.testing.assert_array_equal(found[1].prompts, [[5, 4, 11, 9]])

    class Refuses(Prompter):
        def prompts_of(self, item: StreamItem) -> NDArray[np.float64]:
            if item["position"] == 2:
                raise UserError("a box outside of the image", fix="none")
            return super().prompts_of(item)

    assert [int(each.image[0, 0, 0]) for each in requests_of(items, Refuses())] == [0]


def test_a_pass_of_nothing() -> None:
    with pytest.raises(UserError, match="sam_batch 0"):
        sam_prefetcher(FrozenSam("tiny"), "box", 0)
