"""Run folders as the two kinds of runs leave them, with scores from a generator."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

SETS = ("CVC-ClinicDB", "Kvasir")


def write_case_run(
    folder: Path,
    seed: int = 1,
    *,
    shift: float = 0.0,
    model: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
    cases: int = 12,
    classes: int = 1,
    convention: str = "cpc_sam",
    unit: str = "px",
    dropped: int = 0,
    diagonal: float | None = 100.0,
    method: str = "CpcSam",
    data_class: str = "data_modules.BusiDataModule",
    **metrics: Any,
) -> Path:
    """A run with scores per case and class; ``shift`` goes onto every DSC, the first ``dropped`` are missed.

    Without a ``diagonal`` the run is from before there was this column.
    """
    rng = np.random.default_rng((seed, cases))
    rows = []
    for case in range(cases):
        for class_id in range(1, classes + 1):
            dsc = float(np.clip(0.6 + 0.02 * case + 0.05 * rng.standard_normal() + shift, 0, 1))
            empty = len(rows) < dropped
            missed = "" if convention == "cpc_sam" else repr(float(diagonal or 0.0))
            distance = missed if empty else repr(10.0 + case + class_id + float(rng.random()))
            row = {"case_id": f"case {case}", "class_id": class_id, "dsc": repr(dsc), "jc": repr(dsc / (2 - dsc))}
            row |= dict.fromkeys(("hd95", "asd", "assd", "hd"), distance)
            rows.append(
                row
                | {"empty_prediction": int(empty), "empty_reference": 0}
                | ({} if diagonal is None else {"diagonal": diagonal})
                | {"unit": unit, "convention": convention}
            )
    summary = {}
    for metric in ("dsc", "jc", "hd95", "asd"):
        means = [
            [float(row[metric]) for row in rows if row["class_id"] == c and row[metric]] for c in range(1, classes + 1)
        ]
        summary[metric] = float(np.mean([np.mean(part) for part in means])) if all(means) else None
    content = {
        "summary": summary,
        "num_cases": cases,
        "empty_predictions": dropped,
        "empty_references": 0,
        "unit": unit,
        "convention": convention,
        "method": f"lightning_samseg.methods.x.{method}",
        "iterations": 90,
        "weights_sha256": "ab" * 32,
        "seed": seed,
        "data_fingerprint": "0123456789abcdef",
        "split": "committed:abc",
        "git_commit": "f" * 40,
        "versions": {"torch": "2.15.0"},
    }
    config = _config(folder, seed, f"lightning_samseg.methods.{method}", model, data_class, data)
    return _write(folder, config, content | metrics, rows)


def write_stream_run(
    folder: Path, seed: int = 1, *, gain: float = 0.1, model: dict[str, Any] | None = None, **metrics: Any
) -> Path:
    """A stream of two sets, in an order of the seed; AuxOL is better than SAM by ``gain`` and noise."""
    rng = np.random.default_rng(seed)
    rows = []
    for position, place in enumerate(rng.permutation(10)):
        base = 0.5 + 0.03 * float(place)
        row: dict[str, Any] = {
            "position": position,
            "set_name": SETS[place // 5],
            "case_id": f"image {place}",
            "slice_index": 0,
            "prompts": 1,
            "feedback": "expert" if position % 2 == 0 else "none",
            "alpha": 1.0 - 0.05 * position,
        }
        for column, plus in (("sam", 0.0), ("sam_clipped", 0.01), ("aux_ol", gain + 0.01 * float(rng.random()))):
            row |= {f"{column}_dsc": repr(base + plus), f"{column}_hd": repr(50.0 - 100 * plus + float(place))}
        rows.append(row | {"empty_reference": 0, "sam_empty": 0, "sam_clipped_empty": 0, "aux_ol_empty": place % 2})
    summary = {**_stream_means(rows), "sets": {s: _stream_means([r for r in rows if r["set_name"] == s]) for s in SETS}}
    content = {
        "summary": summary,
        "convention": "aux_ol",
        "unit": "px",
        "method": "lightning_samseg.methods.aux_ol.AuxOl",
        "iterations": 10,
        "weights_sha256": "cd" * 32,
        "seed": seed,
        "git_commit": None,
        "versions": {},
    }
    config = _config(
        folder,
        seed,
        "lightning_samseg.methods.AuxOl",
        model,
        "data_modules.PolypDataModule",
        {"stream_order": "sorted"},
    )
    _write(folder, config, content | metrics, rows)
    lines = "\n".join(f"{row['position']},{row['alpha']}" for row in rows)
    (folder / "prompts.csv").write_text(f"position,alpha\n{lines}\n")
    return folder


def _stream_means(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        column: {m: float(np.mean([float(row[f"{column}_{m}"]) for row in rows])) for m in ("dsc", "hd")}
        for column in ("sam", "sam_clipped", "aux_ol")
    }


def _config(
    folder: Path, seed: int, method: str, model: dict[str, Any] | None, data_class: str, data: dict[str, Any] | None
) -> dict[str, Any]:
    return {
        "seed_everything": seed,
        "trainer": {"max_steps": 90, "default_root_dir": str(folder), "accelerator": "cpu", "precision": None},
        "model": {"class_path": method, "init_args": {"backbone": "tiny", "lr": 0.001, **(model or {})}},
        "data": {"class_path": data_class, "init_args": {"root": "data", "split_seed": 0, **(data or {})}},
        "test_after_fit": True,
        "ckpt_path": None,
    }


def _write(folder: Path, config: dict[str, Any], metrics: dict[str, Any], rows: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "metrics.json").write_text(json.dumps(metrics))
    with (folder / "cases.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder
