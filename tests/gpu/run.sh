#!/usr/bin/env bash
# What needs a GPU, step by step: tests/gpu/run.sh RESULTS [STEP …]
#
#   cases     every operation on the device beside the reference          kernels   their speed (branchwork bench kernels)
#   engine    decoding beside the weight floor, constrained beside free   programs  the device's runner beside the CPU's
#   more      first tokens, sharing, rounded weights and K/V              peer      transformers, compiled
#
# Without steps: all, in this order, what matters most first. The first three fit six minutes, and so do the others. A step
# that takes too long is ended; what it had measured is kept. Figures go to RESULTS as JSON, all output to RESULTS/log, and
# the last lines say which targets are met. The status is 1 where a step failed or there is no GPU.
#
# A bare machine needs python (3.11 or later) with torch, triton, transformers, numba, regex, tqdm, safetensors, pytest,
# pytest-xdist, pytest-timeout and hypothesis, and this tree; nothing is installed. Wheels of what else it lacks come in a
# folder, for its python; they take 1 MB:
#   pip download --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux_2_28_x86_64 \
#     --platform manylinux_2_24_x86_64 --platform manylinux2014_x86_64 -d WHEELS greenlet msgspec interegular
#   WHEELS=… tests/gpu/run.sh RESULTS cases kernels engine
set -uo pipefail
cd "$(dirname "$0")/../.."
results=${1:-gpu-results}
shift
steps=("$@")
[ $# -gt 0 ] || steps=(cases kernels engine programs more peer)
python=${PYTHON:-python3}
for name in "${steps[@]}"; do
    [[ " cases kernels engine programs more peer " == *" $name "* ]] || { echo "no such step: $name" >&2; exit 2; }
done

export PYTHONPATH="$PWD/src:$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
export TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-${TMPDIR:-/tmp}/branchwork-triton}
if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "this script measures a GPU and this machine has none that torch can use" >&2
    exit 1
fi
if [ -n "${WHEELS:-}" ]; then
    site=${TMPDIR:-/tmp}/branchwork-wheels
    "$python" -m pip install -q --no-index --no-deps --no-compile --upgrade --target "$site" "$WHEELS"/*.whl || exit 1
    PYTHONPATH="$site:$PYTHONPATH"
fi
mkdir -p "$results"
log=$results/log
nvidia-smi --query-gpu=name,driver_version,clocks.max.sm --format=csv,noheader | tee -a "$log"
"$python" -c 'import torch, triton; print("torch", torch.__version__, "triton", triton.__version__)' | tee -a "$log"

# The engine's constraints and what the runner is compared with are compiled for this processor meanwhile.
compiling=
if [[ " ${steps[*]} " =~ \ (engine|programs|more)\  ]]; then
    timeout 240 "$python" -m branchwork compile >>"$log" 2>&1 &
    compiling=$!
fi

status=0
step() { # name, seconds at most, command …
    local name=$1 limit=$2 began=$SECONDS
    shift 2
    echo "== $name" | tee -a "$log"
    timeout -k 5 "$limit" "$@" 2>&1 | tee -a "$log"
    local code=${PIPESTATUS[0]}
    echo "== $name: status $code, $((SECONDS - began)) s" | tee -a "$log"
    [ "$code" -eq 0 ] || status=1
}
pytest=("$python" -m pytest -q -n 8 -m gpu -W default -p no:cacheprovider)
engine=("$python" -m branchwork bench engine)

for name in "${steps[@]}"; do
    case $name in
    cases) step cases 90 "${pytest[@]}" tests/kernels/test_cases.py tests/kernels/test_refusals.py ;;
    kernels) step kernels 120 "$python" -m branchwork bench kernels --json "$results/kernels.json" ;;
    engine) step engine 140 "${engine[@]}" --parts decode constrained --json "$results/engine.json" ;;
    programs)
        wait "$compiling"
        step programs 120 "${pytest[@]}" tests/runtime/models/test_device_runner.py
        ;;
    more)
        step more 130 "${engine[@]}" --parts cascade first-tokens rounded-weights quantized-kv \
            --json "$results/more.json"
        ;;
    peer) step peer 100 "${engine[@]}" --parts transformers --json "$results/peer.json" ;;
    esac
done
[ -z "$compiling" ] || kill "$compiling" 2>/dev/null
echo "== targets"
grep -h "^target: " "$log" | sort -u
exit $status
