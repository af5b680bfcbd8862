"""Every row of the tables of seed 003 (audio), and every field of seed 000's `TrainingArguments` (video).

What is said changes the run, or is refused by name. A row is (what the document calls it, what is said, where one
looks, what is to be seen there)."""

import contextlib, csv, functools, hashlib, io, json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from vaebook.core.config import compose
from vaebook.core import BadInput
from vaebook.train import experiment
from vaebook.trainers.plan import TrainingPlan

CHANGES = object()  # what is looked at differs from that of a run of which this was not said
SMALL = '''
    demo.clips=0 trainer.progress_bar=false trainer.device=cpu trainer.batch_size=2 trainer.scheduler.warmup_steps=0
    model.encoder.width=2 dataset.samples=2048 dataset.train_tones=8 dataset.val_tones=4
    loss.spectral.weights.stft_mse=0 loss.spectral.weights.mrstft=0
'''.split()
SHORT = ['trainer.max_steps=4', 'trainer.val_every_n_steps=4', 'trainer.log_every_n_steps=1']


@pytest.fixture(scope='module', autouse=True)
def folder(tmp_path_factory):
    "Where the runs of this file are; each is made once."
    run.folder = tmp_path_factory.mktemp('tables')
    return run.folder


SAME = dict(val_check_interval='val_every_n_steps', device='num_gpus')  # two names of one thing


def last_name(word):
    key = word.split('=')[0].split('.')[-1]
    return SAME.get(key, key)


def unsaid(usual, said):
    "Those of `usual` that `said` says nothing about."
    whole = any(s.startswith('trainer.loss_config=') for s in said)
    named = {last_name(s) for s in said}
    return [s for s in usual if last_name(s) not in named and not (whole and s.startswith('loss.'))]


def audio(*said):
    "The configuration that a line of the audio chapter gives."
    return compose('audio', [*unsaid(SMALL, said), *said], smoke=True)


def torch_flags():
    "Those of torch's switches that are on."
    switches = dict(
        deterministic=torch.are_deterministic_algorithms_enabled(),
        only_warns=torch.is_deterministic_algorithms_warn_only_enabled(),
        benchmark=torch.backends.cudnn.benchmark,
        anomaly=torch.is_anomaly_enabled(),
        inference=torch.is_inference_mode_enabled(),
        halves=torch.is_autocast_enabled('cpu'),
    )
    return {name for name, on in switches.items() if on}


@functools.cache
def run(*said):
    "A run of four steps: its folder, its weights, its rows, what it printed, and torch's flags while it ran."
    cfg = audio(*unsaid(SHORT, said), *said)
    cfg.run_dir = str(run.folder / hashlib.md5(repr(said).encode()).hexdigest())
    flags, printed = set(), io.StringIO()
    from vaebook.models.audio import AudioAutoencoder

    forward = AudioAutoencoder.forward

    def watched(self, batch):
        flags.update(torch_flags())
        return forward(self, batch)

    AudioAutoencoder.forward = watched
    try:
        with contextlib.redirect_stdout(printed):
            body = experiment(cfg)
            body.fit()
    finally:
        AudioAutoencoder.forward = forward
    place = Path(cfg.run_dir)
    weights = torch.cat([p.detach().flatten().float() for p in body.model.parameters()])
    rows = list(csv.DictReader((place / 'metrics.csv').open()))
    return SimpleNamespace(folder=place, weights=weights, rows=rows, printed=printed.getvalue(), flags=flags)


def column(found, key):
    return [(int(r['step']), float(r[key])) for r in found.rows if r.get(key)]


# Where one looks: functions of what is said


def weights(*said):
    return run(*said).weights.tolist()


def steps(*said):
    return int(run(*said).rows[-1]['step'])


def rates(*said):
    return [round(v, 8) for k in run(*said).rows[0] if k.startswith('lr-') for _, v in column(run(*said), k)]


def flags(*said):
    return run(*said).flags - {'benchmark'}  # which Lightning leaves on


def printed(*said):
    return run(*said).printed


def validated(*said):
    return [s for s, _ in column(run(*said), 'val/l1')]


def validation(*said):
    return [v for _, v in column(run(*said), 'val/l1')]


def logged(*said):
    return [s for s, _ in column(run(*said), 'train/l1')]


def first_weights(*said):
    return torch.cat([p.flatten() for p in experiment(audio(*said)).model.parameters()]).tolist()


def plan(*said):
    return vars(TrainingPlan(audio(*said).trainer, 4))


def models(*said):
    return len(list((run(*said).folder / 'checkpoints').glob('best_step_*')))


def config(key):
    return lambda *said: eval(f'c.{key}', dict(c=audio(*said)))


def tracker(*said):
    "The tracker of the run."
    from vaebook.trainers.loggers import lightning_callbacks_and_logger

    cfg = audio(*said)
    cfg.run_dir = str(run.folder / 'tracker')
    found = lightning_callbacks_and_logger(cfg)[1]
    if found:
        found.finalize('success')
    return type(found).__name__


def passed_on(*said):
    "What Lightning's Trainer is told."
    from vaebook.trainers.lightning import lightning_options

    return lightning_options(audio(*said).trainer)


@functools.cache
def terms(*said):
    "The loss terms of the untrained model: name → (value, weight)."
    found = experiment(audio(*said)).first_loss()
    return {name: (round(float(t.value), 5), round(float(t.weight), 5)) for name, t in found.items()}


def judged(name):
    "What validation measures of the untrained model under a name."
    return lambda *said: terms(*said)[name]


def accepted(*said):
    return bool(experiment(audio(*said)))


GPUS = torch.cuda.device_count()
STFT = 'trainer.loss_config.spectral.weights.stft_mse=1'
EVAL = 'trainer.eval_loss_config'

AUDIO = [
    # Key trainer settings
    ('trainer.seed', 'trainer.seed=7', first_weights, CHANGES),
    ('trainer.strategy', 'trainer.strategy=auto', accepted, True),
    ('trainer.strategy', 'trainer.strategy=ddp', config('trainer.strategy'), 'ddp'),
    ('trainer.strategy', 'trainer.strategy=deepspeed', accepted, 'strategy'),
    ('trainer.strategy', 'trainer.strategy=fsdp', accepted, 'strategy'),
    ('trainer.strategy', 'trainer.strategy=dpp', accepted, "Did you mean 'ddp'"),
    ('trainer.num_gpus', 'trainer.num_gpus=0', config('trainer.accelerator'), 'cpu'),
    ('trainer.num_gpus', f'trainer.num_gpus={GPUS + 1}', accepted, 'gpu'),
    ('trainer.precision', 'trainer.precision=bf16-mixed', flags, {'halves'}),
    ('trainer.precision', 'trainer.precision=16-mixed', accepted, "precision='16-mixed'"),
    ('trainer.precision', 'trainer.precision=half', accepted, "precision='half'"),
    ('trainer.trainer.max_epochs', 'trainer.trainer.max_epochs=3', lambda *s: plan(*s)['total_steps'], 12),
    ('trainer.trainer.max_steps', 'trainer.trainer.max_steps=3', steps, 3),
    ('trainer.trainer.gradient_clip_val', 'trainer.trainer.gradient_clip_val=0.001', weights, CHANGES),
    ('trainer.trainer.accumulate_grad_batches', 'trainer.trainer.accumulate_grad_batches=2', weights, CHANGES),
    (
        'trainer.trainer.save_every_n_epochs',
        'trainer.trainer.save_every_n_epochs=2',
        lambda *s: plan(*s)['save_every'],
        8,
    ),
    ('trainer.trainer.deterministic', 'trainer.trainer.deterministic=true', flags, {'deterministic', 'only_warns'}),
    ('trainer.deterministic', 'trainer.deterministic=true', flags, {'deterministic', 'only_warns'}),
    ('trainer.trainer.strict_deterministic', 'trainer.trainer.strict_deterministic=true', flags, {'deterministic'}),
    # The note: what has the name of an argument of Lightning's Trainer
    ('num_sanity_val_steps', 'trainer.trainer.num_sanity_val_steps=1', passed_on, dict(num_sanity_val_steps=1)),
    ('limit_train_batches', 'trainer.trainer.limit_train_batches=0.5', lambda *s: plan(*s)['steps_per_epoch'], 2),
    ('limit_val_batches', 'trainer.trainer.limit_val_batches=0.5', validation, CHANGES),
    ('benchmark', 'trainer.trainer.benchmark=true', lambda *s: 'benchmark' in run(*s).flags, True),
    ('detect_anomaly', 'trainer.trainer.detect_anomaly=true', flags, {'anomaly'}),
    ('inference_mode', 'trainer.trainer.inference_mode=false', passed_on, dict(inference_mode=False)),
    ('sync_batchnorm', 'trainer.trainer.sync_batchnorm=true', passed_on, dict(sync_batchnorm=True)),
    ('enable_model_summary', 'trainer.trainer.enable_model_summary=true', passed_on, dict(enable_model_summary=True)),
    ('max_time', 'trainer.trainer.max_time=5', accepted, 'max_time=5: expected DD:HH:MM:SS'),
    ('max_time', 'trainer.trainer.max_time={hours: 2}', lambda *s: passed_on(*s)['max_time'].total_seconds(), 7200),
    ('overfit_batches', 'trainer.trainer.overfit_batches=1', accepted, "trainer.lightning='overfit_batches'"),
    ('fast_dev_run', 'trainer.trainer.fast_dev_run=true', config('smoke'), True),
    ('val_check_interval', 'trainer.trainer.val_check_interval=2', validated, [2, 4]),
    ('a name that nothing has', 'trainer.trainer.max_step=3', accepted, "Did you mean 'max_steps'"),
    # Optimiser
    ('optimizer.type', 'trainer.optimizer.type=SGD', weights, CHANGES),
    ('optimizer.type', 'trainer.optimizer.type=AdamX', accepted, "optimizer='AdamX'"),
    ('optimizer.config.lr', 'trainer.optimizer.config.lr=3e-4', weights, CHANGES),
    ('optimizer.config.lr', 'trainer.optimizer.config.lr=0', accepted, 'lr=0'),
    ('optimizer.config.betas', 'trainer.optimizer.config.betas=[0.5, 0.6]', weights, CHANGES),
    ('optimizer.config.weight_decay', 'trainer.optimizer.config.weight_decay=0.5', weights, CHANGES),
    ('any keyword of torch', 'trainer.optimizer.config.amsgrad=true', weights, CHANGES),
    (
        'any keyword of torch',
        'trainer.optimizer.config.momentum=0.9',
        accepted,
        'optimizer.momentum=0.9: expected an argument of AdamW',
    ),
    ('any keyword of torch', 'trainer.optimizer.config.amsgrat=true', accepted, "Did you mean 'amsgrad'"),
    (
        'betas beside SGD',
        ('trainer.optimizer.type=SGD', 'trainer.optimizer.config.betas=[0.9, 0.999]'),
        accepted,
        'optimizer.betas=(0.9, 0.999): expected an argument of SGD',
    ),
    # Scheduler
    ('scheduler.type', 'trainer.scheduler.type=InverseLR', rates, CHANGES),
    ('scheduler.type', 'trainer.scheduler.type=InvLR', accepted, "scheduler='InvLR'"),
    (
        'scheduler.config.inv_gamma',
        ('trainer.scheduler.type=InverseLR', 'trainer.scheduler.config.inv_gamma=2.0'),
        rates,
        CHANGES,
    ),
    (
        'scheduler.config.power',
        ('trainer.scheduler.type=InverseLR', 'trainer.scheduler.config.power=0.5'),
        rates,
        CHANGES,
    ),
    (
        'scheduler.config.warmup',
        ('trainer.scheduler.type=InverseLR', 'trainer.scheduler.config.warmup=0.9'),
        rates,
        CHANGES,
    ),
    (
        'scheduler.config.warmup',
        ('trainer.scheduler.type=InverseLR', 'trainer.scheduler.config.warmup=100'),
        accepted,
        'Linear warm-up over 100 steps is warmup_steps=100',
    ),
    (
        'scheduler.config',
        'trainer.scheduler.config.inv_gamma=2.0',
        accepted,
        'scheduler.inv_gamma=2.0: expected an argument of cosine',
    ),
    (
        'scheduler.config of torch',
        (
            'trainer.scheduler.type=OneCycleLR',
            'trainer.scheduler.config.max_lr=0.1',
            'trainer.scheduler.config.total_steps=9',
        ),
        accepted,
        'scheduler.total_steps=9: expected at least 20',
    ),
    ('scheduler.enabled', 'trainer.scheduler.enabled=false', rates, [0.002] * 4),
    # Loss
    (
        'loss_config.….config.reduction',
        (STFT, 'trainer.loss_config.spectral.stft_mse.config.reduction=sum'),
        judged('stft_mse'),
        CHANGES,
    ),
    (
        'loss_config.….weights.stft_mse',
        'trainer.loss_config.spectral.weights.stft_mse=0.5',
        lambda *s: terms(*s)['stft_mse'][1],
        0.5,
    ),
    (
        'loss_config: weights of zero',
        'trainer.loss_config.time.weights.l1=0',
        accepted,
        'a loss of the sound to train on',
    ),
    ('loss_config: positive weights', 'trainer.loss_config.time.weights.l1=-1', accepted, 'time.weights.l1=-1'),
    (
        'loss_config: a name that nothing has',
        'trainer.loss_config.spectral.weights.stft_mze=1',
        accepted,
        "Did you mean 'stft_mse'",
    ),
    (
        'loss_config.bottleneck.weights.kl',
        'trainer.loss_config.bottleneck.weights.kl=1.0',
        lambda *s: terms(*s)['kl'][1],
        1.0,
    ),
    ('loss_config.bottleneck', 'trainer.loss_config.bottleneck.weights.kll=1.0', accepted, "Did you mean 'kl'"),
    (
        'loss_config.discriminator',
        ('trainer.loss_config.discriminator.weights.adversarial=1', 'trainer.loss_config.discriminator.config.start=0'),
        lambda *s: 'adversarial' in terms(*s),
        True,
    ),
    # Losses of evaluation
    ('eval_loss_config.sisdr.zero_mean', f'{EVAL}.sisdr.zero_mean=false', judged('sisdr'), CHANGES),
    ('eval_loss_config.sisdr.reduction', f'{EVAL}.sisdr.reduction=sum', judged('sisdr'), CHANGES),
    (
        'eval_loss_config.stft.sample_rate',
        f'{EVAL}.stft.sample_rate=44100',
        accepted,
        'eval_loss.stft.sample_rate=44100: expected 16000 Hz',
    ),
    ('eval_loss_config.stft.sample_rate', f'{EVAL}.stft.sample_rate=16000', accepted, True),
    ('eval_loss_config.stft.fft_size', f'{EVAL}.stft.fft_size=2048', judged('stft'), CHANGES),
    ('eval_loss_config.stft.hop_size', f'{EVAL}.stft.hop_size=512', judged('stft'), CHANGES),
    ('eval_loss_config.stft.win_length', f'{EVAL}.stft.win_length=512', judged('stft'), CHANGES),
    ('eval_loss_config.mel.fft_size', f'{EVAL}.mel.fft_size=2048', judged('mel'), CHANGES),
    ('eval_loss_config.mel.hop_size', f'{EVAL}.mel.hop_size=512', judged('mel'), CHANGES),
    ('eval_loss_config.mel.win_length', f'{EVAL}.mel.win_length=512', judged('mel'), CHANGES),
    ('eval_loss_config.mel.n_mels', f'{EVAL}.mel.n_mels=40', judged('mel'), CHANGES),
    ('eval_loss_config: a measure that nothing has', f'{EVAL}.pesq.x=1', accepted, "eval loss='pesq'"),
    # Logging and checkpoints
    ('trainer.logger', 'trainer.logger=WandB', tracker, 'WandbLogger'),
    ('trainer.logger', 'trainer.logger=TensorBoard', tracker, 'TensorBoardLogger'),
    ('trainer.logger', 'trainer.logger=false', config('logger.name'), 'none'),
    ('trainer.wandb.use_wandb', 'trainer.wandb.use_wandb=true', config('logger.name'), 'wandb'),
    ('trainer.wandb.use_wandb', 'trainer.wandb.use_wandb=false', config('logger.name'), 'csv'),
    (
        'trainer.trainer.check_val_every_n_epoch',
        'trainer.trainer.check_val_every_n_epoch=3',
        lambda *s: plan(*s)['validate_every'],
        12,
    ),
    ('trainer.trainer.log_every_n_steps', 'trainer.trainer.log_every_n_steps=2', logged, CHANGES),
    ('trainer.trainer.save_top_k', ('trainer.trainer.save_top_k=0',), models, 0),
    ('trainer.trainer.save_top_k', ('trainer.trainer.save_top_k=-1', 'trainer.val_every_n_steps=1'), models, 4),
    (
        'trainer.trainer.log_model_structure',
        'trainer.trainer.log_model_structure=true',
        lambda *s: 'AudioAutoencoder(' in printed(*s),
        True,
    ),
    (
        'trainer.trainer.ckpt_dir',
        'trainer.trainer.ckpt_dir={there}/ckpt',
        lambda *s: (run.folder / 'ckpt/last.ckpt').exists() if run(*s) else None,
        True,
    ),
    (
        'trainer.trainer.profile',
        'trainer.trainer.profile=true',
        lambda *s: len(list((run(*s).folder / 'profiler').glob('*.json'))),
        1,
    ),
    (
        'trainer.trainer.profiler_dir',
        ('trainer.trainer.profile=true', 'trainer.trainer.profiler_dir={there}/traces'),
        lambda *s: len(list((run.folder / 'traces').glob('*.json'))) if run(*s) else None,
        1,
    ),
    # Overrides of the command line, and groups
    (
        'data.train_dataloader.batch_size',
        'data.train_dataloader.batch_size=3',
        lambda *s: len(next(iter(experiment(audio(*s)).train_batches(0, 1)))['audio']),
        3,
    ),
    ('model', ('model=SEANet_real', 'model.encoder.width=2'), config('model.encoder.algebra'), 'real'),
    (
        'data',
        ('data=jamendo_highres', 'dataset.synthetic=true'),
        config('dataset.channels'),
        1,
    ),  # of a smoke run, which is mono
    ('trainer', 'trainer=adam', config('trainer.optimizer.name'), 'Adam'),
]


def as_list(said):
    return [said] if isinstance(said, str) else list(said)


def name(row):
    return f'{row[0]}-{"_".join(as_list(row[1]))}'[:90]


@pytest.mark.parametrize('row, said, look, expected', AUDIO, ids=map(name, AUDIO))
def test_audio(row, said, look, expected, folder):
    said = [s.replace('{there}', str(folder)) for s in as_list(said)]
    if isinstance(expected, str) and look is accepted:
        with pytest.raises(BadInput) as e:
            accepted(*said)
        assert expected in str(e.value)
    elif expected is CHANGES:
        without = said[:-1] if len(said) > 1 else []
        assert look(*said) != look(*without), 'nothing changes'
    else:
        assert look(*said) == expected


# Blocks given whole, as the document writes them

STFT_MSE = 'trainer.loss_config={spectral: {stft_mse: {config: {reduction: mean}}, weights: {stft_mse: 1.0}}}'
ALL_EVALS = (
    'trainer.eval_loss_config={sisdr: {zero_mean: true, reduction: mean}, '
    'stft: {sample_rate: 44100, fft_size: 2048, hop_size: 512, win_length: 2048}, '
    'mel: {fft_size: 2048, hop_size: 512, win_length: 2048, n_mels: 128}}'
)
WATCH = ['trainer.monitor=val/total', 'trainer.monitor_mode=min']
WHOLE = [
    (
        'loss_config',
        [STFT_MSE],
        lambda *s: sorted(k for k in terms(*s) if k not in ('sisdr', 'stft', 'mel')),
        ['stft_mse'],
    ),
    (
        'loss_config',
        ['trainer.loss_config={bottleneck: {weights: {kl: 1.0}}}'],
        accepted,
        'a loss of the sound to train on',
    ),
    ('loss_config', ['trainer.loss_config={}'], accepted, 'a loss of the sound to train on'),
    ('loss_config', ['trainer.loss_config={nonsense: {}}'], accepted, "'nonsense'"),
    (
        'eval_loss_config',
        [ALL_EVALS, 'dataset.sample_rate=44100'],
        lambda *s: terms(*s)['mel'] != terms('dataset.sample_rate=44100')['mel'],
        True,
    ),
    ('eval_loss_config', [ALL_EVALS], accepted, 'eval_loss.stft.sample_rate=44100: expected 16000 Hz'),
    ('eval_loss_config', ['trainer.eval_loss_config={}'], accepted, "monitor='val/sisdr'"),
    ('eval_loss_config', ['trainer.eval_loss_config={}', *WATCH], lambda *s: sorted(terms(*s)), ['kl', 'l1']),
    ('eval_loss_config', ['trainer.eval_loss_config=null', *WATCH], lambda *s: sorted(terms(*s)), ['kl', 'l1']),
    (
        'eval_loss_config',
        ['trainer.eval_loss_config={mel: {n_mels: 40}}', *WATCH],
        lambda *s: sorted(terms(*s)),
        ['kl', 'l1', 'mel'],
    ),
    ('eval_loss_config', ['trainer.eval_loss_config={pesq: {}}', *WATCH], accepted, "'pesq'"),
    ('optimizer', ['trainer.optimizer={nonsense: {}}'], accepted, 'nonsense'),
    (
        'optimizer',
        ['trainer.optimizer={type: AdamW, config: {lr: 3e-4, betas: [0.9, 0.999], weight_decay: 1e-4}}'],
        weights,
        CHANGES,
    ),
    (
        'scheduler',
        ['trainer.scheduler={type: InverseLR, config: {inv_gamma: 1.0, power: 1.0, warmup: 0}}'],
        rates,
        CHANGES,
    ),
    ('scheduler', ['trainer.scheduler={nonsense: 1}'], accepted, 'nonsense'),
]


@pytest.mark.parametrize('row, said, look, expected', WHOLE, ids=map(name, WHOLE))
def test_whole_blocks(row, said, look, expected, folder):
    test_audio(row, said, look, expected, folder)


# Seed 000: the fields of TrainingArguments

TINY = dict(smoke=True, max_steps=2, val_every=2, logger='csv', accelerator='cpu')


def arguments(**said):
    from vaebook.trainers.video import TrainingArguments

    return TrainingArguments(**TINY | said)


def video(**said):
    return arguments(**said).to_config()


@functools.cache
def films():
    "A folder of two short films, one below the other."
    from vaebook.viz.tiles import save_mp4

    place = run.folder / 'films'
    for i, where in enumerate((place, place / 'deeper')):
        where.mkdir(parents=True)
        t = torch.linspace(0, 1, 40).view(-1, 1, 1, 1)
        save_mp4(where / f'{i}.mp4', (t * torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(i))), 8)
    return str(place)


@functools.cache
def trained():
    "A run of two steps."
    from vaebook.trainers.video import train

    place = str(run.folder / 'video')
    train(TINY | dict(output_dir=place))
    return Path(place)


def clips(**said):
    return next(iter(experiment(video(**said)).train_batches(0, 1)))['video']


def shape(**said):
    return list(clips(**said).shape)


def content(**said):
    return clips(**said).float().flatten().tolist()


def workers(**said):
    return experiment(video(**said)).train_batches(0, 1).num_workers


def parameters(**said):
    return sum(p.numel() for p in experiment(video(**said)).model.parameters())


def network(**said):
    return torch.cat([p.flatten() for p in experiment(video(**said)).model.parameters()]).tolist()


def setting(key):
    return lambda **said: eval(f'c.{key}', dict(c=video(**said)))


def wants(**said):
    return bool(experiment(video(**said)))


def wandb_name(**said):
    from vaebook.trainers.video import load_callbacks_and_logger

    return load_callbacks_and_logger(TINY | dict(output_dir=str(run.folder / 'named'), logger='wandb') | said)[
        1
    ].experiment.name


def saves_every(**said):
    from vaebook.trainers.video import load_callbacks_and_logger

    return load_callbacks_and_logger(TINY | said)[0][0]._every_n_train_steps


def starts(**said):
    "What the script does before it trains."
    from vaebook.trainers.video import train

    return bool(train(TINY | said))


def model_file():
    (run.folder / 'wide.json').write_text(json.dumps(dict(base_channels=12)))
    return str(run.folder / 'wide.json')


def small_films(**more):
    return dict(video_path=films(), video_num_frames=5, resolution=32) | more


VIDEO = [  # field, what is said (a function: made when it is needed), where one looks, what is to be seen
    ('exp_name', lambda: dict(exp_name='mine'), wandb_name, 'mine'),
    ('batch_size', lambda: dict(batch_size=3), lambda **s: shape(**s)[0], 3),
    ('batch_size', lambda: dict(batch_size=0), wants, 'batch_size=0'),
    ('precision', lambda: dict(precision='bf16'), setting('trainer.precision'), 'bf16-mixed'),
    ('precision', lambda: dict(precision='half'), wants, "precision='half'"),
    ('max_steps', lambda: dict(max_steps=7), lambda **s: TrainingPlan(video(**s).trainer, 4).total_steps, 7),
    ('save_steps', lambda: dict(save_steps=20), saves_every, 20),
    ('output_dir', lambda: dict(output_dir=str(trained())), lambda **s: (trained() / 'metrics.json').exists(), True),
    ('output_dir', lambda: dict(output_dir=str(trained())), starts, 'output_dir='),
    ('video_path', small_films, content, CHANGES),
    ('video_path', lambda: dict(video_path='lost'), lambda **s: experiment(video(**s)).data(), 'lost'),
    ('video_num_frames', lambda: dict(video_num_frames=5), lambda **s: shape(**s)[2], 5),
    ('video_num_frames', lambda: dict(video_num_frames=0), lambda **s: experiment(video(**s)).data(), 'num_frames=0'),
    ('sample_rate', lambda: small_films(sample_rate=3), content, CHANGES),
    ('dynamic_sample', lambda: small_films(sample_rate=4, dynamic_sample=True), content, CHANGES),
    ('model_config', lambda: dict(model_config=model_file()), parameters, CHANGES),
    ('model_config', lambda: dict(model_config='lost.yaml'), wants, "model_config='lost.yaml'"),
    ('n_nodes', lambda: dict(n_nodes=2, output_dir='nowhere'), starts, 'torchrun --nnodes=2'),
    ('devices', lambda: dict(devices=[0, 0], output_dir='nowhere'), starts, 'devices=[0, 0]'),
    ('devices', lambda: dict(devices='some', output_dir='nowhere'), starts, "devices='some'"),
    ('resolution', lambda: dict(resolution=16), lambda **s: shape(**s)[3:], [16, 16]),
    ('num_workers', lambda: dict(num_workers=2), workers, 2),
    (
        'resume_from_checkpoint',
        lambda: dict(resume_from_checkpoint=str(trained())),
        lambda **s: str(experiment(video(**s)).run.folder),
        lambda: str(trained()),
    ),
    ('resume_from_checkpoint', lambda: dict(resume_from_checkpoint='lost'), wants, 'lost'),
    ('load_from_checkpoint', lambda: dict(load_from_checkpoint=str(trained())), network, CHANGES),
    (
        'load_from_checkpoint',
        lambda: dict(load_from_checkpoint='lost'),
        lambda **s: experiment(video(**s)).model,
        "load_from_checkpoint='lost'",
    ),
    ('a field that nothing has', lambda: dict(video_paht='x'), starts, "Did you mean 'video_path'"),
]


@pytest.mark.parametrize('field, said, look, expected', VIDEO, ids=[f'{row[0]}-{i}' for i, row in enumerate(VIDEO)])
def test_video(field, said, look, expected, tmp_path, monkeypatch):
    pytest.importorskip('av')
    monkeypatch.chdir(tmp_path)
    said = said()
    expected = expected() if callable(expected) else expected
    if expected is CHANGES:
        without = {k: v for k, v in said.items() if k != field}
        assert look(**said) != look(**without), 'nothing changes'
        return
    try:
        found = look(**said)
    except BadInput as e:
        found = e
    assert expected in str(found) if isinstance(found, BadInput) else found == expected


def test_every_field_of_the_script_has_a_row():
    "Those of the origin, as `specs` lists them."
    origin = '''
        exp_name batch_size precision max_steps save_steps output_dir video_path video_num_frames sample_rate
        dynamic_sample model_config n_nodes devices resolution num_workers resume_from_checkpoint load_from_checkpoint
    '''
    assert set(origin.split()) <= {row[0] for row in VIDEO}


# The pages say the same


def page(notebook):
    return (Path(__file__).resolve().parents[2] / 'nbs' / notebook).read_text(encoding='utf-8')


def test_the_page_of_the_audio_chapter_has_every_row():
    text = page('audio/audio_experiment.ipynb')
    ours = 'a name', 'any keyword', 'betas beside'
    words = {row.split(':')[0].split('.')[-1].strip() for row, *_ in AUDIO if not row.startswith(ours)}
    assert [w for w in words if w not in text and w not in ('….config', 'scheduler', 'config of torch')] == []


def test_the_page_of_the_video_chapter_has_every_field():
    text = page('video/trainer.ipynb')
    assert not [field for field, *_ in VIDEO if f'| `{field}` |' not in text and not field.startswith('a field')]
