"Every notebook runs: its lessons are the tests. `pytest -k cvae` runs those with `cvae` in their path."
import os, random, sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def runs(path):
    "Is `path` no private or generated file, and not in a folder with `.notest`?"
    parts = path.relative_to(ROOT / 'nbs').parts
    return not any(p.startswith(('_', '.')) for p in parts) and not (path.parent / '.notest').exists()


NOTEBOOKS = [p for p in sorted((ROOT / 'nbs').rglob('*.ipynb')) if runs(p)]


@pytest.fixture
def alone(tmp_path, monkeypatch):
    "What a notebook may change for itself is put back: folder, environment, path, generators, threads, figures."
    import numpy as np, torch
    env, folder, path, warn = dict(os.environ), os.getcwd(), list(sys.path), torch.is_deterministic_algorithms_warn_only_enabled()
    threads, deterministic, dtype = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.get_default_dtype()
    states, hooks = (random.getstate(), np.random.get_state(), torch.get_rng_state()), (sys.displayhook, sys.excepthook)
    streams = sys.stdout, sys.stderr
    from vaebook.core.pretrained import Pretrained
    kinds = dict(Pretrained.kinds) # a notebook defines its classes anew
    os.environ['IPYTHONDIR'] = str(tmp_path / 'ipython')
    os.chdir(ROOT)
    yield
    os.environ.clear(); os.environ.update(env)
    os.chdir(folder)
    sys.path[:] = path
    sys.displayhook, sys.excepthook = hooks
    sys.stdout, sys.stderr = streams
    Pretrained.kinds.clear(); Pretrained.kinds.update(kinds)
    random.setstate(states[0]); np.random.set_state(states[1]); torch.set_rng_state(states[2])
    torch.set_num_threads(threads); torch.set_default_dtype(dtype); torch.set_grad_enabled(True)
    torch.use_deterministic_algorithms(deterministic, warn_only=warn)
    if 'matplotlib.pyplot' in sys.modules:
        sys.modules['matplotlib.pyplot'].close('all')
        sys.modules['matplotlib'].rcdefaults()


@pytest.mark.timeout(900)
@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.relative_to(ROOT / 'nbs').as_posix())
def test_notebook(path, alone, capsys):
    from nbdev.config import get_config
    from nbdev.test import test_nb
    passed, seconds = test_nb(path, skip_flags=get_config().tst_flags.split(), basepath=ROOT)
    if not passed: pytest.fail(capsys.readouterr().err or f'{path} failed', pytrace=False)
    if not seconds: pytest.skip('skip_exec: an experiment, run by papermill')
