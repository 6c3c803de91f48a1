"""What the library says while it works: records of the logger ``lightning_samseg``, lines on standard output.

``logging.getLogger("lightning_samseg").setLevel("WARNING")`` makes it quiet; a program with a logging of its own takes
the handler away and sets ``propagate``. Needs no torch.
"""

import logging


class _Lines(logging.Handler):
    """Prints messages as they are, wherever standard output leads now."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), flush=True)


logger = logging.getLogger("lightning_samseg")
if not logger.handlers:
    logger.addHandler(_Lines())
    logger.setLevel(logging.INFO)
    logger.propagate = False
