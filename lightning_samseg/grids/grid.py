"""A grid file and the runs it stands for. The format is described in ``experiments/README.md``. Needs no torch."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NoReturn

from lightning_samseg.errors import UserError
from lightning_samseg.io.files import atomic_write
from lightning_samseg.io.yaml_files import read_yaml
from lightning_samseg.reports.paper import Cell

VERBS = ("fit", "validate", "test", "predict")
_LAYER_KEYS = ("verb", "configs", "set", "cell")
_GRID_KEYS = (*_LAYER_KEYS, "folder", "axes", "exclude", "seeds")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+]*")
_OPTION = re.compile(r"[A-Za-z_]\w*(\.\w+)*")


@dataclass(frozen=True)
class Run:
    """One combination of a grid."""

    name: str
    """Names of its choices, and its seed where the grid has seeds, joined by ``-``; unique in the grid."""
    folder: str
    """Run folder, from the folder the command is given in: the grid's folder and the name."""
    verb: str
    """``fit``, ``validate``, ``test`` or ``predict``."""
    configs: tuple[str, ...]
    """Config files, the later ones over the earlier ones."""
    overrides: dict[str, Any]
    """Dotted name of an option -> value, over all configs."""
    choices: dict[str, str]
    """Axis -> name of the choice."""
    seed: int | None
    """``seed_everything``; None leaves it to the configs."""
    cell: dict[str, str] | None
    """``paper``, ``table``, ``column`` and ``row`` that the run fills; None where no paper has such a run."""

    @property
    def argv(self) -> list[str]:
        """What follows ``python -m lightning_samseg`` to start the run."""
        options = {**self.overrides, "trainer.default_root_dir": self.folder}
        if self.seed is not None:
            options["seed_everything"] = self.seed
        if any(name.startswith("wandb.") for name in options):  # repeats under other seeds are one job type
            options.setdefault("wandb.group", Path(self.folder).parent.name)
            options.setdefault("wandb.job_type", "-".join(self.choices.values()) or self.verb)
        files = [part for config in self.configs for part in ("--config", config)]
        return [self.verb, *files, *(f"--{name}={_as_text(value)}" for name, value in options.items())]

    @property
    def resuming_argv(self) -> list[str]:
        """As ``argv``, but a training that was begun goes on from its ``last.ckpt``."""
        resumes = self.verb == "fit" and "ckpt_path" not in self.overrides
        return [*self.argv, "--ckpt_path=last"] if resumes else self.argv


def read_grid(
    path: str | Path, overrides: Mapping[str, Any] | None = None, folder: str | Path | None = None
) -> list[Run]:
    """Expand a grid file: the product of its axes and seeds, without what it excludes, in the order of the file.

    Args:
        path: The file.
        overrides: Options for every run, over the file's; an option that an axis varies is refused.
        folder: Of the run folders, in the place of the file's.

    Returns:
        The runs.

    Raises:
        UserError: If the file or a config it names is missing, a key is unknown or given twice, a value has the wrong
            form, two axes set the same option, or no run is left.
    """
    return list(_Grid(Path(path), dict(overrides or {}), folder).runs())


def write_grid_json(path: str | Path, runs: Sequence[Run]) -> Path:
    """Leave ``grid.json`` in the grid's folder, from which a report knows what each run stands for.

    Grids may share a folder: runs of others that are in the file stay there, and ``cells`` holds those of all grids.

    Args:
        path: The grid file.
        runs: Its runs.

    Returns:
        The file: ``{"file", "runs": [{"name", "folder", "cell", "cells", "seed", "choices", "argv"}]}``.
    """
    target = Path(runs[0].folder).parent / "grid.json"
    known: dict[str, Any] = {}
    if target.is_file():
        known = {entry["name"]: entry for entry in json.loads(target.read_text(encoding="utf-8"))["runs"]}
    for run in runs:
        entry = {key: getattr(run, key) for key in ("name", "folder", "cell", "seed", "choices", "argv")}
        cells = known.get(run.name, {}).get("cells", [])  # those that it fills in other grids
        entry["cells"] = cells if run.cell is None or run.cell in cells else [*cells, run.cell]
        known[run.name] = entry
    with atomic_write(target) as temporary:
        content = {"file": str(path), "runs": list(known.values())}
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return target


class _Grid:
    """A grid file while it is checked and expanded."""

    def __init__(self, path: Path, overrides: dict[str, Any], folder: str | Path | None) -> None:
        self.path = path
        content = self._load()
        self._check_keys(content, _GRID_KEYS, "the grid")
        self.base = self._layer({key: content[key] for key in _LAYER_KEYS if key in content}, "the grid")
        self.folder = str(folder or content.get("folder") or f"runs/{path.stem}").rstrip("/")
        self.axes = {
            name: {
                self._name(choice, f"choice of axis {name}"): self._layer(
                    layer or {}, f"choice {choice} of axis {name}"
                )
                for choice, layer in self._mapping(choices, f"axis {name}").items()
            }
            for name, choices in self._mapping(content.get("axes"), "axes").items()
        }
        self.seeds = self._seeds(content.get("seeds"))
        self.excluded = self._excluded(content.get("exclude"))
        self.overrides = overrides
        self._check_axes()

    def runs(self) -> Iterator[Run]:
        """Yield the runs, each with its config files checked; refuse names that a file system may not tell apart."""
        names: set[str] = set()
        for chosen in product(*self.axes.values()):
            choices = dict(zip(self.axes, chosen, strict=True))
            if any(rule.items() <= choices.items() for rule in self.excluded):
                continue
            for seed in self.seeds:
                name = "-".join([*chosen, *([] if seed is None else [f"seed{seed}"])])
                if name.casefold() in names:
                    self._fail(
                        f"two runs are called {name}", fix="rename a choice; case alone does not tell them apart"
                    )
                names.add(name.casefold())
                yield self._run(name, choices, seed)
        if not names:
            self._fail("no run is left", fix="take out rules under exclude, or add choices")

    def _run(self, name: str, choices: dict[str, str], seed: int | None) -> Run:
        layers = [self.base, *(self.axes[axis][choice] for axis, choice in choices.items())]
        configs = tuple(config for layer in layers for config in layer["configs"])
        if not configs:
            self._fail(f"run {name} has no config", fix="name one under configs, in the grid or in a choice")
        cell: dict[str, str] = {}
        values: dict[str, Any] = {}
        for layer in layers:
            cell.update(layer["cell"])
            values.update(layer["set"])
        if "row" in cell and len(cell) < len(Cell._fields):
            self._fail(f"run {name} fills an incomplete cell", expected=", ".join(Cell._fields), found=", ".join(cell))
        return Run(
            name=name,
            folder=f"{self.folder}/{name}",
            verb=next((layer["verb"] for layer in reversed(layers) if layer["verb"]), "fit"),
            configs=configs,
            overrides={**values, **self.overrides},
            choices=choices,
            seed=seed,
            cell=cell if "row" in cell else None,
        )

    def _load(self) -> dict[Any, Any]:
        if not self.path.is_file():
            raise UserError(f"There is no grid file {self.path}.", fix="see experiments/grids for those of the papers")
        return self._mapping(read_yaml(self.path, "the keys that experiments/README.md describes"), "the file")

    def _layer(self, content: Any, where: str) -> dict[str, Any]:
        """Bring the part that grid and choices have in common into one form."""
        layer = self._mapping(content, where)
        self._check_keys(layer, _LAYER_KEYS, where)
        verb = layer.get("verb")
        if verb is not None and verb not in VERBS:
            self._fail(f"{where} has a verb that does not run a config", expected=", ".join(VERBS), found=str(verb))
        configs = layer.get("configs") or []
        if not isinstance(configs, list) or not all(isinstance(config, str) for config in configs):
            self._fail(f"configs of {where} are not a list of files", found=str(configs))
        for config in configs:
            if not Path(config).is_file():
                self._fail(
                    f"{where} names a config that is not there",
                    found=config,
                    fix="write it as seen from the folder you call from; for the papers' grids that is the project's",
                )
        options = self._mapping(layer.get("set"), f"set of {where}")
        for option in options:
            if not isinstance(option, str) or not _OPTION.fullmatch(option):
                self._fail(
                    f"{where} sets something that is no option",
                    expected="a name as model.optimizer.lr",
                    found=str(option),
                )
            if option in ("trainer.default_root_dir", "seed_everything"):
                self._fail(f"{where} sets {option}, which the grid decides itself", fix="use folder and seeds")
        cell = self._mapping(layer.get("cell"), f"cell of {where}")
        self._check_keys(cell, Cell._fields, f"cell of {where}")
        return {"verb": verb, "configs": configs, "set": options, "cell": {k: str(v) for k, v in cell.items()}}

    def _check_axes(self) -> None:
        if not self.axes and self.seeds == [None]:
            self._fail("there is nothing to vary", fix="give it axes or seeds")
        owners: dict[str, str] = {}
        for axis, choices in self.axes.items():
            if not choices:
                self._fail(f"axis {axis} has no choices", fix="name at least one; it may be empty, as in `full: {}`")
            for option in {option for layer in choices.values() for option in layer["set"]}:
                if option in owners:
                    self._fail(f"axes {owners[option]} and {axis} both set {option}", fix="let one of them set it")
                owners[option] = axis
        for option in self.overrides:
            if option in owners:
                self._fail(f"{option} is what axis {owners[option]} varies", fix="take it out of --set")
            if not _OPTION.fullmatch(option) or option in ("trainer.default_root_dir", "seed_everything"):
                self._fail(f"{option} cannot be set for all runs", fix="use folder and seeds of the file, or an option")

    def _seeds(self, seeds: Any) -> list[int | None]:
        if seeds is None:
            return [None]
        integers = isinstance(seeds, list) and all(type(seed) is int and seed >= 0 for seed in seeds)
        if not integers or not seeds or len(set(seeds)) < len(seeds):
            self._fail("seeds are wrong", expected="a list of different integers from 0", found=str(seeds))
        return list(seeds)

    def _excluded(self, rules: Any) -> list[dict[str, str]]:
        if not isinstance(rules or [], list):
            self._fail("exclude is not a list", expected="rules as `- {axis: choice}`", found=str(rules))
        checked = []
        for rule in rules or []:
            texts = {str(axis): str(choice) for axis, choice in self._mapping(rule, "a rule of exclude").items()}
            for axis, choice in texts.items():
                if choice not in self.axes.get(axis, {}):
                    known = ", ".join(f"{name}: {choices}" for name, choices in self._choices().items())
                    self._fail("exclude names a choice that is not there", expected=known, found=f"{axis}: {choice}")
            if not texts:
                self._fail(
                    "a rule of exclude is empty, which would exclude everything", fix="name an axis and a choice"
                )
            checked.append(texts)
        return checked

    def _choices(self) -> dict[str, str]:
        return {axis: " | ".join(choices) for axis, choices in self.axes.items()}

    def _name(self, name: Any, what: str) -> str:
        text = str(name)
        if isinstance(name, bool) or not _NAME.fullmatch(text):
            self._fail(
                f"{text!r} cannot be the name of a {what}, because it becomes part of a folder's name",
                expected="letters, digits, and _ . + inside",
                fix="rename it; quote names such as 'yes', 'no', 'on' and 'off'",
            )
        return text

    def _mapping(self, value: Any, what: str) -> dict[Any, Any]:
        if value is None:
            return {}
        if not isinstance(value, dict):
            self._fail(f"{what} is not a mapping", expected="`name: value`", found=str(value)[:80])
        return value

    def _check_keys(self, content: dict[Any, Any], known: tuple[str, ...], where: str) -> None:
        for key in content:
            if key not in known:
                self._fail(f"{where} has an unknown key {key!r}", expected=", ".join(known))

    def _fail(
        self,
        problem: str,
        *,
        expected: str | None = None,
        found: str | None = None,
        fix: str = "correct it; the format is described in experiments/README.md",
    ) -> NoReturn:
        raise UserError(f"{self.path}: {problem}.", expected=expected, found=found, fix=fix)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
