"""Imports point downwards, and the front door stays small and light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pellucid

SOURCE = Path(pellucid.__file__).parent

# Rooms by floor; a module may import from floors below its own and from its own room. Kernel modules may import each other.
FLOORS: dict[str, float] = {
    "__main__": 3, "cli": 3, "demo": 3, "benchmark": 3, "app": 3,
    "api": 2, "training": 2, "bulk": 2, "audit": 2, "networks": 2, "study": 2, "reports": 2, "null": 2, "exchange": 2, "stability": 2, "erasing": 2, "rings": 2, "hybrids": 2, "evaluation": 2, "controls": 2, "plan": 2,
    "comparison": 2, "seeds": 2, "sweep": 2,
    "models": 1, "methods": 1, "views": 1, "metrics": 1, "data": 1, "render": 1, "reporting": 1.5,
}  # fmt: skip
SIBLINGS_MAY_MEET = {0, 2, 3}  # the kernel, the verbs and the apps are one room each; leaves are not
EXCEPTIONS = {("explanation", "render")}  # Explanation draws itself, inside the function


def room(module: str) -> str:
    return module.split(".")[1] if module.count(".") else ""


def imports() -> list[tuple[str, str]]:
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        own = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "pellucid":
                names = [f"pellucid.{a.name}" for a in node.names] if node.module == "pellucid" else [node.module]
                found += [(own, name) for name in names]
            elif isinstance(node, ast.Import):
                found += [(own, a.name) for a in node.names if a.name.split(".")[0] == "pellucid"]
    return found


def test_imports_point_downwards() -> None:
    wrong = []
    for own, other in imports():
        here, there = room(own), room(other)
        if here in ("", there) or there in ("", "__version__") or (here, there) in EXCEPTIONS:
            continue
        up, down = FLOORS.get(here, 0), FLOORS.get(there, 0)
        if down > up or (down == up and up not in SIBLINGS_MAY_MEET):
            wrong.append(f"{own} imports {other}")
    assert not wrong, wrong


def test_no_room_is_called_utils() -> None:
    assert not [p for p in SOURCE.rglob("*.py") if p.stem in ("utils", "helpers", "common", "misc")]


def test_front_door_is_sorted_and_whole() -> None:
    names = [n for n in pellucid.__all__ if n != "__version__"]
    assert names == sorted(names) == sorted(pellucid._PUBLIC)
    assert all(getattr(pellucid, name) is not None for name in pellucid.__all__)


def test_no_module_hides_a_public_name() -> None:
    """Importing `pellucid.x` sets `pellucid.x` to the module, whatever the front door would have given."""
    modules = {p.stem for p in (*SOURCE.glob("*.py"), *SOURCE.glob("*/"))}
    assert not modules & set(pellucid.__all__)


@pytest.mark.parametrize(
    "statement",
    [
        "import pellucid",
        "import pellucid.methods, pellucid.metrics, pellucid.data, pellucid.training",
        "import pellucid.cli",
    ],
)
def test_light_imports_load_no_torch(statement: str) -> None:
    code = f"import sys\n{statement}\nprint(sorted(m for m in ('torch', 'torchvision', 'matplotlib', 'sklearn', 'scipy') if m in sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_repository_speaks_of_the_project_alone() -> None:
    """No machine path slips into sources or documents."""
    root = SOURCE.parents[1]
    files = [
        p
        for folder in ("src", "docs", "benchmarks", "tests", "examples")
        for p in (root / folder).rglob("*")
        if p.suffix in (".py", ".md", ".j2", ".toml", ".yaml")
    ]
    assert files
    # Spelled in parts, so that this very file does not contain what it looks for.
    banned = ["/" + "work/", "/" + "tmp/", "/" + "root/"]
    found = [f"{p.relative_to(root)}: {word}" for p in files for word in banned if word in p.read_text()]
    assert not found, found
