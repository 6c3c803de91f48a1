"""Nothing of y_t reaches the record of step t: two streams that differ in y_t alone have equal records up to t.

Records are compared after the whole stream has run, as they were handed out: a record that learning changes later is a
leak like any other. The leaking learners at the end show that each way is caught.
"""

import numpy as np
import pytest
import torch
from torch import nn

from lightning_samseg.online.batch import BatchConfig
from lightning_samseg.online.expert import Expert
from lightning_samseg.online.fusion import FusionConfig
from lightning_samseg.online.learner import OnlineLearner

CHANGED = 5
LENGTH = 8


class BatchNormNet(nn.Module):
    """Keeps normalisation statistics, which the U-Net does not."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 1, 3, padding=1)
        )

    def forward(self, x):
        return self.layers(x)


def run(learner, expert, samples, changed):
    """The records of a stream whose reference at ``CHANGED`` is turned inside out if asked."""
    records = []
    for position, sample in enumerate(samples):
        reference = 1 - sample.reference if changed and position == CHANGED else sample.reference
        records.append(learner.predict(sample.image, sample.sam_logits, sample.crops))
        learner.learn(records[-1], expert.feedback(records[-1], reference))
    return records


def tensors(record):
    """Everything in a record that is a tensor."""
    found = [record.mask, record.sam_clipped, record.sam_probability]
    for prompt in record.prompts:
        found += [prompt.network_input, prompt.network_logits, prompt.sam_logits, prompt.aux_logits, prompt.alpha]
    return found


def first_difference(one, other):
    """Position of the first record that differs in any bit, or None."""
    for left, right in zip(one, other, strict=True):
        if not all(torch.equal(a, b) for a, b in zip(tensors(left), tensors(right), strict=True)):
            return left.position
    return None


def compare(make_stream, make_learner, expert=None, prompts=2, network=lambda: None, **settings):
    samples = make_stream(LENGTH, prompts)
    expert = Expert() if expert is None else expert
    both = []
    for changed in (False, True):
        torch.manual_seed(1)
        learner = make_learner(
            network=network(),
            fusion=FusionConfig("adaptive", window=2),
            batch=BatchConfig(3),
            **settings,
        )
        both.append(run(learner, expert, samples, changed))
    return first_difference(*both)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"step_per": "image"},
        {"extra_channel": "mask", "crop_resize": "pil"},
        {"replay_without_feedback": True, "expert": Expert(rate=0.7, seed=3)},
        {"network": BatchNormNet},
        {"expert": Expert(below_dice=0.99)},
        {"expert": Expert(below_dice=0.99, dice_of="fused")},
        {"expert": Expert(mask_noise="both", noise_fraction=0.1)},
    ],
)
def test_a_reference_changes_the_next_record_and_none_before(make_stream, make_learner, settings):
    assert compare(make_stream, make_learner, **settings) == CHANGED + 1


def test_a_reference_that_no_expert_drew_changes_nothing_at_all(make_stream, make_learner):
    expert = Expert(every=2)  # CHANGED is odd
    assert compare(make_stream, make_learner, expert) is None
    assert compare(make_stream, make_learner, Expert(every=2, pseudo_confidence=0.5)) is None


class PredictsAgain(OnlineLearner):
    """Replaces the record by a second prediction, made after learning."""

    def predict(self, image, sam_logits, crops, position=None):
        self.arguments = image, sam_logits, crops
        return super().predict(image, sam_logits, crops, position)

    def again(self, prediction):
        object.__setattr__(prediction, "prompts", super().predict(*self.arguments, prediction.position).prompts)


class LeaksWeights(PredictsAgain):
    def learn(self, prediction, feedback):
        outcomes = super().learn(prediction, feedback)
        alpha = prediction.prompts[0].alpha
        self.again(prediction)
        for prompt in prediction.prompts:
            prompt.alpha.copy_(alpha)
        return outcomes


class LeaksStatistics(PredictsAgain):
    """Predicts with the weights of before, but with the normalisation statistics of after."""

    def learn(self, prediction, feedback):
        before = [parameter.detach().clone() for parameter in self.network.module.parameters()]
        alpha = prediction.prompts[0].alpha
        outcomes = super().learn(prediction, feedback)
        with torch.no_grad():
            after = [parameter.clone() for parameter in self.network.module.parameters()]
            for parameter, value in zip(self.network.module.parameters(), before, strict=True):
                parameter.copy_(value)
            self.again(prediction)
            for parameter, value in zip(self.network.module.parameters(), after, strict=True):
                parameter.copy_(value)
        for prompt in prediction.prompts:
            prompt.alpha.copy_(alpha)
        return outcomes


class LeaksAlpha(OnlineLearner):
    """Fuses with the image's own alpha*."""

    def learn(self, prediction, feedback):
        outcomes = super().learn(prediction, feedback)
        for prompt, outcome in zip(prediction.prompts, outcomes, strict=True):
            prompt.alpha.copy_(outcome.alpha_star)
        return outcomes


class LeaksBatch(OnlineLearner):
    """Lets what the record shows depend on the losses that the batch holds."""

    def learn(self, prediction, feedback):
        outcomes = super().learn(prediction, feedback)
        prediction.prompts[0].network_logits.add_(self.batch.losses.mean())
        return outcomes


@pytest.mark.parametrize(
    ("leaking", "network"),
    [
        (LeaksWeights, lambda: None),
        (LeaksStatistics, BatchNormNet),
        (LeaksAlpha, lambda: None),
        (LeaksBatch, lambda: None),
    ],
)
def test_leaks_are_caught(make_stream, make_learner, leaking, network):
    assert compare(make_stream, make_learner, cls=leaking, network=network) == CHANGED


def test_prompts_of_one_image_do_not_teach_each_other(make_stream, make_learner):
    sample = make_stream(1, prompts=2)[0]
    records = []
    for changed in (False, True):
        learner = make_learner()
        reference = sample.reference.copy()
        if changed:
            columns = sample.crops[0].slices[1]
            reference[:, columns] = 1 - reference[:, columns]
        prediction = learner.predict(sample.image, sample.sam_logits, sample.crops)
        learner.learn(prediction, Expert().feedback(prediction, reference))
        records.append([prediction])
    assert not np.array_equal(reference, sample.reference)
    assert first_difference(*records) is None
