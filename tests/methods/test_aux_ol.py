"""The module without a trainer: prompts, crops, the order of predicting and learning, what a checkpoint holds."""

import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lightning_samseg.errors import UserError
from lightning_samseg.methods.aux_ol import AuxOl
from lightning_samseg.online.crop_network import network_target
from lightning_samseg.online.expert import Expert
from lightning_samseg.online.learning import LOSSES
from lightning_samseg.online.step import take_step
from lightning_samseg.prompts.boxes import Box
from lightning_samseg.types import IGNORED, Case, StreamItem
from tests.float64 import learn_in_float64
from tests.grouped import grouped

SMALL = {"backbone": "tiny", "width": 1 / 16, "crop_size": 32, "cache_gb": 0, "capacity": 3}


def model(**settings: Any) -> AuxOl:
    return grouped(AuxOl, **{**SMALL, **settings})


def item(position: int = 0, reference: np.ndarray | None = None, **extra: Any) -> StreamItem:
    """An image of 40 x 60 with an L-shaped object of 12 x 10, and a square of 5 touching nothing."""
    rng = np.random.default_rng(position)
    mask = np.zeros((40, 60), np.uint8)
    mask[5:17, 8:11] = mask[14:17, 8:18] = 1
    mask[25:30, 40:45] = 1
    case = Case(f"case{position}", f"case{position}.png", (40, 60), (40, 60))
    picture = rng.integers(0, 200, (40, 60, 3), dtype=np.uint8) + 50 * mask[..., None]
    shown = mask if reference is None else reference
    return StreamItem(position=position, set_name="a", cases=[case], original=picture, reference=shown, **extra)


def step(module: AuxOl, *items: StreamItem) -> Any:
    arrivals = [module.arrival(each, module.prompter.prompts_of(each)) for each in items]
    done = take_step(module.learner, module.expert, arrivals, module.prompt_order)
    return done if len(items) > 1 else done[0]


def test_prompts_are_one_per_object_smallest_first() -> None:
    np.testing.assert_array_equal(model().prompter.prompts_of(item()), [[40, 25, 45, 30], [8, 5, 18, 17]])
    points = model(prompt="point").prompter.prompts_of(item())
    inside = np.argwhere(item()["reference"][5:17, 8:18]) + np.array([5, 8])
    np.testing.assert_allclose(points, [[42, 27], inside.mean(0)[::-1]])
    np.testing.assert_array_equal(
        model(prompt="point", point="deepest").prompter.prompts_of(item()), [[42, 27], [9, 6]]
    )
    np.testing.assert_array_equal(model(min_object_side=6).prompter.prompts_of(item()), [[8, 5, 18, 17]])
    empty = item(reference=np.zeros((40, 60), np.uint8))
    assert model().prompter.prompts_of(empty).shape == (0, 4)
    assert model(prompt="point").prompter.prompts_of(empty).shape == (0, 2)


def test_objects_that_touch_are_told_apart_where_the_data_set_knows_them() -> None:
    instances = item()["reference"].astype(np.int32)
    instances[14:17, 8:18] = 2  # the foot of the L is an object of its own
    instances[25:30, 40:45] = 3
    each = item(instances=instances)
    np.testing.assert_array_equal(
        model().prompter.prompts_of(each), [[40, 25, 45, 30], [8, 5, 11, 14], [8, 14, 18, 17]]
    )
    assert len(model(objects="components").prompter.prompts_of(each)) == 2


def test_shifted_boxes_depend_on_the_position_alone() -> None:
    module = model(box_shift=0.2, seed=1)
    shifted = module.prompter.prompts_of(item(3))
    np.testing.assert_array_equal(shifted, model(box_shift=0.2, seed=1).prompter.prompts_of(item(3)))
    plain = model().prompter.prompts_of(item(3))
    np.testing.assert_array_equal(np.abs(shifted - plain)[:, ::2], [[1, 1], [2, 2]])  # columns: 0.2 of 5 and 10
    np.testing.assert_array_equal(shifted[:, 2:] - shifted[:, :2], plain[:, 2:] - plain[:, :2])
    assert any((module.prompter.prompts_of(item(p)) != shifted).any() for p in range(6))


@pytest.mark.parametrize(
    ("rule", "crop"),
    [("paper", Box(20, 8, 46, 28)), ("authors", Box(17, 6, 48, 30)), ("largest_component", Box(18, 6, 42, 30))],
)
def test_crops_around_sams_mask_for_a_point(rule: Any, crop: Box) -> None:
    logits = torch.full((1, 40, 60), -3.0)
    logits[0, 8:28, 20:40] = 2
    logits[0, 10:12, 44:46] = 2  # a speck
    case = item()["cases"][0]
    assert model(prompt="point", point_crop=rule).prompter.crops_of(np.array([[30.0, 20.0]]), logits, case) == [crop]
    nothing = torch.full((1, 40, 60), -3.0)
    assert model(prompt="point", point_crop=rule).prompter.crops_of(np.array([[30.0, 20.0]]), nothing, case) == [
        Box(0, 0, 60, 40)
    ]


def test_the_fourth_channel_is_for_boxes() -> None:
    channels = {
        name: next(model(**settings).auxiliary.parameters()).shape[1]
        for name, settings in {
            "box": {},
            "point": {"prompt": "point"},
            "point with mask": {"prompt": "point", "extra_channel": "mask"},
            "box without": {"extra_channel": "none"},
        }.items()
    }
    assert channels == {"box": 4, "point": 3, "point with mask": 4, "box without": 3}
    assert model().learner.network.extra_channel == "mask"


def test_sam_alone_for_points_as_the_authors_add_it() -> None:
    """Twice the sum of the probabilities: a pixel of 0.3 under one point counts as foreground, one of 0.2 not."""
    logits = torch.tensor([0.3, 0.2]).logit().repeat_interleave(20)[None, :, None].expand(1, 40, 60)
    rows = {}
    for rule in ("sum", "authors"):
        for prompt in ("box", "point"):
            learner = model(prompt=prompt, sam_alone=rule, point_crop="authors").learner
            image = torch.from_numpy(item()["original"].transpose(2, 0, 1).copy())
            rows[rule, prompt] = learner.predict(image, logits, [Box(0, 0, 60, 40)]).sam.sum(1).tolist()
    nothing, upper = [0] * 40, [60] * 20 + [0] * 20
    assert rows == {
        ("sum", "box"): nothing,
        ("sum", "point"): nothing,
        ("authors", "box"): nothing,
        ("authors", "point"): upper,
    }


def test_the_network_sees_black_outside_of_sams_mask_where_asked() -> None:
    seen = {}
    for resize in ("tensor", "pil"):
        (prompt,) = step(model(min_object_side=6, crop_resize=resize), item()).prediction.prompts
        seen[resize] = prompt.network_input
    outside = seen["pil"][3] == 0
    assert outside.any()
    assert not seen["pil"][:3, outside].any()
    assert seen["tensor"][:3, outside].min() > 0
    with pytest.raises(UserError, match="crop_resize pil"):
        model(crop_resize="pil", extra_channel="logits")


@pytest.mark.parametrize("order", ["image", "prompt"])
def test_every_nth_image_of_each_set_is_rectified(order: Any) -> None:
    module = model(expert=Expert(every=2), prompt_order=order)
    places = [("a", 0), ("a", 1), ("a", 2), ("b", 0), ("b", 1)]
    sources = []
    for position, (name, place) in enumerate(places):
        each = item(position, set_position=place)
        each["set_name"] = name
        sources.append(step(module, each).feedback.source)
    assert sources == ["expert", "none", "expert", "expert", "none"]


@pytest.mark.parametrize("order", ["image", "prompt"])
def test_what_a_mask_can_reach(order: Any) -> None:
    """Two references that differ only at the object prompted first: it is never predicted with its own mask."""
    records = []
    for change in (False, True):
        module = model(prompt_order=order, lr=0.05)
        step(module, item(0))
        each = item(1)
        arrival = module.arrival(each, module.prompter.prompts_of(each))
        if change:
            reference = each["reference"].copy()
            reference[25:28, 40:45] = 0
            arrival = arrival._replace(reference=reference)
        (done,) = take_step(module.learner, module.expert, [arrival], order)
        records.append([prompt.network_logits for prompt in done.prediction.prompts])
    (first, second), (changed_first, changed_second) = records
    assert torch.equal(first, changed_first)
    assert torch.equal(second, changed_second) == (order == "image")


def test_the_order_of_listing_1_learns_between_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    learn_in_float64(monkeypatch)
    updates = []
    for order in ("image", "prompt"):
        module = model(prompt_order=order, lr=0.05)
        prediction, feedback, outcomes = step(module, item())
        assert (len(prediction.prompts), len(feedback.masks), len(outcomes)) == (2, 2, 2)
        assert [int(outcome.slot) for outcome in outcomes] == [0, 1]
        assert module.learner.position == 1
        updates.append(prediction)
    image, prompt = updates
    torch.testing.assert_close(image.prompts[0].network_logits, prompt.prompts[0].network_logits)
    assert not torch.allclose(image.prompts[1].network_logits, prompt.prompts[1].network_logits)
    assert torch.equal(image.sam, prompt.sam)
    assert torch.equal(image.sam_clipped, prompt.sam_clipped)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("policy", ["smallest_loss", "fifo", "single"])
def test_every_loss_and_policy_learns(loss: Any, policy: Any) -> None:
    module = model(loss=loss, policy=policy, expert=Expert(mask_noise="both"), replay_without_feedback=True)
    before = [parameter.clone() for parameter in module.auxiliary.parameters()]
    step(module, item())
    assert any(not torch.equal(a, b) for a, b in zip(before, module.auxiliary.parameters(), strict=True))


def test_a_checkpoint_holds_plain_values_and_restores_everything() -> None:
    module = model(fusion="adaptive", alpha_start="sam")
    for position in range(3):
        step(module, item(position))
    module.running["sam"] = 1.5
    checkpoint: dict[str, Any] = {"hyper_parameters": dict(module.hparams)}
    module.on_save_checkpoint(checkpoint)
    file = io.BytesIO()
    torch.save(checkpoint, file)
    file.seek(0)
    other = model(fusion="adaptive", alpha_start="sam", seed=7)
    other.on_load_checkpoint(torch.load(file, weights_only=True))
    other.auxiliary.load_state_dict(module.auxiliary.state_dict())
    other.learner.network.optimizer.load_state_dict(module.learner.network.optimizer.state_dict())
    assert other.running == module.running
    assert other.learner.position == 3
    one, another = (step(each, item(3))[0] for each in (module, other))
    assert torch.equal(one.prompts[1].fused_logits, another.prompts[1].fused_logits)
    assert torch.equal(one.prompts[1].alpha, another.prompts[1].alpha)


def test_the_seed_makes_the_network_and_the_global_stream_stays() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second, other = model(seed=1), model(seed=1), model(seed=2)
    assert torch.equal(torch.rand(1), expected)
    weights = [next(module.auxiliary.parameters()) for module in (first, second, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_images_per_step_are_dealt_out_whole() -> None:
    module, single = model(images_per_step=4), model()
    assert (module.images_per_step, single.images_per_step) == (4, 1)
    for processes, images in ((1, 4), (2, 4), (4, 4)):
        module._trainer = single._trainer = SimpleNamespace(world_size=processes)  # type: ignore[assignment]
        assert (module.images_per_step, single.images_per_step) == (images, processes)
    module._trainer = SimpleNamespace(world_size=3)  # type: ignore[assignment]
    with pytest.raises(UserError, match="4 images per step cannot be dealt out to 3 processes"):
        _ = module.images_per_step


def test_contradictions() -> None:
    with pytest.raises(UserError, match=r"learning\.order image"):
        model(step_per="image")
    with pytest.raises(UserError, match="box_shift"):
        model(box_shift=-0.1)


def test_ignored_pixels_are_not_prompted_learned_from_or_scored() -> None:
    """A void rim around the square: prompts are the square's, and the loss is that of the known pixels."""
    mask = item()["reference"].copy()
    rim = np.zeros_like(mask)
    rim[23:32, 38:47] = 1
    mask[(rim == 1) & (mask == 0)] = IGNORED
    shown = item(reference=mask)
    module = model(prompt_order="image", loss="bce_dice")
    np.testing.assert_array_equal(module.prompter.prompts_of(shown), module.prompter.prompts_of(item()))
    instances = np.where(mask == 1, 1, 0).astype(np.int32)
    assert len(module.prompter.prompts_of(item(reference=mask, instances=instances))) == 1
    mask[5:12, :] = IGNORED  # the upper half of the L, as of its crop
    arrival = module.arrival(item(reference=mask), np.array([[8.0, 5.0, 18.0, 17.0]]))
    (done,) = take_step(module.learner, module.expert, [arrival], "image")
    (given,) = done.feedback.masks
    np.testing.assert_array_equal(given, mask[5:17, 8:18])
    target = network_target(given, 32)
    logits = done.prediction.prompts[0].network_logits
    known = target[0] >= 0
    left = logits[:, known][None, :, None], target[:, known][None, :, None]
    torch.testing.assert_close(done.outcomes[0].loss, LOSSES["bce_dice"](*left)[0])
    assert 0.4 < known.float().mean() < 0.6
