"""Several gloo processes that share the steps of a stream, against one process with the same steps."""

import os

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from lightning_samseg.online.batch import BatchConfig
from lightning_samseg.online.crop_network import entries_stay_apart
from lightning_samseg.online.distributed import gather_on_first, gather_rows, maxima, sum_over_ranks
from lightning_samseg.online.expert import Expert
from lightning_samseg.online.fusion import FusionConfig
from lightning_samseg.online.step import Arrival, take_step
from tests.comparing import assert_equal

pytestmark = pytest.mark.usefixtures("one_thread")

PROMPTS = [2, 0, 1, 3, 1, 1, 0, 2, 1, 1]  # of each image
UNSEEN = {2, 8, 9}  # images that the expert leaves alone; 9 is a step of its own for R = 3


class BatchNormNet(nn.Module):
    """Entries meet in the normalisation, and chance drops channels."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Dropout2d(0.2),
            nn.Conv2d(6, 1, 3, padding=1),
        )

    def forward(self, x):
        return self.layers(x)


class SomeTimes(Expert):
    def _available(self, prediction, reference, set_position):
        return prediction.position not in UNSEEN


def arrivals(make_stream):
    found = []
    for position, (sample, prompts) in enumerate(zip(make_stream(len(PROMPTS), prompts=3), PROMPTS, strict=True)):
        reference = sample.reference.astype(np.uint8)
        found.append(
            Arrival(position, sample.image, sample.sam_logits[:prompts], sample.crops[:prompts], reference, "image")
        )
    return found


def stroll(learner, expert, images, order, step, rank=0, size=1):
    """The whole stream in steps of ``step`` images; this rank's results by position, and the state at the end."""
    results = {}
    for first in range(0, len(images), step):
        torch.manual_seed(first)
        mine = [each for each in images[first : first + step] if each.position % size == rank]
        for each, done in zip(mine, take_step(learner, expert, mine, order), strict=True):
            results[each.position] = {
                "mask": done.prediction.mask,
                "logits": [prompt.network_logits for prompt in done.prediction.prompts],
                "alphas": [float(prompt.alpha) for prompt in done.prediction.prompts],
                "loss": [None if o.loss is None else float(o.loss) for o in done.outcomes],
                "slot": [None if o.slot is None else int(o.slot) for o in done.outcomes],
                "alpha_star": [None if o.alpha_star is None else float(o.alpha_star) for o in done.outcomes],
            }
    return results, learner.state_dict()


def in_processes(folder, size, work):
    """What ``work(rank)`` gives in each of some gloo processes that are forks of this one."""
    children = []
    for rank in range(size):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.environ["GLOO_SOCKET_IFNAME"] = "lo"
                dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
                torch.save(work(rank), folder / f"{rank}.pt")
                dist.destroy_process_group()
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * size
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(size)]


@pytest.mark.processes
@pytest.mark.parametrize(
    ("size", "step", "order", "settings"),
    [
        (2, 2, "prompt", {}),
        (3, 3, "image", {"step_per": "image"}),
        (3, 3, "prompt", {"replay_without_feedback": True, "policy": "fifo"}),
        (2, 4, "image", {"network": BatchNormNet}),
    ],
    ids=["paper", "one update per step", "authors", "four images in two processes with BatchNorm"],
)
def test_processes_equal_one(make_stream, make_learner, tmp_path, size, step, order, settings):
    """Uneven prompts, images without any, without a mask, a stream that ends within a step."""
    images = arrivals(make_stream)
    settings = dict(settings)
    network, policy = settings.pop("network", None), settings.pop("policy", "smallest_loss")

    def work(rank, size=size):
        torch.manual_seed(3)
        made = network() if network else None
        learner = make_learner(3, made, FusionConfig("adaptive"), BatchConfig(4, policy), exact=True, **settings)
        return stroll(learner, SomeTimes(), images, order, step, rank, size)

    results, state = work(0, 1)
    assert {slot for each in results.values() for slot in each["slot"]} >= {None, 0, 1, 2, 3}
    assert not results[2]["loss"][0]
    ranks = in_processes(tmp_path, size, work)
    together = {position: result for found, _ in ranks for position, result in found.items()}
    assert_equal(together, results, within=1e-6)  # kept in float32
    assert_equal(ranks[0][1], state, within=1e-6)
    assert_equal(ranks[0][1]["auxiliary"], state["auxiliary"], within=1e-12)
    assert state["position"] == len(PROMPTS)
    for _, other in ranks[1:]:  # not only close: the same bits everywhere
        assert_equal(other, ranks[0][1])


def test_one_image_per_step_is_the_paper(make_stream, make_learner):
    """``take_step`` with several images is not a sequence of single steps; with one it is predict and learn."""
    images = arrivals(make_stream)
    whole, _ = stroll(make_learner(), Expert(), images, "image", 1)
    learner = make_learner()
    for each in images:
        prediction = learner.predict(each.image, each.sam_logits, each.crops)
        learner.learn(prediction, Expert().feedback(prediction, each.reference))
        for logits, prompt in zip(whole[each.position]["logits"], prediction.prompts, strict=True):
            assert torch.equal(logits, prompt.network_logits)
    pairs, _ = stroll(make_learner(), Expert(), images, "image", 2)
    assert torch.equal(pairs[0]["logits"][0], whole[0]["logits"][0])
    assert not torch.allclose(pairs[3]["logits"][0], whole[3]["logits"][0])


class Curious(Expert):
    """Asks for the whole image's prediction before the first turn, and makes nothing of it."""

    looks_at_prediction = True


@pytest.mark.parametrize("step", [1, 3])
def test_a_prompt_is_predicted_once_unless_the_expert_looks(make_stream, make_learner, step):
    images = arrivals(make_stream)

    def strolled(expert):
        sizes, learner = [], make_learner(lr=0.02)
        learner.network.module.register_forward_pre_hook(lambda net, x: sizes.append(0 if net.training else len(x[0])))
        return stroll(learner, expert, images, "prompt", step), sum(sizes)

    once, predictions = strolled(Expert(below_dice=0.9))
    twice, more = strolled(Curious(below_dice=0.9))
    assert predictions == sum(PROMPTS) < more
    identical(once, twice)


def identical(one, other):
    """Equal structure, and the same bits."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            identical(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            identical(*pair)
    else:
        assert bool(torch.as_tensor(one == other).all())


def test_images_of_a_step_do_not_see_each_others_masks(make_stream, make_learner):
    images = arrivals(make_stream)[2:4]
    changed = [images[0]._replace(reference=1 - images[0].reference), images[1]]
    for order, reaches in (("image", []), ("prompt", [1, 2])):
        first, second = (
            take_step(make_learner(lr=0.02), Expert(), each, order)[1].prediction for each in (images, changed)
        )
        differ = [
            number
            for number, (a, b) in enumerate(zip(first.prompts, second.prompts, strict=True))
            if not torch.equal(a.network_logits, b.network_logits)
        ]
        assert differ == reaches


def test_a_step_is_offered_in_order_and_learned_once(make_stream, make_learner):
    images = arrivals(make_stream)[3:5]  # three prompts and one
    sizes = []
    learner = make_learner(step_per="image")
    learner.network._step = lambda loss: sizes.append(len(learner.batch))
    first, second = take_step(learner, Expert(), images, "image")
    assert [int(o.slot) for o in first.outcomes + second.outcomes] == [0, 1, 2, 3]
    assert sizes == [4]
    learner = make_learner()
    learner.network._step = lambda loss: sizes.append(len(learner.batch))
    first, second = take_step(learner, Expert(), images, "image")
    assert [int(o.slot) for o in first.outcomes] == [0, 2, 3]
    assert [int(o.slot) for o in second.outcomes] == [1]
    assert sizes[1:] == [2, 3, 4]
    assert learner.position == images[1].position + 1
    assert take_step(learner, Expert(), [], "prompt") == []


def exchange(rank):
    rows = torch.arange(6.0).view(3, 2)[:rank] + 10 * rank
    gradients = [torch.full((2, 3), float(rank)), torch.full((), 1.0)]
    sum_over_ranks(gradients)
    return {
        "maxima": maxima(rank, -rank),
        "rows": gather_rows(rows),
        "none": gather_rows(rows[:0]),
        "sums": gradients,
        "first": gather_on_first([rank] * rank),
    }


@pytest.mark.processes
def test_exchanges(tmp_path):
    found = in_processes(tmp_path, 3, exchange)
    for each in found:
        assert each["maxima"] == [2, 0]
        assert each["rows"].tolist() == [[10, 11], [20, 21], [22, 23]]
        assert each["none"].shape == (0, 2)
        assert [float(gradient.sum()) for gradient in each["sums"]] == [18, 3]
    assert [each["first"] for each in found] == [[1, 2, 2], [], []]
    alone = exchange(2)
    assert (alone["maxima"], alone["first"]) == ([2, -2], [2, 2])
    assert alone["rows"].tolist() == [[20, 21], [22, 23]]


def test_networks_whose_entries_meet():
    apart = nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4), nn.GroupNorm(2, 4))
    assert entries_stay_apart(apart)
    for layer in (nn.BatchNorm2d(4), nn.SyncBatchNorm(4), nn.Dropout(), nn.Dropout2d()):
        assert not entries_stay_apart(nn.Sequential(apart, layer))
    assert not entries_stay_apart(BatchNormNet())
