"""Any API that the litellm package speaks to."""

from collections.abc import Sequence
from typing import Any

from branchwork.lang.api.constraint import held, response_format
from branchwork.lang.api.provider import Completion, Emit
from branchwork.lang.api.remote import Remote
from branchwork.lang.api.transcript import CHAT_FORMAT, Transcript
from branchwork.runtime.wire import messages as wire
from branchwork.runtime.wire.errors import RequestError, SetupError


class LiteLLMProvider:
    """One model, by litellm's name for it ("gemini/gemini-2.5-flash")."""

    chat_format = CHAT_FORMAT
    continues = False

    def __init__(self, name: str, completion: Any, extra: dict[str, Any]) -> None:
        self.name = name
        self._completion = completion
        self._extra = extra

    def generate(self, transcript: Transcript, gen: wire.Gen, emit: Emit) -> Completion:
        """One call."""
        sampling = gen.sampling
        form = response_format(gen.constraint)
        ended = [
            each for each in transcript.messages if not (each.open and each.role == "assistant")
        ]
        messages = [{"role": each.role, "content": each.content} for each in ended]
        answer = self._completion(
            model=self.name,
            messages=messages or [{"role": "user", "content": transcript.outside}],
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            **({"stop": list(sampling.stop)} if sampling.stop else {}),
            **({"response_format": form} if form else {}),
            **self._extra,
        )
        text = answer.choices[0].message.content or ""
        if gen.stream:
            emit(text)
        reason = "length" if answer.choices[0].finish_reason == "length" else "stop"
        usage = answer.usage
        completion = Completion(text, reason, usage.prompt_tokens, usage.completion_tokens)
        return held(completion, gen.constraint, self.name)

    def select(self, transcript: Transcript, select: wire.Select) -> Sequence[wire.ChoiceScore]:
        """Refused: what lies behind litellm may tell no log-probabilities."""
        raise RequestError(
            f"{self.name} cannot score choices; use gen, or another backend with on="
        )


class LiteLLM(Remote):
    """Any model that litellm knows; `options` go into every call (api_key, api_base, num_retries, …).

    >>> bw.LiteLLM("gemini/gemini-2.5-flash").welcome.model
    'gemini/gemini-2.5-flash'
    """

    def __init__(self, model_name: str, **options: Any) -> None:
        try:
            # litellm is heavy and optional; only a program that uses it needs it.
            from litellm import completion  # type: ignore[import-not-found]  # noqa: PLC0415
        except ImportError:
            raise SetupError("LiteLLM needs the litellm package: pip install litellm") from None
        super().__init__(LiteLLMProvider(model_name, completion, options))
