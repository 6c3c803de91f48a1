"""One test of a run gives the table under both conventions; against scores that were made under each."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from lightning_samseg.io.tables import write_table
from lightning_samseg.metrics import CaseRow, CaseScores
from lightning_samseg.reports.build import build_report
from lightning_samseg.reports.conventions import under_other
from lightning_samseg.reports.groups import group_runs
from lightning_samseg.reports.runs import read_run
from lightning_samseg.types import Case
from tests.reports.run_folders import write_case_run, write_stream_run


def scored(folder: Path, convention: str) -> Path:
    """A run on volumes and their predictions, some of them empty, in unequal sizes and spacings."""
    rng = np.random.default_rng(5)
    scores = CaseScores(2, convention)
    for number in range(8):
        size = (3, 12 + number, 9)
        prediction, reference = (rng.integers(0, 3, size).astype(np.uint8) for _ in range(2))
        prediction[prediction == (number % 4)] = 0  # nothing of the background, of a class, or of one that is not there
        reference[reference == (number % 3)] = 0
        cases = [Case(f"v{number}", "v", size[1:], (8, 8), (5.0, 1.0 + number, 0.5), i, 3) for i in range(3)]
        scores.update(cases, list(prediction), list(reference))
    table = scores.compute()
    write_case_run(folder, convention=convention, unit="mm", classes=2)
    write_table(folder / "cases.csv", CaseRow._fields, table.rows)
    metrics = json.loads((folder / "metrics.json").read_text())
    summary = table.summary()
    metrics["summary"] = {name: summary[name] for name in ("dsc", "jc", "hd95", "asd")}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


@pytest.mark.parametrize(("one", "other"), [("cpc_sam", "strict"), ("strict", "cpc_sam")])
def test_scores_are_those_made_under_the_other_convention(one: str, other: str, tmp_path: Path) -> None:
    [block], _ = group_runs([read_run(scored(tmp_path / "one", one))])
    expected = read_run(scored(tmp_path / "other", other)).scores[""]
    converted = under_other(block)
    assert converted is not None
    assert converted.facts["convention"] == other
    found = converted.variants[0].scores[0]
    assert found.cases == expected.cases
    assert found.empty_predictions == expected.empty_predictions
    for metric, values in expected.values.items():
        np.testing.assert_allclose(found.values[metric], values, rtol=1e-12, err_msg=metric)
    hd95 = {name: part.dropped("hd95") for name, part in (("found", found), ("made", block.variants[0].scores[0]))}
    assert sorted(hd95.values())[0] == 0 < sorted(hd95.values())[1]


def test_both_stand_in_one_report_and_the_papers_cell_takes_its_own(tmp_path: Path) -> None:
    """Whichever the runs were scored under."""
    cell = {"paper": "cpc_sam", "table": "Table 1", "column": "BUSI", "row": "BCP, 10/431"}
    for name, convention in (("cpc_sam", "cpc_sam"), ("strict", "strict")):
        runs = [write_case_run(tmp_path / name / f"s{s}", s, convention=convention, dropped=2) for s in (1, 2)]
        assert build_report(runs, tmp_path / f"out_{name}", cells=dict.fromkeys(runs, cell)) == 0
        text = (tmp_path / f"out_{name}" / "report.md").read_text()
        other = {"cpc_sam": "strict", "strict": "cpc_sam"}[convention]
        assert "### BUSI\n" in text
        assert f"### BUSI, convention {other}\n" in text
        assert "not compared" not in text
    tables = [list(csv.DictReader((tmp_path / f"out_{n}" / "paper.csv").open())) for n in ("cpc_sam", "strict")]
    assert tables[0] == tables[1]
    assert {row["row"] for row in tables[0]} == {"BCP, 10/431"}
    rows = list(csv.DictReader((tmp_path / "out_cpc_sam" / "results.csv").open()))
    hd95 = {row["convention"]: (float(row["mean"]), row["dropped"]) for row in rows if row["metric"] == "hd95"}
    assert hd95["cpc_sam"][1] == "4"
    assert hd95["strict"][1] == "0"
    assert hd95["strict"][0] > hd95["cpc_sam"][0]  # two of twelve cost the diagonal


def test_what_has_no_other_convention(tmp_path: Path) -> None:
    """A stream, AuxOL's convention, and a run from before its cases had diagonals."""
    stream = write_stream_run(tmp_path / "stream")
    aux_ol = write_case_run(tmp_path / "aux_ol", convention="aux_ol", data_class="data_modules.PolypDataModule")
    old = write_case_run(tmp_path / "old", diagonal=None)
    blocks, _ = group_runs([read_run(folder) for folder in (stream, aux_ol, old)])
    assert [under_other(block) for block in blocks] == [None] * 3
