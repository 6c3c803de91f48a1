import copy
import io

import pytest
import torch

from lightning_samseg.errors import UserError
from lightning_samseg.losses.binary import soft_dice
from lightning_samseg.losses.structure import structure_loss
from lightning_samseg.online.batch import BatchConfig
from lightning_samseg.online.crop_network import network_target
from lightning_samseg.online.expert import Expert
from lightning_samseg.online.fusion import FusionConfig
from lightning_samseg.online.predictions import Feedback, merge
from lightning_samseg.prompts.boxes import Box
from tests import float64
from tests.comparing import assert_equal


def run(learner, expert, samples, start=0):
    predictions, outcomes = [], []
    for sample in samples[start:]:
        predictions.append(learner.predict(sample.image, sample.sam_logits, sample.crops))
        outcomes.append(learner.learn(predictions[-1], expert.feedback(predictions[-1], sample.reference)))
    return predictions, outcomes


def dice(mask, reference):
    return soft_dice(mask.float().unsqueeze(0), torch.from_numpy(reference).float().unsqueeze(0)).item()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"extra_channel": "mask"},
        {"crop_resize": "pil"},
        {"batch": ("fifo", 8)},
        {"loss": structure_loss},
    ],
    ids=["paper", "extra_channel", "pil", "fifo", "structure_loss"],
)
def test_learning_raises_dice_over_clipped_sam(make_stream, make_learner, settings):
    settings = dict(settings)
    policy, capacity = settings.pop("batch", ("smallest_loss", 8))
    samples = make_stream(40)
    learner = make_learner(fusion=FusionConfig("adaptive"), batch=BatchConfig(capacity, policy), **settings)
    predictions, _ = run(learner, Expert(), samples)
    scores = {
        name: [dice(getattr(p, name), s.reference) for p, s in zip(predictions, samples, strict=True)][25:]
        for name in ("sam", "sam_clipped", "mask")
    }
    mean = {name: sum(values) / len(values) for name, values in scores.items()}
    assert mean["sam"] <= mean["sam_clipped"] < 0.65
    assert mean["mask"] > mean["sam_clipped"] + 0.15


def test_one_round_step_by_step(make_stream, make_learner):
    """Listing 1 written out once more for a batch of one, against ``predict`` and ``learn``."""
    sample = make_stream(1)[0]
    learner = make_learner(exact=True, fusion=FusionConfig(alpha=0.25), weight_decay=0.01, lr=1e-3)
    network = copy.deepcopy(learner.network.module)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.01)

    prediction = learner.predict(sample.image, sample.sam_logits, sample.crops)
    (outcome,) = learner.learn(prediction, Expert().feedback(prediction, sample.reference))

    (prompt,) = prediction.prompts
    rows, columns = sample.crops[0].slices
    inside = torch.from_numpy(sample.reference[rows, columns]) > 0
    target = network_target(inside, 32).unsqueeze(0)
    answer = network(prompt.network_input.unsqueeze(0))
    loss = float64.dice_loss(answer, target).mean()
    loss.backward()
    optimizer.step()

    torch.testing.assert_close(prompt.network_logits, answer[0].detach().float())
    torch.testing.assert_close(prompt.fused_logits, 0.25 * prompt.sam_logits + 0.75 * prompt.aux_logits)
    assert torch.equal(prediction.mask[rows, columns], prompt.fused_logits > 0)
    assert prediction.mask.sum() == (prompt.fused_logits > 0).sum()
    assert torch.equal(prompt.sam_logits, sample.sam_logits[0, rows, columns])
    assert torch.equal(prediction.sam, sample.sam_logits[0] > 0)
    torch.testing.assert_close(outcome.loss, loss.detach())
    torch.testing.assert_close(learner.batch.losses, loss.detach().view(1))
    assert (outcome.slot, outcome.alpha_star) == (0, None)
    assert_equal(learner.network.module.state_dict(), network.state_dict(), within=1e-12)


@pytest.mark.parametrize("policy", ["smallest_loss", "fifo"])
def test_a_stream_against_listing_1_in_plain_python(make_stream, make_learner, policy):
    samples = make_stream(12, prompts=2)
    learner = make_learner(
        exact=True,
        fusion=FusionConfig("adaptive", window=3),
        batch=BatchConfig(3, policy),
        lr=2e-3,
    )
    network = copy.deepcopy(learner.network.module)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=5e-4)
    entries, best = [], []  # entries: [crop, mask, last loss], oldest first
    refused = 0

    predictions, outcomes = run(learner, Expert(), samples)
    for sample, prediction, outcome in zip(samples, predictions, outcomes, strict=True):
        alpha = sum(best[-3:]) / len(best[-3:]) if best else 0.5
        with torch.no_grad():
            answers = [network(prompt.network_input.unsqueeze(0))[0].float() for prompt in prediction.prompts]
        for prompt, answer, result in zip(prediction.prompts, answers, outcome, strict=True):
            torch.testing.assert_close(prompt.network_logits, answer, atol=1e-6, rtol=1e-6)
            assert float(prompt.alpha) == pytest.approx(alpha)
            mask = torch.from_numpy(sample.reference[prompt.crop.slices] > 0)
            target = network_target(mask, 32)
            loss = float(1 - (2 * (answer.sigmoid() * target).sum() + 1) / (answer.sigmoid().sum() + target.sum() + 1))
            assert float(result.loss) == pytest.approx(loss, abs=1e-6)
            if len(entries) < 3:
                entries.append([prompt.network_input, target, loss])
            elif policy == "fifo":
                entries = [*entries[1:], [prompt.network_input, target, loss]]
            else:
                smallest = min(entries, key=lambda entry: entry[2])
                if smallest[2] <= loss:
                    smallest[:] = [prompt.network_input, target, loss]
                else:
                    refused += 1
            optimizer.zero_grad()
            crops, masks = (torch.stack([entry[i] for entry in entries]) for i in (0, 1))
            losses = float64.dice_loss(network(crops), masks)
            for entry, value in zip(entries, losses.tolist(), strict=True):
                entry[2] = value
            losses.mean().backward()
            optimizer.step()
            scores = []
            for step in range(21):
                p = torch.sigmoid(step / 20 * prompt.sam_logits + (1 - step / 20) * prompt.aux_logits)
                scores.append(float((2 * (p * mask).sum() + 1) / (p.sum() + mask.sum() + 1)))
            best.append(float(result.alpha_star))
            assert scores[round(best[-1] * 20)] == pytest.approx(max(scores), abs=1e-6)
    assert sorted(learner.batch.losses.tolist()) == pytest.approx(sorted(e[2] for e in entries), abs=1e-6)
    assert refused > 0 or policy == "fifo"


def test_losses_are_those_before_any_update_and_the_batch_keeps_the_latest(make_stream, make_learner):
    sample = make_stream(1, prompts=3)[0]
    learner = make_learner(lr=0.05, exact=True)
    prediction = learner.predict(sample.image, sample.sam_logits, sample.crops)
    feedback = Expert().feedback(prediction, sample.reference)
    before = copy.deepcopy(learner.network.module)
    outcomes = learner.learn(prediction, feedback)
    crops, masks = learner.batch.tensors()
    expected = float64.dice_loss(before(crops), masks).detach()
    torch.testing.assert_close(torch.stack([o.loss for o in outcomes]), expected)
    assert not torch.allclose(learner.batch.losses[:2], torch.stack([o.loss for o in outcomes[:2]]))
    assert [int(o.slot) for o in outcomes] == [0, 1, 2]


@pytest.mark.parametrize(("step_per", "expected"), [("prompt", [1, 2, 3]), ("image", [3])])
def test_one_update_per_prompt_or_per_image(make_stream, make_learner, step_per, expected):
    sample = make_stream(1, prompts=3)[0]
    sizes = []
    learner = make_learner(step_per=step_per)
    learner.network._step = lambda loss: sizes.append(len(learner.batch))
    prediction = learner.predict(sample.image, sample.sam_logits, sample.crops)
    learner.learn(prediction, Expert().feedback(prediction, sample.reference))
    assert sizes == expected


def test_an_update_follows_also_when_the_batch_refuses_the_sample(make_stream, make_learner):
    samples = make_stream(2)
    steps = []
    learner = make_learner(batch=BatchConfig(1))
    learner.network._step = steps.append
    run(learner, Expert(), samples[:1])
    learner.batch.update(torch.tensor([10.0]))
    _, ((outcome,),) = run(learner, Expert(), samples, start=1)
    assert outcome.slot == -1
    assert len(steps) == 2


@pytest.mark.parametrize(("replay", "expected"), [(False, 2), (True, 4)])
def test_without_feedback(make_stream, make_learner, replay, expected):
    steps = []
    learner = make_learner(replay_without_feedback=replay)
    learner.network._step = steps.append
    samples = make_stream(4)
    run(learner, Expert(rate=0), samples[:2])  # positions 0 and 1: there is nothing to replay yet
    assert steps == []
    _, outcomes = run(learner, Expert(every=2), samples)  # positions 2 to 5
    assert len(steps) == expected
    assert [outcome.loss is None for (outcome,) in outcomes] == [False, True, False, True]


def test_alpha_follows_rectified_masks_only(make_stream, make_learner):
    samples = make_stream(6)
    _, rectified = run(make_learner(), Expert(every=3), samples)
    assert [o.alpha_star is None for (o,) in rectified] == [False, True, True] * 2
    _, every = run(make_learner(fusion=FusionConfig("adaptive", alpha_from="every")), Expert(every=3), samples)
    assert [o.alpha_star is None for (o,) in every] == [False] * 6
    _, pseudo = run(make_learner(), Expert(rate=0, pseudo_confidence=0.5), samples)
    assert [(o.alpha_star is None, o.loss is None) for (o,) in pseudo] == [(True, False)] * 6


def test_alpha_used_is_the_mean_of_the_last_best(make_stream, make_learner):
    predictions, outcomes = run(make_learner(fusion=FusionConfig("adaptive", window=3)), Expert(), make_stream(6))
    best = [float(o.alpha_star) for (o,) in outcomes]
    used = [float(p.prompts[0].alpha) for p in predictions]
    assert used == pytest.approx([0.5, *(sum(best[max(0, t - 3) : t]) / min(t, 3) for t in range(1, 6))])
    assert len(set(best)) > 1


@pytest.mark.parametrize("policy", ["smallest_loss", "fifo", "single"])
@pytest.mark.parametrize("at", [0, 1, 7])
def test_resumed_equals_uninterrupted_bit_by_bit(make_stream, make_learner, policy, at):
    samples = make_stream(12, prompts=2)
    expert = Expert(rate=0.7, mask_noise="both", noise_fraction=0.1, seed=2)

    def new(seed):
        return make_learner(seed, batch=BatchConfig(5, policy), replay_without_feedback=True)

    whole = new(0)
    predictions, outcomes = run(whole, expert, samples)
    first = new(0)
    run(first, expert, samples[:at])
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = new(1)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert second.position == at
    resumed, later = run(second, expert, samples, start=at)
    for one, other in zip(predictions[at:], resumed, strict=True):
        assert one.position == other.position
        assert torch.equal(one.mask, other.mask)
        for left, right in zip(one.prompts, other.prompts, strict=True):
            assert torch.equal(left.fused_logits, right.fused_logits)
            assert torch.equal(left.alpha, right.alpha)
    assert outcomes[at:] == later
    assert_equal(second.state_dict(), whole.state_dict())


def test_state_without_weights(make_stream, make_learner):
    learner = make_learner()
    run(learner, Expert(), make_stream(3))
    state = learner.state_dict(weights=False)
    assert sorted(state) == ["batch", "fusion", "position", "updates"]
    other = make_learner(seed=1)
    before = copy.deepcopy(other.network.module.state_dict())
    other.load_state_dict(state)
    assert_equal(other.network.module.state_dict(), before)
    assert (other.position, len(other.batch)) == (3, 3)


def test_prompts_one_at_a_time_in_the_order_of_listing_1(make_stream, make_learner):
    """Later prompts profit from earlier ones, the position stays the image's, and the record is one."""
    samples = make_stream(2, prompts=2)
    learner, expert = make_learner(lr=0.02, exact=True), Expert()
    for sample in samples:
        whole = learner.predict(sample.image, sample.sam_logits, sample.crops)
        feedback = expert.feedback(whole, sample.reference)
        parts = []
        for j, crop in enumerate(sample.crops):
            parts.append(learner.predict(sample.image, sample.sam_logits[j : j + 1], [crop], whole.position))
            learner.learn(parts[-1], feedback.only(j))
        joined = merge(parts, whole.sam_probability)
        torch.testing.assert_close(joined.prompts[0].network_logits, whole.prompts[0].network_logits)
        assert not torch.allclose(joined.prompts[1].network_logits, whole.prompts[1].network_logits)
        assert torch.equal(joined.sam, whole.sam)
    assert learner.position == 2


def test_an_image_without_a_prompt_is_background(make_stream, make_learner):
    sample = make_stream(1)[0]
    learner = make_learner(extra_channel="probability", replay_without_feedback=True)
    prediction = learner.predict(sample.image, sample.sam_logits[:0], [])
    assert not prediction.mask.any()
    assert not prediction.sam.any()
    assert learner.learn(prediction, Expert().feedback(prediction, sample.reference)) == ()
    assert learner.position == 1


def test_bytes_and_floats_are_the_same_image(make_stream, make_learner):
    sample = make_stream(1)[0]
    pixels = (sample.image * 255).round().to(torch.uint8)
    learner = make_learner()
    one = learner.predict(pixels, sample.sam_logits, sample.crops)
    other = learner.predict(pixels.float() / 255, sample.sam_logits.half().float(), sample.crops)
    assert torch.equal(one.prompts[0].network_input, other.prompts[0].network_input)


def test_crops_of_one_pixel_and_of_the_whole_image(make_stream, make_learner):
    sample = make_stream(1)[0]
    height, width = sample.reference.shape
    learner = make_learner(extra_channel="logits")
    for crop in (Box(20, 20, 21, 21), Box(0, 0, width, height)):
        prediction = learner.predict(sample.image, sample.sam_logits, [crop])
        (outcome,) = learner.learn(prediction, Expert().feedback(prediction, sample.reference))
        assert outcome.loss.isfinite()
    assert learner.predict(sample.image, sample.sam_logits, [crop]).mask.any()


def test_mistakes(make_stream, make_learner):
    sample = make_stream(1)[0]
    with pytest.raises(UserError, match="crop size 100"):
        make_learner(crop_size=100)
    for extra in ("probability", "logits"):
        with pytest.raises(UserError, match=f"8 bits, which cannot hold SAM's {extra}"):
            make_learner(crop_resize="pil", extra_channel=extra)
    learner = make_learner()
    for crop in (Box(0, 0, 73, 10), Box(5, 5, 5, 9), Box(-1, 0, 4, 4)):
        with pytest.raises(UserError, match="not inside its image of 72 x 48"):
            learner.predict(sample.image, sample.sam_logits, [crop])
    with pytest.raises(ValueError, match="2 crops"):
        learner.predict(sample.image, sample.sam_logits, sample.crops * 2)
    prediction = learner.predict(sample.image, sample.sam_logits, sample.crops)
    with pytest.raises(ValueError, match="mask"):
        learner.learn(prediction, Feedback("expert", (torch.ones(3, 3, dtype=torch.bool),)))


def test_numbers_that_are_not_numbers_stop_the_stream(make_stream, make_learner):
    samples = make_stream(3)
    with pytest.raises(UserError, match="position 0 of the stream is NaN or infinite"):
        make_learner().predict(samples[0].image, samples[0].sam_logits * float("nan"), samples[0].crops)
    learner = make_learner(lr=float("inf"))
    run(learner, Expert(), samples[:1])
    with pytest.raises(UserError, match="weights before position 1"):
        learner.state_dict()
    with pytest.raises(UserError, match="position 1 of the stream is NaN or infinite"):
        learner.predict(samples[1].image, samples[1].sam_logits, samples[1].crops)


@pytest.mark.gpu
def test_a_step_on_the_gpu_waits_only_at_the_end_of_predict(make_stream, make_learner):
    samples = make_stream(8, prompts=2)
    learner = make_learner()
    learner.network.module.cuda()
    learner.network.optimizer = torch.optim.AdamW(learner.network.module.parameters(), lr=1e-3)
    host, expert = [], Expert()
    for sample in samples:
        prediction = learner.predict(sample.image.cuda(), sample.sam_logits.cuda(), sample.crops)
        feedback = expert.feedback(prediction, sample.reference)
        feedback = Feedback("expert", tuple(mask.cuda() for mask in feedback.masks))
        torch.cuda.set_sync_debug_mode("error")
        try:
            host.append(learner.learn(prediction, feedback))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert {int(o.slot) for outcomes in host for o in outcomes} >= {0, 1, 2, 3}
