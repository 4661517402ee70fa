"""What pip installs: real files, with the model and the page in it."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An sdist, and the wheel made from that sdist (so that both must be whole)."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return out


@pytest.mark.timeout(300)
def test_the_wheel_holds_code_model_and_page_as_real_files(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        sizes = {entry.filename: entry.file_size for entry in wheel.infolist()}
        is_link = [
            e.filename for e in wheel.infolist() if (e.external_attr >> 16) & 0o170000 == 0o120000
        ]
    assert is_link == []
    for name in (
        "branchwork/__init__.py",
        "branchwork/py.typed",
        "branchwork/lang/state.py",
        "branchwork/runtime/wire/messages.py",
        "branchwork/kernels/api.py",
        "branchwork/runtime/server/page/index.html",
        "branchwork/runtime/server/page/main.js",
        "branchwork/runtime/models/sprout/config.json",
        "branchwork/runtime/models/sprout/tokenizer.json",
    ):
        assert sizes.get(name, 0) > 0 or name.endswith("py.typed"), name
    weights = "branchwork/runtime/models/sprout/model.safetensors"
    assert 1 << 20 < sizes[weights] < 16 << 20


@pytest.mark.timeout(300)
def test_the_source_archive_holds_no_link_out_of_itself(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = archive.getnames()
        assert not [
            m.name for m in archive.getmembers() if m.issym() and m.linkname.startswith("/")
        ]
    assert any(name.endswith("branchwork/runtime/wire/messages.py") for name in names)
