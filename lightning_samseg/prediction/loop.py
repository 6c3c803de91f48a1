"""The loop of ``predict --input``: read ahead, predict in batches, write file by file."""

import errno
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from lightning_samseg.errors import UserError, what_to_do
from lightning_samseg.log import logger
from lightning_samseg.prediction.files import Failure, Output, PredictionFolder, Source, find_sources
from lightning_samseg.prediction.predictor import Predictor, device_of, load_predictor, zero_shot
from lightning_samseg.prompts.files import PromptFile
from lightning_samseg.types import Query

_UNREADABLE = (UserError, OSError, ValueError, EOFError, MemoryError)
# Of a file that is written: what the next one would meet, too; not a name that is too long.
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE)


class _Loaded(NamedTuple):
    source: Source
    result: Query | str
    """What the network gets, or why it gets nothing."""
    seconds: float


def predict_files(
    given: Path,
    output: Path,
    *,
    checkpoint: Path | None = None,
    backbone: Any = "lite_medsam",
    weights: str | None = None,
    prompts: Path | None = None,
    prompt: Any = "box",
    probabilities: bool = False,
    overlays: int = 0,
    device: str = "auto",
    precision: str | None = None,
    batch_size: int | None = None,
    threads: int = 1,
    trust: bool = False,
) -> list[Failure]:
    """Predict a file, or all images and volumes of a folder, and write the results.

    Args:
        given: File or folder.
        output: Folder of the results.
        checkpoint: Of a run; None for zero-shot SAM.
        backbone: Zero-shot SAM's.
        weights: Of the frozen SAM instead of the cached ones.
        prompts: CSV or COCO file, for methods that take prompts.
        prompt: What zero-shot SAM takes from it.
        probabilities: Also write them.
        overlays: Most pictures with contours per file; 0 for none.
        device: ``auto``, or torch's name.
        precision: Lightning's name; None: the run's.
        batch_size: Images at a time; None: the run's.
        threads: Threads that read ahead.
        trust: Whether a method that is not part of this package may be imported.

    Returns:
        The files without a result, with reasons.

    Raises:
        UserError: For mistakes a user can mend that concern more than one file. If the disk takes no more, what has
            been written is whole.
    """
    sources, notes = find_sources(given, output)
    place = device_of(device)
    predictor = (
        zero_shot(backbone, prompt, weights) if checkpoint is None else load_predictor(checkpoint, weights, trust)
    )
    predictor = replace(predictor, precision=precision or predictor.precision).to(place)
    if place.type == "cuda":
        torch.set_float32_matmul_precision("high")  # as runs do by default
    for note in notes:
        logger.info(f"note: {note}")
    tasks, failures = _tasks(sources)
    prompted = _bind(predictor, prompts, tasks, "--prompt" if checkpoint is None else None)
    kind = type(predictor.method).__name__
    classes = ", ".join(predictor.class_names)
    logger.info(f"{kind} on {place}, classes {classes}: {len(tasks)} images and slices in {len(sources)} files")

    folder = PredictionFolder(output, predictor.class_names, overlays)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"The folder {output} cannot be made.", found=str(error), fix="give another --output"
        ) from error
    with ThreadPoolExecutor(threads) as pool, tqdm(total=len(tasks), unit="slice", disable=None) as progress:

        def load(task: tuple[Source, int]) -> _Loaded:
            return _load(*task, predictor, prompted)

        size = batch_size or predictor.batch_size
        batches = _batches(_ahead(pool, load, tasks, 2 * size + threads), size)
        try:
            _write(folder, _predicted(predictor, batches, probabilities), progress, failures)
        except UserError:
            with suppress(OSError):  # the tables of what is there, where the disk takes them
                folder.finish(failures)
            raise
    folder.finish(failures)
    logger.info(f"masks        {folder.folder / 'masks'}")
    logger.info(f"measurements {folder.folder / 'predictions.csv'}")
    if failures:
        logger.info(f"{len(failures)} of {len(sources)} files have no result (failed.csv):")
        for failure in failures:
            logger.info(f"  {failure.source.path}\n    " + failure.reason.replace("\n", "\n    "))
    return failures


def _tasks(sources: list[Source]) -> tuple[list[tuple[Source, int]], list[Failure]]:
    """Pictures and slices in order; headers of volumes are read."""
    tasks: list[tuple[Source, int]] = []
    failures = []
    for source in sources:
        try:
            tasks += [(source, index) for index in range(source.num_slices)]
        except _UNREADABLE as error:
            failures.append(Failure(source, _reason(error)))
    return tasks, failures


def _bind(
    predictor: Predictor, prompts: Path | None, tasks: list[tuple[Source, int]], kind_option: str | None
) -> PromptFile | None:
    """Find out which images the prompt file means; ``kind_option`` is where the user says what to read from it."""
    kind, asked = type(predictor.method).__name__, predictor.method.prompt_kind
    if asked is None:
        if prompts is not None:
            raise UserError(f"{kind} predicts without prompts.", found=f"--prompts {prompts}", fix="leave it out")
        return None
    if prompts is None:
        raise UserError(
            f"{kind} has to be told where the objects are.",
            expected=f"a {asked} for each, in a CSV or COCO file",
            fix="add --prompts FILE",
        )
    file = PromptFile(prompts, asked, "--prompts", kind_option)
    keys = {source.prompt_key(index): source.prompt_names(index) for source, index in tasks}
    exact = keys.keys() | {name for name, _ in keys.values()}
    without = file.bind(
        {key: [name, *(each for each in loose if each not in exact)] for key, (name, loose) in keys.items()},
        "of --input",
        "correct the name, give it with its folder, or remove its rows",
    )
    logger.info(f"{prompts}: {len(tasks) - without} of {len(tasks)} images have prompts; the others are background")
    return file


def _load(source: Source, index: int, predictor: Predictor, prompts: PromptFile | None) -> _Loaded:
    start = time.perf_counter()
    result: Query | str
    try:
        volume = source.volume
        picture = source.read(index, predictor.reads_scaled)
        places = None
        if prompts is not None:
            places = prompts.prompts(source.prompt_key(index), (picture.shape[0], picture.shape[1]))
        result = predictor.query(
            picture,
            places,
            case_id=source.name,
            source=str(source.path),
            spacing=None if volume is None else volume.spacing,
            slice_index=index,
            num_slices=source.num_slices,
        )
    except _UNREADABLE as error:
        result = _reason(error)
    return _Loaded(source, result, time.perf_counter() - start)


def _ahead(pool: ThreadPoolExecutor, load: Any, tasks: Iterable[Any], ahead: int) -> Iterator[_Loaded]:
    """Results in order, some of them computed before they are asked for."""
    waiting: deque[Future[_Loaded]] = deque()
    for task in tasks:
        waiting.append(pool.submit(load, task))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _batches(loaded: Iterable[_Loaded], size: int) -> Iterator[list[_Loaded]]:
    """Neighbours, ``size`` of which can be predicted; those that cannot be come along."""
    batch: list[_Loaded] = []
    for one in loaded:
        batch.append(one)
        if sum(isinstance(each.result, Query) for each in batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _predicted(
    predictor: Predictor, batches: Iterable[list[_Loaded]], probabilities: bool
) -> Iterator[tuple[_Loaded, Output | str, float]]:
    """What became of each picture or slice, in order, with the seconds it took."""
    for batch in batches:
        inputs = [one.result for one in batch if isinstance(one.result, Query)]
        start = time.perf_counter()
        outputs = iter(_outputs(predictor, inputs, probabilities))
        share = (time.perf_counter() - start) / max(1, len(inputs))
        for one in batch:
            done = isinstance(one.result, Query)
            yield one, next(outputs) if isinstance(one.result, Query) else one.result, one.seconds + share * done


def _outputs(predictor: Predictor, inputs: list[Query], probabilities: bool) -> list[Output | str]:
    def answered(queries: list[Query]) -> list[Output]:
        found = predictor.answer(queries)
        return [
            Output(each.labels, each.probabilities.half().cpu().numpy() if probabilities else None) for each in found
        ]

    if predictor.method.prompt_kind is None:
        return list(answered(inputs)) if inputs else []
    found: list[Output | str] = []
    for one in inputs:  # a prompt outside of its image concerns that image alone
        try:
            found += answered([one])
        except UserError as error:
            found.append(_reason(error))
    return found


def _write(
    folder: PredictionFolder,
    predicted: Iterable[tuple[_Loaded, Output | str, float]],
    progress: Any,
    failures: list[Failure],
) -> None:
    """Write each file when its last slice has come, and note down which have no result."""
    outputs: list[Output | str] = []
    seconds = 0.0
    for one, output, taken in predicted:
        progress.update()
        outputs.append(output)
        seconds += taken
        if len(outputs) < one.source.num_slices:
            continue
        reason = next((each for each in outputs if isinstance(each, str)), None)
        if reason is None:
            try:
                folder.write(one.source, [each for each in outputs if isinstance(each, Output)], seconds)
            except (UserError, OSError) as error:  # an OSError of one name must not cost the others their tables
                if isinstance(error, OSError) and error.errno in _OF_THE_DISK and _is_in(folder.folder, error):
                    raise UserError(
                        f"{folder.folder} takes no more results: {one.source.path} and what follows have none.",
                        found=error.strerror,
                        fix=f"{what_to_do(error)}; then predict anew into another --output. What is in masks is whole",
                    ) from error
                reason = _reason(error)
        if reason is not None:
            failures.append(Failure(one.source, reason))
        outputs, seconds = [], 0.0


def _is_in(folder: Path, error: OSError) -> bool:
    """Whether an error is of a file in a folder, or of a folder above it."""
    path = Path(str(error.filename)).absolute()
    return path.is_relative_to(folder.absolute()) or folder.absolute().is_relative_to(path)


def _reason(error: BaseException) -> str:
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"[:300]
