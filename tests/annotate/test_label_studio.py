"""Label Studio's calls, as version 1.23 sends them, by a test client."""

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from lightning_samseg.annotate import label_studio_rle
from lightning_samseg.annotate.drawn import merged
from lightning_samseg.annotate.http import create_app
from lightning_samseg.annotate.label_studio import CONFIG, LabelStudio, write_tasks
from lightning_samseg.annotate.label_studio_regions import mask_of, prompt_of
from lightning_samseg.annotate.simulated import prompts_of
from lightning_samseg.errors import UserError
from tests.annotate.conftest import reference
from tests.annotate.test_parity import assert_same

pytestmark = pytest.mark.usefixtures("one_thread")
TOKEN = "t" * 43
LABELS = CONFIG.format(kind="Rectangle", name="disc")
SIZE = (40, 56)
DRAWN = {"original_width": 56, "original_height": 40, "image_rotation": 0}


class Connected:
    """Label Studio's side."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.studio = engine, LabelStudio(engine)
        app = create_app(engine, ["127.0.0.1:8765"], {TOKEN: "anna"}, adapters=self.studio.routes())
        self.client = TestClient(app, "http://127.0.0.1:8765")
        self.studio.start()

    def call(self, name: str, body: Any) -> Any:
        return self.client.post(f"/ls/{TOKEN}/{name}", json=body)

    def predict(self, task: Any, regions: Any) -> list[dict[str, Any]]:
        context = None if regions is None else {"result": regions}
        body = {"tasks": [task], "project": "1.1", "label_config": LABELS, "params": {"context": context}}
        (result,) = self.call("predict", body).json()["results"]
        assert result["model_version"] == "AuxOl"
        return result["result"]

    def submit(self, task: Any, number: int, regions: Any, action: str = "ANNOTATION_CREATED") -> Any:
        annotation = {"id": number, "updated_at": "2026-11-26T10:00:00Z", "result": regions, "lead_time": 4.5}
        return self.call("webhook", {"action": action, "annotation": annotation, "task": task, "project": {"id": 1}})


@pytest.fixture
def connected(workspace_engine: Any, tmp_path: Path) -> Iterator[Connected]:
    with workspace_engine(tmp_path / "w") as engine:
        connected = Connected(engine)
        yield connected
        connected.studio.close()


def task_of(name: str) -> dict[str, Any]:
    return {"id": 7, "data": {"image": f"/data/local-files/?d=some/folder/{name}.png"}}


def rectangle(box: list[int]) -> dict[str, Any]:
    """A box as the page has it, in percent."""
    x0, y0, x1, y1 = box
    value = {"x": 100 * x0 / 56, "y": 100 * y0 / 40, "width": 100 * (x1 - x0) / 56, "height": 100 * (y1 - y0) / 40}
    return DRAWN | {"type": "rectanglelabels", "value": value | {"rotation": 0, "rectanglelabels": ["disc"]}}


def brush(mask: np.ndarray) -> dict[str, Any]:
    return DRAWN | {"type": "brushlabels", "value": {"format": "rle", "rle": label_studio_rle.encode(mask)}}


def test_the_strong_test(connected: Connected, data: Path, fitted: Path) -> None:
    """Boxes asked one by one and masks submitted end in the very bits of ``fit``."""
    for number, image in enumerate(list(connected.engine.workspace.images.values())):
        task, mask = task_of(image.name), reference(data, image.name)
        assert connected.predict(task, None) == []  # merely opened
        for prompt in prompts_of(mask):
            (region,) = connected.predict(task, [rectangle(prompt["box"])])
            assert (region["from_name"], region["to_name"], region["type"]) == ("mask", "image", "brushlabels")
            assert region["value"]["brushlabels"] == ["disc"]
            label_studio_rle.decode(region["value"]["rle"], SIZE)
        for _ in range(2):  # a backend that is connected twice calls twice
            assert connected.submit(task, number, [brush(mask), rectangle([1, 1, 5, 5])]).status_code == 201
        connected.studio._worker.submit(lambda: None).result()
    connected.engine.finish()
    accepts = connected.engine.workspace.accepts
    assert [each["source"] for each in accepts] == ["label_studio"] * 6
    assert accepts[0]["effort"] == {"seconds": 4.5}
    connected.studio.close()
    connected.engine.close()
    assert_same(connected.engine.workspace.folder, fitted)


def test_without_prompts_and_again(connected: Connected, data: Path) -> None:
    task, mask = task_of("case1"), reference(data, "case1")
    connected.submit(task, 1, [brush(mask)])
    connected.studio._worker.submit(lambda: None).result()
    (entry,) = connected.engine.workspace.accepts
    assert entry["derived"]
    assert entry["prompts"] == [{"box": each["box"]} for each in prompts_of(mask)]
    body = {"id": 1, "updated_at": "later", "result": [], "lead_time": None}
    connected.call("webhook", {"action": "ANNOTATION_UPDATED", "annotation": body, "task": task})
    connected.studio._worker.submit(lambda: None).result()
    assert len(connected.engine.workspace.accepts) == 1
    assert connected.engine.workspace.known[entry["id"]].accepted == {"size": [40, 56], "counts": [2240]}


def test_a_deleted_annotation_is_said(connected: Connected, data: Path) -> None:
    connected.submit(task_of("case0"), 12, [brush(reference(data, "case0"))])
    connected.studio._worker.submit(lambda: None).result()
    assert (
        connected.call("webhook", {"action": "ANNOTATIONS_DELETED", "annotations": [{"id": 1}, 3]}).status_code == 200
    )
    assert connected.engine.notes == []
    connected.call("webhook", {"action": "ANNOTATIONS_DELETED", "annotations": [{"id": 12}]})
    (note,) = connected.engine.notes
    assert "annotation of case0 was deleted" in note
    assert len(connected.engine.workspace.accepts) == 1


def test_an_event_that_a_kill_left_undone(workspace_engine: Any, data: Path, tmp_path: Path) -> None:
    with workspace_engine(tmp_path / "w") as engine:
        connected = Connected(engine)
        connected.studio._work = lambda entry: None  # type: ignore[method-assign]
        assert connected.submit(task_of("case0"), 1, [brush(reference(data, "case0"))]).status_code == 201
        connected.studio.close()
    with workspace_engine(tmp_path / "w") as engine:
        Connected(engine).studio.close()
        assert [each["hook"] for each in engine.workspace.accepts] == ["1@2026-11-26T10:00:00Z"]


def test_what_cannot_be_used_is_said(connected: Connected, data: Path) -> None:
    engine, mask = connected.engine, reference(data, "case0")
    assert connected.predict(task_of("other"), [rectangle([1, 2, 9, 9])]) == []
    assert "not in --input" in engine.notes[-1]
    assert connected.predict(task_of("case0"), [rectangle([1, 2, 9, 9]) | {"original_width": 40}]) == []
    assert "another size" in engine.notes[-1]
    point = DRAWN | {"type": "keypointlabels", "is_positive": True, "value": {"x": 50, "y": 50, "width": 1}}
    assert connected.predict(task_of("case0"), [point]) == []
    assert "takes box prompts" in engine.notes[-1]
    short = brush(mask)
    short["value"]["rle"] = short["value"]["rle"][:20]
    assert connected.submit(task_of("case0"), 1, [short]).json() == {"status": "not used"}
    assert "end too early" in engine.notes[-1]
    assert engine.workspace.accepts == []


def test_other_calls(connected: Connected) -> None:
    base = f"/ls/{TOKEN}"
    assert connected.client.get(f"{base}/health").json() == {"status": "UP", "model_class": "AuxOl"}
    assert connected.client.get(f"{base}/versions").json() == {"versions": ["AuxOl"]}
    assert connected.call("setup", {"project": "1.1", "access_token": "secret"}).json() == {"model_version": "AuxOl"}
    for action in ("TASKS_CREATED", "ANNOTATIONS_DELETED", "START_TRAINING", None):
        assert connected.call("webhook", {"action": action}).status_code == 200
    for path in (f"{base}/job_status", f"{base}/delete", "/ls/health", f"/ls/{'x' * 43}/health"):
        assert connected.client.get(path).status_code == (404 if path.startswith(base) else 401)


def test_tasks_are_found_again(connected: Connected) -> None:
    tasks = json.loads(write_tasks(connected.engine).read_text())
    assert [connected.studio.image_of(task) for task in tasks] == list(connected.engine.workspace.images)


def test_regions_to_prompts() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        x0, y0 = int(rng.integers(0, 50)), int(rng.integers(0, 36))
        box = [x0, y0, int(rng.integers(x0 + 1, 57)), int(rng.integers(y0 + 1, 41))]
        assert prompt_of(json.loads(json.dumps(rectangle(box))), SIZE) == {"box": box}
    turned = rectangle([20, 10, 30, 14])
    turned["value"]["rotation"] = 90  # about its upper left corner
    assert prompt_of(turned, SIZE) == {"box": [16, 10, 20, 20]}
    last = DRAWN | {"type": "keypointlabels", "value": {"x": 100, "y": 0}}
    assert prompt_of(last, SIZE) == {"point": [55, 0]}
    assert prompt_of(last | {"is_positive": False}, SIZE) is None


def test_prompts_add_up() -> None:
    one, near, far = {"box": [0, 0, 10, 10]}, {"box": [0, 0, 10, 20]}, {"box": [0, 0, 10, 21]}
    assert merged([one], [near]) == [near]  # IoU 0.5
    assert merged([one], [far]) == [one, far]
    assert merged([{"point": [1, 1]}], [{"point": [1, 1]}, {"point": [2, 1]}]) == [{"point": [1, 1]}, {"point": [2, 1]}]


@pytest.mark.reference
def test_run_lengths() -> None:
    """The first bytes that the package label_studio_sdk writes for this mask, and masks of every kind back again."""
    mask = np.zeros((60, 80), np.uint8)
    mask[10:30, 20:50] = 1
    packed = label_studio_rle.encode(mask)
    assert packed[:13] == [0, 0, 75, 0, 57, 27, 255, 12, 207, 0, 206, 255, 251]
    rng = np.random.default_rng(0)
    for share in (0, 0.01, 0.5, 1):
        mask = (rng.random((150, 301)) < share).astype(np.uint8)
        assert np.array_equal(label_studio_rle.decode(label_studio_rle.encode(mask), mask.shape), mask)
    # Literals, which Label Studio's own page writes: 8 bytes, two pixels, alpha 127 and 128.
    bits = f"{8:032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16)) + "0" + "00" + f"{7:03b}"
    bits += "".join(f"{value:08b}" for value in (127, 127, 127, 127, 128, 128, 128, 128))
    bits += "0" * (-len(bits) % 8)
    values = [int(bits[place : place + 8], 2) for place in range(0, len(bits), 8)]
    assert label_studio_rle.decode(values, (1, 2)).tolist() == [[0, 1]]
    for broken in ([], None, [1.5], [0] * 4, packed[:-9], packed[4:]):
        with pytest.raises(UserError):
            label_studio_rle.decode(broken, (60, 80))


def test_bitmasks() -> None:
    mask = (np.random.default_rng(0).random(SIZE) < 0.5).astype(np.uint8)
    pixels = np.zeros((*SIZE, 4), np.uint8)
    pixels[..., 3] = 255 * mask
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    region = DRAWN | {"type": "bitmasklabels", "value": {"imageDataURL": url}}
    assert np.array_equal(mask_of([region], SIZE), mask)
    for wrong in (url[:-40], "http://evil.test/a.png", "data:image/png;base64,####", None):
        with pytest.raises(UserError):
            mask_of([region | {"value": {"imageDataURL": wrong}}], SIZE)
