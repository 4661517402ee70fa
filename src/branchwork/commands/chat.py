"""`branchwork chat`: talk to a model in the terminal."""

import argparse
import sys
from dataclasses import asdict

from branchwork import Runtime, State, assistant, function, gen, system, user
from branchwork.runtime.options import add_options, config_from
from branchwork.runtime.wire.config import RuntimeConfig
from branchwork.runtime.wire.errors import RequestError


@function
def turn(s: State, history: list[tuple[str, str]], question: str, system_text: str) -> None:
    """One more answer, after all that was said; the runtime finds what was said in its cache."""
    if system_text:
        s += system(system_text)
    for said, answered in history:
        s += user(said) + assistant(answered)
    s += user(question) + assistant(gen("answer", max_tokens=512))


def main(argv: list[str]) -> int:
    """Read a line, stream an answer; an empty line or Ctrl-D ends it."""
    parser = argparse.ArgumentParser(prog="branchwork chat", description=__doc__)
    parser.add_argument("--system", default="", help="what the model is told first")
    parser.add_argument("--temperature", type=float, default=0.0, help="(default: 0)")
    add_options(parser, RuntimeConfig)
    options = parser.parse_args(argv)
    history: list[tuple[str, str]] = []
    with Runtime(**asdict(config_from(RuntimeConfig, vars(options)))) as runtime:
        print(f"{runtime.welcome.model}: an empty line ends the chat", file=sys.stderr)
        while question := _read():
            state = turn.run(
                history=history,
                question=question,
                system_text=options.system,
                temperature=options.temperature,
                stream=True,
            )
            try:
                for piece in state.text_iter("answer"):
                    print(piece, end="", flush=True)
                print()
            except RequestError as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr)
                continue
            history.append((question, state["answer"]))
    return 0


def _read() -> str:
    try:
        return input("> ").strip()
    except EOFError:
        print()
        return ""
