"Every trainer key that the audio chapter's documents show: it composes, and it does what it says."

import csv, functools, json, os

import pytest
import torch
from torch import nn

from vaebook.core.config import compose
from vaebook.core import BadInput, LossTerms, set_seed
from vaebook.data.batches import batches, sequential
from vaebook.data.images import Split
from vaebook.core.pretrained import Pretrained
from vaebook.trainers.callbacks import read_checkpoint
from vaebook.trainers.fit import fit
from vaebook.trainers.plan import TrainingPlan, check_training
from vaebook.trainers.lightning import _DIST_VARIABLES

ENGINES = 'lightning', 'accelerate'
each = pytest.mark.parametrize('engine', ENGINES)


class Line(Pretrained):
    "A line through noise; where `doom` says so its loss is NaN."

    doom = ()

    def __init__(self, width=4):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(4, width), nn.Linear(width, 1))

    def compute_loss(self, batch, step=0, out=None):
        loss = (self.net(batch['x'].float() / 255)[:, 0] - batch['y']).square().mean()
        return LossTerms(mse=loss * float('nan') if step in self.doom else loss)


def toy(folder, engine='lightning', *overrides, resume=None, doom=(), val=True):
    "Eight batches an epoch; the model after its run, and the rows that it logged."
    often = [] if 'val_every' in ' '.join(overrides) else ['trainer.val_every_n_epochs=1']
    usual = f'trainer.progress_bar=false trainer.trainer.log_every_n_steps=1 trainer.device=cpu trainer.engine={engine}'
    cfg = compose('cvae', [*usual.split(), *often, *overrides], dataset='digits', logger='csv')
    check_training(cfg)
    set_seed(cfg.seed)
    x = torch.randint(0, 256, (32, 1, 2, 2), dtype=torch.uint8)
    data = Split(x, (x.sum((1, 2, 3)) > 500).long())
    model = Line()
    model.doom = doom

    def loader(start, n):
        return batches(data, 4, cfg.seed, start, n)

    fit(model, cfg, folder, loader, sequential(data, 8), 8, checkpoint=resume)
    return model, list(csv.DictReader((folder / 'metrics.csv').open()))


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def column(rows, key):
    return [(int(r['step']), float(r[key])) for r in rows if r.get(key)]


# Composition: what is said, where it goes

KEYS = [
    ('trainer.seed=7', 'seed', 7),
    ('trainer.strategy=ddp', 'trainer.strategy', 'ddp'),
    ('trainer.num_gpus=0', 'trainer.accelerator', 'cpu'),
    ('trainer.num_gpus=2', 'trainer.devices', 2),
    ('trainer.num_gpus=null', 'trainer.accelerator', 'auto'),
    ('trainer.precision=bf16-mixed', 'trainer.precision', 'bf16-mixed'),
    ('trainer.precision=32', 'trainer.precision', '32-true'),
    ('trainer.device=cuda', 'trainer.accelerator', 'gpu'),
    ('trainer.deterministic=true', 'trainer.deterministic', True),
    ('trainer.trainer.deterministic=true', 'trainer.deterministic', True),
    ('trainer.trainer.strict_deterministic=true', 'trainer.strict_deterministic', True),
    ('trainer.trainer.max_epochs=100', 'trainer.max_epochs', 100),
    ('trainer.trainer.max_steps=9', 'trainer.max_steps', 9),
    ('trainer.trainer.max_steps=9', 'trainer.max_epochs', None),
    ('trainer.trainer.gradient_clip_val=0.5', 'trainer.gradient_clip_val', 0.5),
    ('trainer.trainer.accumulate_grad_batches=2', 'trainer.accumulate_grad_batches', 2),
    ('trainer.trainer.save_every_n_epochs=5', 'trainer.save_every_n_epochs', 5),
    ('trainer.trainer.save_top_k=-1', 'trainer.save_top_k', -1),
    ('trainer.trainer.check_val_every_n_epoch=3', 'trainer.val_every_n_epochs', 3),
    ('trainer.trainer.log_every_n_steps=5', 'trainer.log_every_n_steps', 5),
    ('trainer.trainer.log_model_structure=true', 'trainer.log_model_structure', True),
    ('trainer.trainer.ckpt_dir=here', 'trainer.ckpt_dir', 'here'),
    ('trainer.trainer.profile=true', 'trainer.profile', True),
    ('trainer.trainer.profiler_dir=there', 'trainer.profiler_dir', 'there'),
    ('trainer.trainer.num_sanity_val_steps=1', 'trainer.lightning.num_sanity_val_steps', 1),
    ('trainer.trainer.limit_train_batches=0.5', 'trainer.lightning.limit_train_batches', 0.5),
    ('trainer.monitor_mode=max', 'trainer.monitor_mode', 'max'),
    ('trainer.skip_nonfinite=3', 'trainer.skip_nonfinite', 3),
    ('trainer.optimizer.type=RAdam', 'trainer.optimizer.name', 'RAdam'),
    ('trainer.optimizer.config.lr=3e-4', 'trainer.optimizer.lr', 3e-4),
    ('trainer.optimizer.config.amsgrad=true', 'trainer.optimizer.amsgrad', True),
    ('trainer.optimizer.config={betas: [0.8, 0.9], foreach: false}', 'trainer.optimizer.foreach', False),
    ('trainer.scheduler.type=InverseLR', 'trainer.scheduler.name', 'InverseLR'),
    ('trainer.scheduler.config.inv_gamma=1.0', 'trainer.scheduler.inv_gamma', 1.0),
    ('trainer.scheduler.type=CosineLRWithWarmup', 'trainer.scheduler.name', 'cosine'),
    ('trainer.scheduler.enabled=false', 'trainer.scheduler.enabled', False),
    ('trainer.logger=WandB', 'logger.name', 'wandb'),
    ('trainer.logger=TensorBoard', 'logger.name', 'tensorboard'),
    ('trainer.logger=false', 'logger.name', 'none'),
    ('trainer.wandb.use_wandb=false', 'logger.name', 'csv'),
    ('trainer.loss_config.lam_ml=0.5', 'loss.lam_ml', 0.5),
    ('trainer.loss_config={lam_ml: 0.5}', 'loss.lam_ml', 0.5),
    ('data.train_dataloader.batch_size=32', 'trainer.batch_size', 32),
    ('data.train_dataloader.num_workers=2', 'dataset.num_workers', 2),
]


SAME = {
    'trainer.devices': 'where',
    'trainer.accelerator': 'where',
    'trainer.max_steps': 'end',
    'trainer.max_epochs': 'end',
}
BUNDLES = []  # keys that can be said together, so that there are few compositions
for said, key, _ in KEYS:
    place = next((b for b in BUNDLES if SAME.get(key, key) not in b), None)
    if place is None:
        BUNDLES.append(place := {})
    place[SAME.get(key, key)] = said


@functools.cache
def composed(number):
    return compose('cvae', list(BUNDLES[number].values()), dataset='digits')


@pytest.mark.parametrize('said, key, value', KEYS)
def test_keys_compose(said, key, value):
    from omegaconf import OmegaConf

    number = next(i for i, b in enumerate(BUNDLES) if said in b.values() and SAME.get(key, key) in b)
    assert OmegaConf.select(composed(number), key) == value


@pytest.mark.parametrize(
    'said, message',
    [
        ('trainer.trainer.num_sanity_val_step=1', "Did you mean 'num_sanity_val_steps'"),
        ('trainer.lightning.max_epochs=1', 'Say trainer.max_epochs'),
        ('trainer.trainer.max_step=1', "Did you mean 'max_steps'"),
        ('trainer.max_step=1', "Did you mean 'trainer.max_steps'"),
        ('trainer.monitor_mode=most', "monitor_mode='most'"),
        ('trainer.optimizer.type=RAdamm', "Did you mean 'RAdam'"),
        ('trainer.optimizer.config.amsgrat=true', "Did you mean 'amsgrad'"),
        ('trainer.scheduler.type=InvLR', "scheduler='InvLR'"),
        ('trainer.scheduler.config.invgamma=1', "scheduler key='invgamma'"),
        ('trainer.num_gpus=some', "trainer.num_gpus='some'"),
        ('trainer.num_gpus=64', 'this machine'),
        ('trainer.skip_nonfinite=0', 'skip_nonfinite=0'),
        ('trainer.save_top_k=-2', 'save_top_k=-2'),
        ('trainer.trainer.limit_train_batches=0', 'limit_train_batches=0'),
    ],
)
def test_mistakes(said, message):
    with pytest.raises(BadInput) as e:
        check_training(compose('cvae', [said], dataset='digits'))
    assert message in str(e.value)


@pytest.mark.parametrize('said', ['++model.n_alfa=1', 'classifier.trainer.optimiser.lr=1'])
def test_open_blocks_are_few(said):
    with pytest.raises(BadInput, match='a key of the configuration'):
        compose('cvae', [said], dataset='digits')


def test_epochs_replace_steps():
    t = compose(
        'causal_video',
        'trainer.trainer.check_val_every_n_epoch=2 trainer.trainer.max_epochs=3 trainer.trainer.limit_train_batches=5',
        smoke=True,
    ).trainer
    plan = TrainingPlan(t, 7)
    assert (plan.validate_every, plan.total_steps) == (10, 15)


# Effects

OPTIMIZERS = {
    'RAdam': 'decoupled_weight_decay=true',
    'NAdam': 'momentum_decay=0.01',
    'Adafactor': 'd=2.0',
    'RMSprop': 'centered=true',
    'SGD': 'momentum=0.9',
}
SCHEDULES = {
    'InverseLR': 'inv_gamma=2.0',
    'CosineLRWithWarmup': 'min_lr=0.0001',
    'ExponentialLR': 'gamma=0.5',
    'OneCycleLR': 'max_lr=0.01',
    'CosineAnnealingWarmRestarts': 'T_0=3',
}


@pytest.mark.parametrize(
    'engine, n',
    [
        ('lightning', 0),
        ('accelerate', 0),
        ('lightning', 3),
        ('accelerate', 3),
        ('accelerate', 1),
        ('accelerate', 2),
        ('accelerate', 4),
    ],
)
def test_optimisers_and_schedules_resume_exactly(tmp_path, engine, n):
    "Stopped at step 6 of 10, and gone on with, under every kind of optimiser and schedule."
    (o, opt), (s, sched) = list(OPTIMIZERS.items())[n], list(SCHEDULES.items())[n]
    said = [f'trainer.optimizer.type={o}', f'trainer.optimizer.config.{opt}']
    said += [f'trainer.scheduler.type={s}', f'trainer.scheduler.config.{sched}']
    said += ['trainer.max_steps=10', 'trainer.val_every_n_steps=5', 'trainer.save_every_n_steps=3']
    whole, rows = toy(tmp_path / 'whole', engine, *said)
    compute = Line.compute_loss
    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError, match='power cut'):

        def cut(self, batch, step=0, out=None):
            if step == 7:
                raise RuntimeError('power cut')
            return compute(self, batch, step, out)

        patch.setattr(Line, 'compute_loss', cut)
        toy(tmp_path / 'cut', engine, *said)
    again, rest = toy(tmp_path / 'cut', engine, *said, resume=tmp_path / 'cut/checkpoints/last.ckpt')
    assert torch.equal(flat(whole), flat(again))
    lr = next(k for k in rows[0] if k.startswith('lr-'))
    assert column(rows, lr) == column(rest, lr) and len(dict(column(rows, lr)).values()) > 5


def test_inverse_lr(tmp_path):
    "The documented example: 1 / (1 + t), one step an update."
    _, rows = toy(
        tmp_path / 'run',
        'accelerate',
        'trainer.scheduler.type=InverseLR',
        'trainer.max_steps=4',
        'trainer.optimizer.lr=0.01',
    )
    assert [v for _, v in column(rows, 'lr-Adam')] == pytest.approx([0.01 / t for t, _ in column(rows, 'lr-Adam')])


@each
def test_skipped_updates(tmp_path, engine):
    "Weights and averages as they were; two in a row are too many."
    said = ['trainer.skip_nonfinite=1', 'trainer.ema_decay=0.9', 'trainer.trainer.max_steps=6']
    model, rows = toy(tmp_path / 'run', engine, *said, doom=(0, 3))
    assert column(rows, 'train/skipped')[-1][1] == 2 and flat(model).isfinite().all()
    with pytest.raises(BadInput, match='finite number at step 4.*2 updates in a row'):
        toy(tmp_path / 'bad', engine, *said, doom=(2, 3))


@each
def test_monitor_mode(tmp_path, engine):
    "Lowest and highest of a curve that falls."
    said = 'trainer.max_steps=40', 'trainer.optimizer.lr=0.01', 'trainer.monitor=val/mse'
    for mode, wanted in dict(min=40, max=8).items():
        toy(tmp_path / mode, engine, *said, f'trainer.monitor_mode={mode}')
        place = tmp_path / mode / 'checkpoints'
        assert [p.name for p in place.glob('best*')] == [f'best_step_{wanted}']


@each
def test_checkpoints(tmp_path, engine):
    "Elsewhere, all of them, once an epoch more often than validated; and found again."
    said = [
        f'trainer.trainer.ckpt_dir={tmp_path}/there',
        'trainer.trainer.save_top_k=-1',
        'trainer.trainer.save_every_n_epochs=1',
    ]
    toy(tmp_path / 'run', engine, *said, 'trainer.trainer.max_epochs=2')
    assert len(list((tmp_path / 'there').glob('best*'))) == 2
    assert (tmp_path / 'run/checkpoints/last.ckpt').resolve().parent == tmp_path / 'there'
    with pytest.raises(BadInput, match='checkpoints of another run'):
        toy(tmp_path / 'other', engine, *said, 'trainer.max_epochs=2')
    toy(tmp_path / 'run', engine, *said, 'trainer.max_epochs=3', resume=tmp_path / 'run/checkpoints/last.ckpt')
    assert len(list((tmp_path / 'there').glob('best*'))) == 3


@each
def test_save_every_n_epochs(tmp_path, engine):
    "`last` is written after epoch 2, though nothing is validated before epoch 4."
    said = [
        'trainer.trainer.save_every_n_epochs=2',
        'trainer.val_every_n_epochs=4',
        'trainer.trainer.max_epochs=4',
        'trainer.skip_nonfinite=1',
    ]
    with pytest.raises(BadInput):
        toy(tmp_path / 'run', engine, *said, doom=range(20, 30))
    assert read_checkpoint(tmp_path / 'run/checkpoints/last.ckpt')['batches'] == 16


@each
def test_profile_structure_and_determinism(tmp_path, engine, capsys):
    seen = []
    compute = Line.compute_loss

    def watched(self, *args, **kwargs):
        seen.append(torch.are_deterministic_algorithms_enabled())
        return compute(self, *args, **kwargs)

    said = 'trainer.trainer.profile=true', 'trainer.trainer.log_model_structure=true', 'trainer.deterministic=true'
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Line, 'compute_loss', watched)
        toy(tmp_path / 'run', engine, *said, 'trainer.max_steps=9')
    assert all(seen) and not torch.are_deterministic_algorithms_enabled()
    assert 'Linear(in_features=4' in capsys.readouterr().out
    assert json.loads(next((tmp_path / 'run/profiler').glob('*.json')).read_text())['traceEvents']
    said = 'trainer.trainer.profile=true', f'trainer.trainer.profiler_dir={tmp_path}/traces'
    toy(tmp_path / 'two', engine, *said, 'trainer.max_steps=3')
    assert list((tmp_path / 'traces').glob('*.json')) and not (tmp_path / 'two/profiler').exists()


@each
def test_strict_determinism(tmp_path, engine):
    compute = Line.compute_loss

    def by_chance(self, *args, **kwargs):
        torch.ones(2).put_(torch.tensor([0, 0]), torch.ones(2))
        return compute(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(BadInput, match='strict_deterministic'):
        patch.setattr(Line, 'compute_loss', by_chance)
        toy(tmp_path / 'run', engine, 'trainer.trainer.strict_deterministic=true', 'trainer.max_steps=2')


def test_arguments_of_lightning(tmp_path):
    "Sanity validation logs nothing; anomalies are found; half an epoch is half an epoch."
    said = 'num_sanity_val_steps=1', 'limit_val_batches=2', 'limit_train_batches=0.5'
    _, rows = toy(tmp_path / 'run', 'lightning', *(f'trainer.trainer.{s}' for s in said), 'trainer.max_epochs=2')
    assert [s for s, _ in column(rows, 'val/mse')] == [4, 8]
    with pytest.raises(BadInput, match='trainer.engine=lightning beside it'):
        toy(tmp_path / 'no', 'accelerate', 'trainer.trainer.num_sanity_val_steps=1')


def test_one_process_of_ddp(tmp_path):
    "It trains, and nothing of the strategy reaches the next run of the process."
    before = dict(os.environ)
    model, _ = toy(tmp_path / 'run', 'lightning', 'trainer.strategy=ddp', 'trainer.max_steps=2')
    assert flat(model).isfinite().all() and not torch.distributed.is_initialized()
    assert not {k for k in _DIST_VARIABLES if os.environ.get(k) != before.get(k)}
