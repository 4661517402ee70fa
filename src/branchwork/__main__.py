"""`branchwork`: the command line. Thin: a sub-command imports what it needs when it is called."""

import argparse
import importlib
import sys

from branchwork.runtime.wire.errors import BranchworkError

COMMANDS = {
    "demo": "a program with gen, select, fork and typed JSON on the embedded model",
    "serve": "an OpenAI-compatible server",
    "run": "run a Python program, with a runtime started for it",
    "chat": "talk to a model in the terminal",
    "batch": "answer a file of requests (OpenAI's batch format)",
    "info": "what this machine and this model give: kernels, memory, pool",
    "doctor": "whether this machine can serve a model, what it gets, and what to change",
    "compile": "make the machine code ahead of the first start (half a minute, once)",
    "bench": "measure beside peers: the language, the cache, constraints, serving, kernels",
}


def main(argv: list[str] | None = None) -> int:
    """Run one sub-command. Returns the exit status: 0, 1 for an error in one sentence, 2 for bad usage."""
    arguments = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog="branchwork",
        description="Programs that talk to language models, and the runtime that serves them.",
        epilog="branchwork COMMAND --help says what a command takes.",
    )
    parser.add_argument("--version", action="store_true", help="print the version and stop")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, help_text in COMMANDS.items():
        commands.add_parser(name, help=help_text, add_help=False)
    known, rest = parser.parse_known_args(arguments[:1])
    if known.version:
        # Reading the installed metadata takes a while; only this flag needs it.
        from importlib.metadata import version  # noqa: PLC0415

        print(f"branchwork {version('branchwork')}")
        return 0
    if known.command is None:
        parser.print_help()
        return 2
    module = importlib.import_module(f"branchwork.commands.{known.command}")
    try:
        status: int = module.main([*rest, *arguments[1:]])
    except BranchworkError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    return status


if __name__ == "__main__":
    sys.exit(main())
