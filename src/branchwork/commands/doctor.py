"""`branchwork doctor`: whether this machine can serve this model, what it gets and why, and what to change."""

import argparse
import importlib.util
import os
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from branchwork.commands.info import PACKAGES, device, features, weights, why_so_many
from branchwork.runtime.options import add_options, config_from
from branchwork.runtime.wire.config import RuntimeConfig
from branchwork.runtime.wire.errors import BranchworkError, ConfigError, ModelError

MIN_OPEN_FILES = 4096
"""A connection is a file: so many clients at once, and a little more."""

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, how it is, and what could be done about it."""

    what: str
    state: Literal["ok", "slow", "bad"]
    found: str
    remedy: str = ""


def main(argv: list[str]) -> int:
    """Print a line for each finding, and what to do below those that are not well. 1 if the model cannot be served."""
    parser = argparse.ArgumentParser(prog="branchwork doctor", description=__doc__)
    add_options(parser, RuntimeConfig)
    config = config_from(RuntimeConfig, vars(parser.parse_args(argv)))
    findings = []
    checks = (
        check_packages,
        check_device,
        check_processor,
        check_limits,
        check_memory,
        check_answer,
    )
    for check in checks:
        for finding in check(config):
            findings.append(finding)
            print(f"{finding.state:5} {finding.what:13} {finding.found}")
            if finding.remedy:
                print(f"{'':5} {'':13} → {finding.remedy}")
        if any(finding.state == "bad" for finding in findings):
            return 1
    return 0


def check_packages(config: RuntimeConfig) -> Iterator[Finding]:
    """Python, and what the runtime imports."""
    missing = [name for name in PACKAGES if not _is_installed(name)]
    missing = [name for name in missing if name != "triton"]  # for a GPU only
    yield Finding("python", "ok", f"{sys.version.split()[0]} at {sys.executable}")
    if missing:
        remedy = "pip install 'branchwork[runtime]'"
        yield Finding("packages", "bad", f"{', '.join(missing)} not installed", remedy)
    else:
        yield Finding("packages", "ok", "all that the runtime needs")


def check_device(config: RuntimeConfig) -> Iterator[Finding]:
    """Where the model will run."""
    try:
        yield Finding("device", "ok", device(config))
    except ConfigError as error:
        yield Finding("device", "bad", str(error), "--device auto")
    except ModelError:
        return  # there is nothing to run: the check of the memory says so


def check_processor(config: RuntimeConfig) -> Iterator[Finding]:
    """Cores, their instructions, and the machine code made for them."""
    # torch and numba: seconds to import, and perhaps not there.
    from branchwork.kernels.cpu.compiling import DTYPES, is_compiled  # noqa: PLC0415
    from branchwork.kernels.cpu.tile import HAS_BF16_DOT, products_used  # noqa: PLC0415

    cores, quota = len(os.sched_getaffinity(0)), cpu_quota(Path("/sys/fs/cgroup/cpu.max"))
    threads = config.threads or cores
    if quota is not None and threads > quota:
        remedy = f"--threads {max(1, int(quota))}: threads beyond the quota wait for each other"
        yield Finding("cores", "slow", f"{cores}, of which a quota leaves {quota:.1f}", remedy)
    elif threads > cores:
        yield Finding("cores", "slow", f"{cores} for {threads} threads", f"--threads {cores}")
    else:
        yield Finding("cores", "ok", str(cores))
    if HAS_BF16_DOT:
        found = f"{features()}; products by {products_used()}"
        yield Finding("instructions", "ok", found)
    else:
        remedy = "bfloat16 is computed in float32 here, at half the speed"
        yield Finding("instructions", "slow", features(), remedy)
    if all(is_compiled(dtype) for dtype in DTYPES):
        yield Finding("machine code", "ok", "compiled")
    else:
        remedy = (
            "branchwork compile (half a minute, once); until then answers come from slower code"
        )
        yield Finding("machine code", "slow", "not compiled yet", remedy)


def check_limits(config: RuntimeConfig) -> Iterator[Finding]:
    """What the system allows a process."""
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files < MIN_OPEN_FILES:
        remedy = f"ulimit -n {MIN_OPEN_FILES}" + (f" (at most {most})" if most > 0 else "")
        yield Finding("open files", "slow", f"{files}", remedy)
    else:
        yield Finding("open files", "ok", f"{files}")


def check_memory(config: RuntimeConfig) -> Iterator[Finding]:
    """What the pool gets, and why."""
    # As above.
    from branchwork.runtime.models.free_memory import available_bytes  # noqa: PLC0415
    from branchwork.runtime.models.loader import (  # noqa: PLC0415
        load_config,
        load_model,
        model_folder,
    )
    from branchwork.runtime.models.memory import kv_slots_for, slot_bytes  # noqa: PLC0415
    from branchwork.runtime.models.placement import device_for  # noqa: PLC0415

    try:
        shape = load_config(model_folder(config.model))
        place = device_for(config.device, shape)
        before = available_bytes(place)
        model = load_model(config)
        context_len = config.max_len or model.config.max_position
        slots = kv_slots_for(config, model, context_len)
    except BranchworkError as error:
        yield Finding("memory", "bad", str(error))
        return
    per_slot = slot_bytes(config, model)
    found = f"{model.name}, context {context_len:,} tokens, weights {weights(config)}"
    yield Finding("model", "ok", found)
    found = (
        f"{before // MIB:,} MiB free before the model, {available_bytes(place) // MIB:,} with it; "
        f"the pool takes {slots * per_slot // MIB:,} MiB: {slots:,} tokens of {per_slot:,} bytes, "
        f"{why_so_many(config, slots, context_len)}"
    )
    if slots < context_len:
        yield Finding("memory", "slow", found, "no whole context fits: --max-len, or more memory")
    else:
        yield Finding("memory", "ok", found)


def check_answer(config: RuntimeConfig) -> Iterator[Finding]:
    """A runtime is started and asked."""
    from branchwork.bench.load import Job, run_jobs  # noqa: PLC0415  # as above
    from branchwork.runtime.wire.launcher import launch  # noqa: PLC0415

    began = time.perf_counter()
    try:
        with launch(config) as runtime:
            started = time.perf_counter() - began
            job = Job((5, 6, 7), 16, ignore_eos=True)
            seconds = run_jobs(runtime.connect(), [job])
    except BranchworkError as error:
        yield Finding("answer", "bad", f"{type(error).__name__}: {error}")
        return
    if job.done is None:
        yield Finding("answer", "bad", str(job.error))
    else:
        speed = len(job.token_ids) / seconds
        yield Finding("answer", "ok", f"runtime up in {started:.1f} s, {speed:,.0f} tokens/s alone")


def cpu_quota(cpu_max: Path) -> float | None:
    """Cores that the control group may use on average; None without a limit."""
    try:
        quota, period = cpu_max.read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def _is_installed(package: str) -> bool:
    modules = {"pyzmq": "zmq"}
    return importlib.util.find_spec(modules.get(package, package)) is not None
