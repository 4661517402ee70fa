"""What low-rank adapters cost: the same requests with none loaded, with none, one and several of those loaded."""

import argparse
import json
import random
import statistics
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from branchwork.bench.load import Job, run_jobs
from branchwork.bench.report import Report
from branchwork.runtime.models.config import ModelConfig
from branchwork.runtime.models.loader import load_config, model_folder
from branchwork.runtime.wire.backend import Backend
from branchwork.runtime.wire.launcher import launch


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be changed."""
    parser.add_argument("--model", default="sprout", help="model folder (default: sprout)")
    parser.add_argument("--requests", type=int, default=32, help="at once (default: 32)")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of each (default: 64)")
    parser.add_argument("--tokens", type=int, default=64, help="new tokens of each (default: 64)")
    parser.add_argument("--adapters", type=int, default=4, help="loaded (default: 4)")
    parser.add_argument("--rank", type=int, default=16, help="of each (default: 16)")
    parser.add_argument("--repeat", type=int, default=5, help="runs of each (default: 5)")


def run(options: argparse.Namespace) -> Report:
    """Tokens a second of each form; runs alternate, so that all meet the same machine."""
    names = [f"adapter-{number}" for number in range(options.adapters)]
    with tempfile.TemporaryDirectory() as folder:
        config = load_config(model_folder(options.model))
        folders = {name: str(Path(folder) / name) for name in names}
        for number, path in enumerate(folders.values()):
            _write_adapter(Path(path), config, options.rank, number)
        with (
            launch(model=options.model) as without,
            launch(model=options.model, adapters=folders) as loaded,
        ):
            plain, client = without.connect(), loaded.connect()
            forms: dict[str, tuple[Backend, list[str]]] = {
                "none loaded": (plain, [""]),
                f"none of {len(names)} loaded": (client, [""]),
                "one for all requests": (client, names[:1]),
                f"{len(names)} in turns": (client, names),
            }
            found: dict[str, list[tuple[float, float]]] = {name: [] for name in forms}
            for round_ in range(options.repeat + 1):
                for name, (backend, adapters) in forms.items():
                    once = _run_once(backend, options, adapters, f"{name} {round_}")
                    if round_:  # the first one warms up
                        found[name].append(once)
    report = Report(
        f"{options.requests} requests at once on {options.model}, rank {options.rank} on every matrix",
        ("adapters", "new tokens/s", "over none loaded", "prompt tokens/s", "over none loaded"),
    )
    first: tuple[float, float] | None = None
    for name, figures in found.items():
        new, prompts = (statistics.median(kind) for kind in zip(*figures, strict=True))
        first = first or (new, prompts)
        report.add(name, new, new / first[0], prompts, prompts / first[1])
    return report


def _run_once(
    client: Backend, options: argparse.Namespace, adapters: list[str], seed: str
) -> tuple[float, float]:
    """New tokens a second, with the prompts computed before; and tokens of the prompts a second."""
    rng, size = random.Random(seed), client.welcome.vocab_size
    jobs = [
        Job(
            tuple(rng.randrange(size // 4, size - 16) for _ in range(options.prompt)),
            options.tokens,
            ignore_eos=True,
            adapter=adapters[number % len(adapters)],
        )
        for number in range(options.requests)
    ]
    seconds = run_jobs(client, [Job(job.prompt, 0, adapter=job.adapter) for job in jobs])
    prompts = options.requests * options.prompt / seconds
    seconds = run_jobs(client, jobs)
    assert all(job.done for job in jobs), next(job.error for job in jobs if job.error)
    return options.requests * options.tokens / seconds, prompts


def _write_adapter(folder: Path, config: ModelConfig, rank: int, seed: int) -> None:
    """An adapter of random weights, in PEFT's format: what it costs does not depend on what it says."""
    hidden, width = config.hidden_size, config.intermediate_size
    q_width, kv_width = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    sizes = {
        "self_attn.q_proj": (hidden, q_width),
        "self_attn.k_proj": (hidden, kv_width),
        "self_attn.v_proj": (hidden, kv_width),
        "self_attn.o_proj": (q_width, hidden),
        "mlp.gate_proj": (hidden, width),
        "mlp.up_proj": (hidden, width),
        "mlp.down_proj": (width, hidden),
    }
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(config.num_layers):
        for module, (inputs, outputs) in sizes.items():
            name = f"base_model.model.model.layers.{layer}.{module}"
            a = torch.randn(rank, inputs, generator=generator) * inputs**-0.5
            b = torch.randn(outputs, rank, generator=generator) * 0.01
            tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"] = a, b
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    said = {"peft_type": "LORA", "r": rank, "lora_alpha": rank}
    (folder / "adapter_config.json").write_text(json.dumps(said))
