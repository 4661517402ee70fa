"""The same program over somebody's API, with one call for three slots (`num_api_spec_tokens`).

OPENAI_API_KEY=… python examples/api_backend.py
python examples/api_backend.py --base-url http://localhost:8000/v1 --model sprout
"""

import argparse

from branchwork import OpenAI, State, function, gen


@function(num_api_spec_tokens=64)
def card(s: State, country: str) -> None:
    s += f"Country: {country}\nCapital:" + gen("capital", stop="\n")
    s += "\nCurrency:" + gen("currency", stop="\n")
    s += "\nContinent:" + gen("continent", stop="\n") + "\n"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base-url", default="https://api.openai.com/v1")
    parser.add_argument("--model", default="gpt-3.5-turbo-instruct")
    options = parser.parse_args(arguments)
    backend = OpenAI(options.model, is_chat_model=False, base_url=options.base_url)
    state = card.run(country="Japan", temperature=0, backend=backend)
    usage = backend.token_usage
    print(state.text())
    print(
        f"{usage.calls} call(s), {usage.prompt_tokens} prompt tokens, {usage.saved_prompt_tokens} saved"
    )
    backend.close()


if __name__ == "__main__":
    main()
