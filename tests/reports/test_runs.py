"""What is read of a run folder, and what is said of those that cannot be."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from lightning_samseg.errors import UserError
from lightning_samseg.reports.runs import Problem, find_runs, read_run
from tests.reports.run_folders import SETS, write_case_run, write_stream_run


def test_scores_per_case_and_class(tmp_path: Path) -> None:
    run = read_run(write_case_run(tmp_path / "run", cases=3, classes=2, dropped=1))
    scores = run.scores[""]
    assert scores.cases == ("case 0", "case 1", "case 2")
    assert scores.values["dsc"].shape == (3, 2)
    assert scores.per_case("dsc") == pytest.approx(scores.values["dsc"].mean(axis=1))
    # The distance of class 1 of case 0 is missing: the case keeps that of class 2, the mean those of two cases.
    hd95 = scores.values["hd95"]
    assert math.isnan(hd95[0, 0])
    assert scores.per_case("hd95")[0] == hd95[0, 1]
    assert scores.mean("hd95") == pytest.approx((hd95[1:, 0].mean() + hd95[:, 1].mean()) / 2)
    assert scores.mean("hd95") == pytest.approx(run.metrics["summary"]["hd95"])
    assert (scores.dropped("hd95"), scores.empty_predictions) == (1, 1)


def test_a_class_without_any_distance_has_no_mean(tmp_path: Path) -> None:
    run = read_run(write_case_run(tmp_path / "run", cases=2, dropped=2))
    assert math.isnan(run.scores[""].mean("asd"))
    assert run.scores[""].dropped("asd") == 2


def test_a_stream_has_three_methods_and_its_order_does_not_matter(tmp_path: Path) -> None:
    one, two = (read_run(write_stream_run(tmp_path / str(seed), seed)) for seed in (1, 2))
    assert list(one.scores) == ["sam", "sam_clipped", "aux_ol"]
    assert one.scores["sam"].cases == two.scores["sam"].cases
    assert np.array_equal(one.scores["sam"].values["dsc"], two.scores["sam"].values["dsc"])
    assert [one.scores[column].empty_predictions for column in one.scores] == [0, 0, 5]
    part = one.scores["aux_ol"].of_set(SETS[1])
    assert len(part.cases) == 5
    assert part.mean("hd") == pytest.approx(one.metrics["summary"]["sets"][SETS[1]]["aux_ol"]["hd"])


def test_a_stream_that_did_not_note_empty_predictions(tmp_path: Path) -> None:
    rows = write_stream_run(tmp_path / "run") / "cases.csv"
    text = rows.read_text()
    assert "sam_empty" in text
    rows.write_text(text.replace("sam_empty", "something"))
    assert [part.empty_predictions for part in read_run(tmp_path / "run").scores.values()] == [None, 0, 5]


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


BREAKS = {
    "metrics.json cannot be read": lambda run: (run / "metrics.json").write_text('{"summary": '),
    "metrics.json has no summary": lambda run: (run / "metrics.json").write_text("{}"),
    "metrics.json is not a mapping": lambda run: (run / "metrics.json").write_text("[]"),
    "summary.dsc is not a finite number": lambda run: _replace_dsc(run, "NaN"),
    "metrics.json has no such summary": lambda run: _replace_dsc(run, '"high"'),
    "metrics.json says dsc 0.5, cases.csv": lambda run: _replace_dsc(run, "0.5"),
    "there is no cases.csv": lambda run: (run / "cases.csv").unlink(),
    "there is no config.yaml": lambda run: (run / "config.yaml").unlink(),
    "config.yaml cannot be read": lambda run: (run / "config.yaml").write_text("model: ["),
    "config.yaml has no model": lambda run: (run / "config.yaml").write_text("trainer: {}"),
    "has no model or no data": lambda run: (run / "config.yaml").write_text("model: {}\ndata: {class_path: x.Y}"),
    "cases.csv has no rows": lambda run: (run / "cases.csv").write_text("case_id,class_id\n"),
    "has not as many cells as the header": lambda run: _cut(run / "cases.csv"),
    "not one row per case and class": lambda run: _double(run / "cases.csv"),
    "cases.csv cannot be read (KeyError: 'class_id')": lambda run: _edit(run / "cases.csv", "class_id", "class"),
    "cases.csv cannot be read (ValueError": lambda run: _edit(run / "cases.csv", "case 0,1,0", "case 0,1,x"),
}


def _replace_dsc(run: Path, value: str) -> None:
    content = json.loads((run / "metrics.json").read_text())
    _edit(run / "metrics.json", f'"dsc": {content["summary"]["dsc"]!r}', f'"dsc": {value}')


def _cut(path: Path) -> None:
    path.write_text(path.read_text().rstrip()[:-9])


def _double(path: Path) -> None:
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[-1]]))


@pytest.mark.parametrize("reason", BREAKS)
def test_a_broken_run_is_listed_and_the_others_go_on(reason: str, tmp_path: Path) -> None:
    write_case_run(tmp_path / "good")
    BREAKS[reason](write_case_run(tmp_path / "bad", seed=2))
    runs, problems = find_runs([tmp_path])
    assert [run.folder.name for run in runs] == ["good"]
    assert [(p.kind, p.folder.name) for p in problems] == [("broken", "bad")]
    assert reason in problems[0].reason


def test_numbers_that_are_not_finite(tmp_path: Path) -> None:
    run = write_case_run(tmp_path / "run")
    lines = (run / "cases.csv").read_text().splitlines()
    cells = lines[1].split(",")
    (run / "cases.csv").write_text("\n".join([lines[0], ",".join([*cells[:2], "nan", *cells[3:]]), *lines[2:]]))
    [problem] = find_runs([run])[1]
    assert (problem.kind, problem.reason) == ("broken", "cases.csv cannot be read (ValueError: nan is not finite)")


def test_a_case_without_a_dsc(tmp_path: Path) -> None:
    run = write_case_run(tmp_path / "run")
    lines = (run / "cases.csv").read_text().splitlines()
    cells = lines[1].split(",")
    (run / "cases.csv").write_text("\n".join([lines[0], ",".join([*cells[:2], "", *cells[3:]]), *lines[2:]]))
    assert find_runs([run])[1] == [Problem("broken", run, "cases.csv has a case without a DSC")]


def test_an_unfinished_run_says_how_far_it_came(tmp_path: Path) -> None:
    run = write_case_run(tmp_path / "run")
    (run / "metrics.json").unlink()
    (run / "logs" / "version_0").mkdir(parents=True)
    (run / "logs" / "version_0" / "metrics.csv").write_text("epoch,step,loss\n0,9,0.5\n0,59,\n")
    [problem] = find_runs([tmp_path])[1]
    assert problem == Problem("unfinished", run, "no metrics.json yet; its log ends at step 60 of 90")


def test_a_validation_and_predictions_in_a_run_folder_are_no_runs(tmp_path: Path) -> None:
    run = write_case_run(tmp_path / "run")
    for name in ("validate-1", "predict-12", "test-1"):
        (run / name).mkdir()
        (run / name / "config.yaml").write_text((run / "config.yaml").read_text())
    runs, problems = find_runs([tmp_path])
    assert [found.folder.name for found in runs] == ["run"]
    assert [(problem.kind, problem.folder.name) for problem in problems] == [("unfinished", "test-1")]


def test_an_unfinished_stream_counts_its_images(tmp_path: Path) -> None:
    run = write_stream_run(tmp_path / "run")
    (run / "metrics.json").unlink()
    assert find_runs([tmp_path])[1][0].reason == "no metrics.json yet; 10 images of its stream are done"


def test_an_unfinished_run_with_a_status(tmp_path: Path) -> None:
    run = write_case_run(tmp_path / "run")
    (run / "metrics.json").unlink()
    status = {"state": "failed", "verb": "fit", "step": 7, "steps": 90, "error": "out of memory"}
    (run / "status.json").write_text(json.dumps(status))
    assert find_runs([tmp_path])[1][0].reason == "no metrics.json yet; fit failed at step 7 of 90: out of memory"


def test_a_run_without_anything(tmp_path: Path) -> None:
    run = write_case_run(tmp_path / "run")
    (run / "metrics.json").unlink()
    assert "no log says how far it came" in find_runs([tmp_path])[1][0].reason


def test_folders_are_searched_once_and_reports_not_at_all(tmp_path: Path) -> None:
    run = write_case_run(tmp_path / "runs" / "a")
    write_case_run(tmp_path / "runs" / "report" / "b")
    (tmp_path / "runs" / "report" / "report.json").write_text("{}")
    write_case_run(run / "checkpoints" / "c")
    write_case_run(run / "test-1")
    assert [r.folder for r in find_runs([tmp_path / "runs", run])[0]] == [run, run / "test-1"]


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no folder"):
        find_runs([tmp_path / "missing"])
