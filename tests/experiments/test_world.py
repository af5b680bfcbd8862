"The world chapter's promises that need a run: doors, resume, every choice by key, bad input, own files, two processes."

import math

import pytest
import torch

from helpers import TINY_WORLD, command, metrics, papermill, torchrun, weights
from vaebook.core.config import compose
from vaebook.core import BadInput
from vaebook.data.dmc import DMCVBDataset, pendulum_episodes
from vaebook.data.episodes import write_episodes
from vaebook.train import experiment, load_run, train

QUIET = 'trainer.progress_bar=false logger=csv dream.monitor=0 dream.pictures=0'


def smoke(run_dir, changes='', **given):
    return compose('world', f'{QUIET} trainer.max_steps=4 {changes}', smoke=True, run_dir=str(run_dir), **given)


CHANGES = [
    'model.max_components=1 model.overshoot=0',
    'loss.kl=mc model.likelihood=gaussian loss.beta.shape=cosine',
    'model.quantizer=fsq model.likelihood=logistic_mixture',
    'balancer=rgb rgb_mu=0.5 rgb_alpha_steps=1',
    'balancer=pcgrad engine=accelerate trainer.accumulate_grad_batches=2',
    'balancer=upgrad loss.weights.foreground_weight=4',
    'trainer.precision=bf16-mixed dream.mode=sample',
    'balancer=rgb trainer.precision=bf16-mixed engine=accelerate trainer.ema_decay=0.9',
]


@pytest.mark.slow
@pytest.mark.parametrize('changes', CHANGES)
def test_every_choice_trains(tmp_path, changes):
    "Each runs from data to numbers, and its model comes back from the folder with the same dreams."
    body = experiment(smoke(tmp_path / 'run', changes))
    numbers = body.evaluate()
    assert numbers == metrics(tmp_path / 'run') and all(math.isfinite(v) for v in numbers.values())
    w = {k: v[:2] for k, v in body.windows().items()}
    models = [r.model.eval() for r in (body, load_run(tmp_path / 'run'))]
    dreams = [model.rollout(w['observations'][:, :4], w['actions'], 8).observations for model in models]
    assert torch.equal(*dreams) and dreams[0].shape == (2, 8, 3, 16, 16)


@pytest.mark.slow
@pytest.mark.parametrize('changes', ['', 'balancer=rgb', 'balancer=upgrad engine=accelerate'])
def test_resume_is_exact(tmp_path, changes):
    "Four steps, then four more from the checkpoint: the weights of eight at once, by noise, codebooks, σ and balancer."
    how = f'{changes} trainer.val_every_n_steps=2 trainer.scheduler.name=constant'
    train(smoke(tmp_path / 'whole', f'{how} trainer.max_steps=8'))
    train(smoke(tmp_path / 'parts', how))
    train(smoke(tmp_path / 'parts', f'{how} trainer.max_steps=8', resume=str(tmp_path / 'parts')))
    assert weights(tmp_path / 'whole') == weights(tmp_path / 'parts')


SEED = dict(learning_rate=2e-4, batch_size=4, sequence_length=8, num_epochs=1, max_steps=3, grad_clip=5.0)
SEED |= dict(beta_start=0.0, beta_end=1.0, beta_warmup_epochs=10, image_size=16, action_dim=1)
SEED |= dict(balancer='rgb', rgb_mu=0.9, rgb_lambd=1.0, rgb_alpha_steps=3, num_workers=0, pin_memory=True)
SEED |= dict(entropy_weight=0.2, diversity_weight=0.5, attention_kl_weight=0.3)


def test_the_seeds_keys(tmp_path):
    "The hyper-parameters as the seed's document writes them, on a file of the user's."
    write_episodes(tmp_path / 'pendulum.h5', pendulum_episodes(10, 32, 16))
    places = dict(run_dir=str(tmp_path / 'run'), data_path=str(tmp_path / 'pendulum.h5'))
    cfg = compose('world', QUIET, smoke=True, **{'dataset.synthetic': False}, **places, **SEED)
    body = experiment(cfg)
    assert cfg.dataset.name == 'episodes' and math.isfinite(body.evaluate()['elbo'])
    objective = body.objective()
    assert objective.schedule['warmup'] == 10 * body.batches_per_epoch()
    assert objective.balancer.alpha_steps == 3 and objective.weights.entropy_weight == 0.2


WRONG = {
    'model.max_components=0': 'max_components',
    'model.latent_dim=-1': 'latent_dim',
    'model.grid=3': 'grid',
    'model.image_size=24': 'image_size',
    'model.likelihood=gaus': 'gaussian',
    'loss.balancer=rbg': 'rgb',
    'loss.beta.shape=lin': 'linear',
    'loss.weights.entropy_weight=-1': 'entropy_weight',
    'loss.rgb.mu=2 loss.balancer=rgb': 'mu',
    'dream.horizon=0': 'dream.horizon',
    'dream.mode=best': 'dream.mode',
    'model.quantizer=lfq': 'vq',
    'model.concentration=[0,1]': 'concentration',
}


def test_bad_input_is_named(tmp_path):
    "What is wrong is said before training, and nothing is written."
    for changes, words in WRONG.items():
        with pytest.raises(BadInput, match=words):
            experiment(smoke(tmp_path / 'x', changes)).first_loss()
    with pytest.raises(BadInput, match='action_dim'):
        experiment(smoke(tmp_path / 'x', 'model.action_dim=21')).model
    with pytest.raises(BadInput, match='data_path'):
        experiment(smoke(tmp_path / 'x', 'dataset.synthetic=false', data_path=str(tmp_path / 'none'))).data()
    with pytest.raises(BadInput, match='dream.horizon'):
        experiment(smoke(tmp_path / 'x', 'dream.horizon=60')).data()
    assert not (tmp_path / 'x').exists()


@pytest.mark.slow
def test_doors_agree(tmp_path):
    "papermill, the command line and Python give one metrics.json."
    given = dict(smoke=True, seed=3, max_steps=4, logger='csv', progress_bar=False)
    papermill('train_world_model', tmp_path, run_dir='a', **given)
    line = '-m vaebook.train experiment=world smoke=true run_dir=b seed=3 trainer.max_steps=4'
    command(*line.split(), 'trainer.progress_bar=false', 'logger=csv', cwd=tmp_path)
    train(compose('world', run_dir=str(tmp_path / 'c'), **given))
    assert metrics(tmp_path / 'a') == metrics(tmp_path / 'b') == metrics(tmp_path / 'c')


TWO = '''
import sys, torch
from helpers import TINY_WORLD
from vaebook.core.config import compose
from vaebook.core import set_seed
from vaebook.data.batches import batches, sequential
from vaebook.data.dmc import DMCVBDataset, pendulum_episodes
from vaebook.losses.world import WorldObjective
from vaebook.models.world import DPGMMVariationalRecurrentAutoencoder
from vaebook.core.distributed import from_main, world
from vaebook.trainers.fit import fit
from pathlib import Path

home, rank, size = Path(sys.argv[1]), *world()
data = DMCVBDataset(pendulum_episodes(4, 24, 16), 6)
torch.randint = lambda low, high, shape: torch.tensor(low) # dreams begin at one frame in every process
class Still(DPGMMVariationalRecurrentAutoencoder): # without noise, which each process draws for itself
    def forward(self, batch): return self.forward_sequence(**batch, sample=False)
for name in ('sum', 'rgb'):
    set_seed(0)
    model = Still(3, 4, 16, **TINY_WORLD | dict(embedding=16, quantizer='fsq', overshoot=2))
    plain = dict(accelerator='cpu', engine='accelerate', progress_bar=False, max_steps=6, batch_size=8 // size)
    plain |= {'val_every_n_steps': 6, 'gradient_clip_val': 10., 'scheduler.name': 'constant'}
    plain |= {'optimizer.name': 'SGD', 'optimizer.lr': 1e-5, 'optimizer.momentum': 0.}
    cfg = compose('world', logger='csv', **{f'trainer.{k}': v for k, v in plain.items()})
    folder = from_main(lambda: home/f'{name}{size}')
    loader = lambda start, n: batches(data, 8, 0, start, n)
    fit(WorldObjective(model, balancer=name), cfg, folder, loader, sequential(data, 19), len(data) // 8)
    torch.save(model.state_dict(), home/f'{name}{size}_{rank}.pt')
'''


@pytest.mark.slow
def test_two_processes_are_one(tmp_path):
    "Gradients of tasks are averaged before they are balanced: two processes have the weights of one with both batches."
    (tmp_path / 'two.py').write_text(TWO)
    for launch in (command, torchrun):
        launch('two.py', tmp_path, cwd=tmp_path)
    for name in ('sum', 'rgb'):
        one, first, second = (torch.load(tmp_path / f'{name}{n}.pt', weights_only=True) for n in ('1_0', '2_0', '2_1'))
        for k in one:
            assert torch.equal(first[k], second[k]), (name, k)
            assert torch.allclose(first[k].float(), one[k].float(), rtol=1e-4, atol=1e-6), (name, k)


@pytest.mark.slow
def test_overfits_four_clips():
    "A pendulum's four clips, until what moves is drawn better than 25 dB."
    from vaebook.core import set_seed
    from vaebook.data.dmc import mean_picture
    from vaebook.losses.likelihoods import FramePSNR
    from vaebook.models.world import DPGMMVariationalRecurrentAutoencoder

    set_seed(0)
    data = DMCVBDataset(pendulum_episodes(4, 8, 16), 8)
    batch, background = data[torch.arange(4)], mean_picture(data)
    sizes = TINY_WORLD | dict(width=16, embedding=64)
    model = DPGMMVariationalRecurrentAutoencoder(3, 8, 64, **sizes, overshoot=0).start_from(background)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for step in range(250):
        optimizer.zero_grad()
        model.compute_loss(batch).total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 100.0)
        optimizer.step()
    x_hat = model.eval().forward_sequence(**batch, sample=False).recon.detach()
    frames = x_hat.flatten(0, 1)[:, None], (batch['observations'] / 255).flatten(0, 1)[:, None]
    psnr = FramePSNR(background).update(*frames).report()
    assert float(psnr['fg_psnr']) > 25, psnr


@pytest.mark.slow
def test_averaged_likelihood_collapses():
    "The origin's likelihood, a mean over pixels beside a summed KL, drives the KL to nothing; a detector finds it."
    from vaebook.core import set_seed
    from vaebook.metrics.world import kl_collapse
    from vaebook.losses.world import LossAggregator, elbo_terms
    from vaebook.models.world import DPGMMVariationalRecurrentAutoencoder

    data, left = DMCVBDataset(pendulum_episodes(8, 24, 16), 8), {}
    for name, scale in dict(summed=1.0, averaged=1 / (3 * 16 * 16)).items():
        set_seed(0)
        gaussian = dict(overshoot=0, likelihood='gaussian', sigma=0.3)
        model = DPGMMVariationalRecurrentAutoencoder(1, 8, 64, **TINY_WORLD, **gaussian)
        optimizer = torch.optim.Adam(model.parameters(), 2e-3)
        weigh = LossAggregator(lambda_recon=scale, reward_weight=0.0)
        for step in range(150):
            out = model(data[torch.randperm(len(data))[:8]])
            optimizer.zero_grad()
            weigh.terms(out).total.backward()
            optimizer.step()
        left[name] = elbo_terms(out)['kl_z'].detach()
    means = {k: float(v.mean()) for k, v in left.items()}
    assert kl_collapse(left['averaged']) and not kl_collapse(left['summed']), means
