"""The small U-Net and its branched forms: sizes by hand, logits against the authors' networks, foreign encoders."""

import pytest
import torch
from torch import Tensor, nn

from lightning_samseg.errors import UserError
from lightning_samseg.models.branched_unet import DROPOUT, BranchedUNet, NetworkConfig, build_unet, take_channels
from lightning_samseg.semi.noise import below_fraction
from tests.reference.ssl_oracle import LOGITS, SslOracle, image, rule_array, state_of, uniform

BRANCHES = {
    "uamt": {},
    "urpc": {"side_heads": True},
    "mcnet": {"decoders": ("bilinear", "transposed", "nearest")},
    "dcnet": {"decoders": ("bilinear", "transposed")},
}


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("name", "four", "two"),
    [
        ("uamt", 1_813_764, 1_813_474),
        ("urpc", 1_831_060 - 9_220, 1_822_122 - 4_610),  # without the head that the authors never use
        ("mcnet", 3_210_924, 3_210_054),
        ("dcnet", 2_577_624, 2_577_044),
    ],
)
def test_sizes_are_the_authors(name: str, four: int, two: int) -> None:
    assert parameters(BranchedUNet(3, **BRANCHES[name])) == four
    assert parameters(BranchedUNet(1, **BRANCHES[name])) == two
    assert parameters(BranchedUNet(1, in_channels=3, **BRANCHES[name])) == two + 288


def test_dropout_is_in_the_encoder_alone_between_the_convolutions() -> None:
    network = BranchedUNet(1)
    assert tuple(level[3].p for level in network.encoder.levels) == DROPOUT
    assert all(layer.p == 0 for layer in network.decoders.modules() if isinstance(layer, nn.Dropout))


@pytest.fixture(scope="module")
def oracle() -> SslOracle:
    return SslOracle()


def filled(oracle: SslOracle, name: str, salt: str = "") -> BranchedUNet:
    network = BranchedUNet(3, dropout=(0.0,) * 5, **BRANCHES[name]).double()
    oracle.fill(network, name, salt)
    return network


def assert_logits(oracle: SslOracle, key: str, found: Tensor) -> None:
    recorded = oracle.arrays.get(key)
    if recorded is None:  # not in the slice
        return
    found = found.detach()[LOGITS[key]] if oracle.is_slice else found.detach()
    torch.testing.assert_close(found, torch.from_numpy(recorded).double(), rtol=1e-6, atol=1e-5)


def test_the_rules_are_those_of_the_recording(oracle: SslOracle) -> None:
    torch.testing.assert_close(image("0", 4), torch.from_numpy(oracle["check.image.0"]).double(), rtol=0, atol=0)


def test_logits_of_one_decoder(oracle: SslOracle) -> None:
    assert_logits(oracle, "uamt.it0.outputs", filled(oracle, "uamt")(image("0", 4)))
    assert_logits(oracle, "cps.it0.outputs2", filled(oracle, "uamt", ".second")(image("0", 4)))


@pytest.mark.parametrize("name", ["mcnet", "dcnet"])
def test_logits_of_every_decoder(oracle: SslOracle, name: str) -> None:
    network = filled(oracle, name)
    features = network.encode(image("0", 4))
    for branch in range(len(network.decoders)):
        prefix = f"{name}.it0.output{branch + 1}"
        assert_logits(oracle, prefix, network.decode(features, branch).logits)


def test_side_logits(oracle: SslOracle) -> None:
    network = filled(oracle, "urpc")
    main, stages = network.decode(network.encode(image("0", 4)))
    assert_logits(oracle, "urpc.it0.outputs", main)
    assert [tuple(stage.shape[1:]) for stage in stages] == [(16, 32, 32), (32, 16, 16), (64, 8, 8), (128, 4, 4)]
    noise = torch.from_numpy(rule_array(state_of("urpc.noise").random_sample((32, 16, 16)) * 0.6 - 0.3))
    stages[1] = stages[1] * (1 + noise)
    stages[2] = stages[2] * below_fraction(stages[2], 0.8)
    stages[3] = stages[3] * (uniform("urpc.dropout", tuple(stages[3].shape)) >= 0.5) * 2
    for scale, logits in enumerate(network.side_logits(stages, 32), 1):
        assert_logits(oracle, f"urpc.it0.outputs_aux{scale}", logits)


@pytest.mark.parametrize("encoder", ["resnet18", "mit_b0"])  # the second has no features at half the size
@pytest.mark.parametrize("name", BRANCHES)
def test_the_same_decoders_on_a_foreign_encoder(encoder: str, name: str) -> None:
    network = build_unet(NetworkConfig(f"unet/{encoder}"), 2, **BRANCHES[name])
    features = network.encode(torch.rand(2, 3, 64, 64))
    for branch in range(len(network.decoders)):
        logits, stages = network.decode(features, branch)
        assert logits.shape == (2, 3, 64, 64)
        assert [len(stage[0, 0]) for stage in stages] == [64, 32, 16, 8, 4]
    sizes = {tuple(each.shape) for each in network.side_logits(stages, 64)} if name == "urpc" else {(2, 3, 64, 64)}
    assert sizes == {(2, 3, 64, 64)}


def test_a_grey_network_takes_one_channel() -> None:
    grey = torch.rand(2, 1, 32, 32)
    assert torch.equal(take_channels(grey.expand(-1, 3, -1, -1), 1), grey)
    assert torch.equal(take_channels(grey.repeat(1, 3, 1, 1), 1), grey)
    colours = torch.rand(2, 3, 32, 32)
    assert take_channels(colours, 3) is colours
    with pytest.raises(UserError, match="in_channels 3"):
        take_channels(colours, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnet34",), "unet/"),
        (("unet/nothing",), "could not be built"),
        (("unetplusplus/resnet34",), "There is no network"),
        (("paper", "imagenet"), "no pretrained weights"),
    ],
)
def test_what_does_not_exist_is_one_message(arguments: tuple[str, ...], message: str) -> None:
    name, *weights = arguments
    with pytest.raises(UserError, match=message):
        build_unet(NetworkConfig(name, 3, weights[0] if weights else None), 1)  # type: ignore[arg-type]


def test_a_side_that_cannot_be_halved_five_times() -> None:
    with pytest.raises(UserError, match="image_size 64"):
        build_unet(NetworkConfig("unet/resnet18"), 1)(torch.rand(2, 3, 48, 48))
