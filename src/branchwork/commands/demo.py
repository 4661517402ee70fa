"""`branchwork demo`: one program on the embedded model, its typed answers, and how each token came about."""

import argparse
import inspect
import re
import sys
import time

from branchwork import Runtime, State
from branchwork.commands import demo_program

TEXT = "Ada Lovelace is 36 years old and lives in London. She likes chess and music."
REVIEW = "The food was great and the staff was kind."


def main(argv: list[str]) -> int:
    """Print the program, run it, print what it answered and what that cost."""
    parser = argparse.ArgumentParser(prog="branchwork demo", description=__doc__)
    parser.add_argument("--model", default="sprout", help="model folder (default: sprout)")
    options = parser.parse_args(argv)
    paint = Paint(sys.stdout.isatty())
    print(paint.code(inspect.getsource(demo_program).split('"""', 2)[2].strip()) + "\n")
    began = time.perf_counter()
    with Runtime(model=options.model) as runtime:
        started = time.perf_counter()
        state = demo_program.profile.run(text=TEXT, review=REVIEW, temperature=0)
        ran = time.perf_counter()
        again = demo_program.profile.run(text=TEXT, review=REVIEW, temperature=0)
        model = runtime.welcome.model
        print(paint.bold("how each token came about"))
        state.show()
    print(paint.bold("answers"))
    print(f"  person    {state['person']!r}")
    print(f"  capital   {state['capital']!r}")
    print(f"  mood      {state['mood']!r}")
    print()
    print(paint.bold(f"tokens, first run and second ({model})"))
    _print_table(state, again)
    print(
        f"\nruntime up in {started - began:.1f} s, program ran in {1000 * (ran - started):.0f} ms"
    )
    return 0


HEADER = ("slot", "prompt", "cached", "sampled", "jumped", "first token", "tokens/s")


def _print_table(first: State, second: State) -> None:
    rows = [*_rows(first), *_rows(second)]
    widths = [max(len(row[i]) for row in [HEADER, *rows]) for i in range(len(HEADER))]
    for row in [HEADER, *rows]:
        print("  " + "  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)))


def _rows(state: State) -> list[tuple[str, ...]]:
    return [
        _row("person", state),
        *(_row("capital", branch) for branch in state.ret_value),
        _row("mood", state),
    ]


def _row(slot: str, state: State) -> tuple[str, ...]:
    info = state.get_meta_info(slot)
    latency, completion = info["e2e_latency"], info["completion_tokens"]
    return (
        slot,
        str(info["prompt_tokens"]),
        str(info["cached_tokens"]),
        str(info["sampled_tokens"]),
        str(info["jumped_tokens"]),
        f"{1000 * info['first_token_latency']:.1f} ms" if completion else "–",
        f"{completion / latency:,.0f}" if completion and latency else "–",
    )


class Paint:
    """Colours, where the output is a terminal."""

    def __init__(self, on: bool) -> None:
        self.on = on

    def bold(self, text: str) -> str:
        """A heading."""
        return self._in("1", text)

    def code(self, text: str) -> str:
        """Python, with the words of the language marked."""
        words = r"\b(gen|select|fork|join|user|assistant|function)\b"
        return re.sub(words, lambda match: self._in("36", match[0]), text)

    def _in(self, colour: str, text: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self.on else text
