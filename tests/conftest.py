"The surroundings of every test: this tree's package, the shared data, two threads, no bars, no windows, no accounts."
import os, sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ['PYTHONPATH'] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))
os.environ.update(MPLBACKEND='agg', TQDM_DISABLE='1')
for key, value in dict(OMP_NUM_THREADS='2', OMP_WAIT_POLICY='PASSIVE', WANDB_MODE='offline', WANDB_SILENT='true').items(): os.environ.setdefault(key, value)
if (ROOT.parent / 'shared/data').is_dir(): os.environ.setdefault('VAEBOOK_DATA', str(ROOT.parent / 'shared/data'))


@pytest.fixture(scope='session', autouse=True)
def threads():
    "Two threads, whatever the machine: a sum over other chunks rounds differently."
    import torch
    torch.set_num_threads(2)


@pytest.fixture(scope='session')
def root(): return ROOT
