"""Imports point one way."""

import ast
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = [
    {"types", "errors", "lazy", "log"},
    {"io"},
    {"transforms", "models", "prompts", "losses", "metrics", "optim"},
    {"adapters"},
    {"semi", "online"},
    {"methods", "callbacks", "runs"},
    {"prediction", "grids", "reports"},
    {"annotate"},
]
"""From the bottom to the top; what is not named (the command lines) stands above all of them."""
FILES = sorted([*(ROOT / "lightning_samseg").rglob("*.py"), *(ROOT / "data_modules").rglob("*.py")])


def layer(part: str) -> int:
    return next((height for height, names in enumerate(LAYERS) if part in names), len(LAYERS))


def imported(path: Path) -> list[str]:
    """Our own modules that a file imports, as dotted names."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return [name for name in names if name.split(".")[0] in ("lightning_samseg", "data_modules")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_direction(path: Path) -> None:
    package, *rest = path.relative_to(ROOT).with_suffix("").parts
    for name in imported(path):
        target, *parts = name.split(".")
        if package == "data_modules":
            assert target == package or parts[0] in ("types", "errors", "io", "transforms"), name
        elif rest and rest[0] not in ("__init__", "__main__"):
            height = layer(rest[0])
            assert target == "lightning_samseg" or height == len(LAYERS), (
                f"{name}: only the command line knows data sets"
            )
            if parts and target == "lightning_samseg" and not parts[0].startswith("__"):
                assert layer(parts[0]) <= height, name


@pytest.mark.parametrize("path", [p for p in FILES if "layouts" not in p.parts], ids=lambda p: str(p.relative_to(ROOT)))
def test_files_stay_readable(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 470


PACKAGES = sorted({path.parent for path in FILES} - {ROOT / "lightning_samseg" / "cli"})


@pytest.mark.parametrize("folder", PACKAGES, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_a_package_says_what_lives_there(folder: Path) -> None:
    package = import_module(".".join(folder.relative_to(ROOT).parts))
    assert len(package.__doc__ or "") > 30
    if folder.name not in ("annotate", "generated", "layouts", "loading"):
        assert package.__all__
    for name in getattr(package, "__all__", ()):
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="no attribute"):
        package.no_such_name  # noqa: B018
