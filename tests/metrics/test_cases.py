"""Cases gathered over batches, slices and ranks."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from lightning_samseg.errors import UserError
from lightning_samseg.metrics.cases import CaseScores
from lightning_samseg.metrics.conventions import ClassScore, score_case
from lightning_samseg.metrics.tables import CaseRow
from lightning_samseg.types import Case

IMAGE = (11, 12)
SPACING = (8.0, 1.5, 1.25)


def labels(key: int, shape: tuple[int, ...] = IMAGE) -> np.ndarray:
    return np.random.default_rng(key).choice([0, 0, 0, 1, 2], size=shape).astype(np.uint8)


def image(key: int, case_id: str | None = None, spacing: tuple[float, ...] | None = (1.5, 1.25)):
    """Arguments of one update with one image, as a triple of lists."""
    case = Case(case_id or f"image_{key}", f"image_{key}.png", IMAGE, (8, 8), spacing)
    return [case], [labels(2 * key)], [labels(2 * key + 1)]


def volume(key: int, num_slices: int = 4, order: list[int] | None = None):
    """Arguments of one update with the slices of one volume in the given order."""
    prediction, reference = (labels(100 * key + i, (num_slices, *IMAGE)) for i in (1, 2))
    order = list(range(num_slices)) if order is None else order
    cases = [Case(f"volume_{key}", f"volume_{key}.nii", IMAGE, (8, 8), SPACING, i, num_slices) for i in order]
    return cases, [prediction[i] for i in order], [reference[i] for i in order]


def scores_of(table, case_id: str) -> list[ClassScore]:
    return [ClassScore(*row[1:-2]) for row in table.rows if row.case_id == case_id]


def scored(*updates) -> CaseScores:
    metric = CaseScores(num_classes=2)
    for update in updates:
        metric.update(*update)
    return metric


def test_image_rows_equal_score_case():
    table = scored(image(2), image(1)).compute()
    (case,), (prediction,), (reference,) = image(1)
    assert [row.case_id for row in table.rows] == ["image_1", "image_1", "image_2", "image_2"]
    assert scores_of(table, "image_1") == score_case(prediction, reference, 2, case.spacing)
    assert table.rows[0][-2:] == ("mm", "strict")
    assert isinstance(table.rows[0], CaseRow)


def test_volume_is_scored_in_3d_in_whatever_order_and_batches_it_comes():
    _, predictions, references = volume(5)
    expected = score_case(np.stack(predictions), np.stack(references), 2, SPACING)
    shuffled = volume(5, order=[2, 0, 3, 1])
    other = volume(6, num_slices=2)
    metric = scored(
        [part[:1] for part in shuffled],
        [a[1:3] + b for a, b in zip(shuffled, other, strict=True)],  # slices of two volumes in one batch
    )
    assert list(metric._waiting) == ["volume_5"]
    metric.update(*[part[3:] for part in shuffled])
    assert metric._waiting == {}  # the memory is free
    table = metric.compute()
    assert scores_of(table, "volume_5") == expected
    assert table.summary()["num_cases"] == 2
    slice_wise = score_case(predictions[0], references[0], 2, SPACING[1:])
    assert expected[0].hd95 != slice_wise[0].hd95


def test_volume_of_one_slice_is_a_volume():
    cases, predictions, references = volume(7, num_slices=1)
    table = scored((cases, predictions, references)).compute()
    assert scores_of(table, "volume_7") == score_case(np.stack(predictions), np.stack(references), 2, SPACING)


def test_incomplete_volume_names_the_missing_slices():
    metric = scored(volume(1), volume(2, num_slices=5, order=[4, 0, 2]))
    with pytest.raises(UserError, match=r"case volume_2(.|\n)*missing slice\(s\) 1, 3\n"):
        metric.compute()


def test_duplicates_raise():
    with pytest.raises(UserError, match="case image_1, slice 0"):
        scored(image(1), image(2), image(1)).compute()
    with pytest.raises(UserError, match="case volume_1, slice 2"):
        scored(volume(1, order=[0, 2, 2, 1, 3])).compute()
    with pytest.raises(UserError, match="case volume_1, slice 3"):
        scored(volume(1), volume(1, order=[3])).compute()


def test_reset_forgets_everything():
    metric = scored(image(1), volume(1, order=[0]))
    metric.reset()
    assert metric._waiting == {}
    metric.update(*image(1))
    assert metric.compute().summary()["num_cases"] == 1


def test_summary_counts_and_unit():
    blank = np.zeros(IMAGE, np.uint8)
    cases, predictions, references = image(1, spacing=None)
    metric = CaseScores(num_classes=2, convention="cpc_sam")
    metric.update([cases[0], cases[0]._replace(case_id="missed")], [predictions[0], blank], references * 2)
    summary = metric.compute().summary()
    assert (summary["unit"], summary["convention"], summary["num_cases"]) == ("px", "cpc_sam", 2)
    assert (summary["empty_predictions"], summary["dropped"]) == (2, 2)
    metric.update(*image(2))
    with pytest.raises(UserError, match="differ in unit"):
        metric.compute().summary()


def test_a_volume_without_spacing_is_measured_in_voxels():
    cases, predictions, references = volume(1)
    summary = scored(([case._replace(spacing=None) for case in cases], predictions, references)).compute().summary()
    assert summary["unit"] == "voxel"


def test_long_and_foreign_case_ids_survive():
    name = "Fälle/日本/" + 100 * "x"
    assert scored(image(1, case_id=name)).compute().rows[0].case_id == name
    with pytest.raises(UserError, match="128 characters"):
        scored(image(1, case_id="x" * 129))


def test_bad_slices_are_named():
    (case,), (prediction,), (reference,) = image(1)
    with pytest.raises(UserError, match=r"image_1.png: the reference mask(.|\n)*\(11, 12\)(.|\n)*\(3, 3\)"):
        scored(([case], [prediction], [reference[:3, :3]]))
    with pytest.raises(UserError, match=r"image_1.png: the prediction has not the size"):
        scored(([case], [prediction.T], [reference]))
    with pytest.raises(UserError, match=r"image_1.png: the reference is no map of class ids"):
        scored(([case], [prediction], [reference + 200]))
    cases, predictions, references = volume(1)
    with pytest.raises(UserError, match="slice 4 of a volume of 4 slices"):
        scored(([cases[0]._replace(slice_index=4)], predictions[:1], references[:1]))
    with pytest.raises(UserError, match="volume_1 differ in spacing"):
        scored(([*cases[:3], cases[3]._replace(spacing=(1.0, 1.0, 1.0))], predictions, references))
    with pytest.raises(ValueError, match="shorter"):
        scored(([case], [], [reference]))


def test_state_does_not_lose_precision_with_the_module():
    module = torch.nn.ModuleDict({"scores": scored(image(1))})
    expected = module["scores"].compute().rows
    copied = pickle.loads(pickle.dumps(module)).to(torch.bfloat16).half()
    assert copied["scores"].compute().rows == expected


def gather_worker(rank: int, folder: str) -> None:
    """What rank 0 and rank 1 do with shares of the cases; each writes down what it saw."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    shares = {
        "unequal": ([image(3), volume(1), image(1)], [volume(2, order=[3, 1, 0, 2])]),
        "one rank without cases": ([], [image(1), volume(1)]),
        "nothing at all": ([], []),
        "images only, second empty": ([image(1)], []),
        "split volume": ([volume(1, order=[0, 1])], [volume(1, order=[2, 3])]),
        "incomplete volume": ([image(1)], [volume(1, order=[0, 1, 3])]),
        "padded": ([image(1)], [image(1)]),
    }
    seen = {}
    for name, share in shares.items():
        metric = scored(*share[rank])
        try:
            seen[name] = metric.compute().rows
            metric.update(*image(50 + rank))  # the ranks go on with their own cases after a gather
            seen[f"{name}, later"] = metric.compute().rows
        except UserError as error:
            seen[name] = str(error)
    Path(folder, f"{rank}.pickle").write_bytes(pickle.dumps(seen))
    dist.destroy_process_group()


def test_two_processes_see_what_one_sees(tmp_path, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    # Forked, as a DataLoader's workers are: a spawned process imports for seconds.
    mp.start_processes(gather_worker, args=(str(tmp_path),), nprocs=2, start_method="fork")
    first, second = (pickle.loads((tmp_path / f"{rank}.pickle").read_bytes()) for rank in (0, 1))
    assert first == second
    assert first["unequal"] == scored(image(1), image(3), volume(1), volume(2)).compute().rows
    later = scored(image(1), image(3), volume(1), volume(2), image(50), image(51))
    assert first["unequal, later"] == later.compute().rows
    assert first["one rank without cases"] == scored(image(1), volume(1)).compute().rows
    assert first["images only, second empty"] == scored(image(1)).compute().rows
    assert "No case was scored" in first["nothing at all"]
    assert "volume(s) came to several ranks, first: case volume_1" in first["split volume"]
    assert "missing slice(s) 2" in first["incomplete volume"]
    assert "case image_1, slice 0" in first["padded"]
