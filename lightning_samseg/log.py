"""What the library says while it works: records of the logger ``lightning_samseg``, lines on standard output.

``logging.getLogger("lightning_samseg").setLevel("WARNING")`` makes it quiet; a program with a logging of its own takes
the handler away and sets ``propagate``. Needs no torch.
"""

import logging


class _Lines(logging.Handler):
    """Prints messages as they are, wherever standard output leads now."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), flush=True)


def _readable(record: logging.LogRecord) -> bool:
    """Escape the bytes of a file's name that are no UTF-8: whoever handles records may write them as UTF-8."""
    record.msg, record.args = record.getMessage().encode("utf-8", "backslashreplace").decode("utf-8"), ()
    return True


logger = logging.getLogger("lightning_samseg")
if not logger.handlers:
    logger.addFilter(_readable)
    logger.addHandler(_Lines())
    logger.setLevel(logging.INFO)
    logger.propagate = False
