"""A whole report: files, formats, the page, what is refused."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_samseg.errors import UserError
from lightning_samseg.grids.grid import read_grid, write_grid_json
from lightning_samseg.reports.build import build_report
from lightning_samseg.reports.tables import Table
from lightning_samseg.reports.text import latex, latex_escape, markdown
from tests.reports.run_folders import write_case_run, write_stream_run

ROW = {"paper": "cpc_sam", "table": "Fig. 4", "column": "ACDC", "row": "1 branch"}
ACDC = {"data_class": "data_modules.AcdcDataModule", "unit": "mm", "classes": 3}


def write_grid(folder: Path) -> None:
    """Two variants of CPC-SAM's Fig. 4 under two seeds, as a grid leaves them."""
    runs = []
    for name, row, options in (("one_branch", "1 branch", {"architecture": "one_branch"}), ("full", "2 branches", {})):
        for seed in (1, 2):
            write_case_run(folder / f"{name}-seed{seed}", seed, model=options, **ACDC)  # type: ignore[arg-type]
            cell = {**ROW, "row": row}
            runs.append({"name": f"{name}-seed{seed}", "folder": f"{name}-seed{seed}", "cell": cell, "seed": seed})
    (folder / "grid.json").write_text(json.dumps({"file": "fig4.yaml", "runs": runs}))


def draw_overlays(run: Path) -> None:
    (run / "overlays").mkdir()
    for case in range(3):
        picture = np.full((28 + 20, 60, 3), 40 * case, np.uint8)
        Image.fromarray(picture).save(run / "overlays" / f"case {case}.png")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    runs = folder / "runs"
    write_grid(runs / "fig4")
    for rate in (0.25, 0.5, 1.0):
        write_stream_run(runs / f"rate{rate}", gain=rate / 5, model={"expert": {"rate": rate}})
    for seed in (1, 2):
        draw_overlays(write_case_run(runs / f"busi{seed}", seed))
    draw_overlays(write_case_run(runs / "again", 1))
    (write_case_run(runs / "unfinished", 9) / "metrics.json").unlink()
    (write_case_run(runs / "broken", 9) / "cases.csv").unlink()
    assert build_report([runs], folder / "out", baseline="one_branch") == 0
    return folder / "out"


def test_files(report: Path) -> None:
    assert {path.name for path in report.iterdir()} == {
        *(
            "report.html",
            "report.md",
            "tables.tex",
            "results.csv",
            "paper.csv",
            "problems.csv",
            "report.json",
            "figures",
        )
    }
    assert not [path for path in report.parent.iterdir() if path.name.startswith(".")]
    figures = {path.name for path in (report / "figures").iterdir()}
    for name in ("busi_cases", "busi_qualitative", "polyp_stream_stream", "polyp_stream_sweep_rate"):
        assert {f"{name}.png", f"{name}.pdf"} <= figures
    assert "paper_figure_1.pdf" in figures


def test_problems_are_listed(report: Path) -> None:
    with (report / "problems.csv").open() as file:
        rows = list(csv.DictReader(file))
    # Folders are read in the order of their names, so `again` is the first of its kind.
    found = {row["kind"]: Path(row["folder"]).name for row in rows}
    assert found == {"broken": "broken", "unfinished": "unfinished", "duplicate": "busi1"}


def test_results_csv(report: Path) -> None:
    with (report / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    row, strict = (r for r in rows if r["method"] == "full" and r["metric"] == "dsc")
    assert (row["convention"], strict["convention"]) == ("cpc_sam", "strict")
    assert strict["table"] == "ACDC, convention strict"
    assert (row["table"], row["set"], row["unit"], row["runs"], row["seeds"]) == ("ACDC", "all", "%", "2", "1 2")
    assert (row["baseline"], row["pairs"], float(row["difference"]), float(row["p_holm"])) == ("one_branch", "12", 0, 1)
    assert {r["set"] for r in rows if r["table"] == "Polyp stream"} == {"all", "CVC-ClinicDB", "Kvasir"}


def test_paper_csv(report: Path) -> None:
    with (report / "paper.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["table"], r["row"], r["paper_value"]) for r in rows] == [
        ("Fig. 4", "1 branch", "81.19"),
        ("Fig. 4", "2 branches", "85.56"),
    ]
    assert all(float(r["ours"]) - float(r["paper_value"]) == pytest.approx(float(r["difference"])) for r in rows)


def test_markdown_has_the_papers_layout(report: Path) -> None:
    text = (report / "report.md").read_text()
    assert "### MICCAI 2024: Fig. 4" in text
    assert "|  | ACDC DSC % |" in text
    assert re.search(r"\| 1 branch \| [\d.]+ ± [\d.]+ \(81\.19, \S+\) \|", text)
    assert re.search(r"\| 2 models \| \N{EN DASH} \(85\.04\) \|", text)


def test_classes_have_a_table_of_their_own(report: Path, tmp_path: Path) -> None:
    text = (report / "report.md").read_text()
    [row] = re.findall(r"### ACDC: classes\n\n.*\n.*\n\| one_branch \|(.*)\n", text)
    runs = [list(csv.DictReader((report.parent / f"runs/fig4/one_branch-seed{s}/cases.csv").open())) for s in (1, 2)]
    dsc = [
        [100 * np.mean([float(r["dsc"]) for r in rows if r["class_id"] == str(c)]) for rows in runs] for c in (1, 2, 3)
    ]
    cells = [cell.strip() for cell in row.split("|")]
    assert cells[::4][:3] == [f"{np.mean(pair):.2f} ± {np.std(pair, ddof=1):.2f}" for pair in dsc]
    assert "class 3 ASD mm" in text
    assert "BUSI: classes" not in text  # one class

    run = write_case_run(tmp_path / "run", **ACDC, class_names=["RV", "Myo", "LV"])  # type: ignore[arg-type]
    build_report([run], tmp_path / "out")
    assert "RV DSC % | RV JC % |" in (tmp_path / "out" / "report.md").read_text()
    assert "\\multicolumn{4}{c}{Myo}" in (tmp_path / "out" / "tables.tex").read_text()


def test_latex_is_escaped_and_balanced(report: Path) -> None:
    text = (report / "tables.tex").read_text()
    assert text.count("\\begin{tabular}") == text.count("\\end{tabular}") == text.count("\\toprule") >= 6
    assert not re.search(r"(?<!\\)[%#_]", text.split("\n", 1)[1].replace("\\usepackage", ""))
    assert text.isascii()
    for tabular in re.findall(r"\\toprule\n(.*?)\\bottomrule", text, re.DOTALL):
        rows = [line for line in tabular.splitlines() if line.endswith("\\\\") and "multicolumn" not in line]
        assert len({line.replace("\\&", "").count("&") for line in rows}) == 1


def test_the_page_needs_nothing_beside_it(report: Path) -> None:
    page = (report / "report.html").read_text()
    assert not re.search(r"""(?:src|href)=(?!["']?(?:data:|#))""", page)
    assert "http" not in re.sub(r"data:image/png;base64,[\w+/=]+", "", page)
    assert page.count("<img ") == page.count("data:image/png;base64,") >= 6
    numbers = [int(n) for n in re.findall(r"<b>Table (\d+)\.</b>", page)]
    assert numbers == list(range(1, len(numbers) + 1))
    for text in ("prefers-color-scheme:dark", "abababababab", "ffffffffffff", "committed:abc", "fit --config", "Holm"):
        assert text in page


def test_names_of_files_cannot_become_markup(tmp_path: Path) -> None:
    write_case_run(tmp_path / "<img src=x>")
    assert build_report([tmp_path], tmp_path / "out") == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<img src=x>" not in page
    assert "&lt;img src=x&gt;" in page


def test_a_report_replaces_a_report_and_nothing_else(tmp_path: Path) -> None:
    run = write_case_run(tmp_path / "run")
    out = tmp_path / "out"
    out.mkdir()
    for _ in range(2):
        assert build_report([run], out) == 0
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    for place in (tmp_path / "other", run / "config.yaml", run):
        with pytest.raises(UserError, match="is there and is no report"):
            build_report([run], place)
    assert (tmp_path / "other" / "thesis.tex").read_text() == "mine"
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"found: notes\.txt"):
        build_report([run], out)


def test_a_mistake_leaves_the_earlier_report(tmp_path: Path) -> None:
    run = write_case_run(tmp_path / "run")
    build_report([run], tmp_path / "out")
    before = (tmp_path / "out" / "report.html").read_bytes()
    with pytest.raises(UserError, match=r"No reported variant is called 'x'[\s\S]*CPC-SAM"):
        build_report([run], tmp_path / "out", baseline="x")
    assert (tmp_path / "out" / "report.html").read_bytes() == before


def test_nothing_to_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="No finished run"):
        build_report([tmp_path], tmp_path / "out")
    write_case_run(tmp_path / "a", 1)
    write_case_run(tmp_path / "b", 2, convention="strict")
    with pytest.raises(UserError, match="--group"):
        build_report([tmp_path], tmp_path / "out")
    assert "refused" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    assert build_report([tmp_path], tmp_path / "out", group=True) == 0


def test_cells_may_be_given_by_hand(tmp_path: Path) -> None:
    run = write_case_run(tmp_path / "run", **ACDC)  # type: ignore[arg-type]
    build_report([run], tmp_path / "out", cells={run: ROW})
    assert "1 branch" in (tmp_path / "out" / "paper.csv").read_text()
    with pytest.raises(UserError, match="No row of the papers is called 'x'"):
        build_report([run], tmp_path / "out", cells={run: [{**ROW, "row": "x"}]})


def test_a_run_of_a_grid_alone_finds_the_grids_file(tmp_path: Path) -> None:
    write_grid(tmp_path / "grid")
    build_report([tmp_path / "grid" / "full-seed1"], tmp_path / "out")
    assert "2 branches" in (tmp_path / "out" / "paper.csv").read_text()


def test_a_run_of_two_grids_fills_cells_of_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text("{}")
    for table, row in (("Fig. 3", "ours"), ("Fig. 4", "2 branches")):
        cell = f"{{paper: cpc_sam, table: {table}, column: ACDC, row: {row}}}"
        grid = Path(f"{table[-1]}.yaml")
        grid.write_text(f"configs: [base.yaml]\nfolder: runs/shared\ncell: {cell}\naxes: {{a: {{full: {{}}}}}}")
        Path("runs/shared").mkdir(parents=True, exist_ok=True)
        for _ in range(2):  # submitted again
            write_grid_json(grid, read_grid(grid))
    write_case_run(Path("runs/shared/full"), **ACDC)  # type: ignore[arg-type]
    assert build_report([Path("runs")], tmp_path / "out") == 0
    with Path("out/paper.csv").open() as file:
        assert [(row["table"], row["method"]) for row in csv.DictReader(file)] == [
            ("Fig. 3", "full"),
            ("Fig. 4", "full"),
        ]


def test_a_broken_grid_file(tmp_path: Path) -> None:
    write_case_run(tmp_path / "run")
    (tmp_path / "grid.json").write_text('{"runs": [1]}')
    with pytest.raises(UserError, match="does not describe a grid's runs"):
        build_report([tmp_path], tmp_path / "out")


def test_special_characters() -> None:
    table = Table("A|B", "50 % of x_1", ("m", "a&b"), (("p|q\n(r)", "1 ± 2"),))
    assert "| p\\|q (r) | 1 ± 2 |" in markdown(table)
    tex = latex(table, "tab:1")
    assert "50 \\% of x\\_1" in tex
    assert "a\\&b" in tex
    assert "1 $\\pm$ 2" in tex
    assert latex_escape("\\{~^}") == r"\textbackslash{}\{\textasciitilde{}\textasciicircum{}\}"
