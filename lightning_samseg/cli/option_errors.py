"""What jsonargparse says of wrong options and configurations, in the words of our messages."""

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from lightning_samseg.errors import UserError
from lightning_samseg.io.yaml_files import read_yaml
from lightning_samseg.moved_arguments import MOVED


def check_configs(argv: Sequence[str]) -> None:
    """Read the YAML files that ``--config`` names, for mistakes that jsonargparse would not say where to look for.

    Args:
        argv: The verb and its options.

    Raises:
        UserError: If one is not UTF-8 or not YAML, gives a key twice, or holds no options.
    """
    given = [after for option, after in pairwise(argv) if option in ("--config", "-c")]
    given += [option.partition("=")[2] for option in argv if option.startswith("--config=")]
    for path in map(Path, given):
        if path.suffix.lower() not in (".yaml", ".yml") or not path.is_file():
            continue
        expected = "options of a run, such as trainer:, model: and data:"
        content = read_yaml(path, expected)
        if not isinstance(content, dict):
            found = "nothing" if content is None else f"{content}"[:100]
            raise UserError(
                f"{path} holds no options.", expected=expected, found=found, fix="see experiments/quickstart"
            )


def reworded(text: str, verb: str) -> UserError:
    """Say what is wrong with an option.

    Args:
        text: jsonargparse's words.
        verb: Of the command line.
    """
    manual = f"python -m lightning_samseg {verb}"
    see = f"correct it; options are described by {manual} --help"
    text = text.strip()
    option = "--" + ".".join(re.findall(r'Parser key "([^"]+)"', text))
    kind = _first(r"given class_path '([^']+)'", text)
    described = f"correct it; options are described by {manual} {option.split('.')[0]}.help {kind}" if kind else see
    name = str(kind).rpartition(".")[2]
    rejected = _first(r"Option '([^']+)' is not accepted", text)
    # A group that is given one value is to jsonargparse an option in it of the same name.
    alone = rejected or re.sub(r"^(\w+)\.\1$", r"\1", option.removeprefix("--model."))
    if new := MOVED.get(name, {}).get(alone):
        fix = f"set --model.{new}, in a config the same under model.init_args"
        return UserError(f"{name} has {alone} in a group now.", found=f"--model.{alone}", fix=fix)
    if rejected:
        return UserError(f"{name} has no option {rejected}.", found=f"{option}.{rejected}", fix=described)
    wanted = [_type(each) for each in re.findall(r"Expected an? (.+?)(?:\. Got value: .*)?$", text, re.MULTILINE)]
    found = _first(r"Got value: (.*)$", text) or _first(r"Given value: (?:NestedArg\(.*val=)?(.*?)\)?$", text)
    reason = _first(r"given class_path '[^']+':\n\s*(?=\S)(?!Parser key)(.*)$", text)
    if kind and reason:
        return UserError(f"{option} {kind} cannot be used.", found=reason, fix=see)
    if wanted and found is not None:
        expected = ", or ".join(each for each in dict.fromkeys(wanted) if each != "null" or len(wanted) == 1)
        return UserError(f"{option} has a wrong value.", expected=expected, found=found.strip("'"), fix=described)
    if path := _first(r'"config": .*: \'(.*)\'$', text):
        return UserError(f"There is no configuration {path}.", found=text.partition('": ')[2], fix="check --config")
    if missing := _first(r"the following arguments are required: (.*)$", text):
        names = ", ".join(f"--{name.removeprefix(f'{verb}.')}" for name in missing.split(", "))
        return UserError(
            f"{verb} lacks {names}.",
            expected="a configuration that names them, such as experiments/quickstart/cpc_sam.yaml",
            fix="add --config FILE",
        )
    return UserError(re.sub(r"\n\s*", "\n  ", text), fix=see)


def _first(pattern: str, text: str) -> str | None:
    found = re.search(pattern, text, re.MULTILINE)
    return found[1] if found else None


def _type(text: str) -> str:
    """A type as a user would write its values."""
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text)
    text = re.sub(r"typing\.Literal\[(.*?)\]", r"\1", text)
    return "null" if text == "NoneType" else text
