"The surroundings of every test: this tree's package, the shared data, two threads, no bars, no windows, no accounts."
import json, os, signal, subprocess, sys, time
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


@pytest.fixture(autouse=True)
def one_process():
    "What a strategy of several processes leaves in the environment does not reach the next test."
    names = 'MASTER_ADDR MASTER_PORT WORLD_SIZE RANK LOCAL_RANK NODE_RANK GROUP_RANK LOCAL_WORLD_SIZE'.split()
    before = {k: os.environ.get(k) for k in names}
    yield
    for k, v in before.items(): os.environ.pop(k, None) if v is None else os.environ.update({k: v})


@pytest.fixture(scope='session')
def root(): return ROOT


# What tests of runs share: `from conftest import command, killed, metrics, weights`

def weights(run): return (Path(run) / 'model/model.safetensors').read_bytes()


def metrics(run): return json.loads((Path(run) / 'metrics.json').read_text())


def command(*args, cwd, ok=True, timeout=240, env=None):
    "A command line of ours in a process of its own, in another folder; its output."
    done = subprocess.run([sys.executable, *map(str, args)], cwd=cwd, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL, env=os.environ | (env or {}))
    assert (done.returncode == 0) == ok, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


def killed(run, *args):
    "Start `vaebook-train run_dir=<run> <args>` and kill it when it has its first checkpoint, before it has ended."
    process = subprocess.Popen([sys.executable, '-m', 'vaebook.train', f'run_dir={run}', *args], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 120
    while not (run / 'checkpoints/last.ckpt').exists() and time.time() < deadline: time.sleep(0.02)
    process.send_signal(signal.SIGKILL); process.wait()
    assert not (run / 'model').exists() and not (run / 'metrics.json').exists()
