"Every notebook runs: its lessons are the tests. `pytest -k cvae` runs those with `cvae` in their path."

import atexit
import gc
import os
import random
import re
import sys
import types
from pathlib import Path

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

ROOT = Path(__file__).resolve().parents[2]
MAIN = types.ModuleType('__main__')  # of every notebook, as libraries remember the first one they see
QUIET = Config(HistoryManager=dict(enabled=False), InteractiveShell=dict(colors='nocolor'))


def runs(path):
    "Is `path` no private or generated file, and not in a folder with `.notest`?"
    parts = path.relative_to(ROOT / 'nbs').parts
    return not any(p.startswith(('_', '.')) for p in parts) and not (path.parent / '.notest').exists()


NOTEBOOKS = [p for p in sorted((ROOT / 'nbs').rglob('*.ipynb')) if runs(p)]


def sources(path):
    "The code cells that a test runs; none of an experiment, which papermill runs."
    cells = nbformat.read(path, 4).cells
    if any(re.search(r'^- skip_exec: true', c.source, re.M) for c in cells if c.cell_type == 'markdown'):
        return []
    skipped = re.compile(r'^#\| *eval: *false|nbdev_export\(\)', re.M)
    return [c.source for c in cells if c.cell_type == 'code' and not skipped.search(c.source)]


def is_slow(source):
    return re.search(r'^#\| *slow\b', source, re.M)


@pytest.fixture
def shell(tmp_path):
    "An IPython of this process and thread, as a kernel has one; what a notebook made in it is freed."
    os.environ['IPYTHONDIR'] = str(tmp_path / 'ipython')
    InteractiveShell.clear_instance()
    before = sys.modules['__main__']
    shell = InteractiveShell.instance(config=QUIET, user_module=MAIN)
    yield shell
    sys.modules['__main__'] = before
    atexit.unregister(shell.atexit_operations)
    shell.atexit_operations()
    InteractiveShell.clear_instance()
    MAIN.__dict__.clear()
    MAIN.__name__ = '__main__'
    del shell
    gc.collect()


@pytest.fixture
def alone():
    "What a notebook may change for itself is put back: folder, environment, path, generators, threads, figures."
    import numpy as np
    import torch
    import vaebook.experiments
    from vaebook.core.pretrained import Pretrained
    from vaebook.experiments import Experiment

    for name in vaebook.experiments.__all__:
        getattr(vaebook.experiments, name)  # every class of the package has registered itself
    env, folder, path = dict(os.environ), os.getcwd(), list(sys.path)
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    deterministic = torch.are_deterministic_algorithms_enabled()
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    hooks, streams = (sys.displayhook, sys.excepthook), (sys.stdout, sys.stderr)
    kinds = {base: dict(base.kinds) for base in (Pretrained, Experiment)}  # a notebook defines its classes anew
    yield
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    sys.path[:] = path
    sys.displayhook, sys.excepthook = hooks
    sys.stdout, sys.stderr = streams
    for base, known in kinds.items():
        base.kinds.clear()
        base.kinds.update(known)
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)
    torch.set_grad_enabled(True)
    torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
    if 'matplotlib.pyplot' in sys.modules:
        sys.modules['matplotlib.pyplot'].close('all')
        sys.modules['matplotlib'].rcdefaults()


def run(shell, folder, cells, capsys):
    os.chdir(folder)
    for source in cells:
        if not shell.run_cell(source, store_history=False).success:
            pytest.fail(f'{source}\n\n{capsys.readouterr().out[-5000:]}', pytrace=False)


def name(path):
    return path.relative_to(ROOT / 'nbs').as_posix()


@pytest.mark.timeout(900)
@pytest.mark.parametrize('path', NOTEBOOKS, ids=name)
def test_notebook(path, alone, shell, capsys):
    cells = [source for source in sources(path) if not is_slow(source)]
    if not cells:
        pytest.skip('skip_exec: an experiment, run by papermill')
    run(shell, path.parent, cells, capsys)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize('path', [p for p in NOTEBOOKS if any(map(is_slow, sources(p)))], ids=name)
def test_notebook_with_its_slow_cells(path, alone, shell, capsys):
    run(shell, path.parent, sources(path), capsys)
