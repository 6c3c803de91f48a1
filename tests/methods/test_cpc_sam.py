"""CPC-SAM against its equations, written out once more; what every ablation computes and trains."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_samseg.methods import CpcSam, cpc_sam
from lightning_samseg.models.branched_sam import BranchedSam
from lightning_samseg.models.sam_config import PretrainedSam
from lightning_samseg.prompts.points import ClassPoints, start_class_points
from lightning_samseg.types import IGNORED
from tests.comparing import assert_equal
from tests.float64 import in_float64
from tests.grouped import grouped

CLASSES = 3  # with background
LABELLED, UNLABELLED, SIDE = 2, 3, 32
CLOSE = 1e-7  # all is float64 here but for soft pseudo labels and their sums


class Quiet(CpcSam):
    """A method without a trainer: nothing is logged, and a round keeps its gradients instead of making a step.

    It computes in float64: pseudo labels and prompts must not hang on the order of a sum.
    """

    def __init__(self, **arguments: Any) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            super().__init__(sam=PretrainedSam("tiny"), image_size=SIDE, num_classes=CLASSES - 1, **arguments)
            for name, parameter in self.named_parameters():
                if "lora_B" in name:  # zero in a new model, and then A would learn nothing
                    torch.nn.init.normal_(parameter, std=0.1)
        in_float64(self)
        self.losses: list[Tensor] = []
        self.gradients: list[dict[str, Tensor | None]] = []

    def log(self, *_: Any, **__: Any) -> None:
        pass

    def log_dict(self, *_: Any, **__: Any) -> None:
        pass

    def lr_schedulers(self) -> Any:
        return SimpleNamespace(step=lambda: None)

    def optimize(self, loss: Tensor, last: bool, prompts_used: bool) -> Tensor:
        self.losses.append(loss.detach())
        self.gradients.append(self.gradients_of(loss))
        return loss.detach()

    def gradients_of(self, loss: Tensor) -> dict[str, Tensor | None]:
        trained = {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}
        return dict(zip(trained, torch.autograd.grad(loss, list(trained.values()), allow_unused=True), strict=True))


class Watch:
    """Counts what goes through the networks, and keeps the points that were chosen."""

    def __init__(self, method: CpcSam, monkeypatch: pytest.MonkeyPatch) -> None:
        self.encoded: list[int] = []
        self.decoded: list[tuple[int, bool, bool]] = []
        self.points: list[ClassPoints] = []
        encode, decode = BranchedSam.encode, method.decode

        def encoding(sam: BranchedSam, image: Tensor) -> Tensor:
            self.encoded.append(len(image))
            return encode(sam, image)

        def decoding(embeddings: Any, branch: int, points: Tensor | None = None, *rest: Any, **more: Any) -> Tensor:
            output = decode(embeddings, branch, points, *rest, **more)
            self.decoded.append((len(output), points is not None, output.requires_grad))
            return output

        def choosing(labels: Tensor, *rest: Any) -> Any:
            chosen = start_class_points(labels, *rest)
            self.points += chosen().split(len(labels) // (LABELLED + UNLABELLED))  # of each branch
            return chosen

        monkeypatch.setattr(BranchedSam, "encode", encoding)
        monkeypatch.setattr(method, "decode", decoding)
        monkeypatch.setattr(cpc_sam, "start_class_points", choosing)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(LABELLED + UNLABELLED, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)
    return images, torch.randint(0, CLASSES, (LABELLED, SIDE, SIDE), generator=generator)


def dice(logits: Tensor, target: Tensor) -> Tensor:
    """Fact: squared denominators, sums over the batch, mean over all classes with background, smooth 1e-5."""
    p, t = logits.softmax(1), target if target.is_floating_point() else F.one_hot(target, CLASSES).permute(0, 3, 1, 2)
    values = [
        1 - (2 * (p[:, k] * t[:, k]).sum() + 1e-5) / ((p[:, k] ** 2).sum() + (t[:, k] ** 2).sum() + 1e-5)
        for k in range(CLASSES)
    ]
    return sum(values) / CLASSES


def equations(
    model: CpcSam,
    images: Tensor,
    y: Tensor,
    points: list[ClassPoints],
    *,
    prompted_dice: float = 0.5,
    lambda_1: float = 0.4,
    lambda_2: float = 0.05,
    ensemble: bool = True,
    center_too: bool = False,
    separate: int = 1,
    soft: bool = False,
) -> Tensor:
    """Eqs. 1 to 3 and the total, as the paper prints them: branch b is prompted by points[b], made by the other."""
    sams = [model.sam, model.second_sam or model.sam]
    heads = [0, 0 if model.second_sam is not None or len(points) == 1 else 1]
    embeddings = [sam.encode(images) for sam in sams]

    def output(b: int, *prompt: Tensor) -> Tensor:
        return sams[b].decode(embeddings[b], heads[b], *prompt)

    def both(logits: Tensor, target: Tensor) -> Tensor:
        return dice(logits, target) + F.cross_entropy(logits, target)

    l_s = l_cross = l_c = images.new_zeros(())
    branches = range(len(points))
    p = [output(b) for b in branches]
    for b in branches:
        other = p[1 - b] if len(points) == 2 else p[0]
        given = points[b]
        p_c = [output(b, given.center, given.center_labels)] if given.center.shape[1] else []
        p_r = [output(b, given.random, given.random_labels)] if given.random.shape[1] else []
        if separate > 1:
            place, label = given.random.unflatten(1, (-1, separate)), given.random_labels.unflatten(1, (-1, separate))
            p_r = [output(b, place[:, :, i], label[:, :, i]) for i in range(separate)]
        prompted = p_c + p_r
        # Eq. 3
        l_s = l_s + 0.8 * dice(p[b][:LABELLED], y) + 0.2 * F.cross_entropy(p[b][:LABELLED], y)
        for q in prompted:
            l_s = l_s + prompted_dice * dice(q[:LABELLED], y)
            l_s = l_s + (1 - prompted_dice) * F.cross_entropy(q[:LABELLED], y)
        # Eq. 1
        teachers = prompted if ensemble else prompted[:1]
        p_hat = torch.stack([q[LABELLED:].detach().float().softmax(1) for q in teachers]).mean(0)  # always in float32
        p_hat = p_hat if soft else p_hat.argmax(1)
        l_cross = l_cross + 1 / 2 * both(other[LABELLED:], p_hat)
        # Eq. 2
        for q in prompted if center_too else p_r:
            l_c = l_c + 1 / 2 * both(q[LABELLED:], p_hat)
    return l_s + lambda_1 * l_cross + lambda_2 * l_c


VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "the paper": ({}, {}),
    "prompted_dice": ({"prompted_dice": 0.8}, {"prompted_dice": 0.8}),
    "lambdas": ({"lambda_cross": 1.5, "lambda_consistency": 2.5}, {"lambda_1": 1.5, "lambda_2": 2.5}),
    "Fig. 3, without ensemble": ({"ensemble": False, "lambda_cross": 3.0}, {"ensemble": False, "lambda_1": 3.0}),
    "Fig. 3, consistency on both": ({"consistency_on": "both"}, {"center_too": True}),
    "Table 2, row 3": ({"num_random": 0}, {}),
    "Table 3, five random points": ({"num_random": 5}, {}),
    "Table 3, two random points together": ({"num_center": 0, "num_random": 2}, {}),
    "Table 3, two random prompts": (
        {"num_center": 0, "num_random": 2, "random_prompts": "separate"},
        {"separate": 2},
    ),
    "a centre, three random prompts": ({"num_random": 3, "random_prompts": "separate"}, {"separate": 3}),
    "Table 3, three centres": ({"num_center": 3}, {}),
    "soft pseudo labels": ({"pseudo": "soft"}, {"soft": True}),
    "Fig. 4, one branch": ({"architecture": "one_branch"}, {}),
    "Fig. 4, two models": ({"architecture": "two_models"}, {}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_joint_loss_is_the_papers_total(
    variant: str, batch: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, written = VARIANTS[variant]
    method = grouped(Quiet, **arguments)
    watch = Watch(method, monkeypatch)
    loss = method.joint_loss(*batch, ssl=True)
    expected = equations(method, *batch, watch.points, **written)
    assert_equal(loss, expected, within=CLOSE)
    gradients, others = method.gradients_of(loss), method.gradients_of(expected)
    for name, gradient in gradients.items():
        if others[name] is None:
            assert gradient is None or not gradient.any(), name
        else:
            assert_equal(gradient, others[name], name, within=CLOSE)


def test_the_variants_differ(batch: tuple[Tensor, Tensor]) -> None:
    """Or the comparison above would pass with arguments that do nothing."""
    losses = {
        variant: grouped(Quiet, **arguments).joint_loss(*batch, ssl=True).item()
        for variant, (arguments, _) in VARIANTS.items()
    }
    assert len({round(loss, 5) for loss in losses.values()}) == len(losses), losses


def test_each_branch_is_prompted_by_the_other(batch: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    method = Quiet()
    seen: list[Tensor] = []

    def choosing(guesses: Tensor, *rest: Any) -> Any:
        seen.extend(guesses.chunk(2))
        return start_class_points(guesses, *rest)

    monkeypatch.setattr(cpc_sam, "start_class_points", choosing)
    method.joint_loss(*batch, ssl=True)
    embedding = method.sam.encode(batch[0])
    first, second = (method.sam.decode(embedding, branch).argmax(1) for branch in (0, 1))
    assert not torch.equal(first, second)
    assert torch.equal(seen[0], second)
    assert torch.equal(seen[1], first)


@pytest.mark.parametrize("pseudo", ["hard", "soft"])
@pytest.mark.parametrize("architecture", ["two_branches", "one_branch", "two_models"])
def test_cross_unprompted_is_cross_pseudo_supervision(
    batch: tuple[Tensor, Tensor], architecture: str, pseudo: str
) -> None:
    """Table 2, row 2: half of Dice + cross-entropy between each unprompted output and the other's argmax."""
    method = Quiet(cross="unprompted", architecture=architecture, pseudo=pseudo)
    images, y = batch
    embeddings = method.encode(images)
    p = [method.decode(embeddings, branch) for branch in method.branches]
    expected = sum(0.8 * dice(q[:LABELLED], y) + 0.2 * F.cross_entropy(q[:LABELLED], y) for q in p)
    for q, teacher in zip(p, p[::-1], strict=True):
        label = teacher[LABELLED:].argmax(1) if pseudo == "hard" else teacher[LABELLED:].detach().float().softmax(1)
        expected = expected + 0.4 / 2 * (dice(q[LABELLED:], label) + F.cross_entropy(q[LABELLED:], label))
    assert_equal(method.joint_loss(*batch, ssl=True), expected, within=CLOSE)


def test_cross_none_needs_no_unlabelled_images(batch: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """Table 2, row 1."""
    method = Quiet(cross="none", ssl_start_iter=0)
    watch = Watch(method, monkeypatch)
    images, y = batch
    loss = method.training_step({"image": images[:LABELLED], "mask": y}, 0)
    embedding = method.sam.encode(images[:LABELLED])
    outputs = [method.sam.decode(embedding, branch) for branch in (0, 1)]
    assert_equal(loss, sum(0.8 * dice(q, y) + 0.2 * F.cross_entropy(q, y) for q in outputs), within=CLOSE)
    assert not method.uses_unlabelled
    assert watch.points == []


@pytest.mark.parametrize(
    ("arguments", "passes"),
    [
        ({}, [5]),
        ({"architecture": "one_branch"}, [5]),
        ({"architecture": "two_models"}, [5, 5]),
        ({"update": "sequential"}, [2, 5, 5]),
        ({"update": "sequential", "architecture": "one_branch"}, [2, 5]),
        ({"update": "sequential", "architecture": "two_models"}, [2, 2, 5, 5, 5, 5]),
    ],
)
def test_encoder_passes_of_an_iteration(
    arguments: dict[str, Any], passes: list[int], batch: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images per pass: the joint update encodes each image once, the sequential one as often as it has rounds."""
    method = grouped(Quiet, **arguments)
    watch = Watch(method, monkeypatch)
    run(method, batch)
    assert watch.encoded == passes


def test_before_ssl_only_labelled_images_are_encoded(
    batch: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    images, y = batch
    semi = {"labelled": {"image": images[:LABELLED], "mask": y}, "unlabelled": {"image": images[LABELLED:]}}
    for update in ("joint", "sequential"):
        method = Quiet(update=update, ssl_start_iter=1)
        watch = Watch(method, monkeypatch)
        assert not method.ssl_active  # iteration 0
        method.training_step(semi, 0)
        assert watch.encoded == [LABELLED]
        assert [prompted for _, prompted, _ in watch.decoded] == [False, False]


def test_the_joint_update_decodes_every_image_six_times(
    batch: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once per branch unprompted, at the centre and at the random point; the last but for labelled ones untaught."""
    method = Quiet()
    watch = Watch(method, monkeypatch)
    run(method, batch)
    assert sum(images for images, _, _ in watch.decoded) == 6 * (LABELLED + UNLABELLED)
    assert watch.decoded.count((UNLABELLED, True, False)) == 2  # unlabelled centre outputs: no gradient
    method = Quiet(consistency_on="both")
    watch = Watch(method, monkeypatch)
    run(method, batch)
    assert all(gradient for _, _, gradient in watch.decoded)


def run(method: Quiet, batch: tuple[Tensor, Tensor]) -> list[dict[str, Tensor | None]]:
    """One iteration; the gradients of each of its AdamW steps."""
    if method.update == "sequential":
        method.sequential_update(*batch, ssl=True)
        return method.gradients
    return [method.gradients_of(method.joint_loss(*batch, ssl=True))]


@pytest.mark.parametrize("update", ["joint", "sequential"])
@pytest.mark.parametrize("architecture", ["two_branches", "one_branch", "two_models"])
@pytest.mark.parametrize("cross", ["prompted", "unprompted"])
def test_every_trained_parameter_learns_in_every_iteration(
    batch: tuple[Tensor, Tensor], update: str, architecture: str, cross: str
) -> None:
    steps = run(Quiet(update=update, architecture=architecture, cross=cross), batch)
    dead = [name for name in steps[0] if all(step[name] is None or not step[name].any() for step in steps)]  # type: ignore[union-attr]
    assert dead == []


@pytest.mark.parametrize("architecture", ["two_branches", "one_branch"])
def test_every_round_reaches_every_trained_parameter(batch: tuple[Tensor, Tensor], architecture: str) -> None:
    """What DDP asks of each backward pass, also of the first round, where nothing is prompted."""
    for step in run(Quiet(update="sequential", architecture=architecture), batch):
        assert [name for name, gradient in step.items() if gradient is None] == []


def test_prompt_embeddings_rest_in_unprompted_rounds(batch: tuple[Tensor, Tensor]) -> None:
    """Their gradient there is zero by construction, and is dropped before the step."""
    first, second, _ = run(Quiet(update="sequential"), batch)
    name = "sam.prompt_encoder.class_embeddings.weight"
    assert not first[name].any()  # type: ignore[union-attr]
    assert second[name].any()  # type: ignore[union-attr]


def test_sequential_rounds_add_up_to_the_joint_loss_before_any_step(batch: tuple[Tensor, Tensor]) -> None:
    """Without the steps in between, the three rounds are the three parts of the total."""
    sequential = Quiet(update="sequential")
    sequential.sequential_update(*batch, ssl=True)
    assert len(sequential.losses) == 3
    joint = Quiet().joint_loss(*batch, ssl=True)
    assert_equal(torch.stack(sequential.losses).sum(), joint.detach(), within=CLOSE)


def test_the_evaluated_branch() -> None:
    method = Quiet()
    image = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.no_grad():
        embedding = method.sam.encode(image)
        one, two = (method.sam.decode(embedding, branch).softmax(1) for branch in (0, 1))
        for branch, expected in (("1", one), ("2", two), ("ensemble", (one + two) / 2)):
            method.branch = branch  # type: ignore[assignment]
            torch.testing.assert_close(method.predict_probabilities(image).double(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("fn", ["fit", "validate", "test"])
def test_select_branch_acts_in_the_validation_of_fit_alone(fn: str) -> None:
    method = Quiet(branch="2", select_branch="1")
    method._trainer = SimpleNamespace(  # type: ignore[assignment]
        validating=fn != "test", state=SimpleNamespace(fn=fn), barebones=False
    )
    image = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.no_grad():
        expected = method.sam.decode(method.sam.encode(image), 0 if fn == "fit" else 1).softmax(1)
        torch.testing.assert_close(method.predict_probabilities(image).double(), expected, atol=1e-6, rtol=0)


def test_two_models_share_nothing() -> None:
    method = Quiet(architecture="two_models")
    assert method.second_sam is not None
    first = {parameter.data_ptr() for parameter in method.sam.parameters()}
    assert not first & {parameter.data_ptr() for parameter in method.second_sam.parameters()}
    assert len(method.sam.mask_decoders) == len(method.second_sam.mask_decoders) == 1


def test_draws_are_keyed_by_counters(batch: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    def points(seed: int, step: int) -> list[Tensor]:
        method = Quiet(seed=seed)
        monkeypatch.setattr(Quiet, "global_step", step, raising=False)
        watch = Watch(method, monkeypatch)
        method.joint_loss(*batch, ssl=True)
        return [chosen.random for chosen in watch.points]

    torch.manual_seed(5)
    first = points(1, 10)
    torch.manual_seed(6)
    assert all(torch.equal(a, b) for a, b in zip(first, points(1, 10), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, points(1, 11), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, points(2, 10), strict=True))


@pytest.mark.parametrize("ssl", [False, True])
@pytest.mark.parametrize("update", ["joint", "sequential"])
def test_ignored_pixels_supervise_nothing(batch: tuple[Tensor, Tensor], ssl: bool, update: str) -> None:
    """Where nothing is known every supervised term is 0, prompted or not; and a half counts as if it were all."""
    images, target = batch
    nothing = torch.full_like(target, IGNORED)
    run = {"joint": "joint_loss", "sequential": "sequential_update"}[update]
    method = grouped(Quiet, update=update, lambda_cross=0.0, lambda_consistency=0.0)
    given = images if ssl else images[: len(target)]
    assert getattr(method, run)(given, nothing, ssl).item() == 0
    half = target.clone()
    half[:, : SIDE // 2] = IGNORED
    logits = method.decode(method.encode(images[: len(target)]), 0)
    left = logits[:, :, SIDE // 2 :], target[:, SIDE // 2 :]
    torch.testing.assert_close(cpc_sam.dice_ce_loss(logits, half, 0.8), cpc_sam.dice_ce_loss(*left, 0.8))
