"""What low-rank adapters cost: the same requests with none loaded, with none, one and several of those loaded."""

import argparse
import random
import tempfile
from functools import partial
from pathlib import Path

from branchwork.bench.load import Job, random_ids, run_jobs
from branchwork.bench.random_model import write_adapter
from branchwork.bench.report import Report
from branchwork.bench.rounds import alternate, medians
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
        folders = {
            name: str(write_adapter(Path(folder) / name, _matrices(config), options.rank, seed))
            for seed, name in enumerate(names)
        }
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
            found = alternate(forms, partial(_run_once, options), options.repeat)
    report = Report(
        f"{options.requests} requests at once on {options.model}, rank {options.rank} on every matrix",
        ("adapters", "new tokens/s", "over none loaded", "prompt tokens/s", "over none loaded"),
    )
    first_new, first_prompts = medians(found["none loaded"])
    for name, figures in found.items():
        new, prompts = medians(figures)
        report.add(name, new, new / first_new, prompts, prompts / first_prompts)
    return report


def _run_once(
    options: argparse.Namespace, form: tuple[Backend, list[str]], round_: int
) -> tuple[float, float]:
    """New tokens a second, with the prompts computed before; and tokens of the prompts a second."""
    client, adapters = form
    rng = random.Random(f"{adapters} {round_}")
    jobs = [
        Job(
            random_ids(rng, client.welcome.vocab_size, options.prompt),
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


def _matrices(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of every matrix that an adapter may change."""
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
    layers = range(config.num_layers)
    return {
        f"model.layers.{layer}.{name}": size for layer in layers for name, size in sizes.items()
    }
