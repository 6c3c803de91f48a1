"""The DataModule behind all data sets: streams for training, whole cases for evaluation, one geometry for all."""

from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import CombinedLoader, rank_zero_info

from data_modules.fingerprint import data_fingerprint, split_name
from data_modules.layouts.base import Item, Layout, Splits, StreamPart, list_images
from data_modules.loading.dataset import Augmentation, Contents, SegmentationDataset
from data_modules.loading.samplers import CaseSampler, Loader, StreamLoader, StreamSampler, check_world_size
from data_modules.online import OnlineDataset, OnlineLoader, OnlineSampler, Place, StreamOrder, order_stream
from lightning_samseg.errors import UserError
from lightning_samseg.io.volumes import case_name, is_volume
from lightning_samseg.transforms import Normalise, Resize, View
from lightning_samseg.types import Geometry

LABELLED, UNLABELLED = 0, 1  # stream numbers: part of every random key


class SegmentationDataModule(LightningDataModule):
    """Labelled and unlabelled training, validation, test and prediction from one ``Layout``.

    Training has no epochs: each stream is an endless row of permutations (``StreamSampler``), and its length is the
    trainer's ``max_steps``. A method that sets ``uses_unlabelled = True`` gets ``SemiBatch``es, any other labelled
    ``Batch``es alone. One that sets ``uses_stream = True`` walks once through the data set's stream, ``StreamItem`` by
    ``StreamItem``, in training and in test; labelled images mean nothing then, and parts only to ``stream_part``.

    Args:
        layout: Where the files are and how they are split. The data sets' own modules make it from their arguments.
        image_size: Side S of the square network input in pixels, a multiple of 16.
        num_labelled: Training images whose masks are used, the first ones of the split's order; the others are
            unlabelled.
            None: all.
        labelled_batch_size: Labelled images per step and process.
        unlabelled_batch_size: Unlabelled images per step and process.
        eval_batch_size: Images per batch in validation, test and prediction.
        num_workers: Processes that load ahead, per loader. 0 loads in the main process; the result is the same.
        seed: Seed of the order of images and of their augmentation.
        augment: cpc_sam: half of the samples turned by 90 degrees and flipped, a quarter rotated by -20..19 degrees
            (CPC-SAM's published code). none: images as they are.
        views: Augmented versions that there are of each training image, the same ones for every seed; after the last
            the first comes again. None: a new one each time. With ``views`` the encoder of a method can encode each
            once (``model.encode_once``).
        normalise: minmax: each image to 0..1 (CPC-SAM). sam: SAM's mean and deviation. percentile: each image clipped
            to its percentiles 0.5 and 99.5, then to 0..1. stored: values as in the file, for volumes that were
            normalised as a whole (integers are divided by their type's maximum).
        resize: squash: to S x S (CPC-SAM). longest_side: aspect kept, padded right and bottom (SAM).
        geometry: half_pixel: resized as OpenCV and PyTorch do. corner_aligned: as scipy.ndimage.zoom does, by a cubic
            B-spline (CPC-SAM's published code).
        grey: Turn colour images into grey ones.
        cache_gb: Gigabytes of decoded images to keep in $SAMSEG_CACHE/decoded, where decoding them is slow. 0: none.
        predict_from: Image or folder of images to predict; the test images where not given.
        stream_part: all: online learning walks through all images. test: through those of the split's test part.
        stream_sets: Sets that online learning walks through, in this order, such as [malignant]. None: all.
        stream_order: sorted: set after set, each by file name (the authors of AuxOL). shuffled: set after set, each
            in an order drawn from the seed. list: as stream_list says.
        stream_list: File of the case ids that online learning walks through, one a line; with stream_order list.
        stream_class: Class that online learning segments, by name. None: all foreground classes as one.

    Raises:
        UserError: If an argument is out of range.
    """

    def __init__(
        self,
        layout: Layout,
        image_size: int = 512,
        num_labelled: int | None = None,
        labelled_batch_size: int = 3,
        unlabelled_batch_size: int = 3,
        eval_batch_size: int = 4,
        num_workers: int = 0,
        seed: int = 1337,
        augment: Literal["cpc_sam", "none"] = "cpc_sam",
        views: int | None = None,
        normalise: Normalise = "minmax",
        resize: Resize = "squash",
        geometry: Geometry = "half_pixel",
        grey: bool = False,
        cache_gb: float = 20.0,
        predict_from: str | None = None,
        stream_part: StreamPart = "all",
        stream_sets: list[str] | None = None,
        stream_order: StreamOrder = "sorted",
        stream_list: str | None = None,
        stream_class: str | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore="layout", logger=False)
        self.layout = layout
        self.image_size, self.num_labelled = image_size, num_labelled
        self.labelled_batch_size, self.unlabelled_batch_size = labelled_batch_size, unlabelled_batch_size
        self.eval_batch_size, self.num_workers = eval_batch_size, num_workers
        self.seed, self.augment, self.predict_from = seed, augment, predict_from
        self.views = views
        self.cache_gb = cache_gb
        self.stream_part, self.stream_sets, self.stream_class = stream_part, stream_sets, stream_class
        self.stream_order, self.stream_list = stream_order, stream_list
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise UserError(
                    f"data.{name} must be at least {least}.",
                    found=str(getattr(self, name)),
                    fix=f"set --data.{name} {least}",
                )
        if image_size % 16:
            nearest = max(16, round(image_size / 16) * 16)
            raise UserError(
                "data.image_size must be a multiple of 16, the side of a patch.",
                found=str(image_size),
                fix=f"set --data.image_size {nearest}",
            )
        if num_labelled is not None and num_labelled < 1:
            raise UserError(
                "data.num_labelled must be at least 1.",
                found=str(num_labelled),
                fix="set --data.num_labelled 10, or null for all training images",
            )
        if views is not None and (views < 1 or augment == "none"):
            raise UserError(
                "data.views counts the augmented versions of each image.",
                expected="1 or more, and an augmentation",
                found=f"views {views}, augment {augment}",
                fix="set --data.views 8, or null",
            )
        self.view = View(image_size, resize, normalise, grey, geometry)
        self._splits: Splits | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the foreground classes 1..C."""
        return self.layout.class_names

    @property
    def num_classes(self) -> int:
        """Number C of foreground classes."""
        return len(self.class_names)

    def setup(self, stage: str) -> None:
        """List and divide the files and look at the masks, once; no image is opened.

        Raises:
            UserError: If data are missing or too few, or nobody knows what the values of masks mean.
        """
        if self._splits is not None or self._streams:
            return
        splits = self.layout.splits()
        available, wanted = len(splits.train), self.num_labelled
        if wanted is not None and wanted > available:
            raise UserError(
                f"{wanted} labelled images were asked for, but {self.layout.name} has only {available} to train on.",
                fix=f"set --data.num_labelled to {available} or less, or to null for all",
            )
        self._splits = splits
        labelled, unlabelled = len(self.labelled_items), len(self.unlabelled_items)
        counts = f"{labelled} labelled, {unlabelled} unlabelled, {len(splits.val)} validation, {len(splits.test)} test"
        rank_zero_info(f"{self.layout.name}: {counts} images")
        self._say_notes([] if stage == "predict" else [*splits.train, *splits.val, *splits.test])

    @property
    def splits(self) -> Splits:
        """The divided data set; prepared and set up on first use, where no trainer has done so."""
        if self._splits is None:
            self.prepare_data()
            self.setup("")
        assert self._splits is not None
        return self._splits

    @property
    def labelled_items(self) -> list[Item]:
        """Training images whose masks are used."""
        return self.splits.train[: self.num_labelled]

    @property
    def unlabelled_items(self) -> list[Item]:
        """All other training images; their masks are never read."""
        return [*self.splits.train[len(self.labelled_items) :], *self.splits.unlabelled]

    def fingerprint(self) -> dict[str, str]:
        """Say which data these are: what every run notes down beside its scores.

        Returns:
            ``data_fingerprint``, a hash of the cases, their files' sizes and what the values of their masks mean, which
            is found out here if it has not been before (see ``data_modules.fingerprint``); and ``split``, its name and
            a hash of which image is where. For online learning the stream's order stands for the split, and the
            stream's images for the data.
        """
        if self._streams:
            streamed = [place.item for place in self.stream_items()]
            return {
                "data_fingerprint": data_fingerprint(streamed, self.layout.decided.rule),
                "split": split_name(f"stream_{self.stream_order}", stream=streamed),
            }
        parts = {name: list(items) for name, items in self.splits._asdict().items()}
        return {
            "data_fingerprint": data_fingerprint(chain(*parts.values()), self.layout.decided.rule),
            "split": split_name(getattr(self.layout, "split", "lists"), **parts),
        }

    def stream_items(self, order: StreamOrder | None = None) -> list[Place]:
        """List what online learning walks through, in order; nothing is opened.

        Args:
            order: Another order than ``stream_order``.

        Raises:
            UserError: If data are missing, or sets, order and list do not fit them (see ``order_stream``).
        """
        self.prepare_data()
        return order_stream(
            self.layout.stream_sets(self.stream_part),
            self.stream_order if order is None else order,
            chosen=self.stream_sets,
            listed=self.stream_list,
            seed=self.seed,
        )

    def stream_dataloader(self, start: int | None = None) -> OnlineLoader:
        """Give the stream of online learning, each process its turns, ``StreamItem`` by ``StreamItem``.

        If the method's ``images_per_step`` is more than the number of processes, lists of ``StreamItem``s.

        Args:
            start: Round to begin at, the position where a round has one image. None: where the trainer is.

        Raises:
            UserError: See ``stream_items``; also if ``stream_class`` is no class of the data set.
        """
        if self.stream_class is not None and self.stream_class not in self.class_names:
            raise UserError(
                f"data.stream_class {self.stream_class!r} is no class of {self.layout.name}.",
                expected=f"one of {', '.join(self.class_names)}, or null for all as one",
                fix="set --data.stream_class null",
            )
        class_id = None if self.stream_class is None else self.class_names.index(self.stream_class) + 1
        dataset = OnlineDataset(self.layout, self.stream_items(), class_id, self.view.grey, self.cache_gb)
        trainer = self.trainer
        rank, world_size = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        images = getattr(trainer and trainer.lightning_module, "images_per_step", None)
        sampler = OnlineSampler(dataset, rank, world_size, self._steps_done if start is None else lambda: start, images)
        loader = OnlineLoader(dataset, sampler=sampler, **self._loading())
        loader.look_ahead = getattr(trainer and trainer.lightning_module, "look_ahead", 0)
        loader.identity = dataset.identity
        part = "" if self.stream_part == "all" else ", the split's test part"
        rank_zero_info(f"{self.layout.name}: stream of {dataset.counts}{part}")
        self._say_notes([place.item for place in dataset.stream])
        return loader

    def train_dataloader(self) -> CombinedLoader | StreamLoader:
        """Give the labelled stream, joined by the unlabelled one if the method's ``uses_unlabelled`` is true.

        If its ``uses_stream`` is true, give the stream of online learning instead.

        Raises:
            UserError: If ``trainer.max_steps`` is not set, or there are no unlabelled images for a method that needs
                them.
        """
        if self._streams:
            return self.stream_dataloader()
        labelled = self._stream(self.labelled_items, LABELLED)
        if not getattr(self.trainer and self.trainer.lightning_module, "uses_unlabelled", False):
            return labelled
        if not self.unlabelled_items:
            raise UserError(
                f"No unlabelled images are left: all training images of {self.layout.name} are labelled.",
                expected="some training images without label, for a method that learns from them",
                found=f"{len(self.labelled_items)} labelled, 0 unlabelled",
                fix="set --data.num_labelled 10, or train a supervised method",
            )
        return CombinedLoader(
            {"labelled": labelled, "unlabelled": self._stream(self.unlabelled_items, UNLABELLED)}, mode="min_size"
        )

    def val_dataloader(self) -> Loader:
        """Give the validation images, once each and in order."""
        return self._once(self.splits.val, "evaluation")

    def test_dataloader(self) -> Loader:
        """Give the test images, once each and in order; to a method that ``uses_stream`` its stream, from the start."""
        if self._streams:
            return self.stream_dataloader(start=0)
        return self._once(self.splits.test, "evaluation")

    def predict_dataloader(self) -> Loader:
        """Give the images of ``predict_from``, or the test images; no masks."""
        if self.predict_from is None:
            return self._once(self.splits.test, "prediction")
        source = Path(self.predict_from).expanduser()
        paths = list_images(source) if source.is_dir() else [source]
        if not paths or is_volume(source):
            raise UserError(
                f"No images found in {source}.",
                fix="give an image or a folder of images; volumes are for predict --ckpt_path FILE --input PATH",
            )
        # Pictures, whatever files the data set itself is made of.
        return self._once([Item(case_name(path), path) for path in paths], "prediction", Layout())

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move a batch; of equal channels, one is moved and expanded again."""
        move = super().transfer_batch_to_device
        if not isinstance(batch, dict):
            return move(batch, device, dataloader_idx)
        if "labelled" in batch:
            return {name: self.transfer_batch_to_device(part, device, dataloader_idx) for name, part in batch.items()}
        image = batch.get("image")
        if image is None or image.stride(1) > 0:
            return move(batch, device, dataloader_idx)
        moved = move({**batch, "image": image[:, :1]}, device, dataloader_idx)
        return {**moved, "image": moved["image"].expand_as(image)}

    def _stream(self, items: list[Item], stream: int) -> StreamLoader:
        trainer = self.trainer
        if trainer is None or trainer.max_steps <= 0:
            raise UserError(
                "Training is counted in steps, not in epochs.",
                expected="trainer.max_steps of at least 1",
                found="no trainer" if trainer is None else str(trainer.max_steps),
                fix="set --trainer.max_steps, for instance to 30000",
            )
        if getattr(trainer, "overfit_batches", 0):
            raise UserError(
                "trainer.overfit_batches does not go with streams.",
                fix="set --data.num_labelled to a small number instead",
            )
        contents: Contents = "labelled" if stream == LABELLED else "unlabelled"
        key = (self.seed, stream)
        size = self.labelled_batch_size if stream == LABELLED else self.unlabelled_batch_size
        check_world_size(len(items), contents, size, trainer.world_size)
        dataset = SegmentationDataset(self.layout, items, self.view, contents, self._augmentation(), key, self.cache_gb)
        dataset.views = self.views
        dataset.with_motion = stream == UNLABELLED and getattr(trainer.lightning_module, "uses_motion", False)
        sampler = StreamSampler(
            dataset,
            size,
            trainer.max_steps * trainer.accumulate_grad_batches,
            seed=self.seed,
            stream=stream,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            start=self._steps_done,
        )
        loader = StreamLoader(dataset, sampler=sampler, **self._loading())
        names = "\n".join(item.case_id for item in items).encode()
        loader.identity = f"{len(items)} {contents} images of {sha256(names).hexdigest()[:12]}, seed {self.seed}"
        return loader

    @property
    def _streams(self) -> bool:
        return bool(getattr(self.trainer and self.trainer.lightning_module, "uses_stream", False))

    def _say_notes(self, items: list[Item]) -> None:
        for line in self.layout.remarks(items):
            rank_zero_info(line)

    def _steps_done(self) -> int:
        """Batches that have been learned from; restored from a checkpoint before loaders are asked for."""
        if self.trainer is None:
            return 0
        return int(self.trainer.fit_loop.epoch_loop.batch_progress.total.processed)  # type: ignore[attr-defined]

    def _once(self, items: list[Item], contents: Contents, layout: Layout | None = None) -> Loader:
        dataset = SegmentationDataset(layout or self.layout, items, self.view, contents, cache_gb=self.cache_gb)
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        cases = [item.case_id for item in items]
        if len(set(cases)) < world_size:
            raise UserError(
                f"{len(set(cases))} cases cannot be shared out whole to {world_size} processes.",
                fix="use fewer devices, for instance --trainer.devices 1",
            )
        sampler = CaseSampler(dataset, cases, self.eval_batch_size, rank, world_size)
        return Loader(dataset, sampler=sampler, persistent_workers=self.num_workers > 0, **self._loading())

    def _loading(self) -> dict[str, Any]:
        return {
            "batch_size": None,  # samplers yield whole batches
            "collate_fn": _as_it_is,
            "num_workers": self.num_workers,
            "pin_memory": torch.cuda.is_available(),
            "worker_init_fn": _single_threaded,
        }

    def _augmentation(self) -> Augmentation | None:
        if self.augment == "none":
            return None
        from data_modules.augment import CpcSamAugmentation  # late: albumentations takes seconds to import

        return CpcSamAugmentation()


_LEAST = {
    "image_size": 16,
    "labelled_batch_size": 1,
    "unlabelled_batch_size": 1,
    "eval_batch_size": 1,
    "num_workers": 0,
    "seed": 0,
    "cache_gb": 0,
}


def _as_it_is(batch: Any) -> Any:
    return batch


def _single_threaded(worker: int) -> None:
    import cv2

    cv2.setNumThreads(0)  # one process per worker is enough; OpenCV would start one thread per core in each
