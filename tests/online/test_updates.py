"""How many updates, on which entries and until when: against the rules written out by hand."""

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch

from lightning_samseg.errors import UserError
from lightning_samseg.online.batch import BatchConfig, OnlineBatch
from lightning_samseg.online.expert import Expert
from lightning_samseg.online.learner import OnlineLearner
from lightning_samseg.online.learning import LearningConfig
from lightning_samseg.online.updates import Updates
from tests.comparing import assert_equal


def full(*losses: float) -> OnlineBatch:
    """A batch whose i-th entry holds i everywhere."""
    batch = OnlineBatch(BatchConfig(len(losses)))
    for number, loss in enumerate(losses):
        picture = torch.full((1, 2, 2), float(number))
        batch.insert(picture, picture, torch.tensor(loss))
    return batch


class Network:
    """Takes down which entries it was given, and says that their losses are 0; each update takes some seconds."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds, self.time = seconds, 0.0
        self.seen: list[list[int]] = []

    def update(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        assert torch.equal(inputs, targets)
        self.seen.append([int(number) for number in inputs[:, 0, 0, 0]])
        self.time += self.seconds
        return torch.zeros(len(inputs))

    def clock(self) -> float:
        return self.time


def test_the_paper_makes_one_update_on_all_entries() -> None:
    network, batch = Network(), full(0.5, 0.25, 0.75)
    assert Updates().make(network.update, batch, [(0, 0)], [torch.tensor(2)]) == (1, 0)
    assert network.seen == [[0, 1, 2]]
    assert batch.losses.tolist() == [0, 0, 0]


def test_the_hardest_by_their_last_losses() -> None:
    network, batch = Network(), full(0.5, 0.75, 0.5, 0.25, 0.875)
    updates = Updates(LearningConfig(update_entries=3, updates_per_prompt=3))
    assert updates.make(network.update, batch, [(0, 0)], []) == (3, 0)
    # 0.875, 0.75, and of the two at 0.5 the lower index; then what is left; then all are 0.
    assert network.seen == [[0, 1, 4], [0, 2, 3], [0, 1, 2]]
    few = full(0.5, 0.75)
    updates.make(network.update, few, [(1, 0)], [])
    assert network.seen[3:] == [[0, 1]] * 3


def test_drawn_ones_have_the_new_and_are_told_by_the_seed() -> None:
    def drawn(seed: int, made: int = 0) -> list[list[int]]:
        network, batch = Network(), full(*[0.5] * 8)
        updates = Updates(LearningConfig(update_entries=3, entries="drawn"), seed)
        updates.made = made
        for position in range(made, 40):
            new = [torch.tensor(position % 8), torch.tensor(-1)]
            updates.make(network.update, batch, [(position, 0)], new)
        return network.seen

    seen = drawn(0)
    assert all(position % 8 in entries for position, entries in enumerate(seen))
    assert all(len(set(entries)) == 3 and entries == sorted(entries) for entries in seen)
    others = np.bincount([each for position, entries in enumerate(seen) for each in entries if each != position % 8])
    assert others.min() >= 3  # 10 expected of each of the eight
    assert others.sum() == 80
    assert drawn(0, made=25) == seen[25:]  # as after a resume
    assert drawn(1) != seen


def test_no_update_begins_when_the_time_is_spent() -> None:
    def made(seconds: float, *turns: list[tuple[int, int]], limit: float | None = 1.0) -> list[tuple[int, int]]:
        network = Network(seconds)
        config = LearningConfig(updates_per_prompt=3, seconds_per_image=limit)
        updates = Updates(config, clock=network.clock)
        return [updates.make(network.update, full(0.5), turn, []) for turn in turns]

    assert made(0.6, [(0, 0)]) == [(2, 1)]
    assert made(0.5, [(0, 0)]) == [(2, 1)]
    assert made(0.3, [(0, 0)], [(0, 1)], [(1, 0)]) == [(3, 0), (1, 2), (3, 0)]
    assert made(9.0, [(0, 0)], [(0, 1)], [(1, 0)]) == [(1, 2), (0, 3), (1, 2)]  # the first of an image, always
    assert made(9.0, [(0, 0)], [(0, 1)], limit=None) == [(3, 0), (3, 0)]
    assert made(9.0, [(0, 0)], limit=0.0) == [(1, 2)]
    # Two images in a step have the time of two.
    assert made(0.6, [(0, 0), (1, 0)], [(1, 1)]) == [(3, 0), (1, 2)]


def test_what_a_run_had_time_for_counts_instead_of_the_clock() -> None:
    network = Network(0.6)
    updates = Updates(LearningConfig(updates_per_prompt=3, seconds_per_image=1.0), clock=network.clock)
    updates.recorded = {(0, 0): 3, (0, 1): 0, (1, 0): 1}
    turns = [[(0, 0)], [(0, 1)], [(1, 0)], [(2, 0)]]
    assert [updates.make(network.update, full(0.5), turn, []) for turn in turns] == [(3, 0), (0, 3), (1, 2), (2, 1)]
    unlimited = Updates(LearningConfig(updates_per_prompt=3))
    unlimited.recorded = {(0, 0): 1}
    assert unlimited.make(network.update, full(0.5), [(0, 0)], []) == (3, 0)


@pytest.mark.parametrize("entries", ["hardest", "drawn"])
def test_resumed_equals_uninterrupted_bit_by_bit(make_stream: Any, make_learner: Any, entries: Any) -> None:
    """With a clock that runs unevenly: the second half repeats what the first run had time for."""
    config = LearningConfig(update_entries=2, entries=entries, updates_per_prompt=3, seconds_per_image=1.0)
    samples = make_stream(8, prompts=2)

    def learn(learner: OnlineLearner, ticks: Any, start: int, end: int) -> list[Any]:
        moments = itertools.accumulate(ticks.exponential(0.4, 200))
        learner.updates.clock = lambda: float(next(moments))
        outcomes = []
        for sample in samples[start:end]:
            prediction = learner.predict(sample.image, sample.sam_logits, sample.crops)
            outcomes += learner.learn(prediction, Expert().feedback(prediction, sample.reference))
        return outcomes

    def new() -> OnlineLearner:
        learner: OnlineLearner = make_learner(batch=BatchConfig(4), lr=1e-3)
        learner.updates = Updates(config, 3)
        return learner

    whole = new()
    outcomes = learn(whole, np.random.default_rng(0), 0, 8)
    first = new()
    learn(first, np.random.default_rng(0), 0, 4)
    second = new()
    second.load_state_dict(first.state_dict())
    second.updates.recorded = {(i // 2, i % 2): outcome.updates for i, outcome in enumerate(outcomes)}
    again = learn(second, np.random.default_rng(1), 4, 8)
    assert [outcome.updates for outcome in again] == [outcome.updates for outcome in outcomes[8:]]
    assert_equal(second.state_dict(), whole.state_dict())
    assert {outcome.skipped for outcome in outcomes} > {0}


def test_mistakes() -> None:
    for name, value in (("update_entries", 0), ("updates_per_prompt", 0), ("seconds_per_image", -1.0)):
        with pytest.raises(UserError, match=f"{name} {value}"):
            dataclasses.replace(LearningConfig(), **{name: value})
    with pytest.raises(UserError, match="seconds_per_image nan"):
        LearningConfig(seconds_per_image=float("nan"))
