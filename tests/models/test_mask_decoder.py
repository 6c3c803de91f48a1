"""The class decoder against the package's, which it equals where both can do the same."""

import pytest
import torch
from segment_anything.modeling import MaskDecoder, TwoWayTransformer

from lightning_samseg.models.mask_decoder import ClassMaskDecoder
from tests.models.test_image_encoders import generated


@pytest.fixture
def official() -> MaskDecoder:
    transformer = TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)
    decoder = MaskDecoder(transformer_dim=256, transformer=transformer, num_multimask_outputs=3)
    decoder.load_state_dict(generated(decoder))
    return decoder.eval()


@pytest.mark.parametrize("prompted", [False, True])
def test_equals_the_package_image_by_image(official: MaskDecoder, prompted: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    embedding = torch.randn(3, 256, 8, 8, generator=generator)
    pe = torch.randn(1, 256, 8, 8, generator=generator)
    dense = torch.randn(1, 256, 1, 1, generator=generator)
    sparse = torch.randn(3, 5, 256, generator=generator)
    ours = ClassMaskDecoder(num_channels=4, upsampling="sam").eval()
    own = ours.state_dict()
    ours.load_state_dict({key: value for key, value in official.state_dict().items() if key in own})
    with torch.no_grad():
        logits = ours(embedding, pe, sparse if prompted else None, dense)
        for i in range(3):
            tokens = sparse[i : i + 1] if prompted else torch.zeros(1, 0, 256)
            expected, _ = official.predict_masks(embedding[i : i + 1], pe, tokens, dense.expand(1, -1, 8, 8))
            torch.testing.assert_close(logits[i : i + 1], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("stride", "upsampling", "side"), [(16, "full", 128), (4, "full", 32), (16, "sam", 32)])
def test_output_size(stride: int, upsampling: str, side: int) -> None:
    decoder = ClassMaskDecoder(3, stride, upsampling)  # type: ignore[arg-type]
    logits = decoder(torch.zeros(2, 256, 8, 8), torch.zeros(1, 256, 8, 8), None, torch.zeros(1, 256, 1, 1))
    assert logits.shape == (2, 3, side, side)


def test_pretrained_start_leaves_the_class_tokens_random(official: MaskDecoder) -> None:
    torch.manual_seed(0)
    ours = ClassMaskDecoder(2, stride=16)
    tokens = ours.mask_tokens.weight.clone()
    ours.load_pretrained(official.state_dict())
    assert torch.equal(ours.mask_tokens.weight, tokens)
    assert torch.equal(ours.output_upscaling[0].weight, official.output_upscaling[0].weight)
    assert torch.equal(
        ours.get_parameter("transformer.norm_final_attn.bias"), official.transformer.norm_final_attn.bias
    )
