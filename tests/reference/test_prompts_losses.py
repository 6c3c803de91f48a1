"""Groups C, D and G of the recording, and the rule of its weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_samseg.losses.dice_ce import dice_ce_loss, dice_loss
from lightning_samseg.optim import warmup_poly
from lightning_samseg.prompts.components import deepest_pixels, inner_pixels, largest_component
from lightning_samseg.prompts.points import image_points
from tests.reference.oracle import KEEP, SHARED, SLICE, Oracle

pytestmark = pytest.mark.reference


def test_weights_have_the_recorded_norms(oracle: Oracle) -> None:
    weights = oracle.weights()
    norms = [weights[name].double().norm().item() for name in oracle.meta["trainable"]]
    oracle.assert_close("E_it0_paramL2_before", np.array(norms), atol=1e-6)


def test_another_salt_gives_other_weights(oracle: Oracle) -> None:
    key = "sam.mask_decoder1.mask_tokens.weight"
    assert not torch.equal(oracle.weights(oracle.salt + "pepper")[key], oracle.weights()[key])


def test_another_rule_or_salt_is_said(oracle: Oracle, tmp_path: Path) -> None:
    with np.load(oracle.path) as file:
        arrays = dict(file)
    with pytest.raises(pytest.UsageError, match="--oracle-salt TEXT"):
        Oracle(oracle.path, oracle.salt + "pepper")
    salted = arrays | {"meta": np.array(json.dumps(oracle.meta | {"salt": oracle.salt + "pepper"}))}
    np.savez(tmp_path / "salted.npz", **salted)
    with pytest.raises(pytest.UsageError, match=r"salted\.npz: .*pepper"):
        Oracle(tmp_path / "salted.npz")
    arrays["meta"] = np.array(json.dumps({key: value for key, value in oracle.meta.items() if key != "rule"}))
    np.savez(tmp_path / "old.npz", **arrays)
    with pytest.raises(pytest.UsageError, match=r"old\.npz: recorded with weights by rule 1"):
        Oracle(tmp_path / "old.npz")


@pytest.mark.skipif(not SHARED.is_file(), reason="needs the whole recording")
def test_committed_slice_is_a_cut_of_the_shared_recording() -> None:
    whole, cut = Oracle(SHARED), Oracle(SLICE)
    assert SLICE.stat().st_size < 250_000
    assert cut.meta == whole.meta
    for key in KEEP:
        assert np.array_equal(whole[key][KEEP[key]], cut[key]), key
        if cut[key].dtype.kind in "fiu":
            cut.assert_close(key, whole[key], atol=0)


def test_candidate_pixels_are_the_authors(oracle: Oracle) -> None:
    components = np.unpackbits(oracle["C_cc"], axis=-1)
    deepest = np.unpackbits(oracle["C_deepest"], axis=-1)
    for image, labels in enumerate(oracle["C_logits_argmax"]):
        for class_id in range(components.shape[1]):
            inside, centers = np.zeros_like(labels), np.zeros_like(labels)
            component = largest_component(labels == class_id)
            if component is not None:
                inside[tuple(component.points(inner_pixels(component)).T[::-1])] = 1
                centers[tuple(component.points(deepest_pixels(component)[0]).T[::-1])] = 1
            assert np.array_equal(inside, components[image, class_id]), (image, class_id)
            assert np.array_equal(centers, deepest[image, class_id]), (image, class_id)


def test_points_are_the_authors_under_their_seed(oracle: Oracle) -> None:
    draw = np.random.RandomState(int(oracle["C_seed"])).randint
    num_classes = oracle["C_center"].shape[1]
    found = np.stack([image_points(labels, num_classes, draw) for labels in oracle["C_logits_argmax"]])
    for slot, name in enumerate(("center", "random")):
        assert np.array_equal(found[:, :, slot, :2], oracle[f"C_{name}"]), name
        assert np.array_equal(found[:, :, slot, 2], oracle[f"C_{name}_labels"]), name


def test_losses_are_the_authors(oracle: Oracle) -> None:
    logits, target = oracle.tensor("D_logits"), oracle.tensor("label").long()
    oracle.assert_close("D_dice", dice_loss(logits, target), atol=1e-5)
    oracle.assert_close("D_ce", dice_ce_loss(logits, target, 0.0), atol=1e-5)
    # Supervision of a batch's labelled half as the trainer logs it: 0.2 CE + 0.8 Dice, CE, Dice.
    half = len(logits) // 2
    weighted = [dice_ce_loss(logits[:half], target[:half], weight) for weight in (0.8, 0.0, 1.0)]
    oracle.assert_close("D_sup", torch.stack(weighted), atol=1e-5)


def test_dice_of_a_class_missing_from_the_target(oracle: Oracle) -> None:
    target = oracle.tensor("label").long()
    target[target == 1] = 0
    oracle.assert_close("D_dice_class1_absent", dice_loss(oracle.tensor("D_logits"), target), atol=1e-5)


def test_learning_rates_are_the_authors(oracle: Oracle) -> None:
    used = [1e-3 * warmup_poly(int(step), 250, 0.9, 50_000) for step in oracle["G_lr_k"]]
    oracle.assert_close("G_lr_used", np.array(used), atol=1e-12)
    logged_after = [1e-3 * warmup_poly(step + 1, 250, 0.9, 50_000) for step in range(len(oracle["E_scalar_lr"]))]
    oracle.assert_close("E_scalar_lr", np.array(logged_after), atol=1e-9)
