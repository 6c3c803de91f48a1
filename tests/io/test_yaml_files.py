import pytest

from lightning_samseg.errors import UserError
from lightning_samseg.io.yaml_files import read_yaml


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_values_and_texts(tmp_path) -> None:
    path = write(tmp_path / "a.yaml", "\ufeff1: ON\r\n2: no\r\n3: 1e3\r\n4: 2024-02-30\r\n5: ~\r\n")
    assert read_yaml(path, "", texts=True) == {"1": "ON", "2": "no", "3": "1e3", "4": "2024-02-30", "5": "~"}
    path = write(tmp_path / "a.yaml", "a: {b: on, c: [1, 2.5]}")
    assert read_yaml(path, "") == {"a": {"b": True, "c": [1, 2.5]}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2", r"a\.yaml, line 2: it is not YAML\.\n  expected: keys\n  found: 'a' is given twice"),
        ("a: {", r"line 1: it is not YAML"),
        ("a:\n\tb: 1", r"line 2: it is not YAML"),
        ("[1]: 2", "it is not YAML"),
        ("day: 2024-02-30", "day is out of range"),
        ("größe: 1".encode("latin-1"), r"line 1: not UTF-8 text\.\n  found: gr\\xf6\\xdfe: 1"),
        ("a: 1".encode("utf-16"), "UTF-16"),
    ],
)
@pytest.mark.parametrize("texts", [False, True])
def test_mistakes(tmp_path, text, message, texts) -> None:
    path = write(tmp_path / "a.yaml", text)
    if texts and "02-30" in str(text):
        return
    with pytest.raises(UserError, match=message):
        read_yaml(path, "keys", texts=texts)
