import numpy as np
import pytest
import torch

from lightning_samseg.errors import UserError
from lightning_samseg.online.expert import Expert, pseudo_labels
from lightning_samseg.online.predictions import PromptPrediction, assemble
from lightning_samseg.prompts.boxes import Box
from lightning_samseg.types import IGNORED

SIZE = (40, 60)
CROP = Box(5, 5, 35, 35)


def predicted(position=0, crops=(CROP,), logit=2.0, sam=None):
    prompts = tuple(
        PromptPrediction(
            crop,
            torch.zeros(3, 32, 32),
            torch.zeros(1, 32, 32),
            torch.full((crop.height, crop.width), logit),
            torch.full((crop.height, crop.width), logit),
            torch.tensor(0.5),
        )
        for crop in crops
    )
    return assemble(position, prompts, torch.zeros(SIZE) if sam is None else sam)


def reference():
    mask = np.zeros(SIZE, np.uint8)
    mask[10:30, 10:30] = 3
    return mask


def sources(expert, count, **arguments):
    return [expert.feedback(predicted(position, **arguments), reference()).source for position in range(count)]


def test_every_image_gets_the_reference_inside_its_crops():
    crops = (Box(5, 5, 35, 35), Box(20, 0, 60, 15))
    feedback = Expert().feedback(predicted(crops=crops), reference())
    assert feedback.source == "expert"
    for mask, crop in zip(feedback.masks, crops, strict=True):
        assert mask.dtype == torch.uint8
        np.testing.assert_array_equal(mask, reference()[crop.slices] > 0)
    assert torch.equal(feedback.only(1).masks[0], feedback.masks[1])


def test_one_reference_per_prompt():
    crops = (Box(5, 5, 35, 35), Box(5, 5, 35, 35))
    each = np.stack([reference(), np.zeros(SIZE, np.uint8)])
    masks = Expert().feedback(predicted(crops=crops), each).masks
    assert [int(mask.sum()) for mask in masks] == [400, 0]


def test_every_nth_image():
    assert sources(Expert(every=4), 9) == ["expert", "none", "none", "none"] * 2 + ["expert"]
    feedback = Expert(every=2).feedback(predicted(1), reference())
    assert feedback.masks == (None,)
    assert feedback.reference[0].sum() == 400  # what the authors' alpha looks at


def test_every_nth_image_is_counted_anew_in_each_set():
    """As in the authors' code, whose index starts at 0 in each set: position 5 is the second set's 0."""
    expert, places = Expert(every=2), [0, 1, 2, 3, 4, 0, 1, 2]
    found = [expert.feedback(predicted(p), reference(), "mask", place) for p, place in enumerate(places)]
    assert [each.source == "expert" for each in found] == [True, False, True, False, True, True, False, True]


def test_a_rate_is_drawn_for_every_position_on_its_own():
    expert = Expert(rate=0.25, seed=5)
    drawn = sources(expert, 400)
    assert 70 <= drawn.count("expert") <= 130
    backwards = [expert.feedback(predicted(p), reference()).source for p in reversed(range(400))]
    assert backwards[::-1] == drawn
    assert sources(Expert(rate=0.25, seed=6), 400) != drawn
    assert set(sources(Expert(rate=0.0), 50)) == {"none"}
    assert set(sources(Expert(rate=1.0), 50)) == {"expert"}


def test_only_below_a_dice_of_sam_alone():
    sam = torch.zeros(SIZE)
    sam[10:30, 10:20] = 0.9  # half of the reference: (2 * 200 + 1) / (200 + 400 + 1)
    dice = 401 / 601
    assert sources(Expert(below_dice=dice + 1e-4), 1, sam=sam) == ["expert"]
    assert sources(Expert(below_dice=dice - 1e-4), 1, sam=sam) == ["none"]
    assert sources(Expert(below_dice=dice + 1e-4, every=2), 2, sam=sam) == ["expert", "none"]


def test_a_dice_that_is_exactly_the_threshold():
    """(2 * 8 + 1) / (8 + 11 + 1) = 0.85: not below it, but the authors' code rectifies it."""
    sam, mask = torch.zeros(SIZE), np.zeros(SIZE, np.uint8)
    sam[10, 10:18], mask[10, 10:21] = 0.9, 1
    for inclusive, expected in ((False, "none"), (True, "expert")):
        expert = Expert(below_dice=0.85, inclusive=inclusive)
        assert expert.feedback(predicted(sam=sam), mask).source == expected
    assert Expert(below_dice=0.84, inclusive=True).feedback(predicted(sam=sam), mask).source == "none"


@pytest.mark.parametrize("dice_of", ["sam", "fused"])
def test_whose_dice_is_below(dice_of):
    """SAM alone finds the whole object and what is fused nothing, or the other way round."""
    expert = Expert(below_dice=0.85, dice_of=dice_of)
    for sam_finds_it in (True, False):
        sam = torch.zeros(SIZE)
        sam[10:30, 10:30] = 0.9 if sam_finds_it else 0.1
        shown = predicted(crops=(Box(10, 10, 30, 30),), sam=sam, logit=-2.0 if sam_finds_it else 2.0)
        good = sam_finds_it == (dice_of == "sam")
        assert expert.feedback(shown, reference()).source == ("none" if good else "expert")


@pytest.mark.parametrize("noise", ["erosion", "dilation", "both"])
def test_imperfect_masks(noise):
    expert = Expert(mask_noise=noise, noise_fraction=0.1, seed=1)
    areas = [int(expert.feedback(predicted(p), reference()).masks[0].sum()) for p in range(30)]
    # the crop is 30 px: a square of 3 px takes or adds one pixel on each side of the 20 x 20 object
    assert set(areas) == {"erosion": {18**2}, "dilation": {22**2}, "both": {18**2, 22**2}}[noise]
    assert areas == [int(expert.feedback(predicted(p), reference()).masks[0].sum()) for p in range(30)]


def test_without_a_reference_nobody_rectifies():
    feedback = Expert().feedback(predicted(), None)
    assert (feedback.source, feedback.masks, feedback.reference) == ("none", (None,), None)


def test_no_prompt_nothing_to_rectify():
    assert Expert().feedback(predicted(crops=()), reference()).masks == ()


def test_pseudo_labels_where_the_prediction_is_sure():
    sure, unsure = 1 / (1 + np.exp(-2.0)), 1 / (1 + np.exp(-0.5))
    for logit in (2.0, -2.0):
        (mask,) = pseudo_labels(predicted(logit=logit), sure - 0.01)
        assert mask.unique().tolist() == [logit > 0]
        assert pseudo_labels(predicted(logit=logit), sure + 0.01) == (None,)
    expert = Expert(rate=0, pseudo_confidence=(sure + unsure) / 2)
    feedback = expert.feedback(predicted(), reference())
    assert feedback.source == "pseudo"
    assert feedback.masks[0].all()  # the prediction, not the reference
    assert expert.feedback(predicted(logit=0.5), reference()).masks == (None,)
    assert Expert(pseudo_confidence=0.5).feedback(predicted(), reference()).source == "expert"
    assert Expert(pseudo_confidence=0.5).feedback(predicted(), None).source == "pseudo"


def test_a_reference_of_another_size():
    for shape in ((60, 40), (2, *SIZE), (40, 60, 3)):
        with pytest.raises(UserError, match=r"mask_7\.png: the mask does not fit its image"):
            Expert().feedback(predicted(), np.zeros(shape, np.uint8), "mask_7.png")


@pytest.mark.parametrize(
    "wrong",
    [
        {"every": 0},
        {"rate": 1.5},
        {"below_dice": -0.1},
        {"noise_fraction": 1},
        {"pseudo_confidence": 0.3},
        {"seed": -1},
    ],
)
def test_mistakes(wrong):
    with pytest.raises(UserError, match=f"expert: {next(iter(wrong))} out of range"):
        Expert(**wrong)


def test_what_is_ignored_is_neither_drawn_nor_scored():
    mask = reference()
    mask[10:30, 20:30] = IGNORED  # the right half of the object
    (drawn,) = Expert().feedback(predicted(), mask).masks
    np.testing.assert_array_equal(drawn == IGNORED, (mask == IGNORED)[CROP.slices])
    np.testing.assert_array_equal(drawn == 1, (mask == 3)[CROP.slices])
    sam = torch.zeros(SIZE)
    sam[10:30, 20:30] = 0.9  # outside of what is known, so (2 * 0 + 1) / (0 + 200 + 1)
    for threshold, source in ((1 / 201 + 1e-6, "expert"), (1 / 201 - 1e-6, "none")):
        assert Expert(below_dice=threshold).feedback(predicted(sam=sam), mask).source == source
    noisy = Expert(mask_noise="dilation", noise_fraction=0.1).feedback(predicted(), mask).masks[0]
    np.testing.assert_array_equal(noisy == IGNORED, drawn == IGNORED)  # noise moves borders, not what is unknown
    assert (noisy == 1).sum() > (drawn == 1).sum()
