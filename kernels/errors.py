"""What a caller did wrong with a tensor; nothing is launched when one of these is raised."""


class KernelError(ValueError):
    """An argument of a kernel has the wrong shape, dtype, device or layout.

    The message names the argument, what was expected and what was found.
    """

    def __init__(self, argument: str, expected: str, found: str) -> None:
        super().__init__(f"{argument}: expected {expected}, found {found}")
        self.argument = argument
