"Loaders of the user's own (`dataset.module`): the same batches in every process, after a kill, for any model."

import subprocess, sys

import pytest
import torch

from helpers import metrics, torchrun
from vaebook.core.config import compose
from vaebook.data.own_loaders import IsolatedRNG, from_module
from vaebook.models import FSQVQVAE
from vaebook.train import train

SHUFFLED = '''
import torch
from torch.utils.data import DataLoader, TensorDataset

def prepare_dataloaders(batch_size):
    walks = torch.randn(44, 8, 3, generator=torch.Generator().manual_seed(0)).cumsum(1)
    loader = lambda x, shuffle: DataLoader(TensorDataset(x), batch_size, shuffle=shuffle)
    return walks[0], loader(walks[:33], True), {'walks': loader(walks[33:], False)}
'''
# One whose order nothing can repeat: a generator of its own, seeded by the clock.
UNSEEDED = SHUFFLED.replace('shuffle=shuffle)', 'shuffle=shuffle, generator=(g := torch.Generator(), g.seed())[0])')

GATHER = '''
import sys
from itertools import islice
import torch
from torch import distributed as dist
from vaebook.data.own_loaders import from_module

dist.init_process_group('gloo')
rank, size = dist.get_rank(), dist.get_world_size()
_, train, _ = from_module(sys.argv[1])(4)
mine = []
for batch in islice(iter(train), 40):
    torch.manual_seed(rank); torch.rand(3 + rank) # what a model draws is each process's own
    mine.append(batch['actions'][rank::size, 0, 0].tolist())
assert all(mine), 'a process had no sample'
parts = [None] * size
dist.all_gather_object(parts, mine)
seen = [sorted(sum(step, [])) for step in zip(*parts)]
if rank == 0:
    samples = {x for step in seen for x in step}
    once = all(len(set(step)) == len(step) for step in seen)
    print(len(seen), len(samples), once, seen)
dist.destroy_process_group()
'''

FAILS = '''
class Broken:
    def __len__(self): return 5
    def __iter__(self):
        yield torch.zeros(4, 8, 3)
        raise OSError('the disk is gone')
'''
BROKEN = FAILS + SHUFFLED.replace('loader(walks[:33], True)', 'Broken()')


def module(folder, source):
    (folder / 'dataset.py').write_text(source)
    return folder / 'dataset.py'


def together(folder, code, *arguments):
    "The end of a script in two processes: (exit code, what it printed)."
    (folder / 'script.py').write_text(code)
    line = [sys.executable, *'-m torch.distributed.run --standalone --nproc-per-node=2 script.py'.split(), *arguments]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=240)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize('source', [SHUFFLED, UNSEEDED], ids=['seeded', 'seeded by the clock'])
def test_two_processes_share_each_epoch(source, tmp_path):
    "Each epoch shows a sample once, to one process; the last batch, one sample for two processes, is passed over."
    code, words = together(tmp_path, GATHER, module(tmp_path, source))
    assert code == 0, words[-3000:]
    steps, samples, once, rest = words.strip().split('\n')[0].split(' ', 3)
    seen = eval(rest)
    assert (int(steps), int(samples), once) == (40, 33, 'True')
    for epoch in range(5):
        samples = sum(seen[8 * epoch : 8 * epoch + 8], [])
        assert len(samples) == len(set(samples)) == 32


@pytest.mark.slow
def test_an_error_of_the_loader_ends_all_processes(tmp_path):
    code, words = together(tmp_path, GATHER, module(tmp_path, BROKEN))
    assert code and 'OSError: the disk is gone' in words and "train loader='that of process 0'" in words


def test_batches_do_not_depend_on_the_model(tmp_path):
    "The same order with and without draws between the batches; another seed, another order."
    path = module(tmp_path, SHUFFLED)

    def order(seed, draws):
        out = []
        for i, batch in zip(range(30), from_module(path, seed)(4)[1]):
            torch.rand(draws)
            out.append(batch['actions'])
        return torch.cat(out)

    assert torch.equal(order(0, 0), order(0, 5)) and not torch.equal(order(0, 0), order(1, 0))


def test_random_numbers_outside_stay(tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with IsolatedRNG(0)():
        torch.rand(5)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.slow
def test_resumed_and_in_two_processes(tmp_path):
    "Stopped and gone on with, or in two processes of half the batch: the weights of the unbroken run of one."
    path = module(tmp_path, SHUFFLED.replace('44', '43').replace('33', '32'))
    few = f'dataset.module={path} model.hidden_dim=16 model.augment=0 model.code_norm=none logger=csv '
    few += 'trainer.val_every_n_steps=6 trainer.scheduler.name=constant trainer.scheduler.warmup_steps=0 '
    few += 'trainer.progress_bar=false trainer.accelerator=cpu'

    def run(name, steps):
        words = f'{few} trainer.batch_size=8 trainer.max_steps={steps}'
        train(compose('latent_actions', words, run_dir=str(tmp_path / name)))

    run('whole', 18)
    run('cut', 12)
    train(compose('latent_actions', 'trainer.max_steps=18', resume=str(tmp_path / 'cut')))
    line = '-m vaebook.train recipe=latent_actions run_dir=two trainer.batch_size=4 trainer.max_steps=18'
    torchrun(*line.split(), *few.split(), cwd=tmp_path)
    models = [FSQVQVAE.from_pretrained(tmp_path / name / 'model') for name in ('whole', 'cut', 'two')]
    whole, cut, two = (model.state_dict() for model in models)
    assert all(torch.equal(whole[k], cut[k]) for k in whole)
    assert metrics(tmp_path / 'whole') == metrics(tmp_path / 'cut')
    assert all(torch.allclose(whole[k].float(), two[k].float(), atol=1e-5) for k in whole)
