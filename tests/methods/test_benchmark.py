from pathlib import Path

import pytest

from lightning_samseg.methods.benchmark import CHEAPER, benchmark_cheap_step


@pytest.mark.slow
def test_every_setting_is_measured_and_encodes_its_images_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMSEG_CACHE", str(tmp_path))
    measured = benchmark_cheap_step(repeats=1, backbone="tiny", image_size=32, batch=2, precision="32-true")
    assert all(measured[f"{name}_s"] > 0 for name in CHEAPER)
    assert measured["lora_everywhere_speedup"] == 1
    # 2 batches of 2 images, once for the first blocks and once each for two encoders whose random weights differ
    assert len(list((tmp_path / "encoded").glob("*/*.logits"))) == 3 * 4
