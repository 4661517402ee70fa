"""Python functions as tools: schemas come from the signatures, and the loop calls what the model asks for."""

from branchwork import State, function, system, tool_loop, tool_prompt, user


def get_weather(city: str) -> dict[str, object]:
    """Get the weather of a city"""
    return (
        {"temperature": 21, "condition": "sunny"}
        if city == "Lisbon"
        else {"temperature": 4, "condition": "foggy"}
    )


def set_timer(minutes: int) -> dict[str, object]:
    """Set a timer"""
    return {"status": "started"}


@function
def assist(s: State, request: str) -> str:
    s += system(tool_prompt([get_weather, set_timer]))
    s += user(request)
    return tool_loop(s, [get_weather, set_timer], temperature=0)


def main() -> None:
    for request in ("What is the weather in Lisbon?", "Set a timer for 25 minutes."):
        state = assist.run(request=request)
        for message in state.messages()[1:]:
            print(f"{message['role']:>9}: {message['content']}")
        print()


if __name__ == "__main__":
    main()
