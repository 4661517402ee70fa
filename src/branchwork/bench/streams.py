"""Streams of free text that never end, and the gaps between the tokens of each: other clients than who is at work.

`python -m branchwork.bench.streams ADDRESS COUNT` prints a line of JSON a round: the gaps in milliseconds.
"""

import itertools
import json
import sys

from branchwork import connect
from branchwork.bench.load import Job, run_jobs

# Of one stream before it is asked for anew.
STREAM_TOKENS = 40


def main() -> None:
    """Stream until ended."""
    client, count = connect(sys.argv[1]), int(sys.argv[2])
    for round_ in itertools.count():
        prompts = ((3 + round_ % 200, 3 + number, 5) for number in range(count))
        jobs = [Job(prompt, STREAM_TOKENS, ignore_eos=True) for prompt in prompts]
        run_jobs(client, jobs)
        pairs = (pair for job in jobs for pair in itertools.pairwise(job.times))
        print(json.dumps([1e3 * (after - before) for before, after in pairs]), flush=True)


if __name__ == "__main__":
    main()
