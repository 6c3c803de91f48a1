"""MONAI Label's calls, as its client 0.8.5 and 3D Slicer send them, by a test client."""

import gzip
import json
import threading
import time
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import uvicorn
from starlette.testclient import TestClient

from lightning_samseg.annotate.http import create_app
from lightning_samseg.annotate.monai_label import MonaiLabel, prompts_of
from lightning_samseg.annotate.security import local_addresses
from lightning_samseg.annotate.server import bind
from lightning_samseg.errors import UserError
from tests.annotate import conftest
from tests.annotate.test_parity import assert_same

pytestmark = pytest.mark.usefixtures("one_thread")
TOKEN = "t" * 43
AFFINE = np.array([[-0.7, 0, 0, 9], [0, 0.8, 0, -4], [0, 0, 5, 2], [0, 0, 0, 1]], np.float64)


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two volumes of three slices with a disc in each; ``(column, row, slice)`` as NIfTI has them."""
    root = tmp_path_factory.mktemp("volumes")
    columns, rows = np.ogrid[:56, :40]
    for number in range(2):
        rng = np.random.default_rng(number)
        mask = np.zeros((56, 40, 3), np.uint8)
        for index in range(3):
            x, y, radius = rng.uniform(14, 40), rng.uniform(14, 26), rng.uniform(6, 9)
            mask[..., index] = (columns - x) ** 2 + (rows - y) ** 2 < radius**2
        voxels = rng.normal(90, 15, mask.shape) + 70 * mask
        for folder, values in (("images", voxels.astype(np.int16)), ("masks", mask)):
            (root / folder).mkdir(exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(values, AFFINE), root / folder / f"v{number}.nii.gz")
    return root


@pytest.fixture
def connected(workspace_engine: Any, volumes: Path, tmp_path: Path) -> Iterator[tuple[Any, TestClient]]:
    with workspace_engine(tmp_path / "w", volumes / "images") as engine:
        app = create_app(engine, ["127.0.0.1:8765"], {TOKEN: "anna"}, adapters=MonaiLabel(engine).routes())
        yield engine, TestClient(app, f"http://127.0.0.1:8765/monai/{TOKEN}/")


def infer(client: TestClient, model: str, name: str, parameters: Any, output: str = "") -> tuple[dict[str, Any], Any]:
    """Field ``params`` of the answer, and its volume."""
    form = {"params": (None, json.dumps(parameters))}
    answer = client.post(f"infer/{model}?image={name}&output={output}", files=form)
    assert answer.status_code == 200, answer.text
    head = f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode()
    params, image = message_from_bytes(head + answer.content).get_payload()
    return json.loads(params.get_payload()), nibabel.Nifti1Image.from_bytes(
        gzip.decompress(image.get_payload(decode=True))
    )


def test_the_strong_test(connected: tuple[Any, TestClient], volumes: Path, tmp_path: Path) -> None:
    """Regions asked slice by slice and labels uploaded end in the very bits of ``fit``."""
    engine, client = connected
    for number in range(2):
        sample = client.post("activelearning/stream", json={"client_id": "slicer"}).json()
        assert (sample["id"], sample["name"]) == (f"v{number}", f"v{number}.nii.gz")
        file = volumes / "masks" / sample["name"]
        mask = np.asarray(nibabel.load(file).dataobj)
        for index in range(3):
            i, j = np.nonzero(mask[..., index])
            roi = [int(i.max()), int(i.min()), int(j.min()), int(j.max()), index, index]  # RAS turns the first pair
            params, result = infer(client, "aux_ol", sample["id"], {"label": "disc", "roi": roi, "slice": index})
            assert params["label_names"] == {"disc": 1}
            assert np.allclose(result.affine, AFFINE)
            answer = np.asarray(result.dataobj)
            assert answer.shape == mask.shape
            assert set(np.flatnonzero(answer.any((0, 1)))) <= {index}
            so_far = mask * (np.arange(3) <= index)
            label = gzip.compress(nibabel.Nifti1Image(so_far.astype(np.uint8), AFFINE).to_bytes())
            files = {
                "params": (None, json.dumps({"label_info": [{"name": "disc", "idx": 1}]})),
                "label": ("/home/anna/tmp/label.nii.gz", label),
            }
            answer = client.put(f"datastore/label?image={sample['id']}&tag=final", files=files)
            assert answer.status_code == 200, answer.text
    engine.finish()
    assert [each["event"] for each in map(json.loads, engine.workspace.journal.path.open())] == ["accept"] * 6
    assert client.post("activelearning/stream", json={}).json() == {}
    engine._masks.submit(lambda: None).result()
    stored = nibabel.load(tmp_path / "w" / "masks" / "v1.nii.gz")
    assert np.array_equal(np.asarray(stored.dataobj), mask)
    assert np.allclose(stored.affine, AFFINE)
    assert np.array_equal(np.asarray(infer(client, "current", "v1", {})[1].dataobj), mask)
    engine.close()
    assert_same(tmp_path / "w", conftest.fit(tmp_path, volumes))


@pytest.mark.slow
def test_the_strong_test_with_the_real_client(workspace_engine: Any, volumes: Path, tmp_path: Path) -> None:
    """The same by ``MONAILabelClient`` at a real port. Needs ``pip install --no-deps monailabel==0.8.5 requests``."""
    real = pytest.importorskip("monailabel.client").MONAILabelClient
    with workspace_engine(tmp_path / "w", volumes / "images") as engine:
        port = bind("127.0.0.1", 0)
        number = port.getsockname()[1]
        app = create_app(engine, local_addresses(number, ()), {TOKEN: "anna"}, adapters=MonaiLabel(engine).routes())
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [port]})
        thread.start()
        try:
            client = real(f"http://127.0.0.1:{number}/monai/{TOKEN}", tmpdir=str(tmp_path), client_id="slicer")
            while not server.started:
                time.sleep(0.02)
            assert client.info()["labels"] == ["disc"]
            while sample := client.next_sample("stream", {}):
                mask = np.asarray(nibabel.load(volumes / "masks" / sample["name"]).dataobj)
                for index in range(3):
                    i, j = np.nonzero(mask[..., index])
                    roi = [int(i.max()), int(i.min()), int(j.min()), int(j.max()), index, index]
                    answer, _ = client.infer("aux_ol", sample["id"], {"label": "disc", "roi": roi, "slice": index})
                    assert nibabel.load(answer).shape == mask.shape
                    label = tmp_path / "label.nii.gz"
                    so_far = mask * (np.arange(3) <= index)
                    nibabel.save(nibabel.Nifti1Image(so_far.astype(np.uint8), AFFINE), label)
                    client.save_label(sample["id"], str(label), "final", {"label_info": [{"name": "disc", "idx": 1}]})
        finally:
            server.should_exit = True
            thread.join(20)
            port.close()
        engine.finish()
    assert_same(tmp_path / "w", conftest.fit(tmp_path, volumes))


def test_other_calls(connected: tuple[Any, TestClient], volumes: Path) -> None:
    _, client = connected
    info = client.get("info/").json()
    assert info["labels"] == ["disc"]
    assert {model["type"] for model in info["models"].values()} == {"deepgrow", "segmentation"}
    assert "config" not in info
    assert info["datastore"] == {"total": 2, "completed": 0, "label_tags": {}}
    assert set(client.get("datastore/?output=all").json()["objects"]) == {"v0", "v1"}
    image = client.get("datastore/image?image=v0")
    assert image.content == (volumes / "images" / "v0.nii.gz").read_bytes()
    assert client.head("datastore/image?image=v0").status_code == 200
    assert client.get("train/?check_if_running=true").status_code == 404
    assert client.post("train/").status_code == client.delete("train/").status_code == 200
    assert client.get("auth/").status_code == 404
    assert client.put("datastore/?image=x").status_code == client.get("session/").status_code == 501
    for name in ("../v0", "v0.nii.gz", "", "/etc/passwd"):
        assert client.get("datastore/image", params={"image": name}).status_code == 404
    assert client.post("infer/aux_ol?image=v0", files={"params": (None, "{}")}).status_code == 422
    assert client.post("infer/other?image=v0", files={"params": (None, "{}")}).status_code == 404
    other = TestClient(client.app, "http://127.0.0.1:8765")
    assert other.get("/monai/wrong/info/").status_code == other.get("/monai/info/").status_code == 401


def test_labels_that_do_not_fit(connected: tuple[Any, TestClient], tmp_path: Path) -> None:
    engine, client = connected
    nibabel.save(nibabel.Nifti1Image(np.ones((9, 9, 9), np.uint8), AFFINE), tmp_path / "small.nii.gz")
    small = (tmp_path / "small.nii.gz").read_bytes()
    for content, words in ((small, "does not fit"), (b"\x80\x04pickle", "label.nii"), (b"", "label.nii")):
        answer = client.put("datastore/label?image=v0", files={"label": ("label.nii.gz", content)})
        assert answer.status_code == 422
        assert words in answer.json()["error"]
    assert client.put("datastore/label?image=v0", files={"params": (None, "{}")}).status_code == 400
    assert engine.workspace.accepts == []


def test_prompts_by_slice() -> None:
    assert prompts_of({"roi": [9, 2, 3, 5, 1, 1]}, 3, "box") == {1: [{"box": [2, 3, 10, 6]}]}
    both = prompts_of({"foreground": [[1, 2, 0], [3, 4, 2], [5, 6, 2]]}, 3, "point")
    assert both == {0: [{"point": [1, 2]}], 2: [{"point": [3, 4]}, {"point": [5, 6]}]}
    for parameters in ({}, {"roi": [1, 2, 3]}, {"roi": [1, 2, 3, 4, 9, 9]}, {"roi": ["a", 1, 2, 3, 4, 5]}):
        with pytest.raises(UserError):
            prompts_of(parameters, 3, "box")
