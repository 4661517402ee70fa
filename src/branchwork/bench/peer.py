"""A peer engine in a process of its own, run by the peer's own Python: `PYTHON -P peer.py NAME MODEL`.

Only the standard library and the peer itself are imported, since branchwork is not installed there. A line of JSON in,
{"prompts": [[id, …], …], "num_new": n, "schema": text or null}, a line out, {"seconds": s, "answers": [[id, …], …]}
or {"error": text}.
The first line out is {"ready": name of the engine and its version}. All prompts of a line run at once, greedily.
"""

import importlib
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

Prompts = list[list[int]]

THREADS = os.cpu_count() or 1
KV_GIB = 3


class Transformers:
    """`generate` on one static batch, padded on the left, bfloat16, SDPA."""

    def __init__(self, model: str) -> None:
        self._torch = torch = importlib.import_module("torch")
        transformers = importlib.import_module("transformers")
        torch.set_num_threads(THREADS)
        self._model = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
        self._model.eval()

    def run(self, prompts: Prompts, num_new: int, schema: str | None) -> list[list[int]]:
        """It has no constraints of its own: the answers are free."""
        longest = max(map(len, prompts))
        ids = self._torch.tensor([[0] * (longest - len(one)) + one for one in prompts])
        mask = self._torch.tensor([[0] * (longest - len(o)) + [1] * len(o) for o in prompts])
        with self._torch.inference_mode():
            out = self._model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=num_new,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )
        answers: list[list[int]] = out[:, ids.shape[1] :].tolist()
        return answers


class OpenVino:
    """OpenVINO GenAI's continuous batching with its prefix cache, on weights in float16."""

    def __init__(self, model: str) -> None:
        folder = Path(model) / "openvino"
        if not (folder / "openvino_model.xml").exists():
            _export(model, folder)
        self._genai = genai = importlib.import_module("openvino_genai")
        self._tensor = importlib.import_module("openvino").Tensor
        self._numpy = importlib.import_module("numpy")
        config = genai.SchedulerConfig()
        config.cache_size = KV_GIB
        config.enable_prefix_caching = True
        config.max_num_batched_tokens = 2048
        self._pipeline = genai.ContinuousBatchingPipeline(str(folder), config, "CPU", {})
        self._requests = 0

    def run(self, prompts: Prompts, num_new: int, schema: str | None) -> list[list[int]]:
        """All requests in, then step by step until none is left."""
        handles = [self._add(prompt, num_new, schema) for prompt in prompts]
        answers: list[list[int]] = [[] for _ in handles]
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
            for answer, handle in zip(answers, handles, strict=True):
                while handle.can_read():
                    for output in handle.read().values():
                        answer += output.generated_ids
        return answers

    def _add(self, prompt: list[int], num_new: int, schema: str | None) -> Any:
        config = self._genai.GenerationConfig()
        config.max_new_tokens = num_new
        config.do_sample = False
        config.apply_chat_template = False
        config.ignore_eos = schema is None
        if schema is not None:
            structure = self._genai.StructuredOutputConfig()
            structure.json_schema = schema
            config.structured_output_config = structure
        self._requests += 1
        tensor = self._tensor(self._numpy.array([prompt], dtype=self._numpy.int64))
        return self._pipeline.add_request(self._requests, tensor, config)


def _export(model: str, folder: Path) -> None:
    tool = Path(sys.executable).parent / "optimum-cli"
    subprocess.run(
        [
            tool, "export", "openvino", "-m", model, "--task", "text-generation-with-past",
            "--weight-format", "fp16", folder,
        ],
        check=True,
        stdout=sys.stderr,
    )  # fmt: skip


class Vllm:
    """vLLM's CPU build with its prefix cache, bfloat16, compiled as it is by default."""

    def __init__(self, model: str) -> None:
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(KV_GIB))
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", f"0-{THREADS - 1}")
        os.environ.setdefault("VLLM_CPU_NUM_OF_RESERVED_CPU", "0")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        self._vllm = vllm = importlib.import_module("vllm")
        self._engine = vllm.LLM(model, dtype="bfloat16", max_model_len=2048)

    def run(self, prompts: Prompts, num_new: int, schema: str | None) -> list[list[int]]:
        """One call for all."""
        options: dict[str, Any] = {"temperature": 0.0, "max_tokens": num_new}
        if schema is None:
            options["ignore_eos"] = True
        else:
            held = importlib.import_module("vllm.sampling_params").StructuredOutputsParams
            options["structured_outputs"] = held(json=schema)
        outputs = self._engine.generate(
            [{"prompt_token_ids": prompt} for prompt in prompts],
            self._vllm.SamplingParams(**options),
            use_tqdm=False,
        )
        return [list(output.outputs[0].token_ids) for output in outputs]


PEERS = {"transformers": Transformers, "openvino": OpenVino, "vllm": Vllm}
PACKAGES = {"transformers": "transformers", "openvino": "openvino-genai", "vllm": "vllm-cpu"}


def _questions() -> Iterator[str]:
    """Lines of stdin. When there are no more, whoever asked has gone: this process and the engine's own end at once.

    A bench that was killed would else leave an engine behind that works on for minutes, beside the next bench.
    """
    lines: SimpleQueue[str] = SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        os.killpg(0, signal.SIGKILL)  # the session is ours: `serve.open_peer`

    threading.Thread(target=read, daemon=True).start()
    return iter(lines.get, None)


def main(name: str, model: str) -> None:
    """Load the engine, then answer lines until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # engines print

    def tell(**line: Any) -> None:
        answers.write(json.dumps(line) + "\n")
        answers.flush()

    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    questions = _questions()
    engine: Any = PEERS[name](model)
    tell(ready=f"{name} {importlib.metadata.version(PACKAGES[name])}")
    for line in questions:
        asked = json.loads(line)
        began = time.perf_counter()
        try:
            ids = engine.run(asked["prompts"], asked["num_new"], asked["schema"])
        except Exception as error:  # a peer that cannot do one workload may do the others
            tell(error=f"{type(error).__name__}: {error}"[:300])
        else:
            tell(seconds=time.perf_counter() - began, answers=ids)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
