"""A typed hole: text in, a validated pydantic object out; what the schema decides is not sampled."""

from pydantic import BaseModel, Field

from branchwork import State, assistant, function, gen, user


class Person(BaseModel):
    name: str
    age: int = Field(ge=0, le=120)
    city: str


@function
def extract(s: State, text: str) -> None:
    s += user(f"Extract the record as JSON.\n{text}\nKeys: name, age, city")
    s += assistant(gen("person", type=Person))


def main() -> None:
    texts = [
        "Ada Berg is 36 years old. She lives in Oslo.",
        "Tom Ferro lives in Lisbon. He is 52 years old.",
    ]
    for state in extract.run_batch([{"text": text} for text in texts], temperature=0):
        meta = state.get_meta_info("person")
        person = state["person"]
        print(
            f"{person!r}  sampled {meta['sampled_tokens']}, jumped {meta['jumped_tokens']} tokens"
        )


if __name__ == "__main__":
    main()
