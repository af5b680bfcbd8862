"The surroundings of every test: this tree's package, the shared data, one thread, no bars, no windows, no accounts."

import os, sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ['PYTHONPATH'] = os.pathsep.join(filter(None, [str(ROOT), str(ROOT / 'tests'), os.environ.get('PYTHONPATH')]))
# One thread: there are as many workers as cores, and more threads only wait for each other
os.environ.update(MPLBACKEND='agg', TQDM_DISABLE='1', OMP_NUM_THREADS='1')
USUAL = dict(OMP_WAIT_POLICY='PASSIVE', WANDB_MODE='offline', WANDB_SILENT='true', HF_HUB_OFFLINE='1')
os.environ.update({key: value for key, value in USUAL.items() if key not in os.environ})
if (ROOT.parent / 'shared/data').is_dir():
    os.environ.setdefault('VAEBOOK_DATA', str(ROOT.parent / 'shared/data'))


@pytest.fixture(scope='session', autouse=True)
def threads():
    "One thread, whatever the machine: a sum over other chunks rounds differently."
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope='session')
def root():
    return ROOT


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """The tests of a file share runs, so one worker has them all; a notebook stands alone.

    Not by `--dist loadgroup`, which does nothing with pytest 9.2 (pytest-xdist issue 1386)."""
    from xdist.scheduler import LoadScopeScheduling

    class WholeFiles(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.split('::')[0]
            return nodeid if file.endswith('test_notebooks.py') else file

    return WholeFiles(config, log)


def pytest_collection_modifyitems(items):
    "Where nothing draws for MuJoCo, what draws is skipped, and `-rs` says why."
    drawing = [i for i in items if 'test_dmc_collect' in i.nodeid or 'world/collect.ipynb' in i.nodeid]
    if not drawing:
        return
    from vaebook.core import BadInput
    from vaebook.data.dmc_collect import backend

    try:
        backend()
    except (BadInput, ImportError) as e:
        for i in drawing:
            i.add_marker(pytest.mark.skip(reason=str(e)))
