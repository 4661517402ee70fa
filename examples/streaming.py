"""Reading while it is written: two programs stream into one asyncio loop."""

import asyncio

from branchwork import AsyncState, assistant, function, gen, user


@function
async def ask(s: AsyncState, question: str) -> None:
    s += user(question)
    s += assistant(gen("answer"))


async def show(name: str, question: str) -> None:
    state = await ask.arun(question=question, stream=True, temperature=0)
    async for piece in state.text_async_iter("answer"):
        print(f"{name}| {piece!r}")


async def both() -> None:
    await asyncio.gather(show("A", "Tell me a joke."), show("B", "What can you do?"))


def main() -> None:
    asyncio.run(both())


if __name__ == "__main__":
    main()
