"""The generated parts of docs/server.md, from routes, structs and options: `python docs/make_server.py`."""

from pathlib import Path
from typing import Any

import msgspec

from branchwork.runtime.options import table
from branchwork.runtime.server.app import ROUTES
from branchwork.runtime.server.config import ServerConfig

PATH = Path(__file__).parent / "server.md"

MEANINGS = {
    # how tokens are chosen
    "temperature": "0: the most likely token, always",
    "top_p": "only the likeliest tokens that together have this share; 0: greedy",
    "top_k": "only so many of the likeliest; 0 and -1: all",
    "min_p": "only tokens at least this share as likely as the likeliest",
    "frequency_penalty": "as OpenAI defines it",
    "presence_penalty": "as OpenAI defines it",
    "repetition_penalty": "as in CTRL; 1: none",
    "seed": "equal seeds give equal answers, in any batch",
    "logit_bias": "token id to what is added to its logit",
    # when an answer ends
    "max_tokens": "tokens of the answer at most; none: what the context holds",
    "max_completion_tokens": "the same, and goes before it",
    "max_output_tokens": "tokens of the answer at most",
    "min_tokens": "no end before so many",
    "stop": "texts that end the answer and are not part of it",
    "stop_sequences": "texts that end the answer and are not part of it",
    "stop_token_ids": "tokens that end it",
    "stop_regex": "patterns that end it",
    "include_stop_str_in_output": "leave the stop in the answer",
    "ignore_eos": "go on until `max_tokens`",
    # what an answer must look like
    "response_format": "`text`, `json_object`, `json_schema` (strict unless told otherwise), `structural_tag`",
    "structured_outputs": "one of `json`, `regex`, `choice`, `grammar`, `json_object`, `structural_tag`",
    "regex": "a regular expression for the whole answer",
    "ebnf": "a grammar in the dialect of GBNF, or of Lark",
    "choices": "the answer is one of these; for `/v1/score`: what is scored",
    "json_schema": "a JSON schema, as JSON or as its text",
    "guided_json": "vLLM's older name of `json_schema`",
    "guided_regex": "vLLM's older name of `regex`",
    "guided_choice": "vLLM's older name of `choices`",
    "guided_grammar": "vLLM's older name of `ebnf`",
    "any_whitespace": "blanks between JSON's parts are free; they are fixed otherwise",
    "any_order": "keys come in any order; in that of the schema otherwise (also in `structured_outputs`)",
    "jump_forward": "false: sample also what the constraint decides",
    "length_safe": "false: do not keep tokens back to close the constraint",
    # the request
    "model": "a name of the served model, or of an adapter; another is 404",
    "n": "answers, which share the prompt",
    "best_of": "answers made, of which the `n` likeliest are given",
    "stream": "events as they come",
    "stream_options": "`include_usage`; `include_runs`: how each token came about",
    "cache_salt": "share cached prefixes only with requests of the same salt",
    "cache_pin_s": "keep the cached prefix so many seconds after the answer, if memory allows",
    "priority": "greater goes first",
    "logprobs": "chat: whether; completions: how many alternatives",
    "top_logprobs": "alternatives beside each token",
    "return_token_ids": "token ids of prompt and answer",
    "return_tokens": "SGLang's name of `return_token_ids`",
    "messages": "the chat; contents are texts, or parts of type `text`",
    "tools": "functions that the model may call",
    "tool_choice": "`none`, `auto`, `required`, or one function; the last two are enforced",
    "parallel_tool_calls": "false: one call at most",
    "add_generation_prompt": "false: do not open the assistant's turn",
    "continue_final_message": "the last message is the beginning of the answer",
    "chat_template_kwargs": "variables of the model's template",
    "reasoning_effort": "given to the template",
    "prompt": "a text, texts, token ids, or lists of token ids",
    "echo": "give the prompt too, with its log-probabilities if asked for",
    "add_special_tokens": "false: no beginning-of-sequence token",
    "input": "text or messages; for embeddings as `prompt`",
    "instructions": "a system message of this request alone",
    "previous_response_id": "go on from a stored response",
    "text": "responses: `format`; elsewhere the prompt, or prompts",
    "reasoning": "`effort` is given to the template",
    "store": "false: the response is not kept",
    "system": "the system message",
    "thinking": "`disabled` turns it off, where the template can",
    "encoding_format": "`float` or `base64`",
    "dimensions": "so many of the vector's numbers, at unit length again",
    "pooling": "`mean` or `last`",
    "query": "stands before each item",
    "items": "texts after which the labels are scored",
    "label_token_ids": "the labels, as tokens",
    "apply_softmax": "scores of an item sum to 1",
    "item_first": "each item stands before the query",
    "text_1": "a text, or texts, to compare",
    "text_2": "with these",
    "return_token_strs": "each token's text too",
    "tokens": "token ids",
    "input_ids": "the prompt as token ids, or prompts",
    "sampling_params": "SGLang's group of sampling fields and constraints, or one for each prompt",
    "return_logprob": "log-probabilities of the answer",
    "logprob_start_len": "and of the prompt from this token on",
    "top_logprobs_num": "alternatives beside each token",
    "return_text_in_logprobs": "their texts too",
    "lora_path": "an adapter's name, as SGLang calls it; one for all prompts, or one for each",
    "rid": "generate: ignored, ids are the server's; abort: the id to abort, exactly",
    "abort_all": "every request; needs the admin key",
}
NO_FLAGS = {"--api-key", "--admin-key"}
REFUSED = {"functions", "function_call", "audio", "web_search_options", "chat_template"}
REFUSED |= {"image_data", "suffix", "background", "conversation"}


def fields_of(kind: type[msgspec.Struct]) -> str:
    """A struct's fields as a table: name, type with its bounds, meaning."""
    _, components = msgspec.json.schema_components([kind])
    page = components[kind.__name__]
    lines = ["| field | type | meaning |", "|---|---|---|"]
    for name, schema in page["properties"].items():
        meaning = MEANINGS.get(name)
        if meaning is not None:
            needed = ", needed" if name in page.get("required", ()) else ""
            lines.append(f"| `{name}` | {type_of(schema)}{needed} | {meaning} |")
    others = sorted(name for name in page["properties"] if name not in MEANINGS)
    refused = [f"`{name}`" for name in others if name in REFUSED]
    ignored = [f"`{name}`" for name in others if name not in REFUSED]
    if refused:
        lines += ["", "Refused: " + ", ".join(refused) + "."]
    if ignored:
        lines += ["", "Taken and without effect: " + ", ".join(ignored) + "."]
    return "\n".join(lines)


def type_of(schema: dict[str, Any]) -> str:
    """A JSON schema in a few words."""
    if "anyOf" in schema:
        kinds = (type_of(each) for each in schema["anyOf"] if each.get("type") != "null")
        return " or ".join(dict.fromkeys(kinds))
    if "$ref" in schema:
        return "object"
    kind = str(schema.get("type", "any"))
    if kind == "array":
        return "list of " + type_of(schema.get("items", {}))
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is None and schema.get("exclusiveMinimum") is not None:
        kind += f" above {schema['exclusiveMinimum']}"
    if low is not None and low > -(10**6):
        kind += f" from {low}"
    return kind if high is None or high > 10**6 else f"{kind} to {high}"


def blocks() -> dict[str, str]:
    """Every generated part, by its name in the page."""
    found = {f"fields of {route.path}": fields_of(route.body) for route in ROUTES if route.body}
    rows = [
        f"| `{r.method} {r.path}` | {summary(r.handler)}{' (admin)' * r.admin} |" for r in ROUTES
    ]
    found["routes"] = "\n".join(["| route | what |", "|---|---|", *rows])
    rows = table(ServerConfig).splitlines()
    found["options"] = "\n".join(row for row in rows if flag_of(row) not in NO_FLAGS)
    return found


def flag_of(row: str) -> str:
    """The flag in a row of the options' table."""
    return row.split("`")[1] if "`" in row else ""


def summary(handler: Any) -> str:
    """The first line of a handler's docstring."""
    return str(handler.__doc__).partition("\n")[0].rstrip(".").removesuffix(". Raises ApiError")


def filled(page: str) -> str:
    """The page with every generated part as it is now."""
    for name, text in blocks().items():
        before, _, rest = page.partition(f"<!-- {name} -->\n")
        page = f"{before}<!-- {name} -->\n{text}\n<!-- end -->{rest.partition('<!-- end -->')[2]}"
    return page


if __name__ == "__main__":
    PATH.write_text(filled(PATH.read_text()))
