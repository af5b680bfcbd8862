"The action chapter as a user meets it: the seed's command lines, engines, processes, killed runs, foreign loaders."

import json, os, subprocess, sys
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import command, follows_golden, killed, measured, metrics, papermill, pictures, said, torchrun, weights
from vaebook.core.config import compose
from vaebook.core import BadInput
from vaebook.models import ActionTokenizer, FSQVQVAE
from vaebook.train import load_run, train

QUIET = 'trainer.progress_bar=false logger=csv'


def smoke(run_dir, overrides='', **given):
    return compose('latent_actions', f'{QUIET} {overrides}', **dict(smoke=True, run_dir=str(run_dir)) | given)


@pytest.fixture(scope='module')
def first(tmp_path_factory):
    "One smoke run that several tests look at."
    folder = tmp_path_factory.mktemp('first') / 'run'
    os.environ.pop('LAST_VAL_FIG', None)
    train(smoke(folder))
    return folder


def test_run_folder(first):
    numbers = 'rmse rmse/reach rmse/stack bits_per_chunk effective_bits perplexity dead_positions'
    assert set(numbers.split()) <= set(metrics(first))
    kept = first / 'checkpoints'
    assert {p.name for p in kept.iterdir()} == {'best_step_60', 'final_step_60', 'last.ckpt'}
    best = {p.name for p in (kept / 'best_step_60').iterdir()}
    assert best == {'config.json', 'model.safetensors', 'pytorch_model.bin'}
    figure = Path(os.environ['LAST_VAL_FIG'])
    assert figure == first / 'figures/val_metrics_step_60.png' and figure.stat().st_size > 1000


def test_golden_curve(first):
    follows_golden(first, 'train_latent_actions_smoke')


def test_checkpoints_load(first):
    "Each checkpoint is a model and a tokenizer; the state dict is plain."
    folders = 'model', 'checkpoints/best_step_60', 'checkpoints/final_step_60'
    models = [FSQVQVAE.from_pretrained(first / folder) for folder in folders]
    x = torch.rand(50, 32, 4) * 2 - 1
    ids = [ActionTokenizer(m).encode(x) for m in models]
    assert torch.equal(ids[0], ids[2])
    state = torch.load(first / 'checkpoints/final_step_60/pytorch_model.bin', weights_only=True)
    assert all(torch.equal(v, state[k]) for k, v in models[2].state_dict().items())
    assert load_run(first).evaluate() == metrics(first)


def test_ids_are_the_same_everywhere(first):
    "In batches of any size, from any dtype that holds the numbers, as array, list or tensor."
    tokenizer = ActionTokenizer.from_pretrained(first / 'model')
    x = (torch.rand(5000, 32, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1).bfloat16().float()
    ids = tokenizer.encode(x)
    for size in (1, 7, 64, 1000):
        assert torch.equal(torch.cat([tokenizer.encode(p) for p in x[:1001].split(size)]), ids[:1001])
    for kind in (torch.bfloat16, torch.float64):
        assert torch.equal(tokenizer.encode(x.to(kind)), ids)
    assert (tokenizer.encode(x.numpy()) == ids.numpy()).all() and tokenizer(x[:2].tolist()) == ids[:2].tolist()


def test_two_engines_are_one(first, tmp_path):
    "Lightning and Accelerate: the same numbers, the same weights."
    assert train(smoke(tmp_path / 'run', 'trainer.engine=lightning')) == pytest.approx(metrics(first), rel=1e-4)
    a, b = (FSQVQVAE.from_pretrained(f / 'model').state_dict() for f in (first, tmp_path / 'run'))
    assert all(torch.allclose(a[k].float(), b[k].float(), atol=1e-5) for k in a)


@pytest.mark.slow
def test_papermill_door(first, tmp_path):
    papermill('train_latent_actions', tmp_path, smoke=True, run_dir='run', logger='csv')
    assert metrics(tmp_path / 'run') == metrics(first)
    assert pictures(tmp_path / 'out.ipynb') >= 5


@pytest.mark.slow
def test_the_seeds_command_lines(tmp_path):
    "Both lines of the origin's README, made small at their end; a transformer key selects the transformer."
    first = 'recipe=latent_actions trainer.num_steps={} dataset.batch_size=256 model.latent_dim=512'
    said(*first.format(20_000).split(), 'trainer.max_val_batches=1', '--cfg', 'job', cwd=tmp_path)
    small = 'model.hidden_dim=32 smoke=true run_dir=run trainer.progress_bar=false'
    command('-m', 'vaebook.train', *first.format(2).split(), *small.split(), cwd=tmp_path)
    assert json.loads((tmp_path / 'run/model/config.json').read_text())['config']['latent_dim'] == 512
    assert any('qkv' in k for k in FSQVQVAE.from_pretrained(tmp_path / 'run/model').state_dict())
    second = 'model.latent_dim=384 model.num_encoder_layers=6 model.num_decoder_layers=6 model.fsq_levels=[9,9,9,9]'
    small = 'model.hidden_dim=32 trainer.num_steps=2 smoke=true run_dir=second clearml.enable=false'
    said(*second.split(), *small.split(), cwd=tmp_path)
    model = FSQVQVAE.from_pretrained(tmp_path / 'second/model')
    assert model.bottleneck.vocab_size == 9**4 and len(model.encoder[0].blocks) == 6
    assert {p.name for p in tmp_path.iterdir()} == {'run', 'second'}
    for clash in (['model.backbone=mlp', 'model.latent_dim=512'], ['model.backbone=conv', 'model.num_heads=4']):
        words = said('recipe=latent_actions', *clash, 'smoke=true', cwd=tmp_path, status=2)
        assert f"{clash[1].split('.')[1].split('=')[0]}=" in words and 'Traceback' not in words


@pytest.mark.slow
def test_launchers(tmp_path):
    """Two processes under torchrun: one run folder, written once, the result of one process with the doubled batch.

    Without augmentation, whose noise is each process's own. `accelerate launch` without a recipe is this chapter."""
    few = f'{QUIET} smoke=true model.augment=0 trainer.optimizer.lr=0.0005 trainer.num_steps=6'.split()
    few += ['trainer.val_every_n_steps=3', 'trainer.accelerator=cpu']
    two = '-m vaebook.train recipe=latent_actions run_dir=two dataset.batch_size=64'
    words = torchrun(*two.split(), *few, cwd=tmp_path)
    assert words.count('bits_per_chunk') == 1
    one = '-m accelerate.commands.launch --cpu --num_processes 1 -m vaebook.train run_dir=one dataset.batch_size=128'
    command(*one.split(), *few, cwd=tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {'one', 'two'}
    assert metrics(tmp_path / 'two') == pytest.approx(metrics(tmp_path / 'one'), rel=1e-3)
    a, b = (FSQVQVAE.from_pretrained(tmp_path / n / 'model').state_dict() for n in ('one', 'two'))
    assert all(torch.allclose(a[k], b[k], atol=1e-4) for k in a)


@pytest.mark.slow
def test_killed_and_resumed(tmp_path):
    "SIGKILL in the middle, resume from the last checkpoint, the same weights and log as without."
    steps = 'trainer.max_steps=120 trainer.ema_decay=0.9 model.augment=0.3'
    measured(smoke(tmp_path / 'whole', steps))
    killed(tmp_path / 'cut', 'recipe=latent_actions', 'smoke=true', *QUIET.split(), *steps.split())
    assert train(compose('latent_actions', resume=str(tmp_path / 'cut'))) == metrics(tmp_path / 'whole')
    assert weights(tmp_path / 'cut') == weights(tmp_path / 'whole')
    assert (tmp_path / 'cut/metrics.csv').read_text() == (tmp_path / 'whole/metrics.csv').read_text()


def test_resume_of_other_data(tmp_path):
    "A run on another data set than the recipe's is resumed from its folder alone."
    rng = np.random.default_rng(0)
    np.savez(tmp_path / 'walk.npz', actions=rng.normal(size=(400, 2)).cumsum(0).astype(np.float32), lengths=[50] * 8)
    words = f'{QUIET} dataset=npz dataset.root={tmp_path}/walk.npz model.hidden_dim=16'
    words += ' trainer.batch_size=32 trainer.val_every_n_steps=4 trainer.max_steps=8'
    train(compose('latent_actions', words, run_dir=str(tmp_path / 'run')))
    assert 'rmse/walk' in train(compose('latent_actions', 'trainer.max_steps=12', resume=str(tmp_path / 'run')))


@pytest.mark.parametrize(
    'given, message',
    [
        ('model.code_norm=bach', "Did you mean 'batch'"),
        ('model.codebook_size=77', 'codebook_size=77'),
        ('model.fsq_levels=[1,5]', 'levels'),
        ('model.bottleneck=fsqq', "Did you mean 'fsq'"),
        ('model.num_tokens=0', 'num_tokens=0'),
        ('model.linear_codec=fft', 'linear_codec'),
        ('model.augment=2', 'augment=2'),
        ('dataset.horizon=0', 'horizon=0'),
        ('dataset.tail=cut', 'tail'),
        ('trainer.engine=jax', 'engine'),
        ('model.recon=l3', 'recon'),
    ],
)
def test_bad_values(given, message, tmp_path):
    with pytest.raises(BadInput, match=message):
        train(smoke(tmp_path / 'run', given))
    assert not list(tmp_path.rglob('model'))


NO_ACTIONS = '''
import torch
def prepare_dataloaders(batch_size):
    return torch.zeros(10, 3), [dict(x=1)], {"a": [dict(x=1)]}
'''


@pytest.mark.parametrize(
    'source, message',
    [
        ('', 'prepare_dataloaders'),
        ('def prepare_dataloaders(batch_size): return 3', 'example_actions'),
        (NO_ACTIONS, 'actions'),
    ],
)
def test_bad_modules(source, message, tmp_path):
    (tmp_path / 'dataset.py').write_text(source)
    words = f'{QUIET} dataset.module={tmp_path}/dataset.py dataset.horizon=10'
    with pytest.raises(BadInput, match=message):
        train(compose('latent_actions', words, run_dir=str(tmp_path / 'run')))


AUTO_PROCESSOR = '''
import numpy as np
from transformers import AutoProcessor
tok = AutoProcessor.from_pretrained('tokenizer', trust_remote_code=True)
ids = tok(np.load('x.npy'))
assert type(ids[0][0]) is int and tok.decode(ids, time_horizon=32, action_dim=4).shape == (3, 32, 4)
print(ids)
'''


@pytest.mark.slow
def test_auto_processor(first, tmp_path):
    "Hugging Face's AutoProcessor finds the tokenizer in its folder, in a process with a HOME of its own."
    ActionTokenizer.from_pretrained(first / 'model').save_pretrained(tmp_path / 'tokenizer')
    np.save(tmp_path / 'x.npy', x := np.random.default_rng(0).uniform(-1, 1, (3, 32, 4)))
    (tmp_path / 'use.py').write_text(AUTO_PROCESSOR)
    home = dict(HOME=str(tmp_path / 'home'), HF_HOME=str(tmp_path / 'home/hf'), HF_HUB_OFFLINE='1')
    line = [sys.executable, 'use.py']
    done = subprocess.run(line, cwd=tmp_path, env=os.environ | home, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == ActionTokenizer.from_pretrained(first / 'model')(x)
