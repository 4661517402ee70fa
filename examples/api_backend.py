"""One program over somebody's API: with `num_api_spec_tokens`, one call answers three slots.

python examples/api_backend.py    # asks `branchwork serve`, started for it
OPENAI_API_KEY=… python examples/api_backend.py --base-url https://api.openai.com/v1 --model gpt-3.5-turbo-instruct
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from branchwork import OpenAI, State, function, gen

FRANCE = "Country: France\nCapital: Paris\nContinent: Europe\nCurrency: euro\n\n"


def card(s: State, country: str) -> None:
    s += FRANCE + f"Country: {country}\nCapital:" + gen("capital", stop="\n")
    s += "\nContinent:" + gen("continent", stop="\n")
    s += "\nCurrency:" + gen("currency", stop="\n") + "\n"


@contextmanager
def served() -> Iterator[str]:
    """The address of a server of sprout, which lives as long as it is needed."""
    command = [sys.executable, "-m", "branchwork", "serve", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            yield next(line for line in server.stderr if "listening" in line).split()[1] + "/v1"
        finally:
            server.terminate()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base-url", help="default: a server of sprout, started for it")
    parser.add_argument("--model", default="sprout")
    options = parser.parse_args(arguments)
    with nullcontext(options.base_url) if options.base_url else served() as url:
        for ahead in (None, 64):
            backend = OpenAI(options.model, is_chat_model=False, base_url=url)
            program = function(card, num_api_spec_tokens=ahead)
            state = program.run(country="Japan", temperature=0, backend=backend)
            answers = ", ".join(
                state[name].strip() for name in ("capital", "continent", "currency")
            )
            usage = backend.token_usage
            print(f"{ahead or 0:2} tokens ahead: {answers}")
            print(
                f"   {usage.calls} call(s), {usage.prompt_tokens} prompt tokens, {usage.saved_prompt_tokens} saved"
            )
            backend.close()


if __name__ == "__main__":
    main()
