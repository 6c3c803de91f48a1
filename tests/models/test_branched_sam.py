"""What is trained, and that nothing that is trained goes without a gradient."""

import pytest
import torch

from lightning_samseg.errors import UserError
from lightning_samseg.models.lora import attention_names
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
