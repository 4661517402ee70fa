#!/usr/bin/env bash
# Everything that needs a GPU, in one go of at most half an hour: the shared cases and the device runner's programs on the
# device, then the benches of kernels and engine. Without a GPU it says so, and its status is 1.
# For a bare machine, carry what it lacks as wheels in a folder and name it: WHEELS=/path tests/gpu/run.sh RESULTS
#   pip download -d WHEELS '.[test]' --extra-index-url <the index of torch's CUDA wheels>
# Without WHEELS the environment at hand is used. Results (log and JSON) go to the folder RESULTS.
set -uo pipefail
cd "$(dirname "$0")/../.."
results=${1:-gpu-results}
python=${PYTHON:-python3}

if [ -n "${WHEELS:-}" ]; then
    "$python" -m venv .venv-gpu
    python=.venv-gpu/bin/python
    "$python" -m pip install -q --no-index --find-links "$WHEELS" -e '.[test]' || exit 1
fi
if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "this script measures a GPU and this machine has none that torch can use" >&2
    exit 1
fi
mkdir -p "$results"

status=0
step() { # name, seconds at most, command …
    local name=$1 limit=$2
    shift 2
    echo "== $name"
    timeout "$limit" "$@" 2>&1 | tee "$results/$name.log"
    local code=${PIPESTATUS[0]}
    [ "$code" -eq 0 ] || { echo "== $name: exit status $code"; status=1; }
}

nvidia-smi --query-gpu=name,driver_version,clocks.max.sm --format=csv | tee "$results/device.txt"
# Four at once: most of their time is the compiler's.
step cases 300 "$python" -m pytest -q -n 4 -m gpu tests/kernels
step programs 300 "$python" -m pytest -q -n 4 -m gpu tests/runtime
step kernels 500 "$python" -m branchwork bench kernels --json "$results/kernels.json"
step engine 700 "$python" -m branchwork bench engine --json "$results/engine.json"
exit $status
