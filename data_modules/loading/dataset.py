"""From files to a ``Batch``: read, normalise, augment, resize, collate."""

from functools import partial
from typing import Any, Literal, Protocol
from zlib import crc32

import numpy as np
import torch
from torch.utils.data import Dataset

from data_modules.layouts.base import Item, Layout
from data_modules.loading.cache import DecodedCache
from data_modules.loading.samplers import Failure, Keys, in_worker
from lightning_samseg.errors import UserError
from lightning_samseg.io.images import to_rgb_uint8
from lightning_samseg.transforms import Move, View, prepare_image
from lightning_samseg.types import Batch, Case

Contents = Literal["labelled", "unlabelled", "evaluation", "prediction"]


class Augmentation(Protocol):
    """Transforms an image and its mask alike, and tells how."""

    def __call__(self, image: np.ndarray, mask: np.ndarray | None, seed: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Give the transformed image and mask."""

    def motion(self, seed: int, size: tuple[int, ...]) -> np.ndarray:
        """Give where it takes the pixels of an image of ``(H, W)`` from (``Batch.motion``), float32 ``(2, 3)``."""


class SegmentationDataset(Dataset[Any]):
    """Batches of one part of a data set.

    Args:
        layout: Reads pixels and labels.
        items: The images of this part.
        view: Normalisation and geometry.
        contents: Which keys of ``Batch`` are filled: ``labelled`` image, mask, cases; ``unlabelled`` image, cases (no
            mask file is opened); ``evaluation`` image, mask, cases, reference, original; ``prediction`` image, cases,
            original.
        augmentation: Called with image, mask and a seed; None leaves images alone.
        seed_key: ``(seed, stream)``; with the position it makes the seed of each sample's augmentation, so that workers
            and their number change nothing.
        cache_gb: See ``DecodedCache``.
    """

    def __init__(
        self,
        layout: Layout,
        items: list[Item],
        view: View,
        contents: Contents,
        augmentation: Augmentation | None = None,
        seed_key: tuple[int, int] = (0, 0),
        cache_gb: float = 0.0,
    ) -> None:
        self.layout, self.items, self.view, self.contents = layout, items, view, contents
        self.augmentation, self.seed_key = augmentation, seed_key
        self.with_motion = False
        """Whether batches tell how the augmentation has moved each image (``Batch.motion``)."""
        self.views: int | None = None
        """Augmented versions of each image, independent of ``seed_key``; None: a new one at every position."""
        self.cache = DecodedCache(layout, cache_gb)
        self._places: dict[tuple[str, int], Item] | None = None

    def __len__(self) -> int:
        """Number of images."""
        return len(self.items)

    def __getitem__(self, keys: Keys) -> Batch | Failure:
        """Load one batch.

        Args:
            keys: ``(index, position)`` of each image, from a sampler.

        Returns:
            The batch as it travels best: equal channels once, masks uint8; ``Loader`` completes it. In a worker, the
            ``Failure`` that stands for an error.

        Raises:
            UserError: If a file cannot be read or does not fit (in the main process).
        """
        try:
            return self._batch(keys)
        except UserError as error:
            if in_worker():
                return Failure(str(error))
            raise

    def _batch(self, keys: Keys) -> Batch:
        items = [self.items[index] for index, _ in keys]
        labelled = self.contents in ("labelled", "evaluation")
        shown = self.contents in ("evaluation", "prediction")
        read = [self.cache.read(item, labelled, grey=self.view.grey and not shown) for item in items]
        size = self.view.size
        # Everything is written into its place in the batch: at 512 x 512, a copy costs as much as resizing.
        channels = max(self.view.channels(picture) for picture, _ in read)
        images = torch.empty((len(items), channels, size, size))
        masks = torch.empty((len(items), size, size), dtype=torch.uint8)
        cases = []
        for place, (item, (picture, label), (_, position)) in enumerate(zip(items, read, keys, strict=True)):
            frame = prepare_image(
                picture,
                self.view,
                item.case_id,
                source=str(item.image),
                spacing=self.layout.spacing(item),
                slice_index=item.slice_index,
                num_slices=item.num_slices,
                label=label,
                move=self._move(item, position),
                out=images[place].numpy(),
                mask_out=masks[place].numpy(),
            )
            cases.append(frame.case)
        batch = Batch(image=images, cases=cases)
        if labelled:
            batch["mask"] = masks
        if self.view.resize == "longest_side":
            batch["padding"] = torch.ones((len(items), size, size), dtype=torch.bool)
            for padding, case in zip(batch["padding"], cases, strict=True):
                padding[: case.content_size[0], : case.content_size[1]] = False
        if self.with_motion:
            triples = zip(items, read, keys, strict=True)
            motions = [self._motion(item, position, picture) for item, (picture, _), (_, position) in triples]
            batch["motion"] = torch.stack(motions)
        if self.contents == "evaluation":
            batch["reference"] = [label for _, label in read if label is not None]
        if shown:
            batch["original"] = [to_rgb_uint8(picture) for picture, _ in read]
        return batch

    def picture(self, case: Case) -> np.ndarray:
        """Read an image at its own size, uint8 ``(H, W, 3)``; no mask is opened."""
        if self._places is None:
            self._places = {(item.case_id, item.slice_index): item for item in self.items}
        return to_rgb_uint8(self.cache.read(self._places[case.case_id, case.slice_index], False)[0])

    def _move(self, item: Item, position: int) -> Move | None:
        return None if self.augmentation is None else partial(_augmented, self.augmentation, self._seed(item, position))

    def _motion(self, item: Item, position: int, picture: np.ndarray) -> torch.Tensor:
        if self.augmentation is None:
            return torch.eye(2, 3)
        return torch.from_numpy(self.augmentation.motion(self._seed(item, position), picture.shape[:2]))

    def _seed(self, item: Item, position: int) -> int:
        key: tuple[int, ...] = (*self.seed_key, position)
        if self.views is not None:  # the n-th time that an image comes, the n-th of its views
            key = crc32(item.case_id.encode()), item.slice_index, position // len(self) % self.views
        return int(np.random.SeedSequence(key).generate_state(1)[0])


def _augmented(
    augmentation: Augmentation, seed: int, image: np.ndarray, label: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    return augmentation(image, label, seed)
