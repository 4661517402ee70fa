"""`branchwork serve`: an OpenAI-compatible server in front of a runtime."""

import argparse

from branchwork.runtime.options import add_options, config_from
from branchwork.runtime.server.config import ServerConfig
from branchwork.runtime.wire.config import RuntimeConfig

# Secrets come from files or the environment, never from a flag that a process list would show.
SECRETS = ("api_key", "admin_key")


def main(argv: list[str]) -> int:
    """Serve until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(
        prog="branchwork serve",
        description="Serve a model over HTTP, as OpenAI's API. Each option is also an environment "
        "variable: --max-len is BRANCHWORK_MAX_LEN. Keys: BRANCHWORK_API_KEY, BRANCHWORK_ADMIN_KEY or files.",
    )
    add_options(parser, ServerConfig, RuntimeConfig, without=SECRETS)
    options = vars(parser.parse_args(argv))
    # FastAPI and uvicorn take half a second to import; --help does not need them.
    from branchwork.runtime.server.serve import serve  # noqa: PLC0415

    serve(config_from(ServerConfig, options), config_from(RuntimeConfig, options))
    return 0
