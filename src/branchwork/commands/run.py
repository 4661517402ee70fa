"""`branchwork run FILE`: run a program with a runtime started for it."""

import argparse
import runpy
import sys
from contextlib import ExitStack, closing
from dataclasses import asdict

from branchwork import Runtime, connect
from branchwork.runtime.options import add_options, config_from
from branchwork.runtime.wire.config import RuntimeConfig


def main(argv: list[str]) -> int:
    """Run the file as `__main__`; what follows its name are its own arguments."""
    parser = argparse.ArgumentParser(prog="branchwork run", description=__doc__)
    parser.add_argument("file", metavar="FILE", help="the Python program")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="its own arguments")
    parser.add_argument("--join", metavar="ADDRESS", help="use a runtime that runs already")
    add_options(parser, RuntimeConfig)
    options = parser.parse_args(argv)
    with ExitStack() as stack:
        if options.join:
            stack.enter_context(closing(connect(options.join)))
        else:
            stack.enter_context(Runtime(**asdict(config_from(RuntimeConfig, vars(options)))))
        sys.argv = [options.file, *options.arguments]
        runpy.run_path(options.file, run_name="__main__")
    return 0
