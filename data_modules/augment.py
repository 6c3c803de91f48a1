"""Augmentation of CPC-SAM's training images (its ``RandomGenerator``), seeded per sample."""

import os
from typing import Any

import cv2
import numpy as np

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # no network access on import
import albumentations as A


class CpcSamAugmentation:
    """Half of the samples are turned and flipped, a quarter rotated a little, a quarter left alone.

    The published code draws: with probability 0.5, a rotation by k x 90 degrees, k = 0..3, then exactly one flip along
    a random axis; else with probability 0.5, a rotation by an integer angle of -20..19 degrees, nearest neighbour for
    image and mask, zero fill, size kept; else nothing.

    ``Compose.set_random_seed`` gives every transform the *same* seed, so that nested choices would repeat each other's
    draws. Therefore the tree is one flat choice between four equally likely branches.
    """

    def __init__(self) -> None:
        quarter = 0.25
        turn = A.RandomRotate90(p=1.0)
        self._pipeline = A.Compose(
            [
                A.OneOf(
                    [
                        A.Sequential([turn, A.HorizontalFlip(p=1.0)], p=quarter),
                        A.Sequential([turn, A.VerticalFlip(p=1.0)], p=quarter),
                        _SmallRotation(p=quarter),
                        A.NoOp(p=quarter),
                    ],
                    p=1.0,
                )
            ],
            save_applied_params=True,
        )

    def __call__(self, image: np.ndarray, mask: np.ndarray | None, seed: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Transform an image and its mask alike.

        Args:
            image: float32 ``(H, W)`` or ``(H, W, 3)``, normalised.
            mask: uint8 ``(H, W)`` class ids, or None.
            seed: The only source of randomness.

        Returns:
            Image and mask; height and width may have changed places.
        """
        self._pipeline.set_random_seed(seed)
        if mask is None:
            return self._pipeline(image=image)["image"], None
        moved = self._pipeline(image=image, mask=mask)
        return moved["image"], moved["mask"]

    def motion(self, seed: int, size: tuple[int, ...]) -> np.ndarray:
        """Tell where a transform takes its pixels from.

        Args:
            seed: As in the call.
            size: ``(H, W)`` of the image before it.

        Returns:
            float32 ``(2, 3)``, from (x, y) of a pixel in the transformed image to (x, y) in the image, both in frames
            from -1 to 1 (borders of the outer pixels), as ``torch.nn.functional.affine_grid`` takes it.
        """
        self._pipeline.set_random_seed(seed)
        applied = self._pipeline(image=np.zeros((2, 2), np.float32))["applied_transforms"]
        matrix = np.eye(2)
        for name, drawn in applied:
            matrix = matrix @ _matrix(name, drawn, size[0] / size[1])
        return np.hstack([matrix, np.zeros((2, 1))]).astype(np.float32)  # everything turns about the centre


def _matrix(name: str, drawn: dict[str, Any], aspect: float) -> np.ndarray:
    """Where one transform takes (x, y) from; ``aspect`` is height over width."""
    if name == "RandomRotate90":
        return np.linalg.matrix_power(np.array([[0, -1], [1, 0]]), drawn["factor"])
    if name == "_SmallRotation":
        angle = np.deg2rad(drawn["angle"])
        return np.array([[np.cos(angle), -np.sin(angle) * aspect], [np.sin(angle) / aspect, np.cos(angle)]])
    return {"HorizontalFlip": np.diag([-1, 1]), "VerticalFlip": np.diag([1, -1]), "NoOp": np.eye(2)}[name]


class _SmallRotation(A.DualTransform):
    """Rotation about the centre by -20..19 degrees (integers), counter-clockwise as in scipy.ndimage.rotate."""

    _targets = (A.core.transforms_interface.Targets.IMAGE, A.core.transforms_interface.Targets.MASK)

    def get_params(self) -> dict[str, Any]:
        return {"angle": self.py_random.randrange(-20, 20)}

    def apply(self, img: np.ndarray, angle: int = 0, **_: Any) -> np.ndarray:
        height, width = img.shape[:2]
        matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1.0)
        return cv2.warpAffine(img, matrix, (width, height), flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT)

    def apply_to_mask(self, mask: np.ndarray, angle: int = 0, **params: Any) -> np.ndarray:
        return self.apply(mask, angle=angle, **params)
