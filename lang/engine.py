"""SGLang's offline engine: texts in, texts out, without a program around them."""

from collections.abc import Mapping, Sequence
from typing import Any

from branchwork.lang.default import Runtime
from branchwork.lang.function import Function
from branchwork.lang.gen import gen
from branchwork.lang.ir import Expr
from branchwork.lang.state import State
from branchwork.runtime.wire.errors import ProgramError


class Engine(Runtime):
    """A runtime process, asked for completions of whole texts.

    >>> with bw.Engine() as engine:
    ...     answer = engine.generate("Hello", {"max_new_tokens": 3, "ignore_eos": True})
    >>> answer["meta_info"]["completion_tokens"]
    3
    """

    def generate(
        self,
        prompt: str | Sequence[str],
        sampling_params: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        lora_path: str | None = None,
        **options: Any,
    ) -> Any:
        """For each prompt a dict with "text", "output_ids" and "meta_info"; for one prompt, the dict alone.

        `lora_path` is the name of an adapter, as SGLang calls it.
        """
        prompts, calls = _calls(prompt, sampling_params, options)
        states = _COMPLETE.run_batch(calls, backend=self, adapter=lora_path)
        return _shaped(prompt, [_answer(state) for state in states], len(prompts))

    async def async_generate(
        self,
        prompt: str | Sequence[str],
        sampling_params: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        lora_path: str | None = None,
        **options: Any,
    ) -> Any:
        """As `generate`, on the running loop."""
        prompts, calls = _calls(prompt, sampling_params, options)
        states = await _COMPLETE.arun_batch(calls, backend=self, adapter=lora_path)
        return _shaped(prompt, [_answer(state) for state in states], len(prompts))


def _complete(prompt: str, params: Mapping[str, Any]) -> Expr:
    return prompt + gen("text", **params)


_COMPLETE = Function(_complete)


def _calls(
    prompt: str | Sequence[str],
    sampling_params: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None,
    options: Mapping[str, Any],
) -> tuple[list[str], list[dict[str, Any]]]:
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    if sampling_params is None or isinstance(sampling_params, Mapping):
        params = [sampling_params or {}] * len(prompts)
    else:
        params = list(sampling_params)
    if len(params) != len(prompts):
        raise ProgramError(f"{len(params)} sampling_params for {len(prompts)} prompts")
    pairs = zip(prompts, params, strict=True)
    return prompts, [{"prompt": text, "params": {**options, **own}} for text, own in pairs]


def _answer(state: State) -> dict[str, Any]:
    slot = state.branch.program.slots[0]
    ids = [token for run in slot.runs for token in run.token_ids]
    return {"text": slot.text, "output_ids": ids, "meta_info": state.get_meta_info("text")}


def _shaped(prompt: object, answers: list[dict[str, Any]], num_prompts: int) -> Any:
    return answers[0] if isinstance(prompt, str) and num_prompts == 1 else answers
