"`trainer.devices=2` starts two processes itself, from any door; a run may change engine and processes on the way."

import subprocess, sys

import pytest
from safetensors.torch import load_file

from helpers import said

pytestmark = pytest.mark.slow
# Adam would make more of a rounding error
FEW = '''
    recipe=latent_actions smoke=true logger=csv trainer.progress_bar=false model.augment=0
    trainer.scheduler.name=constant trainer.scheduler.warmup_steps=0 trainer.val_every_n_steps=4
    trainer.batch_size=64 trainer.optimizer.name=SGD trainer.optimizer.lr=0.1
'''.split()


def weights(run):
    return load_file(run / 'model/model.safetensors')


def apart(a, b):
    return max(float((a[k].double() - b[k].double()).abs().max()) for k in a)


def test_a_plain_script(tmp_path):
    "Without `if __name__ == '__main__'`, and with the devices that a machine has by itself."
    (tmp_path / 'script.py').write_text(f'''
from vaebook.core.config import compose
from vaebook.train import train
numbers = train(compose('latent_actions', {FEW!r} + ['trainer.devices=2', 'trainer.max_steps=4', 'run_dir=run']))
print('numbers of the user:', len(numbers))
''')
    line = [sys.executable, 'script.py']
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert done.stdout.count('numbers of the user') == 1 and 'Traceback' not in done.stderr
    assert {'model', 'metrics.json', 'checkpoints', 'figures'} <= {p.name for p in (tmp_path / 'run').iterdir()}


@pytest.mark.parametrize('engine', ['lightning', 'accelerate'])
def test_a_mistake_in_a_process_is_one_line(engine, tmp_path):
    "What only the data can tell is told by the processes that load them; the user sees it as if there was but one."
    wrong = f'trainer.devices=2 trainer.engine={engine} trainer.monitor=val/nothing trainer.max_steps=4 run_dir=run'
    words = said(*FEW, *wrong.split(), cwd=tmp_path, status=2)
    last = words.strip().splitlines()[-1]
    assert last.startswith("vaebook-train: monitor='val/nothing': expected one of val/recon")
    assert 'Traceback' not in words


def test_a_mistake_is_found_before_processes_start(tmp_path):
    wrong = {
        'trainer.devices=all': 'expected auto, a number of devices',
        'trainer.num_nodes=2': 'torchrun --nnodes=2',
        'trainer.strategy=deepspeed': 'deepspeed',
    }
    for given, message in wrong.items():
        assert message in said(*FEW, given, 'run_dir=run', cwd=tmp_path, status=2)
    assert not (tmp_path / 'run').exists()


@pytest.mark.timeout(600)
def test_a_run_changes_engine_and_processes(tmp_path):
    "Lightning in one process, Accelerate in two, Lightning in one again: the unbroken run to 1e-5."
    one, two = ['trainer.batch_size=128', 'trainer.devices=1'], ['trainer.batch_size=64', 'trainer.devices=2']

    def go(*more):
        said(*FEW, *more, cwd=tmp_path)

    go(*one, 'trainer.engine=lightning', 'trainer.max_steps=12', 'run_dir=whole')
    go(*one, 'trainer.engine=lightning', 'trainer.max_steps=4', 'run_dir=parts')
    go(*two, 'trainer.engine=accelerate', 'trainer.max_steps=8', 'resume=parts')
    half = 'trainer.batch_size=64 trainer.devices=1 trainer.max_steps=12 resume=parts'
    refused = said(*FEW, *half.split(), cwd=tmp_path, status=2)
    assert 'batch_size' in refused and '128' in refused
    go(*one, 'trainer.engine=lightning', 'trainer.max_steps=12', 'resume=parts')
    whole, parts = weights(tmp_path / 'whole'), weights(tmp_path / 'parts')
    started = load_file(tmp_path / 'parts/checkpoints/final_step_4/model.safetensors')
    assert apart(whole, parts) < 1e-5 < apart(whole, started), (apart(whole, parts), apart(whole, started))


@pytest.mark.timeout(600)
def test_a_run_is_spread_on_the_way(tmp_path):
    "Begun in one process with AdamW's moments, gone on with in shards, ended in one: the unbroken run, to rounding."
    adam = [*(w for w in FEW if 'optimizer' not in w and 'batch_size' not in w), 'trainer.optimizer.lr=0.001']
    one = ['trainer.batch_size=128', 'trainer.devices=1', 'trainer.strategy=auto']
    two = ['trainer.batch_size=64', 'trainer.devices=2', 'trainer.strategy=fsdp']

    def go(*more):
        said(*adam, *more, cwd=tmp_path)

    go(*one, 'trainer.max_steps=6', 'run_dir=whole')
    go(*one, 'trainer.max_steps=2', 'run_dir=parts')
    go(*two, 'trainer.max_steps=4', 'resume=parts')
    go(*one, 'trainer.max_steps=6', 'resume=parts')
    whole, parts = weights(tmp_path / 'whole'), weights(tmp_path / 'parts')
    started = load_file(tmp_path / 'parts/checkpoints/final_step_2/model.safetensors')
    assert apart(whole, parts) < 0.02 * apart(whole, started), (apart(whole, parts), apart(whole, started))
