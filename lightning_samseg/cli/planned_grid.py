"""What the runs of a grid need: one plan for all that need the same."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from lightning_samseg.cli.planned import Planned
from lightning_samseg.errors import UserError, first_line
from lightning_samseg.grids.grid import Run
from lightning_samseg.planning.fitting import RESERVE
from lightning_samseg.planning.gpus import Gpu


@dataclass
class _Kind:
    plan: Planned
    names: list[str] = field(default_factory=list)


class PlannedGrid:
    """The plans of a grid's runs.

    Args:
        runs: At least one.
        further: Options that a launcher adds to all of them.
        memory: GiB that every run should fit into.
    """

    def __init__(self, runs: Sequence[Run], further: Sequence[str] = (), memory: float | None = None) -> None:
        self.runs, self.memory = runs, memory
        self.kinds: dict[str, _Kind] = {}
        self.unplanned: dict[str, list[str]] = {}
        for run in runs:
            try:
                plan = Planned([*run.argv, *further])
                kind = self.kinds.setdefault(plan.identity, _Kind(plan))
                kind.plan.cost()
            except Exception as error:  # a grid is not to wait for its plan: whatever is wrong is said
                reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {first_line(error)}"
                self.unplanned.setdefault(reason.partition("\n")[0], []).append(run.name)
                continue
            kind.names.append(run.name)
        self.kinds = {key: kind for key, kind in self.kinds.items() if kind.names}

    @property
    def fits(self) -> bool:
        """Whether all runs that are planned fit into the memory."""
        return all(self._fits(kind.plan) for kind in self.kinds.values())

    def _fits(self, plan: Planned) -> bool:
        return self.memory is None or plan.cost().training + RESERVE <= self.memory * 2**30

    def longest(self, gpu: Gpu) -> float | None:
        """Hours of the longest run; None where one is unknown, or there is none."""
        hours = [kind.plan.hours(gpu) for kind in self.kinds.values()]
        known = [each[0] for each in hours if each is not None]
        return max(known) if known and len(known) == len(hours) else None

    def lines(self, gpus: Sequence[Gpu]) -> list[str]:
        """Text: a line for every kind of run, then hours in all."""
        lines = []
        for kind in self.kinds.values():
            plan, cost = kind.plan, kind.plan.cost()
            count = f"{len(kind.names)} run{'s' * (len(kind.names) > 1)}"
            unfit = "" if self._fits(plan) else f", more than {self.memory:g} GiB with the 1 GiB beside it"
            lines.append(
                f"{count} ({_some(kind.names)}): {plan.title}; {cost.gflop:,.1f} GFLOP each; {plan.precision}, "
                f"peak {cost.training / 2**30:.2f} GiB{unfit}"
            )
        for reason, names in self.unplanned.items():
            lines.append(f"not planned ({_some(names)}): {reason}")
        for gpu in gpus:
            if (text := self._hours(gpu)) is not None:
                lines.append(f"{gpu.name}: {text}")
        if gpus:
            lines.append("hours are estimates, GFLOP over an assumed share of the peak; validation comes on top")
        return lines

    def _hours(self, gpu: Gpu) -> str | None:
        found = [(kind, kind.plan.hours(gpu)) for kind in self.kinds.values()]
        hours = [(len(kind.names) * each[0], each[0]) for kind, each in found if each is not None]
        if not hours:
            return None
        unknown = len(found) - len(hours)
        rest = f"; {unknown} of {len(found)} kinds of run unknown" if unknown else ""
        total, longest = sum(all_of for all_of, _ in hours), max(one for _, one in hours)
        return f"{total:,.1f} h in all, the longest run {longest:,.1f} h{rest}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
