"""``logs/metrics.csv``: a run that is resumed goes on with it."""

import os
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from lightning_samseg.io.files import atomic_write
from lightning_samseg.io.tables import mapped, read_table, table_text


class CsvLog(CSVLogger):
    """Appends to ``FOLDER/logs/metrics.csv``, where Lightning's logger would start a new folder or delete the file.

    Rows that a killed run wrote after the checkpoint it is resumed from are dropped: they come again.

    Args:
        folder: Folder of the results.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder, name="logs", version="")

    @property
    @rank_zero_experiment
    def experiment(self) -> "_Rows":
        """The writer, made when it is first needed."""
        if self._experiment is None:
            self._experiment = _Rows(self.log_dir)
        assert isinstance(self._experiment, _Rows)
        return self._experiment


class _Rows(ExperimentWriter):
    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        self.path = Path(self.metrics_file_path)
        self._opened = False

    def _check_log_dir_exists(self) -> None:
        """Keep the file that is there."""

    def save(self) -> None:
        """Write what has been logged since the last time."""
        rows, self.metrics = self.metrics, []
        super().save()  # hyperparameters alone
        if not rows:
            return
        earlier: list[dict[str, Any]] = []
        if not self._opened:
            self._opened = True
            earlier = [row for row in self._read() if int(row["step"]) < rows[0]["step"]]
        keys = sorted(set(self.metrics_keys).union(*earlier, *rows))
        if keys == self.metrics_keys:
            self._write(self.path, "a", rows)
            return
        if self.metrics_keys:  # this process has written under fewer columns
            earlier = self._read()
        self.metrics_keys = keys
        with atomic_write(self.path) as temporary:
            self._write(temporary, "w", [*earlier, *rows])

    def _read(self) -> list[dict[str, Any]]:
        if not self.path.is_file():
            return []
        content = self.path.read_bytes()
        cut = None if content.endswith(b"\n") else content.count(b"\n") + 1  # by a full disk or a kill
        rows = [row.cells for row in read_table(self.path, skip_broken=True) if row.line != cut]
        return [row for row in rows if row.get("step", "").isdigit()]

    def _write(self, path: Path, mode: str, rows: list[dict[str, Any]]) -> None:
        with path.open(mode, newline="", encoding="utf-8") as file:
            head = [self.metrics_keys] if mode == "w" else []
            file.write(table_text([*head, *mapped(rows, self.metrics_keys)]))
            file.flush()
            os.fsync(file.fileno())
