"""The library's logger."""

import logging

import pytest

from lightning_samseg.log import logger


def test_names_that_are_no_utf_8_are_readable(capsys: pytest.CaptureFixture[str]) -> None:
    kept: list[logging.LogRecord] = []
    keeper = logging.Handler()
    keeper.emit = kept.append  # type: ignore[method-assign]
    logger.addHandler(keeper)
    try:
        logger.info("%s is read", "gr\udcf6\udcdfe.png")
    finally:
        logger.removeHandler(keeper)
    assert [record.getMessage() for record in kept] == [r"gr\udcf6\udcdfe.png is read"]
    assert capsys.readouterr().out == "gr\\udcf6\\udcdfe.png is read\n"
