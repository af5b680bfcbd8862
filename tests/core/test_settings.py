"No setting vanishes: it is used, or refused by name before data are loaded, or one line says what has no effect."

import pytest
import torch

from vaebook.core.config import compose
from vaebook.core import BadInput
from vaebook.train import experiment
from vaebook.trainers.schedules import OPTIMIZERS, SCHEDULERS, make_optimizer, make_scheduler

QUIET = 'trainer.progress_bar=false classifier.trainer.progress_bar=false logger=csv'


def refused(name, *said, smoke=True, **more):
    "The error of a configuration that does not get as far as its data."
    with pytest.raises(BadInput) as e:
        experiment(compose(name, list(said), smoke=smoke, **more))
    return str(e.value)


# Optimisers and schedules


@pytest.mark.parametrize(
    'name, said, message',
    [
        ('cvae', ['momentum=0.5'], 'optimizer.momentum=0.5: expected an argument of Adam'),
        ('cvae', ['optimizer=SGD', 'b1=0.3'], 'optimizer.betas=(0.3, 0.999): expected an argument of SGD'),
        (
            'cvae',
            ['trainer.optimizer.type=SGD', 'trainer.optimizer.config.betas=[0.5, 0.9]'],
            'optimizer.betas=(0.5, 0.9): expected an argument of SGD',
        ),
        (
            'cvae',
            ['classifier.trainer.optimizer.betas=[0.5, 0.9]'],
            'optimizer.betas=(0.5, 0.9): expected an argument of SGD',
        ),
        ('cvae', ['classifier.trainer.optimizer.lr=-1'], 'lr=-1'),
        ('classifier', ['optimizer=Adam', 'momentum=0.3'], 'optimizer.momentum=0.3: expected an argument of Adam'),
        (
            'audio',
            [
                'trainer.scheduler.type=OneCycleLR',
                'trainer.scheduler.config.max_lr=0.1',
                'trainer.scheduler.config.total_steps=19',
            ],
            'scheduler.total_steps=19: expected at least 20',
        ),
        (
            'audio',
            ['trainer.scheduler.type=CosineAnnealingLR', 'trainer.scheduler.config.T_max=0'],
            'CosineAnnealingLR(T_max=0)',
        ),
        (
            'audio',
            ['trainer.scheduler.type=CosineAnnealingLR', "trainer.scheduler.config.T_max='long'"],
            "CosineAnnealingLR(T_max='long')",
        ),
        (
            'audio',
            ['trainer.scheduler.type=ExponentialLR', 'trainer.scheduler.config.gamma=-1.0'],
            'learning rates from 0',
        ),
        ('audio', ['trainer.scheduler.config.total_steps=0'], 'scheduler.total_steps=0'),
        ('audio', ['trainer.scheduler.config.gamma=0.5'], 'scheduler.gamma=0.5: expected an argument of cosine'),
        (
            'audio',
            ['trainer.scheduler.type=InverseLR', 'trainer.scheduler.config.warmup=500'],
            'Linear warm-up over 500 steps is warmup_steps=500',
        ),
        ('audio', ['trainer.scheduler.config.warmup=100'], "Did you mean 'warmup_steps'?"),
        ('audio', ['trainer.scheduler.warmup_steps=1.5'], 'warmup_steps=1.5'),
        ('audio', ['trainer.scheduler.enabled=false', 'trainer.scheduler.config.nonsense=1'], 'scheduler.nonsense=1'),
    ],
)
def test_what_an_optimiser_or_a_schedule_has_not(name, said, message):
    assert message in refused(name, *said, **({} if name == 'audio' else dict(dataset='digits')))


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_any_optimiser_in_a_recipe(name):
    "Changing the name is enough: what the recipe says for Adam becomes null, not an error."
    optimizer = compose('cvae', [f'trainer.optimizer.name={name}'], dataset='digits').trainer.optimizer
    made = make_optimizer([torch.nn.Parameter(torch.zeros(2, 2))], **optimizer)
    assert type(made).__name__ == name and (optimizer.betas is None) == ('betas' not in made.defaults)


def test_any_schedule_in_a_recipe():
    "Nor what it says for its own schedule."
    wants = dict(
        StepLR='step_size=3',
        MultiStepLR='milestones=[2]',
        ExponentialLR='gamma=0.9',
        CyclicLR='max_lr=0.1',
        CosineAnnealingWarmRestarts='T_0=3',
        OneCycleLR='max_lr=0.1',
    )
    for name in (*SCHEDULERS, 'constant', 'cosine', 'step', 'InverseLR'):
        more = [f'trainer.scheduler.{wants[name]}'] if name in wants else []
        if name == 'CyclicLR':
            more += ['trainer.scheduler.base_lr=0.01', 'trainer.scheduler.cycle_momentum=false']
        t = compose('audio', ['recipe=audio_music', f'trainer.scheduler.name={name}', *more]).trainer
        make_scheduler(make_optimizer([torch.nn.Parameter(torch.zeros(1))], **t.optimizer), 10, 5, **t.scheduler)


def test_a_long_schedule_is_tried_quickly():
    import time

    optimizer, start = make_optimizer([torch.nn.Parameter(torch.zeros(1))]), time.perf_counter()
    with pytest.raises(BadInput, match='scheduler.total_steps=9999999: expected at least 10000000'):
        make_scheduler(optimizer, 10_000_000, 1000, 'OneCycleLR', max_lr=1.0, total_steps=9_999_999)
    make_scheduler(optimizer, 10_000_000, 1000, 'CosineAnnealingLR')
    assert time.perf_counter() - start < 10


# Nothing to train on

TERMS = 'lambda_recon lambda_att_dyn entropy_weight attention_kl_weight diversity_weight reward_weight lambda_overshoot'


@pytest.mark.parametrize(
    'name, said, message',
    [
        (
            'audio',
            ['loss.time.weights.l1=0', 'loss.spectral.weights.stft_mse=0', 'loss.spectral.weights.mrstft=0'],
            'a loss of the sound to train on',
        ),
        (
            'audio',
            ['loss={discriminator: {weights: {adversarial: 1}, config: {start: 3}}}'],
            'loss.discriminator.config.start=3: expected 0',
        ),
        (
            'world',
            ['loss.beta.end=0', *(f'loss.weights.{k}=0' for k in TERMS.split())],
            'There is nothing to train on',
        ),
        ('cvae', ['loss.lam_ml=0'], 'lam_ml=0'),
        ('cvae', ['sweep.sweeping_stepsize=7'], 'sweeping_stepsize=7: expected a number above 0, at most 3'),
    ],
)
def test_refused_before_data(name, said, message, monkeypatch):
    assert message in refused(name, *said)


# Values that Lightning would find late


@pytest.mark.parametrize(
    'said, message',
    [
        ('limit_val_batches=1.5', 'limit_val_batches=1.5'),
        ("max_time='00:05:00'", 'DD:HH:MM:SS'),
        ('max_time={minuts: 5}', 'DD:HH:MM:SS'),
        ('max_time=5', 'DD:HH:MM:SS'),
        ('num_sanity_val_steps=x', 'num_sanity_val_steps'),
        ('detect_anomaly=3', 'detect_anomaly=3'),
        ('benchmark=yes', 'benchmark'),
    ],
)
def test_arguments_of_lightning(said, message):
    assert message in refused('audio', f'trainer.trainer.{said}')


def test_a_fraction_of_one_batch(tmp_path):
    words = 'trainer.trainer.limit_val_batches=0.5 demo.clips=0 trainer.progress_bar=false'
    cfg = compose('audio', words, smoke=True, run_dir=str(tmp_path / 'run'))
    with pytest.raises(BadInput, match='limit_val_batches=0.5: expected a fraction that leaves one of the 1 batches'):
        experiment(cfg).fit()


# One line for what has no effect


def test_keys_without_effect_are_told(capsys):
    compose('causal_video', 'loss.disc_width=33 dataset.stride=3', smoke=True)
    compose('world', 'loss.rgb.mu=0.77', smoke=True)
    compose('causal_video', 'loss.disc_width=34 loss.disc_weight=0.5', smoke=True)
    compose('causal_video', smoke=True)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        'loss.disc_width=33 has no effect beside loss.disc_weight=0.0',
        'dataset.stride=3 has no effect beside dataset.name=moving',
        'loss.rgb.mu=0.77 has no effect beside loss.balancer=sum',
    ]


# A stored classifier is the one that is asked for


@pytest.fixture(scope='module')
def stored(tmp_path_factory):
    "A classifier of digits of width 4, under a name."
    place = tmp_path_factory.mktemp('classifiers')
    words = 'dataset=digits model_name=mine model.width=4 trainer.max_steps=5 trainer.scheduler.warmup_steps=0'
    words += ' trainer.progress_bar=false logger=csv'
    experiment(compose('classifier', words, save_dir=str(place), run_dir=str(place / 'run'))).fit()
    return place


def explaining(place, run_dir, *said, **more):
    usual = 'model.width=4', 'trainer.max_steps=5', 'trainer.scheduler.warmup_steps=0'
    named = {word.split('=')[0] for word in said}
    words = [f'classifier.{word}' for word in usual if f'classifier.{word.split("=")[0]}' not in named]
    given = dict(dataset='digits', model_name='mine', save_dir=str(place), run_dir=str(run_dir)) | more
    return experiment(compose('cvae', [*QUIET.split(), 'model.width=4', *words, *said], **given))


def test_the_stored_classifier_is_used(stored, tmp_path, capsys):
    from vaebook.core.pretrained import Pretrained

    found, kept = explaining(stored, tmp_path / 'run').black_box(), Pretrained.from_pretrained(stored / 'mine')
    assert all(torch.equal(v, kept.state_dict()[k]) for k, v in found.ask.state_dict().items())
    assert 'used as it was trained' not in capsys.readouterr().out


@pytest.mark.parametrize(
    'said, difference',
    [
        (['classifier.model.width=8'], 'width: 4, not 8'),
        (['model@classifier.model=dummy'], 'classifier: CNN, not Dummy'),
        (['dataset.include_classes=[3,8]'], 'dataset.include_classes: None, not [3, 8]'),
        (['dataset.val_fraction=0.3'], 'dataset.val_fraction: 0.1, not 0.3'),
        (['dataset.max_train=500'], 'dataset.max_train: None, not 500'),
    ],
)
def test_another_stored_classifier_is_refused(stored, tmp_path, said, difference):
    with pytest.raises(BadInput) as e:
        explaining(stored, tmp_path / 'run', *said).black_box()
    assert "classifier.model_name='mine'" in str(e.value) and difference in str(e.value)


def test_another_training_of_it_is_told(stored, tmp_path, capsys):
    longer = 'classifier.trainer.max_steps=9', 'classifier.trainer.optimizer.lr=0.02'
    explaining(stored, tmp_path / 'run', *longer).black_box()
    line = next(l for l in capsys.readouterr().out.splitlines() if 'classifier mine is used' in l)
    assert 'max_steps: 5, not 9' in line and 'optimizer.lr: 0.05, not 0.02' in line
