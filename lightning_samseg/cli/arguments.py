"""Options of the verbs that are not runs; a mistake in them is one message, as everything else is."""

import argparse
from typing import NoReturn

from lightning_samseg.errors import UserError


class Parser(argparse.ArgumentParser):
    """Raises UserError where argparse would print its usage and end the program."""

    def error(self, message: str) -> NoReturn:
        """Tell what is wrong with the options, and where they are described."""
        raise UserError(f"{message[:1].upper()}{message[1:]}.", fix=f"see the options: {self.prog} --help")
