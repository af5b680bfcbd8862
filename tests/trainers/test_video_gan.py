"A model and its discriminator through both engines: steps are counted once, resume is exact, two processes are one."

import os, sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers import column, same, short, torchrun
from vaebook.core import BadInput, LossTerms, set_seed
from vaebook.data.batches import batches, sequential
from vaebook.losses.adversarial import VideoObjective
from vaebook.losses.perceptual import msgrad
from vaebook.core.pretrained import Pretrained
from vaebook.trainers.callbacks import read_checkpoint
from vaebook.trainers.fit import fit

ENGINES = 'lightning', 'accelerate'


class Stand(Pretrained):
    "Averages 2×2 pixels and sharpens."

    def __init__(self):
        super().__init__()
        self.channels, self.calls, self.doom = 1, 0, None
        self.hidden, self.out = nn.Conv3d(1, 4, 3, padding=1), nn.Conv3d(4, 1, 3, padding=1)

    last_layer = property(lambda self: self.out.weight)

    def forward(self, batch):
        self.calls += self.training
        if self.training and self.calls == self.doom:
            raise RuntimeError('power cut')
        x = batch['video'].float() / 127.5 - 1
        small = F.interpolate(F.avg_pool3d(x, (1, 2, 2)), x.shape[2:])
        return dict(x=x, x_hat=small + self.out(F.silu(self.hidden(small))))

    def compute_loss(self, batch, step, out=None):
        return LossTerms(recon=(out['x_hat'] - out['x']).abs().mean())


class Clips:
    "Moving noise, 1×3×8×8."

    def __init__(self, count):
        still = torch.randint(0, 256, (count, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        self.x = torch.stack([still.roll(t, -1) for t in range(3)], 2)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return dict(video=self.x[index])


def gan(folder, engine='lightning', steps=30, doom=None, resume=None, batch_size=4, objective=None, **trainer):
    "Train; the objective, and what the engine returned."
    cfg, data, small = short(engine, steps, **trainer), Clips(64), dict(disc_width=4, disc_layers=2)
    set_seed(0)
    objective = VideoObjective(Stand(), msgrad, **dict(disc_start=4, disc_lr=1e-3) | small | (objective or {}))
    objective.model.doom = doom

    def loader(start, n):
        return batches(data, batch_size, 0, start, n)

    val = sequential(Clips(8), 4)
    given = fit(objective, cfg, Path(folder), loader, val, 64 // batch_size, checkpoint=resume)
    return objective, given


def state(objective):
    return list(objective.state_dict().values())


def discriminator(objective):
    "Weights of the discriminator, and the numbers of its Adam."
    saved = objective.extra_state()
    return [*saved['net'].values(), *(v for s in saved['optimizer']['state'].values() for v in s.values())]


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "A run of each engine."
    home = tmp_path_factory.mktemp('whole')
    return home, {name: gan(home / name, name, accumulate_grad_batches=2) for name in ENGINES}


def test_steps_are_the_models(whole):
    "30 steps of two batches are 60 calls of the model and 26 steps of the discriminator, and no loop counts those."
    home, runs = whole
    for name, (objective, _) in runs.items():
        assert objective.model.calls == 60
        assert {int(s['step']) for s in objective.discriminator.optimizer.state.values()} == {26}
        assert all(torch.isfinite(v).all() for v in state(objective) + discriminator(objective))
        assert column(home / name, 'train/disc')[0][0] >= 4 and column(home / name, 'val/gan')[-1][0] == 30
        kept = read_checkpoint(home / name / 'checkpoints/last.ckpt')['optimizer']['state']
        assert {int(s['step']) for s in kept.values()} == {30}


def test_two_engines_are_one(whole):
    home, runs = whole
    (a, _), (b, _) = runs.values()
    assert same(state(a), state(b)) and same(discriminator(a), discriminator(b))
    for key in ('train/recon', 'train/gan', 'train/disc', 'val/gan', 'val/perceptual'):
        assert column(home / 'lightning', key) == column(home / 'accelerate', key) != []


@pytest.mark.parametrize('engine', ENGINES)
def test_resume_is_exact(whole, engine, tmp_path):
    "Averaged weights, the discriminator and its Adam, the log."
    home, runs = whole
    given = dict(engine=engine, accumulate_grad_batches=2, save_every_n_steps=5)
    with pytest.raises(RuntimeError, match='power cut'):
        gan(tmp_path, doom=37, **given)
    again, _ = gan(tmp_path, resume=tmp_path / 'checkpoints/last.ckpt', **given)
    assert again.model.calls == 60 - 30, 'it went on from step 15'
    assert same(state(again), state(runs[engine][0])) and same(discriminator(again), discriminator(runs[engine][0]))
    for key in ('train/disc', 'train/gan', 'val/gan'):
        assert column(tmp_path, key) == column(home / engine, key)
    loaded, _ = gan(tmp_path, resume=tmp_path / 'checkpoints/last.ckpt', **given)
    assert loaded.model.calls == 0
    assert same(state(loaded), state(again)) and same(discriminator(loaded), discriminator(again))


@pytest.mark.parametrize('engine', ENGINES)
def test_in_and_out_of_adversarial_training(engine, tmp_path):
    "A run without a discriminator goes on with a fresh one, and the other way round; the model's files have no trace."
    gan(tmp_path, engine, 10, objective=dict(disc_weight=0.0))
    last = tmp_path / 'checkpoints/last.ckpt'
    objective, _ = gan(tmp_path, engine, 20, resume=last)
    assert {int(s['step']) for s in objective.discriminator.optimizer.state.values()} == {10}
    names = {k for k in read_checkpoint(last)['extra']['net']}
    assert names and not any('discriminator' in k or 'net.' in k for k in objective.state_dict())
    gan(tmp_path, engine, 30, resume=last, objective=dict(disc_weight=0.0))
    with pytest.raises(BadInput, match=r'train/gan=nan: expected a finite number at step 6'):
        gan(tmp_path / 'nan', engine, objective=dict(disc_lr=1e30))


@pytest.mark.parametrize('engine', ENGINES)
def test_half_precision(engine, tmp_path):
    objective, _ = gan(tmp_path / 'bf16', engine, 6, precision='bf16-mixed', ema_decay=None)
    assert all(torch.isfinite(v).all() for v in state(objective) + discriminator(objective))
    with pytest.raises(BadInput, match='bf16-mixed or 32-true beside a discriminator'):
        gan(tmp_path / 'fp16', engine, 6, precision='16-mixed')


@pytest.mark.slow
def test_two_processes_are_one(tmp_path):
    "Two of batch 4 are one of batch 8: model, discriminator, its Adam, the log."
    torchrun(__file__, tmp_path, cwd=tmp_path)
    one, _ = gan(tmp_path / 'one', 'accelerate', 12, batch_size=8, accumulate_grad_batches=2)
    first, second = (torch.load(tmp_path / f'{rank}.pt') for rank in range(2))
    assert same(first, second)
    for a, b in zip(first, state(one) + discriminator(one)):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    for key in ('train/recon', 'train/gan', 'train/disc', 'val/gan'):
        many, few = ([v for _, v in column(tmp_path / name, key)] for name in ('two', 'one'))
        assert many == pytest.approx(few, rel=1e-3, abs=1e-5)


if __name__ == '__main__':  # a process of test_two_processes_are_one
    home = Path(sys.argv[1])
    objective, _ = gan(home / 'two', 'accelerate', 12, batch_size=8, accumulate_grad_batches=2)
    torch.save(state(objective) + discriminator(objective), home / f"{os.environ['RANK']}.pt")
