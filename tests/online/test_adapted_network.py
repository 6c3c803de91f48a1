"""DirectOL without Lightning: predict then learn, the same pixels as AuxOL, what a checkpoint holds."""

import copy
import io

import pytest
import torch

from lightning_samseg.adapters.adapted_sam import AdaptedSam
from lightning_samseg.adapters.files import save_adapter
from lightning_samseg.errors import UserError
from lightning_samseg.losses.binary import dice_loss
from lightning_samseg.online import adapted_network
from lightning_samseg.online.adapted_network import AdaptedNetwork, read
from lightning_samseg.online.batch import BatchConfig, OnlineBatch
from lightning_samseg.online.expert import Expert
from lightning_samseg.online.fusion import Fusion, FusionConfig
from lightning_samseg.online.learner import OnlineLearner
from lightning_samseg.prompts.boxes import Box
from lightning_samseg.transforms import View
from tests import float64
from tests.comparing import assert_equal
from tests.official import trained_model, write_tiny_sam

CHANGED, LENGTH = 2, 4


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """Generalists by kind of adapter, to be copied."""
    folder = tmp_path_factory.mktemp("adapters")
    base = str(write_tiny_sam(folder / "sam.pth"))
    found = {}
    for kind in ("lora", "msa"):
        model = trained_model("tiny", 64, 1, checkpoint=base, branches=1, upsampling="sam", adapter_kind=kind)
        save_adapter(model, folder / f"{kind}.safetensors", "tiny")
        found[kind] = AdaptedSam(folder / f"{kind}.safetensors", "tiny", base)
    return found


@pytest.fixture
def make(adapted):
    def make(kind="lora", cls=OnlineLearner, capacity=2, exact=False, **settings):
        network = copy.deepcopy(adapted[kind])
        if exact:
            network, settings = float64.in_float64(network), {"loss": float64.dice_loss} | settings
        steps = {"step_per": settings.pop("step_per")} if "step_per" in settings else {}
        learns = AdaptedNetwork(network, **{"loss": dice_loss, "lr": 0.02, "crop_size": 32} | settings)
        return cls(
            learns, Fusion(FusionConfig("fixed", 0.0)), OnlineBatch(BatchConfig(capacity)), sam_alone="largest", **steps
        )

    return make


def step(learner, sample, reference):
    image = (sample.image * 255).to(torch.uint8)
    prediction = learner.predict(image, sample.sam_logits, sample.crops)
    return prediction, learner.learn(prediction, Expert().feedback(prediction, reference))


def tensors(record):
    found = [record.mask, record.sam_clipped, record.sam_probability]
    for prompt in record.prompts:
        found += [prompt.network_input, prompt.network_logits, prompt.sam_logits, prompt.aux_logits, prompt.alpha]
    return found


def first_difference(make, samples, **settings):
    streams = []
    for changed in (False, True):
        learner = make(**settings)
        streams.append(
            [
                step(learner, each, 1 - each.reference if changed and position == CHANGED else each.reference)[0]
                for position, each in enumerate(samples)
            ]
        )
    for one, other in zip(*streams, strict=True):  # after the whole stream: a record that changes later is a leak
        if not all(torch.equal(a, b) for a, b in zip(tensors(one), tensors(other), strict=True)):
            return one.position
    return None


@pytest.mark.parametrize(
    "settings", [{}, {"kind": "msa", "step_per": "image"}, {"trained": "all", "lr": 1e-3}], ids=str
)
def test_a_reference_changes_the_next_record_and_none_before(make, make_stream, settings):
    assert first_difference(make, make_stream(LENGTH, 2), **settings) == CHANGED + 1


class Leaks(OnlineLearner):
    """Predicts again after learning."""

    def learn(self, prediction, feedback):
        outcomes = super().learn(prediction, feedback)
        with torch.no_grad():
            seen = prediction.prompts[0].network_input[None]
            prediction.prompts[0].network_logits.add_(self.network.module.foreground(seen).mean())
        return outcomes


def test_a_leak_is_caught(make, make_stream):
    assert first_difference(make, make_stream(LENGTH), cls=Leaks) == CHANGED


@pytest.mark.parametrize("kind", ["lora", "msa"])
def test_only_the_adapter_learns_and_it_learns(make, make_stream, kind):
    learner = make(kind)
    before = {name: each.clone() for name, each in learner.network.module.state_dict().items()}
    (sample,) = make_stream(1)
    losses = [float(step(learner, sample, sample.reference)[1][0].loss) for _ in range(8)]
    assert losses[-1] < losses[0] - 0.005
    moved = {name for name, each in learner.network.module.state_dict().items() if not torch.equal(each, before[name])}
    part = ".lora_" if kind == "lora" else ".bottleneck."
    assert moved
    assert all(part in name and "image_encoder" in name for name in moved)


def test_each_update_in_mixed_precision_begins_with_the_weights_as_they_are(make, make_stream):
    """Though autocast remembers its casts of them to the end of the trainer's step."""
    (sample,) = make_stream(1)
    prediction = make().predict((sample.image * 255).to(torch.uint8), sample.sam_logits, sample.crops)
    (prompt,) = prediction.prompts
    courses = []
    for contexts in (1, 3):
        network = make().network
        inside = torch.from_numpy(sample.reference[prompt.crop.slices])
        batch = prompt.network_input[None], network.target(inside, prompt.crop, sample.reference.shape)[None]
        losses = []
        for _ in range(contexts):
            with torch.autocast("cpu", torch.bfloat16):
                losses += [float(network.update(*batch)) for _ in range(3 // contexts)]
        courses.append(losses)
    assert courses[0] == courses[1]
    assert len(set(courses[0])) == 3


def test_before_anything_was_learned_it_is_the_adapted_sam(make, make_stream, adapted):
    (sample,) = make_stream(1, 2)
    image = (sample.image * 255).to(torch.uint8)
    low_res, geometry = adapted["msa"].predict(image.permute(1, 2, 0).numpy())
    answer = adapted["msa"].restore(low_res, geometry)
    prediction = make("msa").predict(image, answer.expand(2, -1, -1), sample.crops)
    for prompt in prediction.prompts:
        torch.testing.assert_close(prompt.fused_logits, answer[0][prompt.crop.slices])
        assert torch.equal(prompt.fused_logits, prompt.aux_logits)
    assert torch.equal(prediction.mask, prediction.sam_clipped)


def test_without_a_prompt(make, make_stream):
    learner = make()
    (sample,) = make_stream(1)
    prediction = learner.predict((sample.image * 255).to(torch.uint8), sample.sam_logits[:0], [])
    assert not prediction.mask.any()
    assert learner.learn(prediction, Expert().feedback(prediction, sample.reference)) == ()
    assert len(learner.batch) == 0


def test_the_result_does_not_depend_on_how_many_images_go_at_once(make, make_stream, monkeypatch):
    """It learns in float64: gradients are sums in another order."""
    foreground = AdaptedSam.foreground

    def exact(network, pixels):
        answer = foreground(network, pixels.double())
        return answer if torch.is_grad_enabled() else answer.float()

    monkeypatch.setattr(AdaptedSam, "foreground", exact)
    monkeypatch.setattr(adapted_network, "read", lambda low_res, places: read(low_res, places.to(low_res.dtype)))
    learners = [make(capacity=3, at_once=at_once, exact=True) for at_once in (1, 2, 3)]
    for sample in make_stream(3):
        for learner in learners:
            step(learner, sample, sample.reference)
    for learner in learners[1:]:
        assert_equal(learner.batch.losses, learners[0].batch.losses, within=1e-6)  # kept in float32
        assert_equal(dict(learner.network.trained), dict(learners[0].network.trained), within=1e-12)


@pytest.mark.parametrize("geometry", ["half_pixel", "corner_aligned"])
@pytest.mark.parametrize("resize", ["squash", "longest_side"])
def test_places_are_where_the_pixels_of_the_crop_are(adapted, resize, geometry):
    """A crop as large as the network reads it: pixel (x, y) of the image reads what ``restore`` puts there."""
    network = copy.deepcopy(adapted["lora"])
    network.view = View(64, resize, geometry=geometry)
    learner = AdaptedNetwork(network, crop_size=32)
    ramp = torch.linspace(-3, 3, 64)
    low_res = ramp[None, None, :, None] + 0.5 * ramp
    crop = Box(20, 9, 52, 41)
    restored = network.restore(low_res[0], network.view.case((50, 70)))[0]
    found = read(low_res, learner.places(crop, (50, 70))[None])[0, 0]
    torch.testing.assert_close(found, restored[crop.slices], atol=0.01, rtol=0)
    moved = learner.places(Box(21, 9, 53, 41), (50, 70))  # the tolerance is a fraction of a pixel's step
    assert (read(low_res, moved[None])[0, 0] - restored[crop.slices]).abs().min() > 0.02


def test_going_on_from_a_state_is_as_if_nothing_had_been(make, make_stream):
    samples = make_stream(4)
    whole, first, second = make("msa"), make("msa"), make("msa")
    records = [step(whole, each, each.reference)[0] for each in samples]
    for each in samples[:2]:
        step(first, each, each.reference)
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second.load_state_dict(torch.load(buffer, weights_only=True))
    for each, expected in zip(samples[2:], records[2:], strict=True):
        found, _ = step(second, each, each.reference)
        assert all(torch.equal(a, b) for a, b in zip(tensors(found), tensors(expected), strict=True))
    assert_equal(dict(whole.network.trained), dict(second.network.trained))


def test_mistakes(make, make_stream):
    with pytest.raises(UserError, match="at_once"):
        make(at_once=0)
    with pytest.raises(UserError, match="another adapter"):
        make("lora").load_state_dict(make("msa").state_dict())
    learner = make(lr=1e30)
    (sample,) = make_stream(1)
    step(learner, sample, sample.reference)
    with pytest.raises(UserError, match="NaN or infinite"):
        step(learner, sample, sample.reference)
