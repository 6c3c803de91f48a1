"""What the doctor finds, and what it must not say."""

from pathlib import Path
from typing import Any

import pytest

from lightning_samseg.__main__ import main
from lightning_samseg.cli import doctor as doctor_cli
from lightning_samseg.cli.doctor import Finding, devices, folders, packages, wandb_state, weights
from lightning_samseg.errors import UserError


def test_every_device_takes_a_step_of_three_methods() -> None:
    found = [finding for finding in devices() if finding.subject == "cpu"]
    assert [finding.what_to_do for finding in found] == [None] * 4
    for finding, method in zip(found[1:], ("CPC-SAM", "AuxOL", "UniMatch"), strict=True):
        assert method in finding.text


def test_a_step_that_fails_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any) -> float:
        raise RuntimeError("no kernel image is available\nmore")

    monkeypatch.setattr(doctor_cli, "cpc_sam_step", fails)
    monkeypatch.setattr(doctor_cli, "aux_ol_step", lambda *args: float("nan"))
    _, first, second, third = (finding for finding in devices() if finding.subject == "cpu")
    assert "no kernel image" in first.text
    assert "\n" not in first.text
    assert first.what_to_do
    assert second.what_to_do
    assert third.what_to_do is None


def test_a_failure_without_words_is_a_problem_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any) -> float:
        raise AssertionError

    monkeypatch.setattr(doctor_cli, "cpc_sam_step", fails)
    monkeypatch.setattr(doctor_cli, "aux_ol_step", lambda *args: 0.0)
    _, first, *_ = (finding for finding in devices() if finding.subject == "cpu")
    assert "AssertionError" in first.text
    assert first.what_to_do


def test_packages_that_are_missing_or_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(finding.what_to_do is None for finding in packages())
    wanted = ["torch>=99", "no-such-package>=1,<2", "numpy>=1", "absent; extra == 'dev'"]
    monkeypatch.setattr(doctor_cli.metadata, "requires", lambda name: wanted)
    problems = [finding for finding in packages() if finding.what_to_do]
    assert [finding.subject for finding in problems] == ["torch", "no-such-package"]
    assert "missing" in problems[1].text
    assert "pip install 'no-such-package" in str(problems[1].what_to_do)


def test_damaged_weights_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def wrong(name: str) -> Path:
        raise UserError(f"{name} is damaged", fix="fetch")

    (tmp_path / "weights").write_bytes(b"")
    monkeypatch.setattr(
        doctor_cli, "locate", lambda name: tmp_path / ("weights" if name in ("sam_vit_b", "sam_vit_l") else "no")
    )
    monkeypatch.setattr(doctor_cli, "is_verified", lambda name: name == "sam_vit_l")
    monkeypatch.setattr(doctor_cli, "verify", wrong)
    problem, right, absent = weights()
    assert (problem.subject, problem.text) == ("sam_vit_b", "sam_vit_b is damaged")
    assert "weights fetch sam_vit_b" in str(problem.what_to_do)
    assert right.what_to_do is None
    assert "lite_medsam" in absent.text
    assert absent.what_to_do is None


def test_the_key_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", "topsecret")
    (finding,) = wandb_state()
    assert "online" in finding.text
    assert "topsecret" not in finding.text


def test_folders_without_space(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert [finding.what_to_do for finding in folders(tmp_path / "new" / "runs")] == [None, None]
    monkeypatch.setattr(doctor_cli, "LEAST_FREE", float("inf"))
    assert all("make space" in str(finding.what_to_do) for finding in folders(tmp_path))
    monkeypatch.setattr(doctor_cli.os, "access", lambda *args: False)
    assert all("cannot be written" in finding.text for finding in folders(tmp_path))


@pytest.mark.parametrize("seconds", [2e-7, 2e-5])
def test_slow_pages_are_said(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr(doctor_cli.sys, "platform", "linux")
    fresh, again = doctor_cli._touch_pages()
    assert fresh > again > 0
    monkeypatch.setattr(doctor_cli, "_touch_pages", lambda: (seconds, 1e-8))
    (finding,) = doctor_cli.memory()
    assert finding.what_to_do is None
    assert f"{1e6 * seconds:.2f} us" in finding.text
    assert ("MALLOC_MMAP_MAX_=0" in finding.text) is (seconds > 1e-6)
    monkeypatch.setattr(doctor_cli.sys, "platform", "win32")
    assert list(doctor_cli.memory()) == []


@pytest.mark.parametrize(("what_to_do", "status"), [(None, 0), ("do this", 1)])
def test_report_and_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], what_to_do: str | None, status: int
) -> None:
    for name in ("packages", "weights", "wandb_state", "slurm", "memory", "devices"):
        monkeypatch.setattr(doctor_cli, name, lambda: [])
    monkeypatch.setattr(doctor_cli, "folders", lambda root: [Finding("runs", f"in {root}", what_to_do)])
    assert main(["doctor", "--root", "somewhere"]) == status
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == ("PROBLEM" if status else "ok     ") + " runs         in somewhere"
    assert lines[-1] == ("1 problem found." if status else "No problem found.")
    assert ("what to do: do this" in lines[1]) is bool(status)
