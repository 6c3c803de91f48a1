"""The log of a run that was interrupted, once or twice, reads as if nothing had happened."""

import csv
from pathlib import Path

from lightning_samseg.runs.csv_log import CsvLog


def rows(folder: Path) -> list[tuple[int, str, str]]:
    with (folder / "logs" / "metrics.csv").open(newline="") as file:
        return [(int(row["step"]), row["loss"], row.get("dsc", "")) for row in csv.DictReader(file)]


def test_a_resumed_run_appends(tmp_path: Path) -> None:
    first = CsvLog(tmp_path)
    for step in range(4):
        first.log_metrics({"loss": step / 2}, step)
    first.save()
    second = CsvLog(tmp_path)
    second.log_metrics({"loss": 9.0}, 4)
    second.save()
    second.log_metrics({"loss": 8.0}, 5)
    second.finalize("success")
    assert rows(tmp_path) == [
        (0, "0.0", ""),
        (1, "0.5", ""),
        (2, "1.0", ""),
        (3, "1.5", ""),
        (4, "9.0", ""),
        (5, "8.0", ""),
    ]


def test_rows_behind_the_checkpoint_come_again(tmp_path: Path) -> None:
    killed = CsvLog(tmp_path)
    for step in range(6):
        killed.log_metrics({"loss": 1.0}, step)
        killed.save()
    resumed = CsvLog(tmp_path)  # from a checkpoint after step 2
    resumed.log_metrics({"loss": 2.0}, 3)
    resumed.save()
    assert rows(tmp_path) == [(0, "1.0", ""), (1, "1.0", ""), (2, "1.0", ""), (3, "2.0", "")]


def test_new_columns_do_not_lose_old_rows(tmp_path: Path) -> None:
    for start in (0, 2):
        log = CsvLog(tmp_path)
        log.log_metrics({"loss": 1.0}, start)
        log.save()
        log.log_metrics({"dsc": 0.5}, start)
        log.log_metrics({"loss": 3.0}, start + 1)
        log.save()
    assert rows(tmp_path) == [
        (0, "1.0", ""),
        (0, "", "0.5"),
        (1, "3.0", ""),
        (2, "1.0", ""),
        (2, "", "0.5"),
        (3, "3.0", ""),
    ]


def test_nothing_to_log_leaves_the_file_alone(tmp_path: Path) -> None:
    log = CsvLog(tmp_path)
    log.log_metrics({"loss": 1.0}, 0)
    log.save()
    CsvLog(tmp_path).save()
    assert rows(tmp_path) == [(0, "1.0", "")]


def test_a_row_that_was_cut_is_dropped(tmp_path: Path) -> None:
    killed = CsvLog(tmp_path)
    for step in (1, 15):
        killed.log_metrics({"loss": 0.5}, step)
        killed.save()
    path = tmp_path / "logs" / "metrics.csv"
    assert path.read_text().splitlines()[0] == "loss,step"
    path.write_bytes(path.read_bytes().rstrip()[:-1])  # "0.5,1" has as many cells as the header
    resumed = CsvLog(tmp_path)
    resumed.log_metrics({"loss": 2.0}, 14)
    resumed.save()
    assert rows(tmp_path) == [(1, "0.5", ""), (14, "2.0", "")]
