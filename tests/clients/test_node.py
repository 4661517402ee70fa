"""The openai package of npm, in node; skipped where node or the package is missing.

`BRANCHWORK_NODE_MODULES` names the folder in which `npm install openai` was run.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.clients.conftest import KEY

pytestmark = pytest.mark.clients

MODULES = Path(os.environ.get("BRANCHWORK_NODE_MODULES", Path(__file__).parent))
JOB = Path(__file__).with_name("openai_job.mjs")


def test_chat_stream_tools_and_schemas_in_node(url: str, tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None or not (MODULES / "node_modules" / "openai").is_dir():
        pytest.skip("node or its openai package is not installed")
    # node looks for packages beside the script.
    (tmp_path / "node_modules").symlink_to(MODULES.resolve() / "node_modules")
    script = tmp_path / JOB.name
    shutil.copy(JOB, script)
    done = subprocess.run(
        [node, str(script), url + "/v1", KEY], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["streamed"] == found["whole"]
    assert found["tool"] == "get_weather"
    assert set(json.loads(found["arguments"])) == {"city"}
    assert set(found["record"]) == {"name", "age"}
    assert found["response"]
    assert found["refused"] == [400, "n"]
