"""The arrows of docs/design.md: lang → runtime.wire ← runtime → kernels."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "lang": ("lang", "runtime.wire"),
    "runtime": ("runtime", "kernels"),
    "runtime/wire": ("runtime.wire",),
    "kernels": ("kernels",),
}
HEAVY = {"torch", "transformers", "numpy", "numba", "triton", "fastapi", "uvicorn", "tokenizers"}


def imports(path: Path) -> list[tuple[int, str]]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            module = node.module or ""
            found.append((node.lineno, module))
            found += [(node.lineno, f"{module}.{alias.name}") for alias in node.names]
    return found


def test_imports_follow_the_arrows() -> None:
    wrong = []
    for path in (p for top in ("lang", "runtime", "kernels") for p in (ROOT / top).rglob("*.py")):
        folder = path.relative_to(ROOT).as_posix()
        top = "runtime/wire" if folder.startswith("runtime/wire/") else folder.split("/")[0]
        for line, name in imports(path):
            if not name.startswith("branchwork."):
                continue
            inner = name.removeprefix("branchwork.")
            allowed = MAY_IMPORT[top]
            if not any(
                inner == a or inner.startswith(a + ".") or a.startswith(inner + ".")
                for a in allowed
            ):
                wrong.append(f"{folder}:{line}: {name}")
            if top in ("lang", "runtime/wire") and inner == "runtime":
                continue
    assert wrong == []


def test_the_language_and_the_wire_name_no_heavy_module_at_the_top() -> None:
    wrong = []
    for top in ("lang", "runtime/wire"):
        for path in (ROOT / top).rglob("*.py"):
            for node in ast.parse(path.read_text()).body:
                names = []
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    names = [node.module or ""]
                wrong += [f"{path}:{node.lineno}: {n}" for n in names if n.split(".")[0] in HEAVY]
    assert wrong == []


def test_import_branchwork_loads_nothing_heavy() -> None:
    code = (
        "import sys, branchwork; from branchwork import function, gen, select;"
        f"print(sorted(set({sorted(HEAVY)!r}) & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
