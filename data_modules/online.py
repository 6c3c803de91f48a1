"""The stream that online learning walks through: one image after the other, at its own size, each exactly once."""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from torch.utils.data import Dataset, DistributedSampler

from data_modules.layouts.base import Item, Layout, shuffled
from data_modules.layouts.lists import read_list, spellings
from data_modules.loading.cache import DecodedCache
from data_modules.loading.samplers import Failure, StreamLoader, in_worker
from lightning_samseg.errors import UserError
from lightning_samseg.io.images import to_rgb_uint8
from lightning_samseg.io.text import nfc
from lightning_samseg.types import IGNORED, Case, StreamItem

StreamOrder = Literal["sorted", "shuffled", "list"]


class Place(NamedTuple):
    """One place of a stream."""

    set_name: str
    """Set that the image belongs to; scores are averaged over each."""
    item: Item


def image_id(item: Item) -> str:
    """Name of one image of a stream: its case, with the number of the slice (from 1) where that is a volume."""
    return item.case_id if item.num_slices == 1 else f"{item.case_id}_slice_{item.slice_index + 1}"


def order_stream(
    sets: Mapping[str, Sequence[Item]],
    order: StreamOrder = "sorted",
    *,
    chosen: Sequence[str] | None = None,
    listed: str | Path | None = None,
    seed: int = 0,
) -> list[Place]:
    """Put the images of a data set into the order in which they arrive.

    Args:
        sets: Images of each set, sets in the data set's own order.
        order: ``sorted``: set after set, each by file name, letter by letter (10 before 2), as the authors of AuxOL do.
            ``shuffled``: set after set, each in an order drawn from ``seed``. ``list``: as ``listed`` says, sets mixed
            or not; images that it does not name are left out.
        chosen: Names of the sets to walk through, in this order; None: all.
        listed: File of case ids, as ``image_id`` gives them, one a line.
        seed: Key of the shuffled order.

    Returns:
        The stream; every image once. Unless there is a list, the slices of a volume are together and in their order.

    Raises:
        UserError: If a set is unknown, empty or named twice, a list is missing, not asked for, or names an image twice
            or one that is not there.
    """
    if (order == "list") != (listed is not None):
        raise UserError(
            "data.stream_order list and data.stream_list belong together.",
            found=f"stream_order {order}, stream_list {listed}",
            fix="set both, or neither",
        )
    names = list(sets) if chosen is None else list(chosen)
    strange = [name for name in names if not sets.get(name)]
    if strange or not names or len(set(names)) < len(names):
        raise UserError(
            f"data.stream_sets cannot be {names}.",
            expected=f"each at most once: {', '.join(name for name, items in sets.items() if items)}",
            found=f"no images of {', '.join(strange)}" if strange else "a set twice, or none at all",
            fix="name the sets as they are called here, or null for all of them",
        )
    stream: list[Place] = []
    for name in names:
        cases: dict[str, list[Item]] = {}
        for item in sorted(sets[name], key=lambda item: (nfc(str(item.image)), item.slice_index)):
            cases.setdefault(item.case_id, []).append(item)
        case_ids = shuffled(list(cases), seed) if order == "shuffled" else list(cases)
        stream += [Place(name, item) for case_id in case_ids for item in cases[case_id]]
    return stream if listed is None else _as_listed(stream, Path(listed).expanduser())


class OnlineDataset(Dataset[Any]):
    """``StreamItem``s of a stream.

    Args:
        layout: Reads pixels and labels.
        stream: What arrives, in order.
        class_id: Class 1..C that the reference shows; None: the union of all classes.
        grey: Turn colour pictures into grey ones.
        cache_gb: See ``DecodedCache``.
    """

    def __init__(
        self,
        layout: Layout,
        stream: Sequence[Place],
        class_id: int | None = None,
        grey: bool = False,
        cache_gb: float = 0.0,
    ) -> None:
        self.layout, self.stream, self.class_id, self.grey = layout, stream, class_id, grey
        self.cache = DecodedCache(layout, cache_gb)
        self.set_positions: list[int] = []
        """Place of each image among those of its set."""
        counts: Counter[str] = Counter()
        for set_name, _ in stream:
            self.set_positions.append(counts[set_name])
            counts[set_name] += 1

    def __len__(self) -> int:
        """Images of the stream."""
        return len(self.stream)

    @property
    def counts(self) -> str:
        """Images of each set, as a text for the screen."""
        counts = Counter(place.set_name for place in self.stream)
        return ", ".join(f"{count} {name}" for name, count in counts.items())

    @property
    def identity(self) -> str:
        """What a checkpoint remembers of the stream: images and their order."""
        names = "\n".join(image_id(place.item) for place in self.stream).encode()
        return f"stream of {len(self)} images of {sha256(names).hexdigest()[:12]}"

    def __getitem__(self, position: int | list[int]) -> StreamItem | list[StreamItem] | Failure:
        """Load the image at a position, or a list of images at some.

        Args:
            position: From 0. Positions behind the end give an item whose ``cases`` is empty and that has no pictures.

        Returns:
            The item or items, or in a worker process the ``Failure`` that stands for the error.

        Raises:
            UserError: If a file cannot be read or does not fit (in the main process).
        """
        try:
            return [self._load(each) for each in position] if isinstance(position, list) else self._load(position)
        except UserError as error:
            if in_worker():
                return Failure(str(error))
            raise

    def _load(self, position: int) -> StreamItem:
        if position >= len(self.stream):
            return StreamItem(position=position, set_name="", cases=[])
        set_name, item = self.stream[position]
        picture, label = self.cache.read(item, labelled=True, grey=self.grey)
        assert label is not None
        size = (picture.shape[0], picture.shape[1])
        ignored = label == IGNORED
        inside = (label > 0) & ~ignored if self.class_id is None else label == self.class_id
        spacing = self.layout.spacing(item)
        case = Case(
            case_id=image_id(item),  # online learning scores image by image, slices of volumes, too
            source=str(item.image),
            original_size=size,
            content_size=size,
            spacing=None if spacing is None else spacing[-2:],
        )
        loaded = StreamItem(
            position=position,
            set_position=self.set_positions[position],
            set_name=set_name,
            cases=[case],
            original=to_rgb_uint8(picture),
            reference=np.where(ignored, np.uint8(IGNORED), inside.astype(np.uint8)),
        )
        instances = self.layout.read_instances(item, size)
        if instances is not None:
            loaded["instances"] = np.where(inside, instances, 0).astype(np.int32)
        return loaded


class OnlineSampler(DistributedSampler[Any]):
    """Positions of a stream in order, dealt out to the processes in turn: rank r of W sees r, r + W, r + 2W and so on.

    A round of R images, a multiple of W, is R / W positions for each rank. Every rank has the same number of rounds.
    Where the stream ends within the last one, the ranks behind its end get positions behind it (see ``OnlineDataset``),
    so that no process waits for another that has left.

    Args:
        dataset: The stream.
        rank: This process.
        world_size: Number W of processes.
        start: Asked whenever iteration begins: the round to begin at; with one image per round, the position.
        images: Images R of a round over all processes; None: one per process.
    """

    def __init__(
        self,
        dataset: OnlineDataset,
        rank: int = 0,
        world_size: int = 1,
        start: Callable[[], int] = lambda: 0,
        images: int | None = None,
    ) -> None:
        super().__init__(dataset, num_replicas=world_size, rank=rank, shuffle=False)
        self.images = world_size if images is None else images
        self.rounds = -(-len(dataset) // self.images)
        self.start = start

    def __len__(self) -> int:
        """Rounds of the whole stream, whatever the start."""
        return self.rounds

    def __iter__(self) -> Iterator[int | list[int]]:
        """Yield this rank's position of every round from the one that ``start`` names; its positions, if several."""
        for number in range(self.start(), self.rounds):
            first = number * self.images
            positions = list(range(first + self.rank, first + self.images, self.num_replicas))
            yield positions if len(positions) > 1 else positions[0]


class OnlineLoader(StreamLoader):
    """The stream's loader, which also shows a process some of the images that come to it next."""

    look_ahead = 0
    """How many rounds are read ahead; they are in every item's ``upcoming``."""

    def __iter__(self) -> Any:
        """Yield the ``StreamItem`` of each round, or its list; worker processes start at once."""
        rounds = super().__iter__()
        return _with_upcoming(rounds, self.look_ahead) if self.look_ahead else rounds


def _with_upcoming(rounds: Iterator[Any], count: int) -> Iterator[Any]:
    """Add what follows within ``count`` rounds. What cannot be read is complained about when its turn comes."""
    ahead: deque[list[StreamItem]] = deque()
    error: Exception | None = None
    more = True
    while True:
        while more and len(ahead) <= count:
            try:
                each = next(rounds)
                ahead.append(each if isinstance(each, list) else [each])
            except StopIteration:
                more = False
            except Exception as problem:
                more, error = False, problem
        if not ahead:
            if error is not None:
                raise error
            return
        items = ahead.popleft()
        following = [*items, *(item for later in ahead for item in later)]
        shown = [StreamItem(**item, upcoming=following[place:]) for place, item in enumerate(items, 1)]
        yield shown if len(shown) > 1 else shown[0]


def _as_listed(stream: list[Place], file: Path) -> list[Place]:
    places = {image_id(place.item): place for place in stream}
    single = (place.item for place in stream if place.item.num_slices == 1)
    wanted = read_list(file, spellings(single, Path()) | {name: name for name in places})
    absent = [name for name in wanted if name not in places]
    if absent:
        raise UserError(
            f"{file} names what is not in the stream: {absent[0]}.",
            expected=f"case ids such as {next(iter(places))}",
            fix="mend the list",
        )
    return [places[name] for name in wanted]
