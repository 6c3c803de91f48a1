"""Which runs are averaged, compared, refused."""

from pathlib import Path

import pytest

from lightning_samseg.reports.groups import Origin, group_runs
from lightning_samseg.reports.runs import find_runs
from tests.reports.run_folders import write_case_run, write_stream_run


def grouped(folder: Path, group: bool = False):  # type: ignore[no-untyped-def]
    runs, problems = find_runs([folder])
    assert not problems
    return group_runs(runs, group=group)


def test_seeds_are_repeats_whatever_the_folder_and_the_device(tmp_path: Path) -> None:
    for seed in (3, 1, 2):
        write_case_run(tmp_path / f"s{seed}", seed, data={"num_workers": seed, "root": f"/disk{seed}"})
    [block], problems = grouped(tmp_path)
    [variant] = block.variants
    assert (variant.name, variant.seeds, problems) == ("CPC-SAM", [1, 2, 3], [])
    assert block.facts["convention"] == "cpc_sam"


def test_options_make_variants_and_name_them(tmp_path: Path) -> None:
    write_case_run(tmp_path / "a", model={"lora_rank": 4})
    write_case_run(tmp_path / "b", model={"lora_rank": 8})
    write_case_run(tmp_path / "c", method="Supervised")
    [block], _ = grouped(tmp_path)
    assert [v.name for v in block.variants] == ["CPC-SAM, lora_rank 4", "CPC-SAM, lora_rank 8", "Supervised"]


def test_more_processes_are_another_training(tmp_path: Path) -> None:
    """Batch sizes are those of one process."""
    write_case_run(tmp_path / "old", 1)
    write_case_run(tmp_path / "one", 2, processes=1)
    write_case_run(tmp_path / "two", 3, processes=2)
    write_case_run(tmp_path / "test", 4, processes=2, iterations=None)
    [block], problems = grouped(tmp_path)
    assert problems == []
    assert {v.name: v.seeds for v in block.variants} == {"CPC-SAM": [1, 2, 4], "CPC-SAM, processes 2": [3]}


def test_a_run_that_went_on_under_other_options_is_no_repeat(tmp_path: Path) -> None:
    change = {"step": 4, "option": "model.lr", "from": 0.001, "to": 0.5}
    write_case_run(tmp_path / "one", 1, changes=[])
    write_case_run(tmp_path / "faster", 2, changes=[{**change, "option": "data.num_workers"}])
    write_case_run(tmp_path / "changed", 3, changes=[change])
    [block], problems = grouped(tmp_path)
    assert problems == []
    assert {v.name: v.seeds for v in block.variants} == {
        "CPC-SAM": [1, 2],
        "CPC-SAM, changed model.lr at iteration 4": [3],
    }


def test_a_round_of_a_stream_has_its_images_whatever_the_processes(tmp_path: Path) -> None:
    write_stream_run(tmp_path / "old", 1)
    write_stream_run(tmp_path / "one", 2, images_per_step=1, processes=1, model={"images_per_step": None})
    write_stream_run(tmp_path / "two", 3, images_per_step=2, processes=2, model={"images_per_step": None})
    write_stream_run(tmp_path / "both", 4, images_per_step=2, processes=1, model={"images_per_step": 2})
    [block], problems = grouped(tmp_path)
    assert problems == []
    assert sorted(v.seeds for v in block.variants if v.column == "aux_ol") == [[1, 2], [3, 4]]


def test_a_test_of_the_best_checkpoint_is_what_fit_has_tested(tmp_path: Path) -> None:
    """The last one was not selected by validation: it has a table of its own, on request."""
    write_case_run(tmp_path / "fit")
    for name in ("best", "last"):
        run = write_case_run(tmp_path / name)
        text = (run / "config.yaml").read_text()
        text = text.replace("ckpt_path: null", f"ckpt_path: runs/x/{name}.ckpt").replace("fit: true", "fit: false")
        (run / "config.yaml").write_text(text)
    blocks, problems = grouped(tmp_path, group=True)
    assert [(p.kind, p.folder.name) for p in problems] == [("duplicate", "fit")]
    assert sorted((block.facts["checkpoint"], len(block.variants)) for block in blocks) == [("best", 1), ("last", 1)]
    blocks, problems = grouped(tmp_path)
    assert blocks == []
    assert sorted(p.kind for p in problems) == ["duplicate", "refused", "refused"]


@pytest.mark.parametrize(("shift", "words"), [(0.0, "the scores are equal"), (0.01, "the scores differ")])
def test_a_duplicate_is_listed(shift: float, words: str, tmp_path: Path) -> None:
    write_case_run(tmp_path / "a")
    write_case_run(tmp_path / "b", shift=shift)
    [block], [problem] = grouped(tmp_path)
    assert [run.folder.name for run in block.variants[0].runs] == ["a"]
    assert (problem.kind, problem.folder.name) == ("duplicate", "b")
    assert problem.reason.endswith(words)


DIFFERENCES = {
    "convention": {"convention": "strict"},
    "unit": {"unit": "mm"},
    "cases": {"cases": 11},
    "data fingerprint": {"data_fingerprint": "fedcba9876543210"},
    "split": {"split": "committed:other"},
    "data.split_seed": {"data": {"split_seed": 1}},
}


@pytest.mark.parametrize("fact", DIFFERENCES)
@pytest.mark.parametrize("model", [None, {"lora_rank": 8}], ids=["repeat", "variant"])
def test_runs_on_other_data_are_refused(fact: str, model: dict[str, int] | None, tmp_path: Path) -> None:
    write_case_run(tmp_path / "a", 1)
    write_case_run(tmp_path / "b", 2, model=model, **DIFFERENCES[fact])  # type: ignore[arg-type]
    blocks, problems = grouped(tmp_path)
    assert blocks == []
    assert [(p.kind, p.folder.name) for p in problems] == [("refused", "a"), ("refused", "b")]
    assert f"differ in {fact};" in problems[0].reason


@pytest.mark.parametrize("fact", DIFFERENCES)
def test_on_request_they_get_tables_of_their_own(fact: str, tmp_path: Path) -> None:
    write_case_run(tmp_path / "a", 1)
    write_case_run(tmp_path / "b", 2, **DIFFERENCES[fact])  # type: ignore[arg-type]
    blocks, problems = grouped(tmp_path, group=True)
    assert [[run.folder.name for v in block.variants for run in v.runs] for block in blocks] == [["a"], ["b"]]
    assert problems == []
    assert all(fact in block.title for block in blocks)


def test_other_data_modules_are_other_tables(tmp_path: Path) -> None:
    write_case_run(tmp_path / "busi")
    write_case_run(tmp_path / "acdc", data_class="data_modules.AcdcDataModule", cases=4, unit="mm")
    write_stream_run(tmp_path / "stream")
    blocks, problems = grouped(tmp_path)
    assert ([block.title for block in blocks], problems) == (["ACDC", "BUSI", "Polyp stream"], [])


def test_tables_of_one_name_are_numbered(tmp_path: Path) -> None:
    for name in ("data_modules", "mine"):
        write_case_run(tmp_path / name, data_class=f"{name}.BusiDataModule")
    assert [block.title for block in grouped(tmp_path)[0]] == ["BUSI", "BUSI #2"]


def test_an_older_run_without_fingerprint_agrees_with_any(tmp_path: Path) -> None:
    write_case_run(tmp_path / "old", 1, data_fingerprint=None, split=None)
    write_case_run(tmp_path / "new", 2)
    [block], problems = grouped(tmp_path)
    assert problems == []
    assert block.facts["data fingerprint"] == "0123456789abcdef"


def test_the_same_weights_with_another_hash_are_refused(tmp_path: Path) -> None:
    write_case_run(tmp_path / "a", 1)
    write_case_run(tmp_path / "b", 2, weights_sha256="00" * 32)
    write_case_run(tmp_path / "c", 3, model={"backbone": "other"}, weights_sha256="11" * 32)
    [block], problems = grouped(tmp_path)
    assert [(p.kind, p.folder.name) for p in problems] == [("refused", "a"), ("refused", "b")]
    assert "differ in weights_sha256; here abab" in problems[0].reason
    assert [run.folder.name for v in block.variants for run in v.runs] == ["c"]
    [block], problems = grouped(tmp_path, group=True)
    assert (len(block.variants), problems) == (3, [])
    assert len({variant.name for variant in block.variants}) == 3


def test_a_shuffled_order_is_the_seeds_own(tmp_path: Path) -> None:
    for seed in (1, 2):
        write_stream_run(tmp_path / f"s{seed}", seed, split=f"stream_shuffled:{seed}")
    [block], problems = grouped(tmp_path)
    assert (problems, block.variants[0].seeds) == ([], [1, 2])
    write_stream_run(tmp_path / "sorted", 3, split="stream_sorted:3")
    assert grouped(tmp_path)[0] == []


def test_a_stream_has_a_row_per_method(tmp_path: Path) -> None:
    write_stream_run(tmp_path / "a", model={"fusion": None})
    assert [v.name for v in grouped(tmp_path)[0][0].variants] == ["SAM", "SAM, clipped", "SAM + AuxOL"]
    write_stream_run(tmp_path / "b", model={"fusion": "fixed"})
    names = [v.name for v in grouped(tmp_path)[0][0].variants]
    assert names[2] == "AuxOL, fusion none: SAM + AuxOL"
    assert names[5] == "AuxOL, fusion fixed: SAM + AuxOL"


def test_a_grid_names_its_runs(tmp_path: Path) -> None:
    a, b = write_case_run(tmp_path / "a"), write_case_run(tmp_path / "b", model={"lora_rank": 8})
    cell = {"paper": "cpc_sam", "table": "Table 1", "column": "BUSI", "row": "CPC-SAM, 10/431"}
    origins = {a.resolve(): Origin("cpc_sam_10", (cell,)), b.resolve(): Origin("rank8", ())}
    [block], _ = group_runs(find_runs([tmp_path])[0], origins)
    assert [(v.name, v.cells) for v in block.variants] == [("cpc_sam_10", (cell,)), ("rank8", ())]
