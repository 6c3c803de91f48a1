"""Messages for mistakes that a user can mend: what is wrong, what was expected, what was found, the way out."""


class UserError(Exception):
    """A mistake outside the program. The command line prints it without a traceback and exits with status 2.

    Args:
        problem: What is wrong, with the file, option or step it concerns.
        expected: What would have been right, where that is not obvious.
        found: What was there instead.
        fix: The way out, as something to do or to type.
    """

    def __init__(self, problem: str, *, expected: str | None = None, found: str | None = None, fix: str) -> None:
        lines = [problem]
        if expected is not None:
            lines.append(f"  expected: {expected}")
        if found is not None:
            lines.append(f"  found: {found}")
        lines.append(f"  way out: {fix}")
        super().__init__("\n".join(lines))
