"A codec, its discriminator and its balancer through the engines: finite, exact on resume, metrics in the log."

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers import column, same, short
from vaebook.core import BadInput, set_seed
from vaebook.data.batches import batches, sequential
from vaebook.losses.audio_adversarial import AudioObjective
from vaebook.core.pretrained import Pretrained
from vaebook.trainers.callbacks import read_checkpoint
from vaebook.trainers.fit import fit

ENGINES = 'lightning', 'accelerate'
SMALL = dict(
    encodec=dict(filters=4, n_ffts=(64, 32)), dac=dict(filters=1, periods=(2,), n_ffts=(64,), bands=(0, 0.25, 1))
)


class Stand(Pretrained):
    "Averages four samples and sharpens; its latent is the coarse sound."

    def __init__(self):
        super().__init__()
        self.channels, self.sample_rate, self.calls, self.doom, self.broken = 2, 16000, 0, None, ()
        self.hidden, self.out = nn.Conv1d(2, 4, 5, padding=2), nn.Conv1d(4, 2, 5, padding=2)

    def forward(self, batch):
        self.calls += self.training
        if self.training and self.calls == self.doom:
            raise RuntimeError('power cut')
        x = batch['audio'].float() / 32768
        z = self.hidden(F.interpolate(F.avg_pool1d(x, 4), x.shape[-1]))
        x_hat = self.out(F.silu(z))
        if self.training and self.calls in self.broken:
            x_hat = x_hat.detach() * float('nan')
        return dict(x=x, x_hat=x_hat, loss_info=dict(kl=z.square().mean()))


class Sounds:
    "Noise that was averaged a little, 2 channels of 256 samples."

    def __init__(self, count):
        noise = torch.randn(count, 2, 260, generator=torch.Generator().manual_seed(0))
        self.x = (F.avg_pool1d(noise, 5, 1) * 8000).short()

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return dict(audio=self.x[index])


def losses(kind='encodec', weights=(1.0, 2.0), **config):
    "A loss configuration with a small discriminator from step 4 on, which learns in two of three steps."
    config = SMALL[kind] | dict(lr=1e-3, start=4, every=1.5) | config
    return dict(
        spectral=dict(mrstft=dict(config=dict(fft_sizes=[64, 32])), weights=dict(mrstft=1.0)),
        time=dict(weights=dict(l1=10.0)),
        bottleneck=dict(weights=dict(kl=1e-2)),
        discriminator=dict(type=kind, config=config, weights=dict(zip(('adversarial', 'feature_matching'), weights))),
    )


def train(folder, loss, engine='lightning', steps=20, doom=None, broken=(), resume=None, balancer=True, **trainer):
    "Train; the objective."
    cfg, data = short(engine, steps, **trainer), Sounds(64)
    set_seed(0)
    objective = AudioObjective(Stand(), loss, dict(sisdr={}), balancer)
    objective.model.doom, objective.model.broken = doom, broken

    def loader(start, n):
        return batches(data, 4, 0, start, n)

    fit(objective, cfg, Path(folder), loader, sequential(Sounds(8), 4), 16, checkpoint=resume)
    return objective


def numbers(objective):
    "Weights of the model; of the discriminator, and its Adam; means of the balancer."
    saved = objective.extra_state()
    return [
        *objective.state_dict().values(),
        *saved.get('net', {}).values(),
        *(v for s in saved['optimizer']['state'].values() for v in s.values()),
        *saved['balancer'].values(),
    ]


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    home = tmp_path_factory.mktemp('whole')
    return home, {kind: train(home / kind, losses(kind)) for kind in SMALL}


@pytest.mark.parametrize('kind', SMALL)
def test_trains(whole, kind):
    "16 steps with a discriminator, which learns in 11 of them; metrics of validation are in the log."
    home, runs = whole
    objective, log = runs[kind], home / kind
    assert {int(s['step']) for s in objective.discriminator.optimizer.state.values()} == {11}
    assert objective.discriminator.skipped == 0
    assert all(torch.isfinite(v).all() for v in numbers(objective))
    assert set(objective.balancer.sums) == {'mrstft', 'l1', 'adversarial', 'feature_matching'}
    assert [s for s, _ in column(log, 'val/sisdr')] == [10, 20]
    assert column(log, 'train/disc')[0][0] >= 4 and column(log, 'train/feature_matching')
    assert not column(log, 'train/sisdr')


@pytest.mark.parametrize('engine', ENGINES)
def test_resume_is_exact(whole, engine, tmp_path):
    "Averaged weights, the discriminator and its Adam, the balancer; and the two engines are one."
    home, runs = whole
    with pytest.raises(RuntimeError, match='power cut'):
        train(tmp_path, losses(), engine, doom=16, save_every_n_steps=6)
    again = train(tmp_path, losses(), engine, resume=tmp_path / 'checkpoints/last.ckpt', save_every_n_steps=6)
    assert again.model.calls < 20 and same(numbers(again), numbers(runs['encodec']))
    for key in ('train/disc', 'train/adversarial', 'val/sisdr'):
        assert column(tmp_path, key) == column(home / 'encodec', key) != []


def test_model_step_leaves_the_discriminator_alone():
    set_seed(0)
    objective = AudioObjective(Stand(), losses(start=0, every=1))
    objective.compute_loss(Sounds(4)[torch.arange(4)], 0).total.backward()
    assert all(p.grad is not None for p in objective.parameters())
    assert all(p.grad is None and not p.requires_grad for p in objective.discriminator.net.parameters())
    assert not any('discriminator' in k for k in objective.state_dict())


def test_broken_sound_is_skipped():
    "Neither the discriminator nor the balancer takes part in a step that is not finite."
    set_seed(0)
    objective, batch = AudioObjective(Stand(), losses(start=0, every=1), balancer=True), Sounds(4)[torch.arange(4)]
    for step in range(2):
        objective.compute_loss(batch, step)
        objective.after_backward(step)
    before = [v.clone() for v in numbers(objective)]
    objective.model.broken = (3,)
    out = objective.model(batch)
    out['x_hat'].requires_grad_(True)
    objective.batch_terms(batch, 2, out)
    objective.after_backward(2)
    assert objective.discriminator.skipped == 1 and same(before, numbers(objective))
    other = AudioObjective(Stand(), losses(start=0, every=1), balancer=True)
    other.load_extra_state(objective.extra_state())
    nets = [list(o.extra_state()['net'].values()) for o in (other, objective)]
    assert other.discriminator.skipped == 1 and same(*nets)


def test_in_and_out_of_adversarial_training(tmp_path):
    "A run without a discriminator goes on with a fresh one; one of another kind is refused; weights of 0 cost nothing."
    assert train(tmp_path, losses(weights=(0.0, 0.0)), steps=10, balancer=False).discriminator is None
    last = tmp_path / 'checkpoints/last.ckpt'
    assert read_checkpoint(last)['extra'] == {}
    objective = train(tmp_path, losses(), steps=14, resume=last)
    assert {int(s['step']) for s in objective.discriminator.optimizer.state.values()} == {3}
    with pytest.raises(BadInput, match='another discriminator'):
        train(tmp_path, losses('dac'), steps=16, resume=last)


def test_half_precision(tmp_path):
    objective = train(tmp_path, losses('dac', start=0), steps=4, precision='bf16-mixed', ema_decay=None)
    assert all(torch.isfinite(v).all() for v in numbers(objective))


def test_monitor_is_a_metric(tmp_path):
    "`monitor=val/sisdr` with `monitor_mode=max` keeps the best."
    train(tmp_path, losses(), monitor='val/sisdr', monitor_mode='max')
    values = dict(column(tmp_path, 'val/sisdr'))
    kept = [p.name for p in (tmp_path / 'checkpoints').glob('best_step_*')]
    assert len(values) == 2 and kept == [f'best_step_{max(values, key=values.get)}']
