"""`branchwork bench NAME`: measure, beside a peer in the same run."""

import argparse
import importlib
from pathlib import Path

from branchwork.bench import plot

BENCHES = {
    "prefix": "what sharing a prefix saves",
    "offline": "a pile of prompts, beside transformers and any OpenAI server",
    "serve": "workloads W1 to W5 beside other engines",
    "cache": "how much of what could be cached is found, by ten kinds of programs",
    "store": "the first token of a prefix that the last runtime had stored",
    "speculate": "what guessing ahead brings",
    "chunks": "what a long prompt does to those who decode beside it",
    "soak": "what cancelled and disconnected requests leave behind",
    "deaths": "how soon everybody knows that a runtime is dead, stuck or to end",
    "http": "what the gateway adds to the runtime",
    "lang": "what the language costs, against a runtime that answers at once",
    "jump": "what a constraint costs and what jump-forward saves",
    "adapters": "what low-rank adapters cost",
    "grammar": "coverage, compile and mask times of constraints",
    "attention": "decode attention on the CPU over scattered slots, beside torch's own",
    "engine": "decoding, first tokens, constraints and sharing of an 8B model (needs a GPU)",
    "kernels": "every kernel beside torch's own (needs a GPU)",
    "hostile": "what expensive constraints cost, and what other clients notice",
}


def main(argv: list[str]) -> int:
    """Run one bench and print its table."""
    parser = argparse.ArgumentParser(
        prog="branchwork bench", description="Measure, beside a peer in the same run."
    )
    commands = parser.add_subparsers(dest="bench", metavar="NAME", required=True)
    modules = {}
    wanted = argv[0] if argv and argv[0] in BENCHES else None
    for name, help_text in BENCHES.items():
        command = commands.add_parser(name, help=help_text, description=help_text)
        command.add_argument("--json", type=Path, help="also write the figures to this file")
        command.add_argument("--plot", type=Path, help="also draw them, as a PNG, to this file")
        if name == wanted:
            modules[name] = importlib.import_module(f"branchwork.bench.{name}")
            modules[name].add_options(command)
    options = parser.parse_args(argv)
    if options.plot:
        plot.require()  # now, and not after an hour of measuring
    report = modules[options.bench].run(options)
    print(report.text())
    if options.json:
        report.save(options.json)
    if options.plot:
        plot.draw(report, options.plot)
    return 0
