"""A real Label Studio: boxes are answered, what is submitted is learned from. ``make test-label-studio``."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lightning_samseg.annotate.benchmark import References, served
from lightning_samseg.annotate.client import Client
from lightning_samseg.annotate.label_studio import CONFIG, known_as
from lightning_samseg.annotate.label_studio_client import Studio as Project
from lightning_samseg.annotate.label_studio_regions import mask_of
from lightning_samseg.annotate.simulated import prompts_of
from lightning_samseg.runs.options import nested
from tests.annotate.conftest import LENGTH, MODEL, fit, write_stream
from tests.annotate.test_label_studio import SIZE, brush, rectangle
from tests.annotate.test_parity import assert_same
from tests.foreign_server import environment_of, free_port, running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800), pytest.mark.usefixtures("one_thread")]
STUDIO = "label-studio==1.23.2"
TOKEN = "0123456789abcdef0123456789abcdef01234567"
QUIET = {"COLLECT_ANALYTICS": "False", "SENTRY_DSN": "", "FRONTEND_SENTRY_DSN": "", "LATEST_VERSION_CHECK": "False"}
# Our server is on loopback, which Label Studio calls only when it is told that it may.
LOCAL = {"ML_BLOCK_LOCAL_IP": "false", "SSRF_PROTECTION_ENABLED": "false"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stream(tmp_path_factory.mktemp("stream"))


class Studio:
    """Its API."""

    def __init__(self, url: str) -> None:
        self.url = url

    def call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        return self.send(method, path, data, "application/json")

    def send(self, method: str, path: str, data: bytes | None, kind: str) -> Any:
        headers = {"Authorization": f"Token {TOKEN}", "Content-Type": kind}
        request = urllib.request.Request(f"{self.url}{path}", data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.code} {error.read()[:2000]!r}") from error


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Iterator[Studio]:
    folder = tmp_path_factory.mktemp("studio")
    programs = environment_of(STUDIO, "SAMSEG_LABEL_STUDIO_ENV", folder, seconds=900)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    options = ["--no-browser", "--data-dir", str(folder / "data"), "--internal-host", "127.0.0.1", "--port", str(port)]
    options += ["--host", url, "--username", "anna@example.com", "--password", "a-pass-word", "--user-token", TOKEN]
    options += ["--enable-legacy-api-token", "--agree-fix-sqlite"]
    files = {
        "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(data / "images"),
    }
    command = [programs / "label-studio", "start", *options]
    with running(command, f"{url}/health", folder, {**QUIET, **LOCAL, **files}, seconds=900):
        yield Studio(url)


def test_a_stream_ends_in_the_bits_of_fit(
    studio: Studio, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    reference, workspace = References(data / "masks"), tmp_path / "w"
    config = tmp_path / "model.yaml"
    model = {"class_path": "lightning_samseg.methods.AuxOl", "init_args": nested(MODEL)}
    config.write_text(yaml.safe_dump({"model": model}))
    options = ["--input", str(data / "images"), "--output", str(workspace), "--class", "disc", "--config", str(config)]
    with served([*options, "--patience", "inf", "--device", "cpu", "--label_studio"]) as (url, _):
        client = Client(url)
        address, _, token = url.partition("/#t=")
        labels = CONFIG.format(kind="Rectangle", name="disc")
        project = studio.call("POST", "/api/projects/", {"title": "discs", "label_config": labels})["id"]
        backend = {"project": project, "url": f"{address}/ls/{token}", "is_interactive": True, "title": "AuxOL"}
        connected = studio.call("POST", "/api/ml/", backend)["id"]
        tasks = json.loads((workspace / "label_studio_tasks.json").read_text())
        studio.call("POST", f"/api/projects/{project}/import", tasks)
        found = studio.call("GET", f"/api/tasks/?project={project}&page_size=100")
        listed = sorted(found["tasks"] if isinstance(found, dict) else found, key=lambda task: task["id"])
        assert len(listed) == LENGTH
        for count, task in enumerate(listed, 1):
            name = task["data"]["image"].rpartition("=")[2]
            mask = reference(name)
            for prompt in prompts_of(mask):
                asked = {"task": task["id"], "context": {"result": [rectangle(prompt["box"])]}}
                answer = studio.call("POST", f"/api/ml/{connected}/interactive-annotating", asked)
                (region,) = answer["data"]["result"]
                assert region["type"] == "brushlabels"
                assert mask_of([region], SIZE).shape == SIZE
            drawn = brush(mask) | {"id": f"r{count}", "from_name": "mask", "to_name": "image"}
            drawn["value"]["brushlabels"] = ["disc"]
            made = studio.call("POST", f"/api/tasks/{task['id']}/annotations/", {"result": [drawn], "lead_time": 3.5})
            stored = studio.call("GET", f"/api/annotations/{made['id']}/")
            np.testing.assert_array_equal(mask_of(stored["result"], SIZE), mask)
            while client.workspace()["numbers"]["accepted"] < count:
                time.sleep(0.1)
        while client.workspace()["pending"]:
            time.sleep(0.1)
        client.close()
    assert_same(workspace, fit(tmp_path, data))


def test_uploads_and_annotations_that_nobody_heard_of(studio: Studio, data: Path, tmp_path: Path) -> None:
    labels = CONFIG.format(kind="Rectangle", name="disc")
    project = studio.call("POST", "/api/projects/", {"title": "uploads", "label_config": labels})["id"]
    picture = (data / "images" / "case0.png").read_bytes()
    head = 'Content-Disposition: form-data; name="file"; filename="one lesion.png"\r\nContent-Type: image/png\r\n\r\n'
    form = b"--xyz\r\n" + head.encode() + picture + b"\r\n--xyz--\r\n"
    studio.send("POST", f"/api/projects/{project}/import", form, "multipart/form-data; boundary=xyz")
    asked = Project(f"{studio.url}/projects/{project}/data", TOKEN)
    (task,) = asked.tasks()
    (path,) = asked.fetch_uploads(tmp_path, [task])
    assert path.read_bytes() == picture
    assert asked.fetch_uploads(tmp_path, [task]) == []
    mask = References(data / "masks")("case0")
    drawn = brush(mask) | {"id": "r1", "from_name": "mask", "to_name": "image"}
    drawn["value"]["brushlabels"] = ["disc"]
    made = studio.call("POST", f"/api/tasks/{task['id']}/annotations/", {"result": [drawn], "lead_time": 3.5})
    ((found,),) = (each["annotations"] for each in asked.tasks())
    told = studio.call("GET", f"/api/annotations/{made['id']}/")  # as a web hook has it
    assert known_as(str(found["id"]), found["updated_at"]) == known_as(str(told["id"]), told["updated_at"])
    assert found["was_cancelled"] is False
    np.testing.assert_array_equal(mask_of(found["result"], SIZE), mask)
