"""The papers' numbers: as printed, and found by cell."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from lightning_samseg.errors import UserError
from lightning_samseg.reports.paper import Cell, filled_by, paper_tables, paper_values

PAPERS = Path(__file__).parents[2].parent / "shared" / "papers"


def cells() -> Iterator[Cell]:
    for paper, content in paper_tables().items():
        for table, parts in content["tables"].items():
            for column, part in parts["columns"].items():
                for row in part["rows"]:
                    yield Cell(paper, table, column, row)


def test_values_of_a_cell() -> None:
    found = paper_values(Cell("cpc_sam", "Table 1", "BUSI", "CPC-SAM, 10/431"))
    assert found == {"dsc": 71.20, "jc": 61.15, "hd95": 100.22, "asd": 37.86}
    assert paper_values(Cell("cpc_sam", "Fig. 4", "ACDC", "1 branch")) == {"dsc": 81.19}
    assert paper_values(Cell("aux_ol", "Table 5", "Topcon", "MedSAM, fixed")) == {"dsc": 78.13, "hd": 162.87}


def test_a_run_of_many_sets_fills_a_row_of_all_columns() -> None:
    cell = Cell("aux_ol", "Table 1", "all", "MedSAM, point, AuxOL")
    values = [paper_values(each)["dsc"] for each in filled_by(cell._asdict())]
    assert values == [31.92, 59.18, 41.32, 58.58, 72.34]
    (alone,) = filled_by(cell._replace(column="ETIS")._asdict())
    assert alone == cell._replace(column="ETIS")
    with pytest.raises(UserError, match="No table of the papers"):
        filled_by(cell._replace(table="Table 9")._asdict())


def test_diagrams_without_numbers_have_none() -> None:
    for number in (3, 4, 5):
        found = [cell for cell in cells() if cell[:2] == ("aux_ol", f"Fig. {number}")]
        assert found
        assert all(paper_values(cell) == {} for cell in found)


def test_every_cell_has_a_number_per_metric_within_its_range() -> None:
    for cell in cells():
        for metric, value in paper_values(cell).items():
            assert 0 < value < (100 if metric in ("dsc", "jc") else 1000), cell


def test_jaccard_is_below_dice_and_hd95_above_asd() -> None:
    misprints = {("UAMT, 3/70", "hd95")}
    for cell in cells():
        values = paper_values(cell)
        if "jc" in values:
            assert values["jc"] < values["dsc"], cell
            assert values["asd"] < values["hd95"] or (cell.row, "hd95") in misprints, cell


def test_units() -> None:
    columns = paper_tables()["cpc_sam"]["tables"]["Table 1"]["columns"]
    assert {name: column["unit"] for name, column in columns.items()} == {"BUSI": "px", "ACDC": "mm"}


def test_results_printed_twice_agree() -> None:
    ours = paper_values(Cell("cpc_sam", "Table 1", "ACDC", "CPC-SAM, 1/70"))
    for table, row in (("Table 2", "cross prompting and PCR"), ("Table 3", "1 centre, 1 random")):
        assert paper_values(Cell("cpc_sam", table, "ACDC", row)) == ours
    for table, row in (("Fig. 3", "ours"), ("Fig. 4", "2 branches"), ("Section 3", "ensemble")):
        assert paper_values(Cell("cpc_sam", table, "ACDC", row)) == {"dsc": ours["dsc"]}
    tables = paper_tables()["aux_ol"]["tables"]
    for table, overall, rows in (
        ("Table 3", "Table 1", {"online batch": "box, AuxOL"}),
        ("Table 4", "Table 2", {"online batch": "box, AuxOL"}),
        ("Table 5", "Table 2", {"adaptive": "point, AuxOL"}),
    ):
        for column in tables[table]["columns"]:
            for row, other in rows.items():
                for model in ("SAM-H", "MedSAM"):
                    assert paper_values(Cell("aux_ol", table, column, f"{model}, {row}")) == paper_values(
                        Cell("aux_ol", overall, column, f"{model}, {other}")
                    )


@pytest.mark.parametrize("field", Cell._fields)
def test_an_unknown_cell_lists_the_known_names(field: str) -> None:
    cell = Cell("cpc_sam", "Table 2", "ACDC", "cross prompting")
    with pytest.raises(UserError, match=f"No {field} of the papers") as caught:
        paper_values(cell._replace(**{field: "nonsense"}))
    assert getattr(cell, field) in str(caught.value)


@pytest.mark.reference
@pytest.mark.parametrize(("paper", "file"), [("cpc_sam", "cpc_sam.txt"), ("aux_ol", "auxol.txt")])
def test_every_number_is_in_the_paper(paper: str, file: str) -> None:
    if not (PAPERS / file).is_file():
        pytest.skip("the papers' texts are not beside the repository")
    printed = {float(number) for number in re.findall(r"\d+\.\d+", (PAPERS / file).read_text())}
    for cell in cells():
        if cell.paper == paper:
            missing = set(paper_values(cell).values()) - printed
            assert not missing, cell
