import time
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats

from lightning_samseg.errors import UserError
from lightning_samseg.prompts.benchmark import per_region_points
from lightning_samseg.prompts.components import deepest_pixels, inner_pixels, largest_component
from lightning_samseg.prompts.points import PromptsConfig, class_points, image_points, start_class_points


@pytest.fixture
def maps() -> np.ndarray:
    """Three images, four classes: all there; class 2 missing; no background."""
    labels = np.zeros((3, 24, 32), np.uint8)
    labels[0, 2:9, 2:12] = 1
    labels[0, 12:20, 20:30] = 2
    labels[0, 21:24, 0:5] = 3
    labels[0, 22, 30] = 1
    labels[1, 4:9, 4:9] = 1
    labels[1, 15:18, 20:26] = 3
    labels[2] = 3
    labels[2, :10] = 1
    return labels


def rng(key: int = 0) -> np.random.Generator:
    return np.random.default_rng(key)


def test_points_lie_in_their_classes_and_centres_are_deepest(maps: np.ndarray) -> None:
    points = class_points(torch.from_numpy(maps), 4, rng())
    assert points.center.shape == points.random.shape == (3, 4, 2)
    assert (points.center.dtype, points.center_labels.dtype) == (torch.float32, torch.int64)
    for image in range(3):
        for class_id in range(4):
            component = largest_component(maps[image] == class_id)
            if component is None:
                continue
            assert points.center_labels[image, class_id] == points.random_labels[image, class_id] == class_id
            deepest = component.points(deepest_pixels(component)[0]).tolist()
            assert points.center[image, class_id].tolist() in deepest
            assert points.random[image, class_id].tolist() in component.points(inner_pixels(component)).tolist()


def test_prompts_of_a_decoder(maps: np.ndarray) -> None:
    """The centres in one; the random points together, or dealt out one of each class at a time."""
    points = class_points(torch.from_numpy(maps), 4, rng(), PromptsConfig(num_center=2, num_random=3))
    together = points.prompts()
    assert [(place.shape[1], is_random) for place, _, is_random in together] == [(8, False), (12, True)]
    assert torch.equal(together[1][0], points.random)
    center, *separate = points.prompts(3)
    assert torch.equal(center[1], points.center_labels)
    assert [labels[0].tolist() for _, labels, _ in separate] == [[0, 1, 2, 3]] * 3
    assert all(is_random for _, _, is_random in separate)
    assert torch.equal(torch.stack([place for place, _, _ in separate], dim=2).flatten(1, 2), points.random)
    random_alone = class_points(torch.from_numpy(maps), 4, rng(), PromptsConfig(num_center=0, num_random=2)).prompts(2)
    assert [is_random for _, _, is_random in random_alone] == [True, True]
    assert [
        is_random for _, _, is_random in class_points(torch.from_numpy(maps), 4, rng(), PromptsConfig(1, 0)).prompts()
    ] == [False]


def test_absent_class_repeats_the_background_centre(maps: np.ndarray) -> None:
    points = class_points(torch.from_numpy(maps), 4, rng())
    assert points.center[1, 2].tolist() == points.random[1, 2].tolist() == points.center[1, 0].tolist()
    assert points.center_labels[1].tolist() == points.random_labels[1].tolist() == [0, 1, 0, 3]


def test_absent_background_leaves_the_origin(maps: np.ndarray) -> None:
    points = class_points(torch.from_numpy(maps), 4, rng())
    for chosen in (points.center, points.random):
        assert chosen[2, 0].tolist() == chosen[2, 2].tolist() == [0, 0]
    assert points.center_labels[2].tolist() == [0, 1, 0, 3]


def test_absent_class_as_no_point(maps: np.ndarray) -> None:
    points = class_points(torch.from_numpy(maps), 4, rng(), PromptsConfig(absent="not_a_point"))
    assert points.center_labels.tolist() == [[0, 1, 2, 3], [0, 1, -1, 3], [-1, 1, -1, 3]]
    assert points.center[1, 2].tolist() == [0, 0]


def test_without_background_tokens(maps: np.ndarray) -> None:
    points = class_points(torch.from_numpy(maps), 4, rng(), PromptsConfig(num_random=2, include_background=False))
    assert points.center.shape == (3, 3, 2)
    assert points.random.shape == (3, 6, 2)
    assert points.center_labels.tolist() == [[1, 2, 3], [1, -1, 3], [1, -1, 3]]
    assert points.random_labels[1].tolist() == [1, 1, -1, -1, 3, 3]


def test_numbers_of_points(maps: np.ndarray) -> None:
    labels = torch.from_numpy(maps)
    several = class_points(labels, 4, rng(), PromptsConfig(num_center=3, num_random=5))
    assert several.center.shape == (3, 12, 2)
    assert several.random.shape == (3, 20, 2)
    assert several.random_labels[1].tolist() == [0] * 5 + [1] * 5 + [0] * 5 + [3] * 5
    none = class_points(labels, 4, rng(), PromptsConfig(num_center=0, num_random=1))
    assert none.center.shape == (3, 0, 2)
    assert none.center_labels.shape == (3, 0)
    # The stand-in is the background's centre even where no centre is asked for.
    background = largest_component(maps[1] == 0)
    assert background is not None
    assert none.random[1, 2].tolist() in background.points(deepest_pixels(background)[0]).tolist()
    assert class_points(labels, 4, rng(), PromptsConfig(num_random=0)).random.shape == (3, 0, 2)


def test_several_centres_avoid_the_discs_of_earlier_ones() -> None:
    dumb_bell = np.zeros((1, 40, 90), np.uint8)
    dumb_bell[0, 5:36, 5:36] = 1  # half side 16
    dumb_bell[0, 19:22, 36:60] = 1
    dumb_bell[0, 10:31, 60:81] = 1  # half side 11
    dumb_bell[0] = 1 - dumb_bell[0]
    centers = class_points(torch.from_numpy(dumb_bell), 1, rng(), PromptsConfig(num_center=2)).center[0].tolist()
    assert centers == [[20, 20], [70, 20]]


def test_exhausted_component_repeats_its_first_centre() -> None:
    labels = np.zeros((1, 9, 9), np.uint8)
    labels[0, 4, 4] = 1
    assert (
        class_points(torch.from_numpy(labels), 2, rng(), PromptsConfig(num_center=3)).center[0, 3:].tolist()
        == [[4, 4]] * 3
    )


def test_same_points_as_the_per_region_procedure() -> None:
    """Random maps full of specks, ties and missing classes, with the same draws on both sides."""
    source = rng(5)
    for trial in range(40):
        labels = np.kron(source.integers(0, 4, (8, 9)), np.ones(source.integers(1, 5, 2))).astype(np.uint8)
        labels[labels == source.integers(0, 5)] = 3
        ours = image_points(labels, 4, np.random.RandomState(trial).randint)
        assert np.array_equal(ours, per_region_points(labels, 4, np.random.RandomState(trial).randint))


def test_draws_are_uniform() -> None:
    labels = np.zeros((9, 12), np.uint8)
    labels[2:5, 1:8] = 1  # 21 pixels, 5 of them deepest
    one = labels.copy()
    generator = rng(3)
    drawn = np.stack([image_points(one, 2, lambda n: int(generator.integers(n)))[1] for _ in range(4200)])
    for slot, candidates in ((0, 5), (1, 21)):
        counts = np.unique(drawn[:, slot, :2], axis=0, return_counts=True)[1]
        assert len(counts) == candidates
        assert stats.chisquare(counts).pvalue > 0.001


def test_repeats_with_the_generator_and_differs_without(maps: np.ndarray) -> None:
    labels = torch.from_numpy(maps)
    first, again, other = (class_points(labels, 4, rng(key)).random for key in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_one_generator_per_image_makes_points_independent_of_the_batch(maps: np.ndarray) -> None:
    labels = torch.from_numpy(maps)
    whole = class_points(labels, 4, [rng(0), rng(1), rng(2)])
    part = class_points(labels[1:], 4, [rng(1), rng(2)])
    assert torch.equal(whole.random[1:], part.random)
    assert torch.equal(whole.center[1:], part.center)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_choose_the_points_of_one_image_after_the_other(threads: int) -> None:
    maps = np.random.default_rng(0).integers(0, 4, (6, 8, 8), np.uint8).repeat(8, 1).repeat(8, 2)
    before, config = torch.get_num_threads(), PromptsConfig(num_center=2, num_random=3)
    torch.set_num_threads(threads)
    try:
        found = class_points(
            torch.from_numpy(maps), 4, [rng(key) for key in range(6)], PromptsConfig(num_center=2, num_random=3)
        )
    finally:
        torch.set_num_threads(before)
    for key, each in enumerate(maps):
        own = rng(key)
        tokens = image_points(each, 4, partial(own.integers, 0), config)
        assert found.center[key].tolist() == tokens[:, :2, :2].reshape(-1, 2).tolist()
        assert found.random[key].tolist() == tokens[:, 2:, :2].reshape(-1, 2).tolist()


def test_points_that_were_started_are_chosen_once(maps: np.ndarray) -> None:
    chosen = start_class_points(torch.from_numpy(maps), 4, [rng(key) for key in range(3)])
    assert chosen() is chosen()
    halves = class_points(torch.from_numpy(maps).repeat(2, 1, 1), 4, [rng(key) for key in (0, 1, 2, 0, 1, 2)]).split(2)
    for half in halves:
        assert all(torch.equal(one, other) for one, other in zip(half, chosen(), strict=True))


def test_what_fails_in_a_thread_is_raised_where_it_is_waited_for(maps: np.ndarray) -> None:
    class Broken:
        def integers(self, _: int) -> int:
            raise OSError("no more numbers")

    chosen = start_class_points(torch.from_numpy(maps), 4, [rng(), Broken(), rng()])  # type: ignore[list-item]
    with pytest.raises(OSError, match="no more numbers"):
        chosen()


def test_argmax_of_logits_is_taken_as_is() -> None:
    logits = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = logits.argmax(1)
    assert labels.dtype == torch.int64
    points = class_points(labels, 3, rng())
    x, y = points.random[0].long().T
    assert labels[0, y, x].tolist() == [0, 1, 2]


@pytest.mark.parametrize(("num_center", "num_random"), [(0, 0), (-1, 2), (1, -1)])
def test_impossible_numbers_are_refused(maps: np.ndarray, num_center: int, num_random: int) -> None:
    with pytest.raises(UserError, match="at least one centre or one random"):
        class_points(torch.from_numpy(maps), 4, rng(), PromptsConfig(num_center=num_center, num_random=num_random))


def test_time_does_not_grow_with_the_number_of_regions() -> None:
    """Some 8000 regions of one pixel against 2: a pass over the whole image for each would take 4000 times as long."""
    few, many = np.zeros((2, 1, 512, 512), np.uint8)
    few[0, :100], few[0, 200:300] = 1, 2
    many[0, ::4, ::4] = np.arange(128) % 2 + 1

    def seconds(labels: np.ndarray) -> float:
        start = time.thread_time()
        class_points(torch.from_numpy(labels), 3, rng())
        return time.thread_time() - start

    assert min(seconds(many) for _ in range(3)) < 50 * min(seconds(few) for _ in range(3))


@pytest.fixture
def device_copies(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    copies: list[str] = []
    original = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: copies.append(str(self.dtype)) or original(self))
    return copies


def test_whole_batch_goes_to_the_host_in_one_copy_of_bytes(maps: np.ndarray, device_copies: list[str]) -> None:
    class_points(torch.from_numpy(maps).long(), 4, rng())
    assert device_copies == ["torch.uint8"]


@pytest.mark.gpu
def test_nothing_waits_for_the_device_before_the_points_are_needed(maps: np.ndarray) -> None:
    labels = torch.from_numpy(maps).cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        chosen = start_class_points(labels, 4, [rng(key) for key in range(3)])
        found = chosen()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = class_points(torch.from_numpy(maps), 4, [rng(key) for key in range(3)])
    assert all(torch.equal(one, other.cpu()) for one, other in zip(expected, found, strict=True))


@pytest.mark.gpu
def test_points_return_to_the_device(maps: np.ndarray) -> None:
    on_cpu = class_points(torch.from_numpy(maps), 4, rng())
    on_gpu = class_points(torch.from_numpy(maps).cuda(), 4, rng())
    for expected, found in zip(on_cpu, on_gpu, strict=True):
        assert found.is_cuda
        assert torch.equal(expected, found.cpu())
