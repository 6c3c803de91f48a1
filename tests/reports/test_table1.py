"""CPC-SAM's Table 1 out of the runs of its grids: every row of the paper has ours beside it."""

import csv
from pathlib import Path

import pytest
import yaml

from data_modules import FolderDataModule
from lightning_samseg.grids.grid import read_grid, write_grid_json
from lightning_samseg.reports.build import build_report
from lightning_samseg.reports.groups import group_runs
from lightning_samseg.reports.paper import paper_tables
from lightning_samseg.reports.runs import read_run
from tests.fakes import write_folder
from tests.reports.run_folders import write_case_run

PROJECT = Path(__file__).parents[2]
COLUMNS = {
    "acdc": {"data_class": "data_modules.AcdcDataModule", "unit": "mm", "classes": 3},
    "busi": {"data_class": "data_modules.BusiDataModule", "unit": "px"},
}


@pytest.mark.parametrize("column", COLUMNS)
def test_the_report_prints_the_table_complete(column: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seeds of each of the 24 rows; labelled patients differ from row to row, and may."""
    monkeypatch.chdir(PROJECT)
    grid = Path(f"experiments/grids/cpc_sam_table1_{column}.yaml")
    runs = read_grid(grid)
    folder = tmp_path / "runs"
    folder.mkdir()
    lines = grid.read_text().replace("\ncell:", f"\nfolder: {folder}\nseeds: [1, 2]\ncell:", 1)
    lines = "\n".join(line for line in lines.splitlines() if not line.startswith("folder: runs"))
    copy = tmp_path / grid.name
    copy.write_text(lines)
    for place, run in enumerate(read_grid(copy)):
        files = [yaml.safe_load(Path(config).read_text()) for config in run.configs]
        method = next(file["model"]["class_path"].rpartition(".")[2] for file in files if "model" in file)
        given = {k: v for file in files for k, v in file.get("data", {}).get("init_args", {}).items()}
        given |= {k.split(".")[1]: v for k, v in run.overrides.items() if k.startswith("data.")}
        labelled = {k: v for k, v in given.items() if k in ("num_labelled", "labelled_patients")}
        seed = int(run.name[-1])
        options = {"name": run.name.rpartition("-")[0]}
        write_case_run(
            Path(run.folder), seed, shift=place / 500, model=options, data=labelled, method=method, **COLUMNS[column]
        )
    write_grid_json(copy, read_grid(copy))
    assert build_report([folder], tmp_path / "out", baseline="CPC-SAM") == 0
    with (tmp_path / "out" / "paper.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    printed = paper_tables()["cpc_sam"]["tables"]["Table 1"]["columns"][column.upper()]["rows"]
    filled = {row["row"] for row in found if row["metric"] == "dsc" and row["ours"]}
    assert filled == set(printed)
    assert len(printed) == 24
    assert len(runs) >= 24
    text = (tmp_path / "out" / "report.md").read_text()
    for row in printed:
        line = next(line for line in text.splitlines() if line.startswith(f"| {row} |"))
        assert "±" in line, "deviation over seeds"
        assert "\N{EN DASH}" not in line, "nothing is missing"
    with (tmp_path / "out" / "results.csv").open(newline="") as file:
        results = list(csv.DictReader(file))
    few, more = ("1", "3") if column == "acdc" else ("10", "20")
    for convention in ("cpc_sam", "strict"):
        baseline = {
            row["method"]: row["baseline"]
            for row in results
            if row["metric"] == "hd95" and row["convention"] == convention
        }
        for method in ("unet", "uamt", "bcp", "unimatch", "semi_sam", "samed"):
            assert baseline[f"{method}_{few}"] == f"cpc_sam_{few}", "compared on the same labelled images"
            assert baseline[f"{method}_{more}"] == f"cpc_sam_{more}"
        assert baseline["unet_all"] == baseline[f"cpc_sam_{few}"] == ""
    assert f"| bcp_{few} | {few} | 2 |" in text, "labelled images and seeds of a row"


@pytest.mark.parametrize("part", ["labelled", "train", "val", "test"])
def test_other_lists_are_refused_by_name(part: str, tmp_path: Path) -> None:
    """As many labelled images, but others; or images that have changed the side."""
    names = [f"case{number}" for number in range(9)]
    root = write_folder(tmp_path / "mine", names, (8, 8))
    lists = {"train": names[:5], "val": names[5:7], "test": names[7:], "labelled": names[:2]}
    changed = {"labelled": {"labelled": names[1:3]}, "train": {"train": names[:4]}}
    changed |= {"val": {"train": [*names[:4], names[5]], "val": [names[4], names[6]]}}
    changed |= {"test": {"val": [names[7], names[6]], "test": [names[5], names[8]]}}
    for number, given in enumerate((lists, lists | changed[part])):
        for name, content in given.items():
            (root / "splits").mkdir(exist_ok=True)
            (root / "splits" / f"{name}.txt").write_text("\n".join(content))
        known = FolderDataModule(str(root), num_labelled=2, image_size=16).fingerprint()
        write_case_run(tmp_path / "runs" / str(number), data_class="data_modules.FolderDataModule", **known)
    blocks, problems = group_runs([read_run(folder) for folder in sorted((tmp_path / "runs").iterdir())])
    assert blocks == []
    assert len(problems) == 2
    assert all("differ in " in problem.reason and "split auto:" in problem.reason for problem in problems)


def test_another_selection_or_other_labelled_images_are_refused(tmp_path: Path) -> None:
    """One protocol: which images are labelled, and that validation alone selects, is the same for all."""
    first = write_case_run(tmp_path / "a", method="Bcp")
    same = write_case_run(tmp_path / "b", method="Uamt", data={"num_labelled": 20, "unlabelled_batch_size": 24})
    assert [len(block.variants) for block in group_runs([read_run(first), read_run(same)])[0]] == [2]
    other = write_case_run(tmp_path / "c", method="Cps", split="committed:def")
    blocks, problems = group_runs([read_run(first), read_run(other)])
    assert blocks == []
    assert all("split" in problem.reason for problem in problems)
    last = write_case_run(tmp_path / "d", method="UniMatch")
    config = (last / "config.yaml").read_text().replace("ckpt_path: null", "ckpt_path: runs/d/checkpoints/last.ckpt")
    (last / "config.yaml").write_text(config.replace("test_after_fit: true", "test_after_fit: false"))
    blocks, problems = group_runs([read_run(first), read_run(last)])
    assert blocks == []
    assert all("checkpoint last" in problem.reason or "checkpoint best" in problem.reason for problem in problems)
