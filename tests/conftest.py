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


def pytest_collection_modifyitems(items):
    keep_files_whole(items)
    skip_what_draws(items)


def keep_files_whole(items):
    "The tests of a file share runs, so one worker has them all; a notebook stands alone."
    for item in items:
        if item.path.name != 'test_notebooks.py':
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


def skip_what_draws(items):
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
