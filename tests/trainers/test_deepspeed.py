"DeepSpeed in two processes of a CPU, held to DDP; where it is not installed, the refusal says how to install it."

from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import load_file

from helpers import toy_config, torchrun
from vaebook.core import BadInput
from vaebook.trainers.plan import check_strategy

TRAIN = '''
import sys
from pathlib import Path
import torch
import toys
from helpers import short
from vaebook.core import BadInput, LossTerms, set_seed
from vaebook.core.distributed import from_main, world
from vaebook.data.batches import batches, sequential
from vaebook.trainers.fit import fit

class Line(toys.Line):
    def __init__(self):
        super().__init__()
        self.net[1].bias.requires_grad_(False)

    def compute_loss(self, batch, step=0, out=None):
        loss = super().compute_loss(batch)['mse'].value
        return LossTerms(mse=loss * torch.nan if step == self.nan else loss)

home, rank, size = Path(sys.argv[1]), *world()
data = toys.pixels()
sgd, adam = dict(name='SGD', lr=0.1, momentum=0.9), dict(name='AdamW', lr=0.01, weight_decay=0.1)

def train(name, strategy, optimizer, steps=12, start=None, nan=None, skip=None):
    given = dict(batch_size=8, accumulate_grad_batches=2, gradient_clip_val=0.1, ema_decay=None, val_every_n_steps=4)
    given |= {'strategy': strategy, 'optimizer': optimizer, 'skip_nonfinite': skip, 'scheduler.name': 'InverseLR'}
    cfg = short('lightning', steps, **given)
    folder, many = from_main(lambda: home/name), 8 * size
    set_seed(0)
    model = Line()
    model.nan = nan
    checkpoint = start and home/start/'checkpoints/last.ckpt'
    loader = lambda start, n: batches(data[:64], many, 0, start, n)
    try: fit(model, cfg, folder, loader, sequential(data[64:], 13), 64 // many, checkpoint=checkpoint)
    except BadInput as e:
        if nan is None: raise
        print(name, e, flush=True)
    torch.save({k: v.clone() for k, v in model.state_dict().items()}, home/f'{name}_{rank}.pt')

for kind, optimizer in dict(sgd=sgd, adam=adam).items():
    for strategy in ('ddp', 'deepspeed', 'deepspeed_stage_1'): train(f'{kind}_{strategy}', strategy, optimizer)
    train(f'{kind}_half', 'deepspeed', optimizer, 8)
    train(f'{kind}_deepspeed', 'deepspeed', optimizer, 12, f'{kind}_deepspeed') # a finished run
    train(f'{kind}_there', 'deepspeed', optimizer, 12, f'{kind}_half')
    train(f'{kind}_back', 'ddp', optimizer, 12, f'{kind}_half')
    train(f'{kind}_before', 'ddp', optimizer, 8)
    train(f'{kind}_into', 'deepspeed', optimizer, 12, f'{kind}_before')
train('nan', 'deepspeed', sgd, nan=8)
train('skip_ddp', 'ddp', adam, nan=8, skip=1)
train('skip_deepspeed', 'deepspeed', adam, nan=8, skip=1)
train('before', 'deepspeed', sgd, 8)
'''
needed = pytest.mark.skipif(not find_spec('deepspeed'), reason='DeepSpeed is not installed: pip install deepspeed')


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    "The folder of all runs, with what two processes said."
    home = tmp_path_factory.mktemp('deepspeed')
    (home / 'train.py').write_text(TRAIN)
    (home / 'said').write_text(torchrun('train.py', home, cwd=home, timeout=900))
    return home


def weights(home, name, rank=0):
    return torch.load(home / f'{name}_{rank}.pt')


def same(a, b, atol):
    "A parameter without a gradient has one of zero in DeepSpeed, so AdamW shrinks it: `unused` is left out."
    for k in a:
        if not k.startswith('unused'):
            torch.testing.assert_close(a[k], b[k], rtol=0, atol=atol)


@needed
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize('kind', ['sgd', 'adam'])
def test_deepspeed_is_ddp(kind, home):
    "Weights as under DDP, with accumulation, clipping and a schedule; equal in both processes and in what is saved."
    ddp, zero = (weights(home, f'{kind}_{strategy}') for strategy in ('ddp', 'deepspeed'))
    assert (ddp['net.1.weight'] - weights(home, f'{kind}_half')['net.1.weight']).abs().max() > 1e-4, 'it moves'
    same(ddp, zero, 1e-6)
    same(ddp, weights(home, f'{kind}_deepspeed_stage_1'), 1e-6)
    assert all(torch.equal(v, zero[k]) for k, v in weights(home, f'{kind}_deepspeed', 1).items())
    kept = load_file(home / f'{kind}_deepspeed/checkpoints/final_step_12/model.safetensors')
    assert all(torch.equal(kept[k], zero[k]) for k in zero)
    kept = [home / f'{kind}_{strategy}/checkpoints/last.ckpt' for strategy in ('ddp', 'deepspeed')]
    ours, theirs = (torch.load(path, weights_only=True)['optimizer'] for path in kept)
    assert ours['param_groups'] == theirs['param_groups'] and ours['state'].keys() <= theirs['state'].keys()
    for n, moments in ours['state'].items():
        torch.testing.assert_close(moments, theirs['state'][n], rtol=0, atol=1e-6)


@needed
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize('kind', ['sgd', 'adam'])
def test_deepspeed_goes_on(kind, home):
    "A run that was stopped goes on exactly; one may change to DDP, and from it."
    unbroken, there, back = (weights(home, f'{kind}_{name}') for name in ('deepspeed', 'there', 'back'))
    assert all(torch.equal(v, there[k]) for k, v in unbroken.items())
    same(unbroken, back, 1e-6)
    same(unbroken, weights(home, f'{kind}_into'), 1e-6)


@needed
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_guard_comes_first(home):
    "A loss that is not finite ends the run by name, and no weight has moved on it."
    assert "nan train/mse=nan: expected a finite number at step 9" in (home / 'said').read_text()
    same(weights(home, 'nan'), weights(home, 'before'), 0)


@needed
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_an_update_is_left_out(home):
    "skip_nonfinite goes on without it, as under DDP."
    zero = weights(home, 'skip_deepspeed')
    same(weights(home, 'skip_ddp'), zero, 1e-6)
    assert all(v.isfinite().all() for v in zero.values())
    assert not torch.equal(zero['net.1.weight'], weights(home, 'adam_deepspeed')['net.1.weight'])
    assert torch.load(home / 'skip_deepspeed/checkpoints/last.ckpt', weights_only=True)['guard']['skipped'] == 1


STAGES = 'expected one of deepspeed, deepspeed_stage_1, deepspeed_stage_2'
REFUSED = [
    ({'trainer.strategy': 'deepspeed_stage_3'}, STAGES),
    ({'trainer.strategy': 'deepspeed_stage_2_offload'}, STAGES),
    ({'trainer.engine': 'accelerate'}, 'trainer.engine=lightning has DeepSpeed'),
    ({'trainer.devices': 1}, 'several processes'),
    ({'trainer.devices': 1, 'trainer.engine': 'auto'}, 'several processes'),
    ({'trainer.precision': 'bf16-mixed'}, '32-true beside trainer.strategy=deepspeed'),
    ({'trainer.ema_decay': 0.9}, 'null beside trainer.strategy=deepspeed'),
    ({'trainer.optimizer.name': 'Adafactor'}, 'Adam, AdamW or SGD beside trainer.strategy=deepspeed'),
]


def block(given):
    usual = dict(strategy='deepspeed', engine='lightning', devices=2, accelerator='cpu', ema_decay=None)
    return toy_config(**usual | {key.removeprefix('trainer.'): value for key, value in given.items()}).trainer


@pytest.mark.parametrize('given, said', REFUSED)
def test_refused(given, said, monkeypatch):
    monkeypatch.setattr('vaebook.trainers.plan.find_spec', lambda name: True)
    check_strategy(block({}))
    with pytest.raises(BadInput, match=said):
        check_strategy(block(given))


def test_obstacles(monkeypatch):
    monkeypatch.setattr('vaebook.trainers.plan.find_spec', lambda name: True)
    with pytest.raises(BadInput, match='trainer.strategy=ddp trains it'):
        check_strategy(block({}), {'loss.balancer': ('jacobian', 'sum')})


def test_not_installed(monkeypatch):
    "One line before anything is loaded."
    monkeypatch.setattr('vaebook.trainers.plan.find_spec', lambda name: None)
    with pytest.raises(BadInput, match='pip install deepspeed'):
        check_strategy(block({}))
