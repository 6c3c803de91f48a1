"""What a run was told and made from, and what of it changed on the way: every checkpoint holds it. Needs no torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lightning_samseg.errors import UserError
from lightning_samseg.runs.options import MAY_CHANGE, Change, changes, is_one_of
from lightning_samseg.runs.process import say

KEY = "run"
"""Of a checkpoint: ``options``, ``facts`` and ``changes``, in plain values."""


class Record:
    """Options and facts of a run.

    Args:
        options: Its configuration, as in ``config.yaml``.
        allow_changes: Whether a run that goes on may be another experiment from there on.
    """

    def __init__(self, options: Mapping[str, Any], allow_changes: bool = False) -> None:
        self.options = options
        self.facts: dict[str, Any] = {}
        """``processes``, ``data_fingerprint``, ``split``, ``weights_sha256``; known when the data are set up."""
        self.changes: list[dict[str, Any]] = []
        """Of all times it went on: ``{"step", "option", "from", "to"}``, in order."""
        self.resumed_at: int | None = None
        """Iterations that were done when it went on; None for a run that begins."""
        self.changed_now = False
        self._allow_changes = allow_changes
        self._before: dict[str, Any] = {}

    def take_over(self, checkpoint: Mapping[str, Any]) -> None:
        """Take the changes of the run that a checkpoint is of, for results made with its weights."""
        self._before = dict(checkpoint.get(KEY) or {})
        self.changes = list(self._before.get("changes", []))

    def resume(self, checkpoint: Mapping[str, Any], path: Path, run_dir: Path) -> None:
        """Compare the options with those that the checkpoint was trained with; say and note what differs.

        A checkpoint of an older version does not hold them: ``config.yaml`` of its run folder stands in.

        Args:
            checkpoint: What the run goes on from.
            path: Its file.
            run_dir: The folder in which the run goes on.

        Raises:
            UserError: If an option differs that makes another experiment, and that is not allowed.
        """
        self.take_over(checkpoint)
        self.resumed_at = int(checkpoint.get("global_step", 0))
        options = self._before.get("options") or _options_beside(path)
        if options is not None:
            config = path.parent.parent / "config.yaml"
            self._note(changes(options, self.options), config if config.is_file() else path)
            if path.resolve().parents[1] == run_dir.resolve():  # config.yaml repeats the run from its start
                self.options = {**self.options, "ckpt_path": options.get("ckpt_path")}

    def note_facts(self, facts: Mapping[str, Any]) -> None:
        """Take the facts of the run down; where it goes on, compare them with those of the checkpoint.

        Args:
            facts: Name -> value; None counts as unknown.

        Raises:
            UserError: As :meth:`resume`.
        """
        self.facts = dict(facts)
        before = self._before.get("facts") or {}
        known = [name for name, value in facts.items() if value is not None and before.get(name) is not None]
        self._note([Change(name, before[name], facts[name]) for name in known if before[name] != facts[name]])

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps under ``KEY``."""
        return {"options": dict(self.options), "facts": self.facts, "changes": self.changes}

    def comments(self) -> str:
        """Lines for ``config.yaml`` that tell of changes; empty where there are none."""
        steps: dict[int, list[str]] = {}
        for each in self.changes:
            change = Change(each["option"], each["from"], each["to"])
            steps.setdefault(each["step"], []).append(str(change).replace("\n", " "))
        return "".join(f"# changed at iteration {step}: {'; '.join(texts)}\n" for step, texts in steps.items())

    def _note(self, found: list[Change], path: Path | None = None) -> None:
        if not found:
            return
        others = [change for change in found if not is_one_of(change.option, MAY_CHANGE)]
        if others and not self._allow_changes:
            raise UserError(
                f"The run that goes on at iteration {self.resumed_at} would be another experiment from there on.",
                expected="what it was trained with so far" + (f", as in {path}" if path else ""),
                found="; ".join(str(change) for change in others),
                fix="set them as they were, or start a new run in another --trainer.default_root_dir; with "
                "--allow_changes it goes on, and config.yaml and metrics.json tell of the change",
            )
        mark = "warning: another experiment from here on: " if others else ""
        say(f"{mark}the run goes on at iteration {self.resumed_at} with {'; '.join(str(change) for change in found)}")
        self.changed_now = True
        self.changes += [
            {"step": self.resumed_at, "option": name, "from": before, "to": now} for name, before, now in found
        ]


def _options_beside(checkpoint: Path) -> dict[str, Any] | None:
    """``config.yaml`` of the run folder in which a checkpoint lies; None where there is none."""
    try:
        content = yaml.safe_load((checkpoint.parents[1] / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, IndexError, yaml.YAMLError):
        return None
    return content if isinstance(content, dict) else None
