"What a line means: the seeds' own lines, lines that fit several chapters, odd values, blocks, resume, sweeps, help."

import json, shlex, subprocess, sys
from pathlib import Path
from unittest import mock

import hydra
import pytest
from omegaconf import OmegaConf

from helpers import said
from vaebook.core.config import compose, parse_override, quote
from vaebook.core.errors import BadInput, flatten_dict
from vaebook.core.facade import allowed_choices, choices, aliases, own_aliases, load_yaml, recipes, translate
from vaebook.train import best_model, compose_line, split_experiment, model_folder, load_run, _sweep_lines, train
from vaebook.trainers.video import TrainingArguments

EXPERIMENTS = list(load_yaml('experiments'))


# Which chapter: every command line that a document shows, and what each alone of their paths says

LINES = [
    (
        'data.train_dataloader.batch_size=32 trainer.trainer.max_epochs=100',
        'audio',
        {'trainer.batch_size': 32, 'trainer.max_epochs': 100, 'trainer.max_steps': None},
    ),
    ('trainer.trainer.max_epochs=100 trainer.wandb.use_wandb=false', 'audio', {'logger.name': 'csv'}),
    ('trainer.wandb.use_wandb=false', 'audio', {'logger.name': 'csv'}),
    ('trainer.optimizer.config.lr=3e-4', 'audio', {'trainer.optimizer.lr': 3e-4}),
    ('model=SEANet_real data=jamendo_highres', 'audio', {'model.name': 'seanet_real', 'dataset.channels': 2}),
    ('trainer.seed=3 trainer.num_gpus=0', 'audio', {'seed': 3, 'trainer.accelerator': 'cpu'}),
    ('trainer.trainer.strict_deterministic=true', 'audio', {'trainer.strict_deterministic': True}),
    (
        'trainer.scheduler.type=InverseLR trainer.scheduler.config.inv_gamma=1.0 trainer.scheduler.config.warmup=0',
        'audio',
        {'trainer.scheduler.name': 'InverseLR', 'trainer.scheduler.inv_gamma': 1.0},
    ),
    ('trainer.loss_config.bottleneck.weights.kl=1.0', 'audio', {'loss.bottleneck.weights.kl': 1.0}),
    (
        'trainer.num_steps=20000 dataset.batch_size=256 model.latent_dim=512',
        'latent_actions',
        {'trainer.max_steps': 20000, 'trainer.batch_size': 256, 'model.latent_dim': 512},
    ),
    (
        "model.latent_dim=384 model.num_encoder_layers=6 model.num_decoder_layers=6 model.fsq_levels='[9,9,9,9]'",
        'latent_actions',
        {'model.fsq_levels': [9, 9, 9, 9], 'model.num_encoder_layers': 6},
    ),
    ('trainer.num_steps=50000', 'latent_actions', {'trainer.max_steps': 50000}),
    ('trainer.num_steps=5', 'latent_actions', {'trainer.max_steps': 5}),
    ('clearml.enable=false', 'latent_actions', {'logger.name': 'csv'}),
    (
        'clearml.project_name=mine clearml.tags=[a,b]',
        'latent_actions',
        {'logger.project': 'mine', 'logger.tags': ['a', 'b']},
    ),
    ('vae.n_alpha=2 vae.lam_ml=0.1', 'cvae', {'model.n_alpha': 2, 'loss.lam_ml': 0.1}),
    (
        'classifier.epochs=3 general.device=gpu',
        'cvae',
        {'classifier.trainer.max_epochs': 3, 'trainer.accelerator': 'gpu'},
    ),
    ('beta_warmup_epochs=10 rgb_mu=0.9', 'world', {'loss.beta.warmup_epochs': 10, 'loss.rgb.mu': 0.9}),
    (
        'data_path=dmc environment=humanoid_walk',
        'world',
        {'dataset.root': 'dmc', 'dataset.environment': 'humanoid_walk'},
    ),
    (
        'video_path=films video_num_frames=17',
        'causal_video',
        {'dataset.root': 'films', 'dataset.name': 'video_folder', 'dataset.num_frames': 17},
    ),
    ('loss.lam_ml=0.1', 'cvae', {'loss.lam_ml': 0.1}),
    ('recipe=audio_rvq', 'audio', {'recipe': 'audio_rvq'}),
    ('dataset=pendulum trainer.max_steps=5', 'world', {'trainer.max_steps': 5}),
    (
        'experiment=classifier dataset=mnist epochs=4',
        'classifier',
        {'trainer.max_epochs': 4, 'model.name': 'mnist_cnn'},
    ),
    ('', 'cvae', {'recipe': 'fmnist_0_3_4'}),
]


@pytest.mark.parametrize('line, experiment, wanted', LINES, ids=[line or 'bare' for line, *_ in LINES])
def test_lines_of_the_documents(line, experiment, wanted):
    "Each is a run of its chapter, and each key is where it belongs; Hydra composes once."
    with mock.patch.object(hydra, 'compose', wraps=hydra.compose) as asked:
        cfg = compose_line(shlex.split(line))
    assert asked.call_count == 1
    assert cfg.experiment == experiment
    assert {key: OmegaConf.select(cfg, key) for key in wanted} == wanted


@pytest.mark.parametrize('line', ['trainer.num_steps=5', 'clearml.enable=false'])
def test_a_launcher_does_not_change_the_meaning(line, monkeypatch):
    for key, value in dict(RANK='0', WORLD_SIZE='2', LOCAL_RANK='0', ACCELERATE_MIXED_PRECISION='no').items():
        monkeypatch.setenv(key, value)
    assert split_experiment([line])[0] == 'latent_actions' and split_experiment(['loss.lam_ml=0.1'])[0] == 'cvae'


REFUSED = [
    ('trainer.max_steps=5', 'It fits cvae, latent_actions, causal_video, audio, world: say experiment='),
    ('smoke=true', 'say experiment='),
    ('seed=1 run_dir=x', 'say experiment='),
    ('trainer.optimizer.lr=0.1', 'It fits'),
    ('lr=0.1', 'It fits'),
    ('model.latent_dim=8', 'It fits latent_actions, world'),
    ('trainer.optimizer.amsgrad=true', 'It fits'),
    ('loss.lam_ml=1 model.fsq_levels=[5]', 'loss.lam_ml is of cvae; model.fsq_levels is of latent_actions'),
    ('recipe=digits clearml.enable=false model.fsq_levels=[5]', "model.fsq_levels=[5]: expected a key"),
    ('recipe=digits dataset=tones', 'recipe is of cvae; dataset is of audio'),
    ('trainer.max_step=5', "Did you mean 'trainer.max_steps'"),
    ('trainer.learning_rate=0.1', "Did you mean 'trainer.optimizer.lr'"),
    ('dataset=digits trainer.learning_rate=0.1', "Did you mean 'trainer.optimizer.lr'"),
    ('dataset=digits model.n_alhpa=2', "Did you mean 'model.n_alpha'"),
    ('recipe=audio eval_loss_config={}', "Did you mean 'trainer.eval_loss_config'"),
    ('recipe=digit', 'one of'),
    ('dataset=imagenet', 'one of'),
    ('recipe=audio loss=causal', 'expected one of audio'),
    ('experiment=cva', "Did you mean 'cvae'"),
    ('dataset=digits model=oobleck', 'expected one of mnist_cvae'),
    ('hello', 'key=value'),
    ('dataset=digits seed=1,2', 'Several runs want -m'),
    ('recipe=digits,mnist_3_8', 'Several runs want -m'),
    ('dataset=digits trainer.max_steps=[1', "a list or keys and values"),
    ('dataset=digits run_dir=${nonsense}', 'values that can be found'),
]


@pytest.mark.parametrize('line, message', REFUSED)
def test_refused_lines(line, message):
    with pytest.raises(BadInput) as e:
        compose_line(line.split())
    assert message in str(e.value)


@pytest.mark.parametrize(
    'experiment, said, message',
    [
        ('cvae', dict(recipe='audio'), "recipe='audio': expected one of"),
        ('cvae', dict(classifier='fsq_vqvae'), "classifier='fsq_vqvae': expected one of mnist_cnn"),
        ('cvae', dict(vae_model='oobleck'), 'vae_model'),
        ('cvae', dict(dataset='tones'), "dataset='tones'"),
        ('audio', dict(loss='world'), "loss='world': expected one of audio"),
        ('audio', dict(recipe='digits'), 'recipe'),
        ('world', dict(model='mnist_cnn'), 'model'),
        ('latent_actions', dict(loss='causal'), 'loss'),
        ('classifier', dict(classifier='mnist_cvae'), 'classifier'),
        ('causal_video', dict(dataset='mnist'), 'dataset'),
        ('cvae', dict(logger='tensorbord'), "Did you mean 'tensorboard'"),
        ('cvae', {'trainer': 'sgd'}, "trainer='sgd'"),
        ('cvae', dict(recipe='cvae'), "recipe='cvae'"),
    ],
)
def test_choices_are_those_of_the_experiment(experiment, said, message):
    with pytest.raises(BadInput) as e:
        compose(experiment, **said)
    assert message in str(e.value)


def test_a_sweep_keeps_to_one_experiment():
    with pytest.raises(BadInput, match='A sweep keeps to one experiment'):
        _sweep_lines(['recipe=digits,latent_actions'])


def test_every_choice_belongs_to_one_experiment_and_composes():
    for group in ('model', 'dataset', 'loss'):
        chapters = [e for e in EXPERIMENTS if e != 'classifier' or group == 'model']
        owners = {choice: [e for e in chapters if choice in allowed_choices(e, group)] for choice in choices(group)}
        assert {c: o for c, o in owners.items() if len(o) != 1} == {}
    assert sorted(r for e in EXPERIMENTS if e != 'classifier' for r in recipes(e)) == choices('recipe')


def test_listed_recipes_are_accepted(tmp_path):
    listed = said('list', cwd=tmp_path, of='vaebook.cli.main')
    for experiment in EXPERIMENTS:
        for recipe in recipes(experiment):
            assert recipe in listed and compose(experiment, recipe=recipe, size='cpu').recipe == recipe


def test_every_row_of_a_facade_leads_to_a_key():
    "A path that is shown names a key of its chapter, or a block that takes keys."
    for experiment in EXPERIMENTS:
        cfg = compose(experiment, size='paper')
        for path in own_aliases(experiment):
            key = translate(path, aliases(experiment))[0].split('@')[-1]
            if key in ('smoke', 'recipe', 'trainer.num_gpus'):
                continue
            above = key.removesuffix('.0').removesuffix('.1').rpartition('.')[0]
            block = OmegaConf.select(cfg, above) if '.' in key else cfg
            assert block is not None, (experiment, path, key)
            optional = key in ('logger.project', 'logger.task', 'logger.tags')
            listed = OmegaConf.is_list(block) or key[-2:] in ('.0', '.1')
            assert key.rpartition('.')[2] in block or optional or listed, (experiment, path, key)


def test_an_environment_without_a_folder_is_rendered():
    cfg = compose('world', environment='walker_walk')
    assert (cfg.dataset.name, cfg.dataset.task, cfg.dataset.environment) == ('dmc', 'walker-walk', None)
    kept = compose('world', environment='walker_walk', data_path='mine')
    assert (kept.dataset.name, kept.dataset.environment) == ('episodes', 'walker_walk')
    with pytest.raises(BadInput, match='a folder of dataset.root'):
        compose('world', environment='walker_walk', dataset='pendulum')


# Values: what passes every door

ODD = [
    "it's here",
    'two words',
    'a=b',
    '#1',
    '50%',
    'Bücher',
    'say "hi"',
    'x;y&z',
    'back\\slash',
    '(1)',
    '2024',
    'a,b',
    '[1',
    '~home',
    '$HOME',
    'a:b',
    "''",
    'end\\',
    '日本',
    '3_8',
    'true',
]


@pytest.mark.parametrize('value', ODD)
def test_odd_values_pass(value, tmp_path):
    "By the command line, a notebook's parameter, its overrides, a sweep, and what a saved run says of itself."
    quoted = quote(value)
    assert compose_line(['dataset=digits', f'run_dir={quoted}']).run_dir == value
    assert compose('cvae', dataset='digits', run_dir=value).run_dir == value
    assert compose('cvae', f'dataset=digits {shlex.quote(f"run_dir={quoted}")}').run_dir == value
    swept = _sweep_lines(['dataset=digits', f'run_dir={quoted}', 'seed=1,2'])[-1]
    assert json.loads(parse_override(swept)[1])['values']['run_dir'] == value
    plain = value not in ('a,b', '[1', "''")
    if plain:
        assert compose_line(['dataset=digits', f'run_dir={value}']).run_dir == value


@pytest.mark.parametrize('value', ['a,b', '[1'])
def test_values_that_want_quotes_say_so(value):
    with pytest.raises(BadInput, match='quotes within quotes'):
        compose_line(['dataset=digits', f'run_dir={value}'])


def test_overrides_that_a_shell_could_not_split():
    with pytest.raises(BadInput, match='wants quotes around it'):
        compose('cvae', "run_dir=it's")


# Blocks


def audio(*words):
    return compose('audio', list(words), size='paper')


def test_a_loss_given_whole_is_the_whole_loss():
    block = dict(spectral=dict(stft_mse=dict(config=dict(reduction='mean')), weights=dict(stft_mse=1.0)))
    assert audio(f'trainer.loss_config={quote(block)}').loss == block
    l1, l2 = 'trainer.loss_config={time: {weights: {l1: 1.0}}}', 'trainer.loss_config.time.weights.l2=2.0'
    assert audio(l1, l2).loss == dict(time=dict(weights=dict(l1=1.0, l2=2.0)))
    assert audio('loss.spectral={mel: {}, weights: {mel: 1.0}}').loss.spectral == dict(mel={}, weights=dict(mel=1.0))
    assert audio('loss.spectral={mel: {}, weights: {mel: 1.0}}').loss.time.weights.l1 == 10.0
    assert compose('audio', **{'trainer.loss_config': block}).loss == block


@pytest.mark.parametrize(
    'value, wanted',
    [('{}', {}), ('{pesq: {}}', dict(pesq={})), ('null', None), ('{mel: {n_mels: 64}}', dict(mel=dict(n_mels=64)))],
)
def test_eval_losses_reach_the_configuration(value, wanted):
    assert audio(f'trainer.eval_loss_config={value}').eval_loss == wanted


def test_no_empty_block_vanishes():
    assert audio('trainer.loss_config={nonsense: {}}').loss == dict(nonsense={})
    assert audio('trainer.optimizer={nonsense: {}}').trainer.optimizer.nonsense == {}
    assert compose('latent_actions', ['dataset.weights={}']).dataset.weights == {}


def test_optimizer_blocks_are_taken_key_by_key():
    cfg = audio(
        'trainer.optimizer={type: AdamW, config: {lr: 3e-4, betas: [0.9, 0.999], weight_decay: 1e-4}}',
        'trainer.scheduler={type: InverseLR, config: {inv_gamma: 1.0, power: 1.0, warmup: 0}}',
    )
    optimizer, scheduler = cfg.trainer.optimizer, cfg.trainer.scheduler
    assert (optimizer.name, optimizer.lr, optimizer.weight_decay) == ('AdamW', 3e-4, 1e-4)
    assert optimizer.betas == [0.9, 0.999]
    assert (scheduler.name, scheduler.inv_gamma, scheduler.warmup_steps) == ('InverseLR', 1.0, 0)


@pytest.mark.parametrize(
    'word',
    [
        'trainer.max_steps=many',
        'trainer.optimizer=Adam',
        'trainer.optimizer.betas=3',
        'dataset=null',
        'model={z: 1}',
        'loss.lam_ml=[1]',
        'seed=1.5',
        'smoke=maybe',
        'size=huge',
        'loss={lam: 1}',
    ],
)
def test_wrong_values_are_refused(word):
    with pytest.raises(BadInput):
        compose('cvae', [word])


# Runs that go on


@pytest.fixture
def begun(tmp_path):
    words = 'logger=csv trainer.accelerator=cpu trainer.ema_decay=0.5 trainer.optimizer.lr=0.003'
    cfg = compose('causal_video', words, smoke=True, seed=5)
    cfg.run_dir = None
    OmegaConf.save(cfg, tmp_path / 'config.yaml')
    return tmp_path, cfg


def differing(a, b):
    a, b = (flatten_dict(OmegaConf.to_container(c)) for c in (a, b))
    return sorted(k for k in {*a, *b} if a.get(k) != b.get(k))


def test_only_what_is_said_changes_a_run_that_goes_on(begun):
    folder, cfg = begun

    def changed(*words):
        return differing(compose_line([f'resume={folder}', *words]), cfg)

    assert changed() == ['resume']
    same = 'smoke=true', 'recipe=causal_video', 'size=auto'
    assert changed('trainer.max_steps=50', *same) == ['resume', 'trainer.max_steps']
    assert changed('logger=tensorboard') == ['logger.name', 'resume']
    assert changed('recipe=causal_video_gan', 'dataset=clips')[-3:] != []  # and `Run` says which


def test_dataclass_defaults_do_not_change_a_run_that_goes_on(begun):
    folder, cfg = begun
    args = TrainingArguments(resume_from_checkpoint=str(folder))
    assert (args.logger, args.accelerator, args.seed, args.lr) == ('csv', 'cpu', 5, 0.003)
    assert differing(args.to_config(), cfg) == ['resume']
    args = TrainingArguments(resume_from_checkpoint=str(folder), max_steps=99, logger='none')
    assert differing(args.to_config(), cfg) == ['logger.name', 'resume', 'trainer.max_steps']
    assert TrainingArguments().logger == 'wandb' and TrainingArguments().to_config().logger.run == 'causalvae'


def test_resume_auto(begun, tmp_path):
    folder, cfg = begun
    assert differing(compose_line([f'run_dir={folder}', 'resume=auto']), cfg) == ['resume', 'run_dir']
    new = compose_line([f'run_dir={folder}/new', 'resume=auto', 'dataset=clips'])
    assert (new.resume, new.dataset.name, new.logger.name) == ('auto', 'clips', 'csv')


def test_a_run_of_another_experiment_is_refused(begun):
    with pytest.raises(BadInput, match='a run of audio. It is one of causal_video'):
        compose('audio', resume=str(begun[0]))


# The best of a run


def test_best_is_what_the_monitor_says(tmp_path):
    (tmp_path / 'metrics.csv').write_text('step,train/recon,val/recon\n10,3,\n10,,0.5\n20,,0.2\n30,,0.4\n')
    for step in (10, 20, 30):
        (tmp_path / f'checkpoints/best_step_{step}').mkdir(parents=True)
        (tmp_path / f'checkpoints/best_step_{step}/config.json').write_text('{}')

    def cfg(mode):
        return OmegaConf.create(dict(trainer=dict(monitor='val/recon', monitor_mode=mode)))

    assert [best_model(tmp_path, cfg(m)).name for m in ('min', 'max')] == ['best_step_20', 'best_step_10']
    with pytest.raises(BadInput, match='kept its best model'):
        best_model(tmp_path / 'none', cfg('min'))
    saved = compose('audio', overrides='trainer.monitor=val/recon trainer.monitor_mode=min')
    OmegaConf.save(saved, tmp_path / 'config.yaml')
    assert model_folder(tmp_path, 'last') == tmp_path, 'no model/ is there yet'
    assert model_folder(tmp_path, 'best').name == 'best_step_20'


@pytest.mark.slow
def test_best_is_another_model_than_the_last(tmp_path):
    "Of a loss that falls, the first validation is the best where most is best."
    from safetensors.torch import load_file

    run = tmp_path / 'run'
    words = 'dataset=digits logger=csv trainer.accelerator=cpu trainer.progress_bar=false'
    words += ' trainer.val_every_n_steps=5 trainer.monitor_mode=max'
    train(compose('cvae', words, smoke=True, run_dir=str(run)))
    last, best = (load_run(run, which=which) for which in ('last', 'best'))
    assert best.evaluate()['step'] == 5 and 'step' not in last.evaluate()
    kept, final = (
        load_file(run / 'checkpoints/best_step_5/model.safetensors'),
        load_file(run / 'model/model.safetensors'),
    )
    for name in kept:
        assert best.model.state_dict()[name].equal(kept[name]) and last.model.state_dict()[name].equal(final[name])
    assert any(not kept[name].equal(final[name]) for name in kept)


# Doors


WITHOUT_TORCH = '''
import importlib, sys
module, *sys.argv = sys.argv[1:]
try:
    importlib.import_module(module).main()
except SystemExit as e:
    assert not e.code, e
assert not {'torch', 'numpy', 'pytorch_lightning'} & set(sys.modules)
'''


@pytest.mark.parametrize(
    'module, line',
    [
        ('vaebook.cli.main', 'vaebook --help'),
        ('vaebook.cli.main', 'vaebook list'),
        ('vaebook.cli.main', 'vaebook --version'),
        ('vaebook.train', 'vaebook-train --help'),
        ('vaebook.train', 'vaebook-train --version'),
        ('vaebook.train', 'vaebook-train --cfg job recipe=world_model size=paper'),
        ('vaebook.train', 'vaebook-train -sc install=bash'),
    ],
)
def test_words_need_no_torch(module, line, tmp_path):
    command = [sys.executable, '-c', WITHOUT_TORCH, module, *line.split()]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip(), done.stderr[-2000:]
    assert list(tmp_path.iterdir()) == []


def test_help_shows_what_would_run(tmp_path):
    shown = said('--help', 'recipe=audio_rvq', cwd=tmp_path)
    values = OmegaConf.create(shown[shown.index('experiment: audio') :])
    assert values == compose('audio', recipe='audio_rvq', size='paper')
    assert 'recipe=fmnist_0_3_4' in said('--help', cwd=tmp_path)
    job = OmegaConf.create(said('--cfg', 'job', 'loss.lam_ml=0.3', 'size=cpu', cwd=tmp_path))
    assert job == compose('cvae', 'loss.lam_ml=0.3', size='cpu')


def test_folders_of_hydra(tmp_path):
    with mock.patch('vaebook.train.train') as train:
        said('dataset=digits', f'hydra.run.dir={tmp_path}/mine', cwd=tmp_path)
    assert train.call_args.args[0].run_dir == f'{tmp_path}/mine'
    assert 'one folder' in said('dataset=digits', 'hydra.run.dir=a', 'run_dir=b', cwd=tmp_path, status=2)
    assert 'Launchers and sweepers want -m' in said('dataset=digits', 'hydra/launcher=joblib', cwd=tmp_path, status=2)


def test_sweeps(tmp_path):
    "A folder for each run, named by what is its own; odd values in all; only Hydra's own compositions."
    swept = ['recipe=digits,mnist_3_8', 'model.n_alpha=1,2']
    same = ["save_dir=it's 50%", 'trainer.num_steps=7', 'hydra.sweep.dir=there']
    with mock.patch('vaebook.train.train') as train, mock.patch.object(hydra, 'compose', wraps=hydra.compose) as asked:
        said('-m', *swept, *same, cwd=tmp_path)
    cfgs = [call.args[0] for call in train.call_args_list]
    runs = [(r, n) for r in ('digits', 'mnist_3_8') for n in (1, 2)]
    assert asked.call_count == 0
    assert [Path(c.run_dir).as_posix() for c in cfgs] == [f'there/recipe={r},model.n_alpha={n}' for r, n in runs]
    assert [(c.recipe, c.model.n_alpha) for c in cfgs] == runs
    assert {(c.save_dir, c.trainer.max_steps, c.trainer.max_epochs) for c in cfgs} == {("it's 50%", 7, None)}
    assert 'given' not in cfgs[0]


def test_sweep_of_a_classifier_and_wrong_values(tmp_path):
    with mock.patch('vaebook.train.train') as train:
        said('-m', 'experiment=classifier', 'dataset=digits', 'lr=0.1,0.2', 'hydra.sweep.subdir=${seed}', cwd=tmp_path)
    assert [c.args[0].trainer.optimizer.lr for c in train.call_args_list] == [0.1, 0.2]
    line = '-m dataset=digits model.n_alpha=1,two smoke=true size=cpu model.n_alpha=two'
    assert "model.n_alpha='two': expected a value like" in said(*line.split(), cwd=tmp_path, status=2)
