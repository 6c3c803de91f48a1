"""The tables' numbers, recomputed by hand, and the papers' cells that runs fill."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import wilcoxon

from lightning_samseg.errors import UserError
from lightning_samseg.reports.groups import Block, Origin, group_runs
from lightning_samseg.reports.paper import Cell
from lightning_samseg.reports.results import block_results, check_baseline, filled_cells
from lightning_samseg.reports.runs import find_runs
from lightning_samseg.reports.statistics import bootstrap_interval
from lightning_samseg.reports.tables import NOTHING, paper_layouts
from tests.reports.run_folders import SETS, write_case_run, write_stream_run

BUSI = {"paper": "cpc_sam", "table": "Table 1", "column": "BUSI", "row": "CPC-SAM, 10/431"}


def the_block(folder: Path, cells: dict[str, dict[str, str]] | None = None) -> Block:
    runs, _ = find_runs([folder])
    origins = {(folder / name).resolve(): Origin(name[:-1], (cell,)) for name, cell in (cells or {}).items()}
    [block], problems = group_runs(runs, origins)
    assert not problems
    return block


@pytest.fixture
def block(tmp_path: Path) -> Block:
    for seed in (1, 2, 3):
        write_case_run(tmp_path / f"a{seed}", seed, classes=2, dropped=seed - 1)
        write_case_run(tmp_path / f"b{seed}", seed + 10, shift=0.03, classes=2, model={"lora_rank": 8})
        write_case_run(tmp_path / f"c{seed}", seed + 20, shift=-0.01, classes=2, model={"lora_rank": 16})
    return the_block(tmp_path)


def test_means_and_deviations(block: Block) -> None:
    first = block_results(block, None)[0]
    dsc = 100 * np.stack([run.scores[""].values["dsc"] for run in block.variants[0].runs])  # (seeds, cases, classes)
    assert first.mean == pytest.approx(dsc.mean())
    assert first.sd_cases == pytest.approx(dsc.mean(axis=(0, 2)).std(ddof=1))
    assert first.sd_seeds == pytest.approx(dsc.mean(axis=(1, 2)).std(ddof=1))
    assert (first.metric, first.cases, first.dropped, first.comparison) == ("dsc", 12, 0, None)
    hd95 = next(r for r in block_results(block, None) if r.metric == "hd95")
    assert hd95.mean == pytest.approx(np.mean([run.metrics["summary"]["hd95"] for run in block.variants[0].runs]))
    assert hd95.dropped == 3


def test_comparisons_are_paired_by_case_and_corrected_within_the_metric(block: Block) -> None:
    results = [r for r in block_results(block, "cpc-sam") if r.metric == "dsc"]
    assert results[0].comparison is None
    scores = [np.mean([run.scores[""].values["dsc"].mean(axis=1) for run in v.runs], axis=0) for v in block.variants]
    p = [wilcoxon(100 * (own - scores[0])).pvalue for own in scores[1:]]
    expected = [min(1.0, 2 * p[0]), p[1]] if p[0] < p[1] else [p[0], min(1.0, 2 * p[1])]
    expected[int(p[0] < p[1])] = max(expected)
    for result, own, raw, corrected in zip(results[1:], scores[1:], p, expected, strict=True):
        c = result.comparison
        assert c is not None
        assert (c.baseline, c.pairs) == ("CPC-SAM", 12)
        assert c.difference == pytest.approx(100 * (own - scores[0]).mean())
        assert (c.low, c.high) == pytest.approx(bootstrap_interval(100 * (own - scores[0])))
        assert (c.p, c.p_holm) == pytest.approx((raw, corrected))


def test_a_case_without_a_distance_makes_no_pair(tmp_path: Path) -> None:
    write_case_run(tmp_path / "a", 1, dropped=3)
    write_case_run(tmp_path / "b", 2, model={"lora_rank": 8})
    results = block_results(the_block(tmp_path), "CPC-SAM")
    pairs = {r.metric: r.comparison.pairs for r in results if r.comparison is not None}
    assert pairs == {"dsc": 12, "jc": 12, "hd95": 9, "asd": 9}


def test_a_class_that_one_of_both_misses_is_not_compared(tmp_path: Path) -> None:
    """Else a method that misses the class with the largest distances would look better for it."""
    for name, options in (("a", {}), ("b", {"model": {"lora_rank": 8}})):
        write_case_run(tmp_path / name, classes=2, dropped=1 if name == "b" else 0, **options)  # type: ignore[arg-type]
    block = the_block(tmp_path)
    results = block_results(block, "CPC-SAM")
    [comparison] = [r.comparison for r in results if r.metric == "hd95" and r.comparison is not None]
    ours, theirs = (variant.runs[0].scores[""].values["hd95"] for variant in reversed(block.variants))
    assert np.isnan(ours[0]).tolist() == [True, False]
    by_hand = [(ours[0] - theirs[0])[1], *(ours[1:] - theirs[1:]).mean(axis=1)]
    assert comparison.pairs == 12
    assert comparison.difference == pytest.approx(np.mean(by_hand))


def test_a_stream_is_compared_with_its_own_sam(tmp_path: Path) -> None:
    for name, gain in (("a", 0.1), ("b", 0.2)):
        write_stream_run(tmp_path / name, gain=gain, model={"alpha": gain})
    block = the_block(tmp_path)
    results = [r for r in block_results(block, None) if r.metric == "dsc"]
    baselines = [r.comparison and r.comparison.baseline for r in results]
    elsewhere = [r for r in block_results(block, "in another table") if r.metric == "dsc"]
    assert baselines == [r.comparison and r.comparison.baseline for r in elsewhere]
    assert baselines == [None, *["AuxOL, alpha 0.1: SAM"] * 2, None, *["AuxOL, alpha 0.2: SAM"] * 2]
    named = [r for r in block_results(block, "AuxOL, alpha 0.1") if r.metric == "dsc"]
    assert named[5].comparison is not None
    assert named[5].comparison.baseline == "AuxOL, alpha 0.1: SAM + AuxOL"
    assert named[5].comparison.difference == pytest.approx(10, abs=1.01)
    one_set = block_results(block, None, SETS[0])
    assert one_set[0].cases == 5
    assert one_set[0].mean == pytest.approx(
        100 * block.variants[0].runs[0].metrics["summary"]["sets"][SETS[0]]["sam"]["dsc"]
    )


def test_an_unknown_baseline_names_those_there_are(block: Block) -> None:
    check_baseline([block], None)
    check_baseline([block], block.variants[1].name.upper())
    with pytest.raises(UserError, match=r"one of: .*lora_rank 8; .*lora_rank 16"):
        check_baseline([block], "U-Net")


def test_cells_hold_ours_and_the_papers(tmp_path: Path) -> None:
    for seed in (1, 2):
        write_case_run(tmp_path / f"a{seed}", seed)
    block = the_block(tmp_path, {"a1": BUSI, "a2": BUSI})
    filled, notes = filled_cells([block])
    assert notes == []
    assert [(entry.metric, entry.paper) for entry in filled] == [
        ("dsc", 71.20),
        ("jc", 61.15),
        ("hd95", 100.22),
        ("asd", 37.86),
    ]
    means = [100 * run.metrics["summary"]["dsc"] for run in block.variants[0].runs]
    assert filled[0].mean == pytest.approx(np.mean(means))
    assert filled[0].sd_seeds == pytest.approx(np.std(means, ddof=1))
    assert filled[0].difference == pytest.approx(np.mean(means) - 71.20)


@pytest.mark.parametrize(
    ("options", "left", "words"),
    [
        ({"convention": "strict"}, [], "was scored under strict, the paper's under cpc_sam"),
        ({"unit": "mm"}, ["dsc", "jc"], "is in mm, the paper's in px"),
    ],
)
def test_other_conventions_and_units_are_not_set_beside_the_paper(
    options: dict[str, str], left: list[str], words: str, tmp_path: Path
) -> None:
    write_case_run(tmp_path / "a1", **options)  # type: ignore[arg-type]
    filled, notes = filled_cells([the_block(tmp_path, {"a1": BUSI})])
    assert [entry.metric for entry in filled] == left
    assert words in notes[0]


def test_two_variants_cannot_fill_one_cell(tmp_path: Path) -> None:
    write_case_run(tmp_path / "a1")
    write_case_run(tmp_path / "b1", model={"lora_rank": 8}, shift=0.1)
    filled, notes = filled_cells([the_block(tmp_path, {"a1": BUSI, "b1": BUSI})])
    assert {entry.variant.name for entry in filled} == {"a"}
    assert "both a and b fill it; a is shown" in notes[0]


def test_a_stream_fills_the_columns_of_its_sets_and_the_row_of_its_sam(tmp_path: Path) -> None:
    write_stream_run(tmp_path / "a1")
    cell = {"paper": "aux_ol", "table": "Table 1", "column": "all", "row": "SAM-H, box, AuxOL"}
    block = the_block(tmp_path, {"a1": cell})
    filled, notes = filled_cells([block])
    assert notes == []
    by_cell = {(entry.cell, entry.metric): entry for entry in filled}
    assert {key[0] for key in by_cell} == {
        Cell("aux_ol", "Table 1", column, row)
        for column in ("ClinicDB", "Kvasir")
        for row in ("SAM-H, box", "SAM-H, box, AuxOL")
    }
    sets = block.variants[0].runs[0].metrics["summary"]["sets"]
    entry = by_cell[Cell("aux_ol", "Table 1", "Kvasir", "SAM-H, box"), "hd"]
    assert (entry.mean, entry.paper) == (pytest.approx(sets["Kvasir"]["sam"]["hd"]), 39.79)
    entry = by_cell[Cell("aux_ol", "Table 1", "ClinicDB", "SAM-H, box, AuxOL"), "dsc"]
    assert (entry.mean, entry.paper) == (pytest.approx(100 * sets["CVC-ClinicDB"]["aux_ol"]["dsc"]), 92.63)
    assert math.isnan(entry.sd_seeds)


def test_a_figure_without_printed_numbers_holds_ours(tmp_path: Path) -> None:
    """Fig. 5 of AuxOL: the SAM of a stream is the adapted SAM, of all sets together."""
    write_stream_run(tmp_path / "a1")
    cell = {"paper": "aux_ol", "table": "Fig. 5", "column": "SAMed", "row": "AuxOL"}
    block = the_block(tmp_path, {"a1": cell})
    filled, notes = filled_cells([block])
    assert notes == []
    summary = block.variants[0].runs[0].metrics["summary"]
    assert {(e.cell.row, e.metric): e.mean for e in filled} == pytest.approx(
        {
            ("adapted SAM", "dsc"): 100 * summary["sam"]["dsc"],
            ("adapted SAM", "hd"): summary["sam"]["hd"],
            ("AuxOL", "dsc"): 100 * summary["aux_ol"]["dsc"],
            ("AuxOL", "hd"): summary["aux_ol"]["hd"],
        }
    )
    assert all(math.isnan(entry.paper) for entry in filled)
    [table] = paper_layouts(filled)
    assert table.header == ("", "DSC %", "HD px")
    assert table.rows[1] == ("DirectOL", NOTHING, NOTHING)
    assert table.rows[2][1] == f"{100 * summary['aux_ol']['dsc']:.2f}"
