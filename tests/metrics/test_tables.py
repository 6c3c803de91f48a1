"""Means, counts and the CSV file."""

import csv
import json
import math

import pytest

from lightning_samseg.errors import UserError
from lightning_samseg.io.tables import write_table
from lightning_samseg.metrics.tables import CaseRow, CaseTable


def row(
    case_id, class_id, dsc, distance, empty_prediction=False, empty_reference=False, unit="mm", convention="cpc_sam"
):
    return CaseRow(
        case_id, class_id, dsc, dsc / 2, *[distance] * 4, empty_prediction, empty_reference, 9.0, unit, convention
    )


def test_summary_averages_cases_then_classes():
    # Class 1 keeps two of three distances, so a mean over all rows (4.0) would differ from the mean over classes.
    rows = [
        row("b", 1, 0.5, 2.0),
        row("a", 1, 0.0, math.nan, empty_prediction=True),
        row("c", 1, 1.0, 4.0),
        row("a", 2, 0.6, 6.0),
        row("b", 2, 0.6, 6.0),
        row("c", 2, 1.0, math.nan, empty_prediction=True, empty_reference=True),
    ]
    table = CaseTable(rows)
    assert [(r.case_id, r.class_id) for r in table.rows] == [(c, k) for c in "abc" for k in (1, 2)]
    summary = table.summary()
    assert summary["per_class"]["1"]["dsc"] == pytest.approx(0.5)
    assert summary["per_class"]["2"]["dsc"] == pytest.approx(2.2 / 3)
    assert summary["dsc"] == pytest.approx((0.5 + 2.2 / 3) / 2)
    assert summary["jc"] == pytest.approx(summary["dsc"] / 2)
    assert summary["hd95"] == summary["asd"] == summary["assd"] == summary["hd"] == pytest.approx((3 + 6) / 2)
    assert {k: summary[k] for k in ("num_cases", "empty_predictions", "empty_references", "both_empty", "dropped")} == {
        "num_cases": 3,
        "empty_predictions": 2,
        "empty_references": 1,
        "both_empty": 1,
        "dropped": 2,
    }
    assert summary["per_class"]["1"]["dropped"] == 1
    assert (summary["unit"], summary["convention"]) == ("mm", "cpc_sam")


def test_no_value_left_is_null_and_never_nan():
    rows = [row("a", 1, 0.0, math.nan, empty_prediction=True), row("a", 2, 0.5, 3.0)]
    summary = CaseTable(rows).summary()
    assert summary["per_class"]["1"]["hd95"] is None
    assert summary["per_class"]["2"]["hd95"] == 3.0
    assert summary["hd95"] is None  # one class has no distance: the mean of the others would be another quantity
    assert summary["dropped"] == 1
    json.dumps(summary, allow_nan=False)


def test_mixed_units_or_conventions_are_refused():
    with pytest.raises(UserError, match=r"differ in unit(.|\n)*mm \(case a\), px \(case b\)"):
        CaseTable([row("a", 1, 1, 0), row("b", 1, 1, 0, unit="px")]).summary()
    with pytest.raises(UserError, match="differ in convention"):
        CaseTable([row("a", 1, 1, 0), row("b", 1, 1, 0, convention="strict")]).summary()


def test_no_case_is_an_error():
    with pytest.raises(UserError, match="No case was scored"):
        CaseTable([])


def test_csv_round_trip_is_exact(tmp_path):
    path = tmp_path / "new" / "cases.csv"
    rows = [row('odd, "name" é', 1, 1 / 3, math.nan, empty_prediction=True), row("b", 2, 0.1 + 0.2, 2 / 7)]
    write_table(path, CaseRow._fields, rows)
    with path.open(newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert list(read[0]) == list(CaseRow._fields)
    assert read[0]["case_id"] == rows[0].case_id
    assert (read[0]["hd95"], read[0]["empty_prediction"], read[0]["empty_reference"]) == ("", "1", "0")
    assert (float(read[1]["dsc"]), float(read[1]["hd95"])) == (0.1 + 0.2, 2 / 7)
    assert (read[1]["unit"], read[1]["convention"]) == ("mm", "cpc_sam")
