"""What is trained, and that nothing trained goes without a gradient; the decoder equals the package's where it can."""

import pytest
import torch
from segment_anything.modeling import MaskDecoder, TwoWayTransformer

from lightning_samseg.errors import UserError
from lightning_samseg.models.branched_sam import ClassMaskDecoder
from lightning_samseg.models.lora import attention_names
from tests.models.test_image_encoders import generated
from tests.official import branched_sam


def trained(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def test_counts_of_the_paper_setting() -> None:
    """ViT-B, 512 px, 3 classes: the fact sheet's counts less what never gets a gradient (section 1.3)."""
    model = branched_sam("sam_vit_b", 512, 3, pretrained=False)
    assert trained(model.image_encoder) == 147_456
    assert sum(p.numel() for p in model.image_encoder.parameters()) - 147_456 == 87_278_848
    mask_downscaling, spare_embeddings = 4_684, 2 * 256
    assert trained(model.prompt_encoder) == 6_732 - mask_downscaling - spare_embeddings
    iou_head, projector = 132_612, 20_480
    for decoder in model.mask_decoders:
        assert trained(decoder) == 4_065_572 - iou_head - projector
    assert trained(model) == 8_285_332 - 4_684 - 512 - 2 * (132_612 + 20_480)


def test_every_trained_parameter_gets_a_gradient() -> None:
    model = branched_sam("tiny", 64, 3)
    for name, parameter in model.image_encoder.named_parameters():
        if "lora_B" in name:  # zero at the start, which blocks the gradient of A
            torch.nn.init.normal_(parameter, std=0.1)
    embedding = model.encode(torch.rand(2, 3, 64, 64))
    points, labels = torch.randint(0, 64, (2, 4, 2)).float(), torch.arange(4).expand(2, -1)
    logits = [model.decode(embedding, b, p, t) for b in (0, 1) for p, t in ((None, None), (points, labels))]
    torch.stack(logits).square().sum().backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert without == []


def test_lora_starts_as_identity_and_sits_on_q_and_v_only() -> None:
    torch.manual_seed(0)
    plain = branched_sam("tiny", 64, 1, lora_rank=0)
    adapted = branched_sam("tiny", 64, 1, lora_blocks=[-1])
    names = [n for n, p in adapted.image_encoder.named_parameters() if p.requires_grad]
    assert {n.rsplit(".lora_", 1)[0] for n in names} == {"blocks.3.attn.q_proj", "blocks.3.attn.v_proj"}
    assert trained(plain.image_encoder) == 0
    own = {k.replace(".base_layer", ""): v for k, v in adapted.image_encoder.state_dict().items() if "lora" not in k}
    plain.image_encoder.load_state_dict(own)
    image = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(plain.encode(image), adapted.encode(image))


def test_lora_in_a_block_that_does_not_exist() -> None:
    with pytest.raises(UserError, match="attention blocks"):
        branched_sam("tiny", 64, 1, lora_blocks=[4])


def test_branches_start_different() -> None:
    model = branched_sam("tiny", 64, 1)
    first, second = (d.mask_tokens.weight for d in model.mask_decoders)
    assert not torch.equal(first, second)
    assert len(attention_names(model.image_encoder)) == 4


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
