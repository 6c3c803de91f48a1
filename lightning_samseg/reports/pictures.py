"""Qualitative figures from what runs drew: a grid like CPC-SAM's Fig. 2, and the strips of a stream."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lightning_samseg.io.text import file_name
from lightning_samseg.online.columns import is_learned
from lightning_samseg.reports.groups import Block, Variant
from lightning_samseg.reports.results import case_scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTION_HEIGHT = 28
"""Pixels of the caption above the panels of an overlay."""
MOST_CASES = 4
MOST_VARIANTS = 5
MOST_LETTERS = 12
"""Of a case's name, which stands beside a picture of an inch; of a longer one both ends are shown."""


def qualitative_grid(block: Block) -> "Figure | None":
    """Cases in rows; image, reference and the prediction of every variant's first seed in columns.

    Of many variants the first is shown, and those with the highest DSC. The cases range from the worst to the best DSC
    of the first variant, among those that every one has drawn.

    Args:
        block: A table of runs that drew ``overlays/CASE.png``: image, reference, prediction side by side.

    Returns:
        The figure; None where the variants have no case in common.
    """
    variants = _best([variant for variant in block.variants if _overlays(variant)])
    if not variants:
        return None
    drawn = [_overlays(variant) for variant in variants]
    scores = dict(zip(variants[0].runs[0].scores[""].cases, case_scores(variants[0], "dsc"), strict=True))
    common = [case for case in scores if all(case in part for part in drawn)]
    if not common:
        return None
    ranked = sorted(common, key=lambda case: (scores[case], case))
    places = np.unique(np.linspace(0, len(ranked) - 1, min(MOST_CASES, len(ranked))).round().astype(int))
    chosen = [ranked[i] for i in places]

    from matplotlib.figure import Figure

    columns = 2 + len(variants)
    panels = [[_panels(part[case]) for part in drawn] for case in chosen]
    width = min(7.2, 1.9 * columns)
    height = sum(width / columns * row[0][0].shape[0] / row[0][0].shape[1] for row in panels) + 0.4 + 0.12 * len(chosen)
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = np.atleast_2d(figure.subplots(len(chosen), columns, squeeze=False))
    for axes_row, case, row in zip(grid, chosen, panels, strict=True):
        pictures = [row[0][0], row[0][1], *(panel[2] for panel in row)]
        for axes, picture in zip(axes_row, pictures, strict=True):
            axes.imshow(picture)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
        short = f"{case[: MOST_LETTERS // 2]}…{case[-(MOST_LETTERS // 2 - 1) :]}"
        axes_row[0].set_ylabel(case if len(case) <= MOST_LETTERS else short, fontsize=8)
        for axes, variant in zip(axes_row[2:], variants, strict=True):
            index = variant.runs[0].scores[""].cases.index(case)
            dsc = 100 * variant.runs[0].scores[""].per_case("dsc")[index]
            axes.set_xlabel(f"DSC {dsc:.1f} %", fontsize=8)
    for axes, title in zip(grid[0], ("image", "reference", *(variant.name for variant in variants)), strict=True):
        axes.set_title(title, fontsize=8, wrap=True)
    return figure


def stream_strips(block: Block) -> list[tuple[str, Path]]:
    """Pictures that streams drew of chosen cases: first, best gain, worst gain of each variant's first seed.

    Returns:
        Caption and file.
    """
    strips = []
    for variant in block.variants:
        if is_learned(variant.column):
            folder = variant.runs[0].folder / "figures"
            names = {"first": "first image", "best_gain": "largest gain", "worst_gain": "smallest gain"}
            strips += [
                (f"{variant.name}, {text} over clipped SAM" if "gain" in name else f"{variant.name}, {text}", path)
                for name, text in names.items()
                if (path := folder / f"{name}.png").is_file()
            ]
    return strips


def _best(variants: Sequence[Variant]) -> list[Variant]:
    """The first and those with the highest DSC, in the order of the table."""
    best = sorted(variants[1:], key=lambda variant: -float(np.nanmean(case_scores(variant, "dsc"))))
    return [each for each in variants if each is variants[0] or each in best[: MOST_VARIANTS - 1]]


def _overlays(variant: Variant) -> dict[str, Path]:
    """Case -> picture; of a volume its middle slice."""
    if variant.column:
        return {}
    run = variant.runs[0]
    pictures = sorted((run.folder / "overlays").glob("*.png"))
    found = {}
    for case in run.scores[""].cases:
        stem = file_name(case)
        own = [p for p in pictures if p.stem == stem or re.fullmatch(re.escape(stem) + r"_\d{3}", p.stem)]
        if own:
            found[case] = own[len(own) // 2]
    return found


def _panels(path: Path) -> list[npt.NDArray[np.uint8]]:
    """Image, reference and prediction of an overlay, without its caption."""
    from PIL import Image

    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))[CAPTION_HEIGHT:]
    width = pixels.shape[1] // 3
    return [pixels[:, i * width : (i + 1) * width] for i in range(3)]
