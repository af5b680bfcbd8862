"Where a step, a checkpoint or a stop could go wrong without a word: on a toy, under both engines."

import os, signal

import pytest
import torch
from torch import nn

from helpers import toy_config
from vaebook.core import BadInput, LossTerms
from vaebook.data.batches import batches, sequential
from vaebook.core.distributed import device_numbers
from vaebook.losses.balancing import make_balancer
from vaebook.losses.terms import Objective
from vaebook.core.pretrained import Pretrained
from vaebook.trainers.callbacks import Callback, read_checkpoint
from vaebook.trainers.fit import fit
from vaebook.trainers.signals import Stopped
from vaebook.trainers.step import Step, shard_batch

both = pytest.mark.parametrize('engine', ['lightning', 'accelerate'])
SETTINGS = dict(gradient_clip_val=None, accumulate_grad_batches=1, ema_decay=None, precision='32-true')
SETTINGS |= dict(optimizer=dict(name='Adam', lr=0.1), scheduler=dict(name='constant'))


class Rows:
    def __init__(self, n=64):
        self.x = torch.randn(n, 4, generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return dict(x=self.x[i], y=self.x[i].sum(1))


class Line(Pretrained):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, 1)

    def compute_loss(self, batch, step=0, out=None):
        return LossTerms(mse=(self.net(batch['x'])[:, 0] - batch['y']).square().mean())


class TwoTasks(Objective):
    uses_balancer = True

    def __init__(self, model):
        super().__init__(model)
        self.balancer = make_balancer('rgb', model.parameters)

    def batch_terms(self, batch, step, out=None):
        error, nan = self.model.compute_loss(batch)['mse'].value, torch.tensor(float('nan'))
        return LossTerms(mse=(error, 1.0, 'a'), half=(error / 2, 1.0, 'b'), shown=(nan, 0.0, 'b'))

    def backward(self, tasks, accumulate, run):
        self.balancer.backward(tasks, self.parameters())


def toy(folder, engine, callbacks=(), checkpoint=None, data=Rows(), **trainer):
    usual = dict(max_steps=8, batch_size=8, val_every_n_steps=4, log_every_n_steps=1)
    cfg = toy_config(engine=engine, accelerator='cpu', progress_bar=False, **usual | trainer)
    torch.manual_seed(0)
    model = Line()

    def loader(start, n):
        return batches(data, 8, 0, start, n)

    fit(model, cfg, folder, loader, sequential(data, 8), 8, callbacks, checkpoint)
    return model


class Ask(Callback):
    "Asks the run to stop when it gets to a hook at a step."

    def __init__(self, hook, step):
        setattr(self, hook, lambda trainer, module, *args: module.step == step and os.kill(os.getpid(), signal.SIGUSR1))


def test_a_balancer_hides_no_nan():
    "It masks a task without a number; the guard sees that, and no weight moves. A term of weight 0 is only shown."
    step = Step(TwoTasks(Line()), SETTINGS, 8, 8)
    step(Rows()[torch.arange(8)])
    before = step.objective.model.net.weight.clone()
    broken = Rows()[torch.arange(8)]
    broken['x'][3] = float('nan')
    with pytest.raises(BadInput, match=r"batch\['x'\].*sample 3"):
        step(broken)
    assert torch.equal(step.objective.model.net.weight, before)


def test_the_broken_batch_of_several_is_named():
    step = Step(Line(), SETTINGS | dict(accumulate_grad_batches=3), 8, 8)
    first = Rows()[torch.arange(8)]
    first['x'][5] = float('inf')
    step(first), step(Rows()[torch.arange(8)])
    with pytest.raises(BadInput, match='batch 0, sample 5') as e:
        step(Rows()[torch.arange(8)])
    assert 'learning rate' not in str(e.value)


@both
def test_a_stop_in_the_last_validation_is_not_lost(engine, tmp_path):
    "The run is over, so it ends as it should; whoever called it hears of the request."
    heard, former = [], signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
    try:
        toy(tmp_path, engine, [Ask('on_validation_epoch_start', 8)])
    finally:
        signal.signal(signal.SIGUSR1, former)
    assert heard == [1] and read_checkpoint(tmp_path / 'checkpoints/last.ckpt')['batches'] == 8


@both
def test_a_stop_at_a_validation_repeats_and_loses_nothing(engine, tmp_path):
    whole = toy(tmp_path / 'whole', engine)
    with pytest.raises(Stopped, match='at step 4 of 8'):
        toy(tmp_path / 'cut', engine, [Ask('on_validation_epoch_start', 4)])
    again = toy(tmp_path / 'cut', engine, checkpoint=tmp_path / 'cut/checkpoints/last.ckpt')
    assert torch.equal(whole.net.weight, again.net.weight)
    assert (tmp_path / 'cut/metrics.csv').read_text() == (tmp_path / 'whole/metrics.csv').read_text()


def test_without_validation_there_are_checkpoints_and_stops(tmp_path):
    never = {'lightning.limit_val_batches': 0, 'val_every_n_steps': 1, 'save_every_n_steps': 2}
    with pytest.raises(Stopped, match='at step 3 of 8'):
        toy(tmp_path, 'lightning', [Ask('on_train_batch_end', 3)], **never)
    assert read_checkpoint(tmp_path / 'checkpoints/last.ckpt')['batches'] == 3
    toy(tmp_path, 'lightning', checkpoint=tmp_path / 'checkpoints/last.ckpt', **never)
    assert (tmp_path / 'checkpoints/final_step_8/config.json').exists()


def test_all_processes_have_as_many_samples():
    batch = Rows()[torch.arange(7)]
    parts = [shard_batch(batch, rank, 3) for rank in range(3)]
    assert [len(p['x']) for p in parts] == [2, 2, 2]
    assert torch.equal(torch.stack([p['x'] for p in parts], 1).flatten(0, 1), batch['x'][:6])


@pytest.mark.parametrize('devices', [None, 2.0, True, [], [0, 0], 'all'])
def test_strange_devices(devices):
    with pytest.raises(BadInput, match='devices='):
        device_numbers(dict(accelerator='cpu', devices=devices))


def test_an_older_checkpoint(tmp_path):
    torch.save(dict(state_dict={}), tmp_path / 'old.ckpt')
    with pytest.raises(BadInput, match='a checkpoint of this version'):
        toy(tmp_path / 'run', 'accelerate', checkpoint=tmp_path / 'old.ckpt')
