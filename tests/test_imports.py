"""Imports point one way."""

import ast
import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = [
    {"types", "errors", "moved_arguments", "lazy", "log"},
    {"io"},
    {"transforms", "models", "prompts", "losses", "metrics", "optim"},
    {"adapters"},
    {"semi", "online"},
    {"methods", "callbacks", "runs"},
    {"prediction", "grids", "reports", "planning"},
    {"annotate"},
]
"""From the bottom to the top; what is not named (the command lines) stands above all of them."""
FILES = sorted([*(ROOT / "lightning_samseg").rglob("*.py"), *(ROOT / "data_modules").rglob("*.py")])


def test_the_readme_tells_the_layers() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    rows = [line.split("|")[1] for line in lines if line.startswith("| `")]
    rooms = [set(re.findall(r"`([a-z_]+)`", row)) for row in rows]
    first = rooms.index(LAYERS[0])
    assert rooms[first : first + len(LAYERS)] == LAYERS


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


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nobody_asks_whether_a_method_is_aux_ol(path: Path) -> None:
    """What its kind decides, a method says itself (``methods.method``)."""
    assert not re.findall(r"isinstance\(.*\b(?:AuxOl|ZeroShot|DirectOl)\b", path.read_text())


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


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_holds_one_concept(path: Path) -> None:
    """Not a number of lines, which breeds files cut by length: how much a reader has to hold in mind at once."""
    defined = [n for n in ast.parse(path.read_text()).body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
    public = [node.name for node in defined if not node.name.startswith("_")]
    assert len(public) <= 13, f"{len(public)} public names: {public}"
    functions = {node.name: written(node) for node in defined}
    large = [name for name, lines in functions.items() if len(lines) > 10]
    assert len(large) <= 1, f"{large}: each large class has a file of its own"
    too_long = {name: n for lines in functions.values() for name, n in lines.items() if n > 60}
    assert not too_long, f"more than a screen: {too_long}"


def written(node: ast.FunctionDef | ast.ClassDef) -> dict[str, int]:
    """Lines of a function's body, or of the body of each of a class's, without docstrings and what is only declared."""
    lines = {}
    for function in node.body if isinstance(node, ast.ClassDef) else [node]:
        if isinstance(function, ast.FunctionDef):
            body = function.body[ast.get_docstring(function) is not None :]
            if body:
                lines[function.name] = (body[-1].end_lineno or 0) - body[0].lineno + 1
    return lines
