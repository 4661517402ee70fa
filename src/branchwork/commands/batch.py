"""`branchwork batch IN OUT`: answer a file of requests, in OpenAI's batch format."""

import argparse
from pathlib import Path

from branchwork.runtime.options import add_options, config_from
from branchwork.runtime.wire.config import RuntimeConfig
from branchwork.runtime.wire.launcher import launch


def main(argv: list[str]) -> int:
    """Answer what the output file does not answer yet; a second run goes on where the first one stopped."""
    parser = argparse.ArgumentParser(prog="branchwork batch", description=__doc__)
    parser.add_argument("source", metavar="IN", type=Path, help="requests, a JSON object a line")
    parser.add_argument("target", metavar="OUT", type=Path, help="answers, appended a line each")
    parser.add_argument("--concurrency", type=int, default=64, help="at once (default: 64)")
    add_options(parser, RuntimeConfig)
    options = parser.parse_args(argv)
    config = config_from(RuntimeConfig, vars(options))
    # FastAPI takes half a second to import; --help does not need it.
    from branchwork.runtime.server.batch import run_batch  # noqa: PLC0415

    result = run_batch(
        options.source, options.target, lambda: launch(config), concurrency=options.concurrency
    )
    print(f"{result.answered} answered, {result.failed} failed, {result.skipped} done before")
    return 1 if result.failed else 0
