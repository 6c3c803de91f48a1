"""Groups A, B and F of the recording: embeddings, prompt tokens, logits and a prediction of the authors' model.

The weights are well conditioned: correct float32 programs differ by 2e-5 in logits, a wrong epsilon of a LayerNorm
makes 9e-5.
"""

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_samseg.adapters.convert import from_authors
from lightning_samseg.io.geometry import resize_image
from lightning_samseg.methods import CpcSam
from lightning_samseg.methods.base import restore_size
from lightning_samseg.models.branched_sam import BranchedSam
from lightning_samseg.types import Case
from tests.official import branched_sam
from tests.reference.oracle import Oracle

pytestmark = pytest.mark.reference
LOGITS = 5e-5
PROBABILITIES = 1e-4
TOKENS = 1e-5  # sines and cosines of two libraries differ by 2e-6


@pytest.fixture(scope="module")
def sam(oracle: Oracle) -> BranchedSam:
    model = branched_sam("tiny", oracle.meta["image_size"], oracle.meta["num_classes_fg"])
    model.load_state_dict(from_authors(oracle.weights(), oracle.meta["num_classes_fg"] + 1), strict=True)
    return model.eval()


@pytest.fixture(scope="module")
def embedding(sam: BranchedSam, oracle: Oracle) -> Tensor:
    with torch.no_grad():
        return sam.encode(oracle.tensor("x")[:, None].repeat(1, 3, 1, 1))


def test_embedding(sam: BranchedSam, oracle: Oracle) -> None:
    """In float64: float32 convolutions without AVX-512 err by 8e-6, and a LayerNorm's wrong epsilon makes 1.6e-5."""
    with torch.no_grad():
        images = oracle.tensor("x").double()[:, None].repeat(1, 3, 1, 1)
        oracle.assert_close("A_embedding", deepcopy(sam).double().encode(images), atol=1e-5)


def test_position_encoding(sam: BranchedSam, oracle: Oracle) -> None:
    oracle.assert_close("A_dense_pe", sam.prompt_encoder.dense_pe(4), atol=TOKENS)


@pytest.mark.parametrize("branch", [0, 1])
def test_unprompted_logits(sam: BranchedSam, embedding: Tensor, oracle: Oracle, branch: int) -> None:
    with torch.no_grad():
        oracle.assert_close(f"A_low_res_logits{branch + 1}", sam.decode(embedding, branch), atol=LOGITS)


def test_prompt_tokens(sam: BranchedSam, oracle: Oracle) -> None:
    tokens = sam.prompt_encoder.sparse(oracle.tensor("B_points").float(), oracle.tensor("B_labels").long())
    oracle.assert_close("B_sparse", tokens, atol=TOKENS)
    oracle.assert_close("B_dense_vec", sam.prompt_encoder.dense()[0, :, 0, 0], atol=0)


@pytest.mark.parametrize("branch", [0, 1])
def test_prompted_logits(sam: BranchedSam, embedding: Tensor, oracle: Oracle, branch: int) -> None:
    count = len(embedding)
    points, labels = oracle.tensor("B_points")[:count].float(), oracle.tensor("B_labels")[:count].long()
    with torch.no_grad():
        oracle.assert_close(f"B_prompted{branch + 1}", sam.decode(embedding, branch, points, labels), atol=LOGITS)


@pytest.fixture(scope="module")
def probabilities(sam: BranchedSam, oracle: Oracle) -> Tensor:
    """Group F: each slice resized, both branches averaged."""
    method = CpcSam(sam={"backbone": "tiny"}, image_size=64, num_classes=3)
    method.sam = sam
    resized = np.stack([resize_image(image, (64, 64), "corner_aligned") for image in oracle["F_vol"]])
    with torch.no_grad():
        return method.predict_probabilities(torch.from_numpy(resized)[:, None].repeat(1, 3, 1, 1))


def test_probabilities_of_a_volume(probabilities: Tensor, oracle: Oracle) -> None:
    oracle.assert_close("F_test_probs_mean", probabilities, atol=PROBABILITIES)


def test_label_map_of_a_volume(probabilities: Tensor, oracle: Oracle) -> None:
    """The argmax brought back to the original size, exact wherever one class leads by more than rounding."""
    recorded = oracle["F_test_pred_mean"]
    case = Case("volume", "recorded", recorded.shape[1:], (64, 64), geometry="corner_aligned")
    top = probabilities.topk(2, dim=1).values
    tied = torch.stack([top[:, 0] - top[:, 1], torch.full_like(top[:, 0], 5e-6)], dim=1)
    predicted, undecided = (np.stack([restore_size(p, case, "labels") for p in maps]) for maps in (probabilities, tied))
    assert undecided.mean() < 1e-3
    assert np.array_equal(predicted[undecided == 0], recorded[undecided == 0])
