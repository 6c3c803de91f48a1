"""Figures hold the numbers they are said to."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_samseg.reports.figures import box_plots, stream_curves, sweeps
from lightning_samseg.reports.groups import Origin, group_runs
from lightning_samseg.reports.paper_figures import paper_figures
from lightning_samseg.reports.pictures import qualitative_grid
from lightning_samseg.reports.results import filled_cells
from lightning_samseg.reports.runs import find_runs
from tests.reports.run_folders import write_case_run, write_stream_run


def block_of(folder: Path):  # type: ignore[no-untyped-def]
    [block], _ = group_runs(find_runs([folder])[0])
    return block


def test_curves_of_a_stream_end_at_its_means(tmp_path: Path) -> None:
    for seed in (1, 2):
        write_stream_run(tmp_path / str(seed), seed)
    block = block_of(tmp_path)
    top, middle, bottom = stream_curves(block).axes
    lines = {line.get_label(): line.get_ydata() for line in top.lines}
    for variant in block.variants:
        expected = 100 * np.mean([scores.mean("dsc") for scores in variant.scores])
        assert np.asarray(lines[variant.name])[-1] == pytest.approx(expected)
    assert np.asarray(middle.lines[0].get_ydata())[-1] == pytest.approx(0.55)
    assert np.asarray(bottom.lines[0].get_ydata())[-1] == pytest.approx(50)
    assert (top.get_ylabel(), middle.get_xlabel()) == ("mean DSC so far in %", "prompt")


def test_a_swept_option_needs_three_numbers(tmp_path: Path) -> None:
    for rank in (4, 8):
        write_case_run(tmp_path / str(rank), model={"lora_rank": rank}, shift=rank / 100)
    assert sweeps(block_of(tmp_path)) == []
    write_case_run(tmp_path / "16", model={"lora_rank": 16}, shift=0.16)
    write_case_run(tmp_path / "other", model={"lora_rank": 32, "lr": 0.1})
    block = block_of(tmp_path)
    [(name, figure)] = sweeps(block)
    assert name == "lora_rank"
    [axes] = figure.axes
    assert np.asarray(axes.lines[0].get_xdata()).tolist() == [4, 8, 16]
    assert axes.get_xlabel() == "model.lora_rank"


def test_boxes_show_the_median_of_the_cases(tmp_path: Path) -> None:
    write_case_run(tmp_path / "a")
    block = block_of(tmp_path)
    axes = box_plots(block).axes[0]
    median = 100 * np.median(block.variants[0].scores[0].per_case("dsc"))
    assert any(np.allclose(line.get_xdata(), median) for line in axes.lines)
    assert (axes.get_xlabel(), [t.get_text() for t in axes.get_yticklabels()]) == ("DSC in %", ["CPC-SAM"])


def test_bars_stand_beside_the_papers_and_rows_of_numbers_make_curves(tmp_path: Path) -> None:
    origins = {}
    for row, every in (("100 %", 1), ("25 %", 4)):
        run = write_stream_run(tmp_path / row, gain=0.2 / every, model={"every": every})
        cell = {"paper": "aux_ol", "table": "Fig. 3", "column": "SAM-H box", "row": row}
        origins[run.resolve()] = Origin(row, (cell,))
    acdc = {"data_class": "data_modules.AcdcDataModule", "unit": "mm"}
    run = write_case_run(tmp_path / "fig4", **acdc)  # type: ignore[arg-type]
    cell = {"paper": "cpc_sam", "table": "Fig. 4", "column": "ACDC", "row": "2 branches"}
    origins[run.resolve()] = Origin("full", (cell,))
    blocks, _ = group_runs(find_runs([tmp_path])[0], origins)
    figures = dict(paper_figures(filled_cells(blocks)[0]))
    assert [text.split(", ")[-2] for text in figures] == ["Fig. 3", "Fig. 4"]
    curve, bars = (figure.axes[0] for figure in figures.values())
    learned = {
        v.name: 100 * v.scores[0].mean("dsc") for block in blocks for v in block.variants if v.column == "aux_ol"
    }
    assert np.asarray(curve.lines[0].get_xdata()).tolist() == [25, 100]
    assert np.asarray(curve.lines[0].get_ydata()) == pytest.approx(
        [learned["25 %: SAM + AuxOL"], learned["100 %: SAM + AuxOL"]]
    )
    heights = [patch.get_height() for patch in bars.patches]
    ours = next(100 * v.scores[0].mean("dsc") for block in blocks for v in block.variants if v.name == "full")
    assert heights == pytest.approx([np.nan, ours, np.nan, 81.19, 85.56, 85.04], nan_ok=True)


def test_the_qualitative_grid_goes_from_the_worst_to_the_best(tmp_path: Path) -> None:
    runs = [write_case_run(tmp_path / str(rank), model={"lora_rank": rank}) for rank in (4, 8)]
    for run in runs:
        (run / "overlays").mkdir()
        for case in range(12):
            picture = np.zeros((28 + 10, 45, 3), np.uint8)
            picture[28:, 30:] = 10 * case
            Image.fromarray(picture).save(run / "overlays" / f"case {case}.png")
    block = block_of(tmp_path)
    figure = qualitative_grid(block)
    assert figure is not None
    panels = np.reshape(figure.axes, (4, 4))
    scores = block.variants[0].scores[0]
    order = [scores.cases[i] for i in np.argsort(scores.per_case("dsc"))]
    assert [row[0].get_ylabel() for row in panels] == [order[0], order[4], order[7], order[11]]
    for row in panels:
        shown = np.asarray(row[2].images[0].get_array())
        assert shown.shape == (10, 15, 3)
        assert (shown == 10 * int(row[0].get_ylabel().split()[1])).all()
    (runs[1] / "overlays").rename(runs[1] / "elsewhere")
    one = qualitative_grid(block)
    assert one is not None
    assert len(one.axes) == 12


def test_the_best_of_many_methods_are_shown_and_long_names_fit(tmp_path: Path) -> None:
    for rank, shift in ((1, 0.0), (2, 0.05), (4, -0.3), (8, 0.1), (16, -0.2), (32, 0.15), (64, 0.2)):
        run = write_case_run(tmp_path / f"{rank:02d}", model={"lora_rank": rank}, shift=shift)
        cases = (run / "cases.csv").read_text().replace("case ", "cju3xvoo2iqlc0817eku2r3w")
        (run / "cases.csv").write_text(cases)
        (run / "overlays").mkdir()
        for case in range(12):
            picture = Image.fromarray(np.zeros((28 + 10, 45, 3), np.uint8))
            picture.save(run / "overlays" / f"cju3xvoo2iqlc0817eku2r3w{case}.png")
    block = block_of(tmp_path)
    means = {v.name: v.scores[0].mean("dsc") for v in block.variants}
    figure = qualitative_grid(block)
    assert figure is not None
    titles = [axes.get_title() for axes in figure.axes[:7]]
    best = sorted(list(means)[1:], key=lambda name: -means[name])[:4]
    assert titles == ["image", "reference", *(name for name in means if name in best or name == next(iter(means)))]
    assert min(means[name] for name in best) > max(means[n] for n in list(means)[1:] if n not in best)
    names = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]
    assert len(names) == 4
    assert all(len(name) == 12 and name.startswith("cju3xv…") for name in names)
