"""The output of a response as OpenAI's items, and the events that tell of them as they grow."""

from collections.abc import Iterator
from typing import Any

from branchwork.runtime.server.answers import new_id
from branchwork.runtime.server.tools import Piece

Event = tuple[str, dict[str, Any]]


class OutputItems:
    """Builds items from pieces; every method gives the events of what it did, without their numbers."""

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []
        self._open: dict[str, Any] | None = None
        self._call = -1
        self._logprobs: list[dict[str, Any]] = []

    def note(self, logprobs: list[dict[str, Any]]) -> None:
        """Log-probabilities of the tokens of the piece that comes next; they are shown where it is text."""
        self._logprobs += logprobs

    def add(self, piece: Piece) -> Iterator[Event]:
        """The next piece."""
        if piece.kind != "content":
            self._logprobs = []
        if piece.kind == "call":
            yield from self.close()
            self._call = piece.call
            call = {"id": new_id("fc_"), "call_id": new_id("call_"), "name": piece.text}
            yield from self._begin({"type": "function_call", **call, "arguments": ""})
        elif piece.kind == "arguments":
            item = self._of_kind("function_call")
            item["arguments"] += piece.text
            yield self._about("response.function_call_arguments.delta", {"delta": piece.text})
        elif piece.kind == "reasoning":
            yield from self._text("reasoning", "reasoning_text", piece.text)
        else:
            yield from self._text("message", "output_text", piece.text)

    def close(self) -> Iterator[Event]:
        """Finish the item that is open, if there is one."""
        item = self._open
        if item is None:
            return
        item["status"] = "completed"
        if item["type"] == "function_call":
            done = {"arguments": item["arguments"], "name": item["name"]}
            yield self._about("response.function_call_arguments.done", done)
        else:
            (part,) = item["content"]
            place = {"content_index": 0}
            kind = part["type"]
            extra = {"logprobs": part["logprobs"]} if kind == "output_text" else {}
            yield self._about(f"response.{kind}.done", {**place, "text": part["text"], **extra})
            yield self._about("response.content_part.done", {**place, "part": dict(part)})
        index = len(self.items) - 1
        self._open = None
        yield "response.output_item.done", {"output_index": index, "item": dict(item)}

    def _text(self, item_kind: str, part_kind: str, text: str) -> Iterator[Event]:
        if self._open is None or self._open["type"] != item_kind:
            yield from self.close()
            part: dict[str, Any] = {"type": part_kind, "text": ""}
            if item_kind == "message":
                part |= {"annotations": [], "logprobs": []}
                item: dict[str, Any] = {
                    "type": "message",
                    "id": new_id("msg_"),
                    "role": "assistant",
                }
            else:
                item = {"type": "reasoning", "id": new_id("rs_"), "summary": []}
            yield from self._begin({**item, "content": []})
            self._of_kind(item_kind)["content"].append(part)
            added = {"content_index": 0, "part": dict(part)}
            yield self._about("response.content_part.added", added)
        (grown,) = self._of_kind(item_kind)["content"]
        grown["text"] += text
        delta: dict[str, Any] = {"content_index": 0, "delta": text}
        if part_kind == "output_text":
            delta["logprobs"], self._logprobs = self._logprobs, []
            grown["logprobs"] += delta["logprobs"]
        yield self._about(f"response.{part_kind}.delta", delta)

    def _begin(self, item: dict[str, Any]) -> Iterator[Event]:
        self._open = {**item, "status": "in_progress"}
        self.items.append(self._open)
        shown = {**self._open, "content": []} if "content" in item else dict(self._open)
        yield "response.output_item.added", {"output_index": len(self.items) - 1, "item": shown}

    def _of_kind(self, kind: str) -> dict[str, Any]:
        item = self._open or {}
        assert item.get("type") == kind, f"the open item is {item.get('type')}, not {kind}"
        return item

    def _about(self, name: str, body: dict[str, Any]) -> Event:
        assert self._open is not None, "events are about an open item"
        return name, {"item_id": self._open["id"], "output_index": len(self.items) - 1, **body}
