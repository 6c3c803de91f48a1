"""Groups A and B of the recording: embeddings, prompt tokens and logits of the authors' model.

The weight rule draws the attention matrices of the decoders at unit scale, so their softmax is close to saturation, and
rounding errors grow: two correct float32 programs differ by up to a few hundredths in some images. So the logits are
compared with a float64 run of our model, and the recording may be as far from it as float32 rounding puts us: 1e-4,
plus what relative weight changes of one unit in the last place do.
"""

from collections.abc import Callable
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_samseg.io.geometry import resize_image
from lightning_samseg.methods import CpcSam
from lightning_samseg.methods.base import restore_size
from lightning_samseg.models.convert import from_authors
from lightning_samseg.models.dual_branch import BranchedSam
from lightning_samseg.types import Case
from tests.reference.oracle import Oracle

pytestmark = pytest.mark.reference
ULP = 2.0**-23


@pytest.fixture(scope="module")
def sam(oracle: Oracle) -> BranchedSam:
    model = BranchedSam("tiny", oracle.meta["image_size"], oracle.meta["num_classes_fg"])
    model.load_state_dict(from_authors(oracle.weights(), oracle.meta["num_classes_fg"] + 1), strict=True)
    return model.eval()


@pytest.fixture(scope="module")
def embedding(sam: BranchedSam, oracle: Oracle) -> Tensor:
    with torch.no_grad():
        return sam.encode(oracle.tensor("x")[:, None].repeat(1, 3, 1, 1))


def rounding_noise(sam: BranchedSam, embedding: Tensor, decode: Callable[[BranchedSam, Tensor], Tensor]) -> float:
    """Largest change of the logits when every weight and input moves by about a unit in its last place."""
    generator = torch.Generator().manual_seed(0)
    exact, largest = decode(sam, embedding), 0.0
    for _ in range(8):
        moved = deepcopy(sam)
        for parameter in moved.mask_decoders.parameters():
            parameter.data.mul_(1 + ULP * torch.randn(parameter.shape, generator=generator))
        nudged = embedding * (1 + ULP * torch.randn(embedding.shape, generator=generator))
        largest = max(largest, (decode(moved, nudged) - exact).abs().max().item())
    return largest


def assert_logits(oracle: Oracle, key: str, sam: BranchedSam, embedding: Tensor, decode: Callable[..., Tensor]) -> None:
    with torch.no_grad():
        oracle.assert_close(key, decode(sam, embedding), atol=1e-4 + 5 * rounding_noise(sam, embedding, decode))


def test_embedding(embedding: Tensor, oracle: Oracle) -> None:
    oracle.assert_close("A_embedding", embedding, atol=1e-4)


def test_position_encoding(sam: BranchedSam, oracle: Oracle) -> None:
    oracle.assert_close("A_dense_pe", sam.prompt_encoder.dense_pe(4), atol=1e-6)


@pytest.mark.parametrize("branch", [0, 1])
def test_unprompted_logits(sam: BranchedSam, embedding: Tensor, oracle: Oracle, branch: int) -> None:
    assert_logits(oracle, f"A_low_res_logits{branch + 1}", sam, embedding, lambda m, e: m.decode(e, branch))


def test_prompt_tokens(sam: BranchedSam, oracle: Oracle) -> None:
    tokens = sam.prompt_encoder.sparse(oracle.tensor("B_points").float(), oracle.tensor("B_labels").long())
    oracle.assert_close("B_sparse", tokens, atol=1e-6)
    oracle.assert_close("B_dense_vec", sam.prompt_encoder.dense()[0, :, 0, 0], atol=0)


@pytest.mark.parametrize("branch", [0, 1])
def test_prompted_logits(sam: BranchedSam, embedding: Tensor, oracle: Oracle, branch: int) -> None:
    count = len(embedding)
    points, labels = oracle.tensor("B_points")[:count].float(), oracle.tensor("B_labels")[:count].long()
    assert_logits(oracle, f"B_prompted{branch + 1}", sam, embedding, lambda m, e: m.decode(e, branch, points, labels))


def test_prediction_of_a_volume(sam: BranchedSam, oracle: Oracle) -> None:
    """Group F: slices resized, both branches averaged, the argmax brought back to the original size."""
    volume, recorded = oracle["F_vol"], oracle["F_test_pred_mean"]
    method = CpcSam(backbone="tiny", image_size=64, num_classes=3)
    method.sam = sam
    resized = np.stack([resize_image(image, (64, 64), "corner_aligned") for image in volume])
    with torch.no_grad():
        probabilities = method.predict_probabilities(torch.from_numpy(resized)[:, None].repeat(1, 3, 1, 1))
    noise = 0.05  # of the logits, see above; a probability moves by a quarter of it
    oracle.assert_close("F_test_probs_mean", probabilities, atol=noise / 4)
    case = Case("volume", "recorded", volume.shape[1:], (64, 64), geometry="corner_aligned")
    predicted = np.stack([restore_size(p, case, "labels") for p in probabilities])
    assert (predicted == recorded).mean() > 0.999
