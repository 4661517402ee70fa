"""Starting, watching and ending runtime processes."""

import os
import signal
import socket as sockets
import stat
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from tests.empty_runtime import launch_empty
from tests.many_files import many_files

from branchwork.runtime.wire import curve
from branchwork.runtime.wire.client import connect
from branchwork.runtime.wire.config import RuntimeConfig
from branchwork.runtime.wire.errors import (
    ConfigError,
    RuntimeDied,
    RuntimeUnreachable,
    UnknownOption,
)
from branchwork.runtime.wire.launcher import launch
from branchwork.runtime.wire.messages import Done, Gen, Open, Sampling, Tokens

ROOT = Path(__file__).parents[3]


def is_running(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def wait_until_gone(pid: int, timeout_s: float = 30.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_running(pid)


def write_module(folder: Path, name: str, body: str) -> dict[str, str]:
    """A module that a launched process can run, and the environment in which it can."""
    (folder / f"{name}.py").write_text(textwrap.dedent(body))
    return {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}


SLOW_START = """
    import time
    from branchwork.runtime.process import boot

    def assemble(options, report):
        report("taking my time")
        time.sleep(300)

    if __name__ == "__main__":
        boot(assemble)
"""

PARENT = """
    import time
    from branchwork.runtime.wire import launcher

    class Told(launcher.RunningRuntime):
        def await_ready(self, progress, deadline):
            print(self.pid, flush=True)
            super().await_ready(progress, deadline)
            print("ready", flush=True)

    launcher.RunningRuntime = Told
    runtime = launcher.launch(module={module!r})
    time.sleep(300)
"""


def test_the_socket_lies_in_a_folder_for_this_user_alone() -> None:
    with launch_empty() as runtime:
        folder = Path(runtime.address.removeprefix("ipc://")).parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / "socket").stat().st_mode) & 0o077 == 0
    assert not folder.exists()


def test_closing_ends_the_process_and_closing_again_does_nothing() -> None:
    runtime = launch_empty()
    assert runtime.alive
    runtime.close()
    runtime.close()
    assert not runtime.alive
    assert runtime.ending() == f"the runtime (pid {runtime.pid}) ended with status 0"


def test_two_threads_may_close_a_runtime_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second wrote to a pipe that the first had closed."""
    runtime = launch_empty()
    both = threading.Barrier(2)
    command = runtime._command

    def late(line: str) -> None:
        try:
            both.wait(0.5)
        except threading.BrokenBarrierError:
            return command(line)
        if threading.current_thread() is first:
            return command(line)
        first.join(30)  # the other one is done
        return command(line)

    monkeypatch.setattr(runtime, "_command", late)
    raised: list[BaseException] = []

    def close() -> None:
        try:
            runtime.close()
        except BaseException as error:
            raised.append(error)

    first = threading.Thread(target=close)
    first.start()
    close()
    first.join(30)
    assert raised == []
    assert not runtime.alive


def test_the_runtime_has_a_session_of_its_own_so_that_ctrl_c_does_not_reach_it() -> None:
    with launch_empty() as runtime:
        assert os.getsid(runtime.pid) == runtime.pid != os.getsid(0)


def test_a_terminated_runtime_ends_in_order() -> None:
    with launch_empty() as runtime:
        runtime.terminate()
        assert runtime.wait_exit(30)
        assert runtime.ending().endswith("ended with status 0")


def test_a_program_with_a_thousand_open_files_can_start_a_runtime() -> None:
    """A gateway with that many connections could not: `select` knows no descriptor from 1,024 on."""
    with many_files(), launch_empty() as runtime:
        client = runtime.connect()
        assert client.request("stats") == "{}"
        client.close()


def test_an_unknown_option_is_named_with_the_nearest_one() -> None:
    with pytest.raises(UnknownOption, match=r"max_row; did you mean max_rows\?"):
        launch(max_row=3)


def test_a_value_out_of_bounds_is_refused_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match="--max-rows 0: must be between 1 and"):
        launch(max_rows=0)


def test_tcp_without_a_key_is_refused_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match="--key-file"):
        launch_empty(address="tcp://127.0.0.1:0")


@pytest.mark.parametrize("address", ["udp://127.0.0.1:1", "nonsense", "http://127.0.0.1:1"])
def test_other_kinds_of_addresses_are_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="must begin with ipc:// or tcp://"):
        launch_empty(address=address)


def test_tcp_with_a_key_serves_its_holders_and_nobody_else(tmp_path: Path) -> None:
    ours, theirs = str(tmp_path / "ours"), str(tmp_path / "theirs")
    curve.write_key_file(ours)
    curve.write_key_file(theirs)
    with launch_empty(address="tcp://127.0.0.1:*", key_file=ours) as runtime:
        client = runtime.connect()
        assert client.request("stats") == "{}"
        client.close()
        with pytest.raises(RuntimeUnreachable):
            connect(runtime.address, key_file=theirs, timeout_s=1.0)
        with pytest.raises(ConfigError, match="--key-file"):
            connect(runtime.address)


def test_an_address_that_another_runtime_listens_at_is_refused(short_path: Path) -> None:
    address = f"ipc://{short_path}/socket"
    with launch_empty(address=address) as runtime:
        with pytest.raises(ConfigError, match="another process listens there"):
            launch_empty(address=address)
        client = runtime.connect()
        assert client.request("stats") == "{}"
        client.close()


def test_the_socket_that_a_killed_runtime_left_is_taken_over(short_path: Path) -> None:
    address = f"ipc://{short_path}/socket"
    with launch_empty(address=address) as runtime:
        runtime.kill()
        runtime.wait_exit(30)
    with launch_empty(address=address) as runtime:
        client = runtime.connect()
        client.close()


def test_a_busy_port_is_refused_by_name(tmp_path: Path) -> None:
    key = str(tmp_path / "key")
    curve.write_key_file(key)
    with sockets.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"tcp://127.0.0.1:{port}: Address already in use"):
            launch_empty(address=f"tcp://127.0.0.1:{port}", key_file=key)


def test_a_file_that_is_no_socket_is_not_taken_over(short_path: Path) -> None:
    (short_path / "socket").write_text("precious")
    with pytest.raises(ConfigError, match="no socket"):
        launch_empty(address=f"ipc://{short_path}/socket")
    assert (short_path / "socket").read_text() == "precious"


def test_a_start_that_ends_without_a_word_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = write_module(tmp_path, "mute_start", "import os; os._exit(3)")
    monkeypatch.setenv("PYTHONPATH", environment["PYTHONPATH"])
    with pytest.raises(RuntimeDied, match="ended with status 3 during its start"):
        launch(module="mute_start")


def test_a_bug_in_the_start_is_one_sentence_to_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = write_module(
        tmp_path,
        "broken_start",
        """
        from branchwork.runtime.process import boot
        boot(lambda options, report: {}["secret"])
        """,
    )
    monkeypatch.setenv("PYTHONPATH", environment["PYTHONPATH"])
    with pytest.raises(Exception, match=r"^the runtime failed: KeyError$"):
        launch(module="broken_start")


def test_a_start_that_takes_too_long_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = write_module(tmp_path, "slow_start", SLOW_START)
    monkeypatch.setenv("PYTHONPATH", environment["PYTHONPATH"])
    with pytest.raises(RuntimeUnreachable, match="not ready in time"):
        launch(module="slow_start", timeout_s=0.3)


def test_progress_is_told_and_whoever_has_enough_of_it_ends_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = write_module(tmp_path, "slow_start", SLOW_START)
    monkeypatch.setenv("PYTHONPATH", environment["PYTHONPATH"])

    def interrupt(progress: str) -> None:
        raise KeyboardInterrupt(progress)

    with pytest.raises(KeyboardInterrupt, match="taking my time"):
        launch(module="slow_start", progress=interrupt)


@pytest.mark.parametrize("moment", ["start", "later"])
def test_when_the_parent_is_killed_the_runtime_goes(moment: str, tmp_path: Path) -> None:
    module = "slow_start" if moment == "start" else "branchwork.runtime.empty"
    environment = write_module(tmp_path, "slow_start", SLOW_START)
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT).format(module=module)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    runtime_pid = int(parent.stdout.readline())
    if moment == "later":
        assert parent.stdout.readline() == "ready\n"
    parent.send_signal(signal.SIGKILL)
    parent.wait(30)
    parent.stdout.close()
    assert wait_until_gone(runtime_pid)


def test_a_runtime_takes_its_own_children_along(tmp_path: Path) -> None:
    environment = write_module(
        tmp_path,
        "with_child",
        """
        import subprocess
        from branchwork.runtime import empty
        from branchwork.runtime.process import boot

        def assemble(options, report):
            child = subprocess.Popen(["sleep", "300"])
            report(str(child.pid))
            return empty.assemble(options, report)

        if __name__ == "__main__":
            boot(assemble)
        """,
    )
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import time\nfrom branchwork.runtime.wire.launcher import launch\n"
            "launch(module='with_child', progress=lambda p: print(p, flush=True))\n"
            "print('ready', flush=True); time.sleep(300)",
        ],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    grandchild = int(parent.stdout.readline())
    assert parent.stdout.readline() == "ready\n"
    parent.send_signal(signal.SIGKILL)
    parent.wait(30)
    parent.stdout.close()
    assert wait_until_gone(grandchild)


def test_a_program_that_ends_without_closing_leaves_no_process() -> None:
    code = (
        "from tests.empty_runtime import launch_empty\n"
        "runtime = launch_empty()\n"
        "print(runtime.pid, runtime.address)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    pid, address = ran.stdout.split()
    assert ran.stderr == ""
    assert wait_until_gone(int(pid))
    assert not Path(address.removeprefix("ipc://")).parent.exists()


def test_a_users_file_named_like_a_module_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "msgspec.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    with launch_empty() as runtime:
        assert runtime.alive


def test_options_reach_the_process() -> None:
    with launch_empty(max_choices=7) as runtime:
        client = runtime.connect()
        assert client.welcome.limits["max_choices"] == 7
        assert client.welcome.pid == runtime.pid
        client.close()


def test_a_config_and_options_are_joined() -> None:
    with launch_empty(max_stops=3) as runtime:
        assert runtime.config == RuntimeConfig(max_stops=3, address=runtime.address)


@pytest.mark.parametrize("way", ["close", "terminate"])
def test_a_runtime_that_is_to_end_lets_open_slots_finish(way: str) -> None:
    runtime = launch(module="branchwork.bench.pulse")
    client = runtime.connect()
    client.deliver_in_background()
    heard: list[object] = []
    branch = client.new_branch(heard.append)
    client.send([Open(branch), Gen(branch, "x", Sampling(max_tokens=50))])
    assert client.wait(lambda: bool(heard), 30)
    if way == "terminate":
        runtime.terminate()
        assert runtime.wait_exit(30)
    runtime.close()
    assert runtime.ending().endswith("ended with status 0")
    assert sum(isinstance(event, Tokens) for event in heard) == 50
    assert any(isinstance(event, Done) for event in heard)
    client.close()
