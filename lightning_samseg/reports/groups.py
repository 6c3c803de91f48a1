"""Which runs are repeats of one another, which may stand in one table, and which must not.

Runs are *repeats*, and averaged, where their configurations agree in everything but the seed and ``IGNORED``. Runs
stand in one *table* where they scored the same thing: the same data, split and convention, the facts of :func:`facts`.
A table is made per data module and chosen sets of a stream; runs of one that differ in a fact are refused, or get
tables of their own on request. A pretrained network is a declared choice; the same choice with another hash is
refused, too.
"""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lightning_samseg.online.columns import column_label
from lightning_samseg.reports.runs import METRICS, Problem, RunRecord, Scores
from lightning_samseg.runs.options import WITHOUT_INFLUENCE, flat, is_one_of

IGNORED = (
    *WITHOUT_INFLUENCE,
    *("seed_everything", "model.convention", "trainer.callbacks", "trainer.plugins"),
)
"""Options in which repeats may differ: seed, folders, devices, what is shown. Data and convention are facts instead."""

HANDLING = (
    *("image_size", "num_labelled", "labelled_patients", "labelled_batch_size", "unlabelled_batch_size", "augment"),
    *(
        "normalise",
        "resize",
        "geometry",
        "grey",
        "stream_order",
        "root",
        "num_workers",
        "eval_batch_size",
        "predict_from",
        "cache_gb",
    ),
)
"""Arguments of a data module that say how images reach the network, not which images are scored."""

DATA_LABELS = {"Acdc": "ACDC", "Busi": "BUSI", "Glas": "GlaS", "Retouch": "RETOUCH"}
METHOD_LABELS = {
    **{"CpcSam": "CPC-SAM", "AuxOl": "AuxOL", "DirectOl": "DirectOL", "ZeroShot": "zero-shot SAM", "UNet": "U-Net"},
    **{"Uamt": "UAMT", "Cps": "CPS", "Urpc": "URPC", "McNetPlus": "MC-Net+", "DcNet": "DCNet", "Bcp": "BCP"},
    **{"SemiSam": "SemiSAM"},
}


@dataclass(frozen=True)
class Origin:
    """What a grid says of a run."""

    name: str | None
    """Its name without the seed."""
    cells: tuple[Mapping[str, str], ...]
    """Cells of the papers' tables that it fills."""


@dataclass(frozen=True)
class Variant:
    """Repeats of one configuration: a row of a table."""

    name: str
    runs: tuple[RunRecord, ...]
    """One a seed, in the order of the seeds."""
    column: str
    """Which of a stream's methods; empty text for other runs."""
    cells: tuple[Mapping[str, str], ...]

    @property
    def scores(self) -> list[Scores]:
        """One entry a run."""
        return [run.scores[self.column] for run in self.runs]

    @property
    def seeds(self) -> list[int | None]:
        """Of the runs."""
        return [run.seed for run in self.runs]


@dataclass(frozen=True)
class Block:
    """Variants that scored the same cases under the same convention: one table."""

    title: str
    kind: str
    """``cases`` or ``stream``."""
    facts: Mapping[str, str]
    """What all its runs have in common."""
    variants: tuple[Variant, ...]

    @property
    def metrics(self) -> tuple[str, ...]:
        """What is reported."""
        return METRICS[self.kind]

    @property
    def sets(self) -> list[str]:
        """Sets of a stream, in its order; empty where there is but one."""
        names = list(self.variants[0].runs[0].metrics["summary"].get("sets", {}))
        return names if len(names) > 1 else []


def repeat_key(run: RunRecord) -> dict[str, Any]:
    """What repeats agree in: all options but ``IGNORED``, the number of processes that trained, or images of a round.

    Files count by name, a tested checkpoint as best, last or so.
    """
    options = {name: value for name, value in flat(run.config).items() if not is_one_of(name, IGNORED)}
    # A run that went on under other options is no repeat of one that had them from the start.
    if changed := [each for each in run.metrics.get("changes") or () if not is_one_of(each["option"], IGNORED)]:
        options["changed"] = "; ".join(f"{each['option']} at iteration {each['step']}" for each in changed)
    files = ("checkpoint", "adapter", "sam.checkpoint", "sam.adapter", "adapter.file")
    for name in (f"model.{each}" for each in files):
        if isinstance(options.get(name), str):
            options[name] = Path(options[name]).name
    # Batch sizes are those of one process, so more devices are another training. A stream's rounds are over all.
    if run.kind == "stream":
        options["model.images_per_step"] = run.metrics.get("images_per_step", 1)
    elif run.metrics.get("iterations") and (run.metrics.get("processes") or 1) > 1:  # not those of a test by itself
        options["processes"] = run.metrics["processes"]
    options["tested"] = _tested(run)
    return options


def _tested(run: RunRecord) -> str:
    """Which checkpoint gave the scores: best, last or so."""
    tested = run.config.get("ckpt_path")
    # A finished `fit` has tested its best checkpoint; only a test by itself depends on this option.
    return Path(str(tested)).stem if tested and not run.config.get("test_after_fit") else "best"


def facts(run: RunRecord) -> dict[str, str]:
    """What a run scored: convention, unit, ids of the cases, the data module's arguments that choose images.

    Beside them the fingerprint of the data's files and the split where the run recorded them, else ``unknown``. The
    split says which training images come first, and so which are labelled. ``checkpoint`` is ``best`` where validation
    has selected the weights.
    """
    scores = next(iter(run.scores.values()))
    arguments = run.config["data"].get("init_args") or {}
    return {
        "convention": str(run.metrics.get("convention", "unknown")),
        "unit": str(run.metrics.get("unit", "unknown")),
        "cases": f"{len(scores.cases)}, {_short_hash(scores.cases)}",
        "data fingerprint": _text(run.metrics.get("data_fingerprint")),
        "split": _split(run),
        **({} if run.kind == "stream" else {"checkpoint": _tested(run)}),
        **{f"data.{name}": json.dumps(value) for name, value in arguments.items() if name not in HANDLING},
    }


def group_runs(
    runs: Sequence[RunRecord], origins: Mapping[Path, Origin] | None = None, group: bool = False
) -> tuple[list[Block], list[Problem]]:
    """Sort finished runs into tables and rows.

    Args:
        runs: Finished runs.
        origins: Resolved run folder -> what its grid says.
        group: Give runs that differ in a fact tables of their own instead of refusing them.

    Returns:
        The tables, and the duplicates and refused runs.
    """
    origins = origins or {}
    kept, problems = _without_duplicates(runs)
    families: dict[tuple[str, ...], list[RunRecord]] = defaultdict(list)
    for run in kept:
        families[_family(run)].append(run)
    blocks: list[Block] = []
    for family in families.values():
        differing = _differing([facts(run) for run in family])
        for part in _by_facts(family, differing, group, problems):
            usable = _by_weights(part, group, problems)
            if usable:
                block = _block(usable, origins, differing)
                same = sum(other.title.split(" #")[0] == block.title for other in blocks)
                blocks.append(replace(block, title=f"{block.title} #{same + 1}") if same else block)
    return blocks, problems


def labelled(run: RunRecord) -> str:
    """Training images or patients whose masks a run used, ``all`` or a number; ``none`` of what is not trained."""
    if run.method == "ZeroShot":
        return "none"
    arguments = run.config["data"].get("init_args") or {}
    counts = [arguments[name] for name in ("labelled_patients", "num_labelled") if arguments.get(name) is not None]
    return str(counts[0]) if counts else "all"


def method_label(run: RunRecord) -> str:
    """The method as the papers write it."""
    return METHOD_LABELS.get(run.method, run.method)


def weights_of(run: RunRecord) -> str:
    """Its declared pretrained network and the hash of the file."""
    return _text(run.metrics.get("weights_sha256"))


def _without_duplicates(runs: Sequence[RunRecord]) -> tuple[list[RunRecord], list[Problem]]:
    kept: dict[str, RunRecord] = {}
    problems = []
    for run in runs:
        identity = json.dumps([repeat_key(run), facts(run), weights_of(run), run.seed], sort_keys=True, default=str)
        if identity in kept:
            first = kept[identity]
            same = all(
                np.array_equal(part.values[metric], first.scores[column].values[metric], equal_nan=True)
                for column, part in run.scores.items()
                for metric in part.values
            )
            problems.append(
                Problem(
                    "duplicate",
                    run.folder,
                    f"configuration, data and seed of {first.folder}, which is reported; "
                    + ("the scores are equal" if same else "the scores differ"),
                )
            )
        else:
            kept[identity] = run
    return list(kept.values()), problems


def _family(run: RunRecord) -> tuple[str, ...]:
    arguments = run.config["data"].get("init_args") or {}
    sets = arguments.get("stream_sets") if run.kind == "stream" else None
    return run.kind, str(run.config["data"].get("class_path")), _text(sets)


def _by_facts(
    family: list[RunRecord], differing: Sequence[str], group: bool, problems: list[Problem]
) -> list[list[RunRecord]]:
    """Parts of equal facts; a fact that a run did not record agrees with any."""
    parts: list[list[RunRecord]] = []
    for run in family:
        own = facts(run)
        for part in parts:
            if not _differing([own, *(facts(other) for other in part)]):
                part.append(run)
                break
        else:
            parts.append([run])
    if len(parts) == 1 or group:
        return parts
    for run in family:
        own = facts(run)
        values = ", ".join(f"{key} {own.get(key, 'unknown')}" for key in differing)
        problems.append(
            Problem("refused", run.folder, f"runs on {_data_name(run)} differ in {', '.join(differing)}; here {values}")
        )
    return []


def _by_weights(part: list[RunRecord], group: bool, problems: list[Problem]) -> list[RunRecord]:
    """Refuse runs that declare the same pretrained network and had different files."""
    hashes: dict[str, dict[str, list[RunRecord]]] = defaultdict(lambda: defaultdict(list))
    for run in part:
        options = repeat_key(run)
        names = ("backbone", "checkpoint", "adapter")  # alone in runs of before they stood in groups
        places = [f"{at}{name}" for name in names for at in ("", "sam.")]
        declared = json.dumps([options.get(f"model.{name}") for name in (*places, "adapter.file")])
        hashes[declared][weights_of(run)].append(run)
    if group:
        return part
    refused = [
        (run, value[:12])
        for by_hash in hashes.values()
        if len(by_hash) > 1
        for value, runs in by_hash.items()
        for run in runs
    ]
    problems += [
        Problem("refused", run.folder, f"runs that name the same weights differ in weights_sha256; here {value}")
        for run, value in refused
    ]
    folders = {run.folder for run, _ in refused}
    return [run for run in part if run.folder not in folders]


def _block(runs: list[RunRecord], origins: Mapping[Path, Origin], differing: Sequence[str]) -> Block:
    repeats: dict[str, list[RunRecord]] = defaultdict(list)
    for run in runs:
        repeats[json.dumps([repeat_key(run), weights_of(run)], sort_keys=True, default=str)].append(run)
    order = {folder: i for i, folder in enumerate(origins)}  # a grid's own
    members = [tuple(sorted(part, key=lambda run: (run.seed is None, run.seed or 0))) for part in repeats.values()]
    members.sort(key=lambda part: min(order.get(run.folder.resolve(), len(order)) for run in part))
    names = _names(members, origins)
    variants = []
    for name, part in zip(names, members, strict=True):
        cells = tuple(dict.fromkeys(_frozen(cell) for run in part for cell in _origin(run, origins).cells))
        for column in part[0].scores:
            label = column_label(column)
            full = name if not label else label if len(members) == 1 else f"{name}: {label}"
            variants.append(Variant(full, part, column, tuple(dict(cell) for cell in cells)))
    common = facts(runs[0])
    for run in runs[1:]:  # what one run did not record, another may have
        common |= {key: value for key, value in facts(run).items() if common.get(key) == "unknown"}
    title = _data_name(runs[0])
    if differing:  # grouped on request
        title += f" ({', '.join(f'{key} {common.get(key)}' for key in differing)})"
    return Block(title, runs[0].kind, common, tuple(variants))


def _names(members: Sequence[tuple[RunRecord, ...]], origins: Mapping[Path, Origin]) -> list[str]:
    """A grid's names; else the method with the options in which it differs from others of its kind."""
    given = [{_origin(run, origins).name for run in part} for part in members]
    methods = [method_label(part[0]) for part in members]
    names = []
    for part, own, method in zip(members, given, methods, strict=True):
        name = own.pop() if len(own) == 1 else None
        if name is None:
            others = [repeat_key(other[0]) for other, kind in zip(members, methods, strict=True) if kind == method]
            mine = repeat_key(part[0])
            differing = [key for key in mine if len({json.dumps(other.get(key)) for other in others}) > 1]
            shown = ", ".join(
                f"{key.rpartition('.')[2]} {'none' if mine[key] is None else _text(mine[key])}" for key in differing[:4]
            )
            name = f"{method}, {shown}" if shown else method
        names.append(name)
    return [name if names.count(name) == 1 else f"{name} #{names[: i + 1].count(name)}" for i, name in enumerate(names)]


def _origin(run: RunRecord, origins: Mapping[Path, Origin]) -> Origin:
    return origins.get(run.folder.resolve(), Origin(None, ()))


def _frozen(cell: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(cell.items()))


def _data_name(run: RunRecord) -> str:
    name = re.sub(r"(Stream)?DataModule$", "", str(run.config["data"].get("class_path")).rpartition(".")[2])
    name = DATA_LABELS.get(name, name)
    sets = (run.config["data"].get("init_args") or {}).get("stream_sets") if run.kind == "stream" else None
    return name + (" stream" if run.kind == "stream" else "") + (f" of {', '.join(sets)}" if sets else "")


def _differing(all_facts: Sequence[Mapping[str, str]]) -> list[str]:
    """Facts with several known values; an option that an older version did not have is not known."""
    keys = dict.fromkeys(key for part in all_facts for key in part)
    return [key for key in keys if len({part.get(key, "unknown") for part in all_facts} - {"unknown"}) > 1]


def _split(run: RunRecord) -> str:
    """Without the hash of an order that the seed has shuffled: repeats differ in it on purpose."""
    text = _text(run.metrics.get("split"))
    return text.partition(":")[0] if run.kind == "stream" and text.startswith("stream_shuf") else text


def _text(value: Any) -> str:
    return "unknown" if value is None else value if isinstance(value, str) else json.dumps(value)


def _short_hash(texts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]
