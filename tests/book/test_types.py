"The public functions and classes have types that a user's editor understands."

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_users_lines_type_check():
    pytest.importorskip('pyright')
    done = subprocess.run(
        [sys.executable, '-m', 'pyright', '--outputjson', '--pythonpath', sys.executable, 'tests/typing/user.py'],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    found = json.loads(done.stdout)
    assert found['summary']['filesAnalyzed'] == 1
    assert [f"{d['range']['start']['line'] + 1}: {d['message']}" for d in found['generalDiagnostics']] == []
