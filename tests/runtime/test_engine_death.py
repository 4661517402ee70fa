"""An engine that dies takes its process along, and every client is told."""

import textwrap
from pathlib import Path

import pytest

from branchwork.runtime.wire.errors import RuntimeDied
from branchwork.runtime.wire.launcher import launch
from branchwork.runtime.wire.messages import Gen, Open

DYING = """
    from branchwork.runtime import mock_service, service
    from branchwork.runtime.process import boot

    class Dying(service.Engine):
        def run(self):
            while not self._inbox.drain(60.0):
                pass
            raise SystemError("dead")

    if __name__ == "__main__":
        service.Engine = Dying
        boot(mock_service.assemble)
"""


def test_when_the_engine_dies_the_process_ends_and_its_clients_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "dying_runtime.py").write_text(textwrap.dedent(DYING))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with launch(module="dying_runtime", log_level="error") as runtime:
        client = runtime.connect()
        heard: list[object] = []
        branch = client.new_branch(heard.append)
        client.send([Open(branch), Gen(branch, "x")])
        with pytest.raises(RuntimeDied, match="ended with status 1"):
            client.wait(lambda: False, 60)
        assert [type(event) for event in heard] == [RuntimeDied]
        client.close()
    assert "SystemError: dead" in capfd.readouterr().err
