"""Sprout's greedy tokens through a running runtime are those of `transformers`, however they are computed."""

import pytest
import torch
from examples.train_sprout.corpus import SKILLS, held_out
from tokenizers import Tokenizer
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from branchwork.runtime.models.loader import model_folder
from branchwork.runtime.wire.client import Client
from branchwork.runtime.wire.errors import BranchworkError
from branchwork.runtime.wire.launcher import launch
from branchwork.runtime.wire.messages import Close, Closed, Event, Gen, Open, Sampling, Text, Tokens

NUM_TOKENS = 16
# bfloat16 tells logits near 16 apart in steps of 1/8, and two programs that round in different
# places may be a step apart each: a token whose logit is two steps from the best is a tie.
TIE = {"float32": 1e-3, "bfloat16": 0.25}


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    """32 prompts of all skills."""
    tokenizer = Tokenizer.from_file(str(model_folder("sprout") / "tokenizer.json"))
    texts = [document.prompt for skill in SKILLS for document in held_out(skill, 2)]
    return [tokenizer.encode(text).ids for text in texts[:32]]


class Oracle:
    """What transformers generates for each prompt by itself."""

    def __init__(self, dtype: str, prompts: list[list[int]]) -> None:
        self.dtype = dtype
        kind = getattr(torch, dtype)
        self.model = LlamaForCausalLM.from_pretrained(model_folder("sprout"), dtype=kind)
        self.ends = list(self.model.generation_config.eos_token_id)
        self.tie = TIE[dtype]
        self.expected = [self.generate(prompt) for prompt in prompts]

    def generate(self, prompt: list[int]) -> list[int]:
        """The greedy tokens without an end mark, as the runtime gives them under `ignore_eos`."""
        ids = torch.tensor([prompt])
        out = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=NUM_TOKENS,
            do_sample=False,
            suppress_tokens=self.ends,
        )
        return out[0, len(prompt) :].tolist()

    def tied(self, prompt: list[int], tokens: list[int]) -> bool:
        """True if each token is one of the best after those before it."""
        with torch.inference_mode():
            logits = self.model(torch.tensor([prompt + tokens])).logits[0].float()
        rows = logits[len(prompt) - 1 : -1].index_fill(1, torch.tensor(self.ends), -torch.inf)
        chosen = rows.gather(1, torch.tensor(tokens)[:, None])[:, 0]
        return bool((rows.amax(1) - chosen <= self.tie).all())

    def agrees(self, prompts: list[list[int]], texts: list[list[int]]) -> None:
        """Assert that all texts are the expected ones, but for ties, which must be few."""
        wrong = [i for i, text in enumerate(texts) if text != self.expected[i]]
        assert [i for i in wrong if not self.tied(prompts[i], texts[i])] == []
        assert len(wrong) <= len(texts) // 8


@pytest.fixture(scope="module", params=TIE)
def oracle(request: pytest.FixtureRequest, prompts: list[list[int]]) -> Oracle:
    return Oracle(request.param, prompts)


def generated(client: Client, prompts: list[list[int]]) -> list[list[int]]:
    """The greedy tokens of all prompts, asked at once."""
    heard: list[list[Event | BranchworkError]] = [[] for _ in prompts]
    sampling = Sampling(max_tokens=NUM_TOKENS, temperature=0.0, ignore_eos=True)
    frame: list[Open | Text | Gen | Close] = []
    for prompt, events in zip(prompts, heard, strict=True):
        branch = client.new_branch(events.append)
        text = Text(branch, token_ids=tuple(prompt))
        frame += [Open(branch), text, Gen(branch, "x", sampling, stream=True), Close(branch)]
    client.send(frame)
    assert client.wait(lambda: all(e and isinstance(e[-1], Closed) for e in heard), 100)
    tokens = [[event for event in events if isinstance(event, Tokens)] for events in heard]
    return [[i for event in own for run in event.runs for i in run.token_ids] for own in tokens]


@pytest.mark.parametrize("chunk", [512, 7], ids=["whole", "chunked"])
def test_sprout_says_what_transformers_generates_in_any_batch_cold_and_warm(
    oracle: Oracle, chunk: int, prompts: list[list[int]]
) -> None:
    with launch(
        dtype=oracle.dtype, max_chunk=chunk, max_tokens_per_step=max(16, 4 * chunk)
    ) as runtime:
        client = runtime.connect()
        cold = generated(client, prompts)
        warm = generated(client, prompts)
        client.request("flush_cache")
        alone = [generated(client, [prompt])[0] for prompt in prompts[:4]]

    oracle.agrees(prompts, cold)
    assert warm == cold
    assert alone == cold[:4]
