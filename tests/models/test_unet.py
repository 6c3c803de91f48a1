import pytest
import segmentation_models_pytorch as smp
import torch

from lightning_samseg.errors import UserError
from lightning_samseg.models.unet import AuxiliaryConfig, UNet, build_auxiliary


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("in_channels", [3, 4])
def test_paper_size(in_channels):
    network = build_auxiliary(in_channels=in_channels)
    # two 3 x 3 convolutions per level and no other parameters but the last 1 x 1 convolution's 64 + 1
    down = [(in_channels, 64, 64), (64, 128, 128), (128, 256, 256), (256, 512, 512), (512, 512, 512)]
    up = [(1024, 512, 256), (512, 256, 128), (256, 128, 64), (128, 64, 64)]
    assert count(network) == sum(9 * (i * m + m * o) for i, m, o in down + up) + 65
    assert f"{count(network) / 1e6:.1f}" == "17.3"


def test_half_the_channels_are_a_quarter_of_the_parameters():
    """Two 3 x 3 convolutions per level as in the paper's network, and the last 1 x 1 convolution's 32 + 1."""
    network = build_auxiliary(AuxiliaryConfig("unet4m"), in_channels=4)
    down = [(4, 32, 32), (32, 64, 64), (64, 128, 128), (128, 256, 256), (256, 256, 256)]
    up = [(512, 256, 128), (256, 128, 64), (128, 64, 32), (64, 32, 32)]
    assert count(network) == sum(9 * (i * m + m * o) for i, m, o in down + up) + 33
    assert f"{count(network) / 1e6:.1f}" == "4.3"


def test_maps_any_size_to_logits_and_learns():
    torch.manual_seed(0)
    network = build_auxiliary(AuxiliaryConfig(width=1 / 16), in_channels=4)
    for size in ((32, 32), (50, 71)):
        logits = network(torch.rand(2, 4, *size))
        assert logits.shape == (2, 1, *size)
    logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in network.parameters())


def test_entries_do_not_see_each_other_in_either_mode():
    torch.manual_seed(0)
    network = UNet(3, (4, 8, 8, 8, 8)).double()
    x = torch.rand(3, 3, 32, 32, dtype=torch.float64)
    together = network(x)
    alone = torch.cat([network(entry.unsqueeze(0)) for entry in x])
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(network.eval()(x), together)


def test_a_constant_crop_is_no_division_by_zero():
    network = UNet(3, (4, 8, 8, 8, 8))
    assert network(torch.full((1, 3, 32, 32), 0.5)).isfinite().all()


@pytest.mark.parametrize(("name", "in_channels"), [("unet/resnet18", 4), ("fpn/mobilenet_v2", 3)])
def test_networks_of_segmentation_models_pytorch(name, in_channels):
    network = build_auxiliary(AuxiliaryConfig(name), in_channels=in_channels)
    assert network(torch.rand(2, in_channels, 64, 64)).shape == (2, 1, 64, 64)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"network": "unet"}, "unknown auxiliary network 'unet'"),
        ({"network": "vnet/resnet18"}, "unknown auxiliary network"),
        ({"network": "unet/resnet17"}, "could not be built"),
        ({"network": "unet/resnet18", "width": 0.5}, "width 0.5 has no meaning"),
        ({"width": 0.001}, "without channels"),
        ({"encoder_weights": "imagenet"}, "no ImageNet weights"),
    ],
)
def test_mistakes_are_named(arguments, says):
    with pytest.raises(UserError, match=says) as error:
        build_auxiliary(AuxiliaryConfig(**arguments))
    assert "what to do" in str(error.value)


def test_imagenet_weights_bring_their_normalisation(monkeypatch):
    create = smp.create_model

    def offline(architecture, encoder, weights, channels, classes):
        assert weights == "imagenet"
        return create(architecture, encoder, None, channels, classes)

    monkeypatch.setattr(smp, "create_model", offline)
    monkeypatch.setattr(
        smp.encoders, "get_preprocessing_params", lambda *_: {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.25, 0.125]}
    )
    network = build_auxiliary(AuxiliaryConfig("unet/resnet18", "imagenet"), in_channels=4).eval()
    x = torch.rand(1, 4, 32, 32)
    normalised = x.clone()
    for channel, (mean, std) in enumerate(((0.1, 0.5), (0.2, 0.25), (0.3, 0.125))):
        normalised[:, channel] = (x[:, channel] - mean) / std
    torch.testing.assert_close(network(x), network.network(normalised))
    monkeypatch.undo()
    # As from a checkpoint, without asking for weights.
    loaded = build_auxiliary(AuxiliaryConfig("unet/resnet18"), in_channels=4).eval()
    loaded.load_state_dict(network.state_dict())
    torch.testing.assert_close(loaded(x), network(x), rtol=0, atol=0)


def test_weights_that_cannot_be_had(monkeypatch):
    def unreachable(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr(smp, "create_model", unreachable)
    with pytest.raises(UserError, match="with imagenet weights"):
        build_auxiliary(AuxiliaryConfig("unet/resnet18", "imagenet"))
