"""What the values of a data set's masks mean: decided once, from the values of all of them, and never guessed.

======================  ================================================================================================
rule                    values of all masks together, beside 0 and the ignored one
======================  ================================================================================================
binary                  one level, whatever it is; or white in masks of several types; or noise of JPEG around black and
                        white
soft                    grey levels between black and the end of the range, 255, 65535 or 1, which are edges: no area of
                        3 x 3 equal pixels has another level than black or white
indexed                 whole numbers up to 31, or those that ``classes.yaml`` names; not numbers of objects
instances               only where asked for: whole numbers
======================  ================================================================================================

Anything else is refused, with the values found and the option that decides.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from lightning_samseg.errors import UserError
from lightning_samseg.io.mask_levels import MOST_CLASSES, Levels, range_end
from lightning_samseg.io.masks import MaskRule, either_way_round
from lightning_samseg.types import IGNORED

Masks = Literal["auto", "binary", "soft", "indexed", "instances"]
Found = Mapping[Path, Levels]

_MOST_SHOWN = 8


class Decision(NamedTuple):
    """What was decided."""

    rule: MaskRule
    faults: dict[Path, UserError]
    """What is wrong with the masks that do not fit the rule."""


def decide(
    found: Found, masks: Masks = "auto", ignore: int | None = None, names: Sequence[str] = (), options: bool = True
) -> Decision:
    """Decide what the values of a data set's masks mean.

    Args:
        found: What each mask holds, see ``mask_levels.look_at``.
        masks: What the user says; auto: what fits.
        ignore: Value that counts for nothing.
        names: Names of the classes 1..C; empty: as many as the masks hold.
        options: Whether the user can set ``--data.masks`` and ``--data.ignore``, so that messages name them.

    Returns:
        The rule, and the masks that do not fit it.

    Raises:
        UserError: If the values fit no rule, no mask shows anything, or the options contradict each other.
    """
    _check_options(masks, ignore, names)
    shown = {path: levels for path, levels in found.items() if levels.distinct}
    if found and not shown:
        raise UserError(
            f"None of the {len(found)} masks in {_folder(found)} shows any foreground.",
            expected="other values than 0" + ("" if ignore is None else f" and the ignored {ignore}"),
            fix="export the masks again; transparency is not read as a mask",
        )
    kind = masks if masks != "auto" else "indexed" if len(names) > 1 else _choose(shown)
    classes = 1
    if kind == "indexed":
        classes = len(names) or int(max((levels.high for levels in shown.values() if levels.whole), default=1))
    halves = {}
    for dtype in sorted({levels.dtype for levels in shown.values()}):
        high = max(levels.high for levels in shown.values() if levels.dtype == dtype)
        if end := range_end(high) or (high if kind == "soft" else None):
            halves[dtype] = end / 2
    limit = len(names) if kind == "indexed" and names else MOST_CLASSES
    fault_of = _Faults(kind, ignore, names, limit, halves, options)
    faults = {path: error for path, levels in shown.items() if (error := fault_of(path, levels))}
    indices = masks == "indexed" or len(names) > 1
    return Decision(MaskRule(kind, classes, ignore, tuple(halves.items()), indices), faults)


def describe(rule: MaskRule, found: Found) -> list[str]:
    """Say what was decided, and what a user may not have meant."""
    what = {
        "binary": "one level is the foreground",
        "soft": "grey levels above half of the range are the foreground",
        "indexed": f"values are class ids 1..{rule.classes}",
        "instances": "values are numbers of objects",
    }
    lines = [f"masks: {what[rule.kind]}" + ("" if rule.ignore is None else f", {rule.ignore} is ignored")]
    if rule.kind == "indexed":
        there = {value for levels in found.values() for value in levels.values}
        if absent := [str(number) for number in range(1, rule.classes + 1) if number not in there]:
            lines.append(f"no mask shows class {', '.join(absent[:_MOST_SHOWN])}")
    if rule.ignore is not None and not any(levels.ignored for levels in found.values()):
        lines.append(f"no mask holds the ignored value {rule.ignore}")
    return lines


def _choose(shown: Found) -> Literal["binary", "soft", "indexed"]:
    """The rule that the values of all masks fit.

    Raises:
        UserError: If they fit none.
    """
    levels = [each for each in shown.values() if each.form == "levels"]
    hues = {each.colour for each in shown.values() if each.form in ("levels", "lossy")}
    if len(hues) > 1:
        raise _several_colours(shown)
    tones = {255.0 if each.high in (255, 65535) else each.high for each in levels}
    if any(each.form == "lossy" for each in shown.values()):
        tones.add(255.0)
    if tones - {255.0} and any(each.form == "bits" for each in shown.values()):
        tones.add(1.0)
    if len(tones) <= 1 and all(each.distinct == 1 and each.high > 0 for each in levels):
        return "binary"
    if tones and max(tones) <= MOST_CLASSES and all(each.whole and each.distinct <= MOST_CLASSES for each in levels):
        if _numbered(levels):
            raise _objects_or_classes(shown)
        return "indexed"
    if _soft(levels):
        return "soft"
    raise _no_rule(shown)


def _soft(levels: Sequence[Levels]) -> bool:
    """Whether all areas are black or white, and what is between them are edges or noise on both sides."""
    ends = {
        dtype: range_end(max(each.high for each in levels if each.dtype == dtype))
        for dtype in {each.dtype for each in levels}
    }
    between: set[float] = set()
    low: set[float] = set()
    noise: set[float] = set()
    areas: set[float] = set()
    for each in levels:
        end = ends[each.dtype]
        if end is None or min(each.values) < 0:
            return False
        between |= {value / end for value in each.values if 1 / 4 <= value / end <= 3 / 4}
        low |= {value / end for value in each.values if value / end <= 1 / 8}
        noise |= {value / end for value in each.values if 7 / 8 <= value / end < 1}
        areas |= {value / end for value, _ in each.flat}
    on_both_sides = len(noise) > 1 and len(low) > 1
    dark = [area for area in areas if area < 7 / 8]
    return (
        (len(between) > 2 or on_both_sides)
        and len(dark) < len(areas)
        and all(area <= 1 / 8 and on_both_sides for area in dark)
    )


def _numbered(levels: Sequence[Levels]) -> bool:
    """Whether values look like numbers of objects: 1..n in every mask, n changing, and each value in one piece."""
    counts = {each.distinct for each in levels}
    in_a_row = all(each.values == tuple(range(1, each.distinct + 1)) for each in levels)
    pieces = sum(each.pieces for each in levels)
    return in_a_row and len(counts) > 2 and pieces >= 0.9 * sum(each.distinct for each in levels)


class _Faults(NamedTuple):
    """Finds what is wrong with one mask under a rule."""

    kind: Literal["binary", "soft", "indexed", "instances"]
    ignore: int | None
    names: Sequence[str]
    limit: int
    halves: Mapping[str, float]
    options: bool

    def __call__(self, path: Path, levels: Levels) -> UserError | None:
        if levels.form == "unsure":
            return either_way_round(path)
        if levels.form == "colours" or (levels.colour and self.kind in ("indexed", "instances")):
            return _several_colours({path: levels})
        if levels.values[0] < 0:
            return self._error(path, levels, "holds negative values", "values of at least 0")
        if self.ignore is not None and levels.form == "lossy":
            text = "was compressed with loss, so that the ignored value cannot be found in it"
            return self._error(path, levels, text, "a PNG or another file that keeps values")
        if levels.form == "bits" or self.kind == "soft":
            return None
        if self.kind == "binary":
            ok = (levels.distinct == 1 and levels.form == "levels") or self._two_levels(levels)
            return None if ok else self._error(path, levels, "is not binary", "one level beside 0, or soft edges")
        if levels.form == "lossy":
            text = "was compressed with loss, which changes numbers"
            return self._error(path, levels, text, "a PNG or another file that keeps values")
        if not levels.whole:
            text = "holds values that are no whole numbers: it was interpolated"
            return self._error(path, levels, text, "whole numbers")
        return self._not_numbers(path, levels)

    def _not_numbers(self, path: Path, levels: Levels) -> UserError | None:
        if self.kind == "instances":
            # Of 8 bits, 255 is rather white or void than an object; of more, only where it stands alone.
            alone = 1 < levels.distinct < 200 and (levels.dtype == "uint8" or levels.values[-2] < 128)
            if levels.high == 255 and alone:
                text = "is not binary, and 255 is no number of an object"
                return self._error(path, levels, text, "numbers 1..n; of 16 bits, if there is an object 255")
            return None
        if levels.high <= self.limit:
            return None
        return UserError(
            f"{path} holds the value {levels.high:g}, which is no class.",
            expected=f"0 for background and 1..{self.limit}"
            + (f" for {', '.join(self.names)}" if self.names else ", or a classes.yaml that names all classes"),
            found=_listed(levels.values),
            fix="name all classes in classes.yaml, or set " + _ways({path: levels}, self.kind),
        )

    def _two_levels(self, levels: Levels) -> bool:
        end = range_end(levels.high)
        if levels.form == "lossy":
            half = self.halves.get(levels.dtype)
            end = 2 * half if half and half > 1 else None
        if end is None:
            return False
        bright = levels.bright if range_end(levels.high) == end else 0
        middle = sum(count for value, count in levels.flat if end / 8 < value < 7 / 8 * end)
        noisy = levels.form == "lossy" or sum(7 / 8 * end <= value < end for value in levels.values) > 1
        return middle <= bright / 100 and (noisy or levels.dim <= bright / 10)

    def _error(self, path: Path, levels: Levels, problem: str, expected: str) -> UserError:
        fix = "export the mask again"
        if self.options:
            fix += ", or set " + _ways({path: levels}, self.kind)
        return UserError(f"{path} {problem}.", expected=expected, found=_listed(levels.values), fix=fix)


def _check_options(masks: Masks, ignore: int | None, names: Sequence[str]) -> None:
    if len(names) > 1 and masks not in ("auto", "indexed"):
        raise UserError(
            f"Masks that are {masks} have one class, but {len(names)} are named.",
            found=", ".join(names),
            fix="set --data.masks indexed, or leave one line in classes.yaml",
        )
    if ignore == 0:
        raise UserError("data.ignore 0 would ignore the background.", fix="give the value that marks ignored pixels")
    if ignore is not None and 1 <= ignore <= len(names) > 1:
        raise UserError(
            f"data.ignore {ignore} is a class, too: classes.yaml calls it {names[ignore - 1]}.",
            fix="take it out of classes.yaml, or ignore another value",
        )
    if len(names) >= IGNORED:
        raise UserError(f"There are {len(names)} classes.", expected=f"at most {IGNORED - 1}", fix="join some")


def _several_colours(shown: Found) -> UserError:
    return UserError(
        f"{_where(shown)} in colour.",
        expected="one colour on black, or one number per pixel",
        found=", ".join(sorted({each.colour or "white" for each in shown.values()})),
        fix="write the masks again as grey or palette PNG whose values are the class ids",
    )


def _objects_or_classes(shown: Found) -> UserError:
    counts = sorted({each.distinct for each in shown.values()})
    return UserError(
        f"The masks in {_folder(shown)} may hold class ids or numbers of objects.",
        expected="to be told which",
        found=f"1..n in every mask, with n from {counts[0]} to {counts[-1]}, and each value in one piece",
        fix="set --data.masks instances for numbered objects of one class, or --data.masks indexed for classes",
    )


def _no_rule(shown: Found) -> UserError:
    values = sorted({value for each in shown.values() for value in each.values})
    odd = max(shown, key=lambda path: (shown[path].distinct, shown[path].high))
    return UserError(
        f"The values of the masks in {_folder(shown)} fit no rule, so that nobody knows what they mean.",
        expected="one level beside 0 (binary), class ids up to 31 (indexed), or grey levels between black and white at "
        "edges alone (soft)",
        found=f"{_listed(values)}; for instance {_listed(shown[odd].values)} in {odd.name}",
        fix="say what they are, by " + _ways(shown),
    )


def _ways(shown: Found, kind: str = "auto") -> str:
    """Options that could be meant where ``kind`` is not."""
    values = {value for each in shown.values() for value in each.values}
    strange = min(values) if min(values) < 0 else max(values)
    others = values - {strange}
    whole = all(each.whole for each in shown.values()) or (strange < 0 and all(value % 1 == 0 for value in others))
    ways = []
    if others and strange % 1 == 0:
        ways.append(f"--data.ignore {strange:g} if {strange:g} marks pixels that count for nothing")
    ways.append("--data.masks soft (above half of the range is foreground)")
    if whole and max(values) <= MOST_CLASSES:
        ways.append("--data.masks indexed (class ids)")
    if whole and strange not in (255, -1):
        ways.append("--data.masks instances (numbers of objects of one class)")
    if all(each.distinct == 1 for each in shown.values()):
        ways.append("--data.masks binary (every mask has a foreground level of its own)")
    return ", ".join(way for way in ways if f"--data.masks {kind} " not in way)


def _listed(values: Sequence[float]) -> str:
    shown = [f"{value:g}" for value in values]
    if len(shown) > _MOST_SHOWN:
        shown = [*shown[: _MOST_SHOWN - 2], "...", shown[-1]]
    return f"values 0, {', '.join(shown)}"


def _folder(paths: Found) -> str:
    folders = dict.fromkeys(path.parent for path in paths)
    return str(next(iter(folders))) + (f" and {len(folders) - 1} more folders" if len(folders) > 1 else "")


def _where(shown: Found) -> str:
    return f"{next(iter(shown))} is" if len(shown) == 1 else f"The masks in {_folder(shown)} are"
