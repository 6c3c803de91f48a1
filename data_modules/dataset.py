"""From files to a ``Batch``: read, normalise, augment, resize, collate."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from data_modules.layouts.base import Item, Layout
from data_modules.streams import Failure, Keys, in_worker
from data_modules.views import View
from lightning_samseg.errors import UserError
from lightning_samseg.io.images import to_rgb_uint8
from lightning_samseg.types import Batch, Case

Contents = Literal["labelled", "unlabelled", "evaluation", "prediction"]
Augmentation = Callable[[np.ndarray, np.ndarray | None, int], tuple[np.ndarray, np.ndarray | None]]


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
    """

    def __init__(
        self,
        layout: Layout,
        items: list[Item],
        view: View,
        contents: Contents,
        augmentation: Augmentation | None = None,
        seed_key: tuple[int, int] = (0, 0),
    ) -> None:
        self.layout, self.items, self.view, self.contents = layout, items, view, contents
        self.augmentation, self.seed_key = augmentation, seed_key

    def __len__(self) -> int:
        """Number of images."""
        return len(self.items)

    def __getitem__(self, keys: Keys) -> Batch | Failure:
        """Load one batch.

        Args:
            keys: ``(index, position)`` of each image, from a sampler.

        Returns:
            The batch, or in a worker process the ``Failure`` that stands for the error.

        Raises:
            UserError: If a file cannot be read or does not fit (in the main process).
        """
        try:
            return _collate([self._sample(index, position) for index, position in keys])
        except UserError as error:
            if in_worker():
                return Failure(str(error))
            raise

    def _sample(self, index: int, position: int) -> "_Sample":
        item = self.items[index]
        picture = self.layout.read_image(item)
        size = (picture.shape[0], picture.shape[1])
        reference = self.layout.read_label(item, size) if self.contents in ("labelled", "evaluation") else None
        image, label = self.view.normalised(picture), reference
        if self.augmentation is not None:
            key = np.random.SeedSequence((*self.seed_key, position))
            image, label = self.augmentation(image, label, int(key.generate_state(1)[0]))
        fitted, content = self.view.fit_image(image)
        return _Sample(
            image=fitted,
            case=Case(
                case_id=item.case_id,
                source=str(item.image),
                original_size=size,
                content_size=content,
                spacing=self.layout.spacing(item),
                slice_index=item.slice_index,
                num_slices=item.num_slices,
                geometry=self.view.geometry,
            ),
            mask=None if label is None else self.view.fit_mask(label),
            reference=reference if self.contents == "evaluation" else None,
            original=to_rgb_uint8(picture) if self.contents in ("evaluation", "prediction") else None,
        )


class _Sample(NamedTuple):
    image: np.ndarray
    case: Case
    mask: np.ndarray | None
    reference: np.ndarray | None
    original: np.ndarray | None


def _collate(samples: list[_Sample]) -> Batch:
    """Stack what has network size, list what has its own size, leave out what a part does not have."""
    batch = Batch(
        image=torch.from_numpy(np.stack([sample.image for sample in samples])), cases=[s.case for s in samples]
    )
    if masks := [sample.mask for sample in samples if sample.mask is not None]:
        batch["mask"] = torch.from_numpy(np.stack(masks).astype(np.int64))
    if references := [sample.reference for sample in samples if sample.reference is not None]:
        batch["reference"] = references
    if originals := [sample.original for sample in samples if sample.original is not None]:
        batch["original"] = originals
    return batch
