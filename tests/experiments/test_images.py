"""Experiments as a user meets them: three doors, golden curve, killed and resumed runs, bad input, full disks.

The golden curve is that of the smoke run; after a change that means to alter it: `VAEBOOK_GOLDEN=write pytest -k
golden`, which writes those of all chapters."""

import csv, json, os, shutil, subprocess, sys
from pathlib import Path

import pytest
import torch

from helpers import (
    column,
    command,
    follows_golden,
    killed,
    measured,
    metrics,
    mount,
    papermill,
    pictures,
    same,
    weights,
)
from vaebook.core.config import compose
from vaebook.core import BadInput
from vaebook.models import CNN, CVAE
from vaebook.train import experiment, load_run, train
from vaebook.trainers.callbacks import read_checkpoint

ROOT = Path(__file__).resolve().parents[2]
QUIET = 'trainer.progress_bar=false logger=csv'


def smoke(run_dir, overrides='', **given):
    place = dict(run_dir=str(run_dir)) if run_dir else {}
    return compose('cvae', f'{QUIET} {overrides}', **dict(dataset='digits', smoke=True) | place | given)


@pytest.fixture(scope='module')
def first(tmp_path_factory):
    "One smoke run that several tests look at."
    folder = tmp_path_factory.mktemp('first') / 'run'
    train(smoke(folder))
    return folder


def curve(run):
    keys = ['train/recon', 'train/kl', 'train/causal_effect', 'val/total']
    rows = [r for r in csv.DictReader((run / 'metrics.csv').open()) if any(r.get(k) for k in keys)]
    return [[int(r['step'])] + [float(r[k]) if r.get(k) else None for k in keys] for r in rows]


@pytest.mark.slow
def test_golden_curve(first):
    follows_golden(first, 'train_cvae_smoke')


def test_run_folder(first):
    files = 'config.yaml environment.json metrics.csv metrics.json checkpoints figures model'
    assert set(files.split()) <= {p.name for p in first.iterdir()}
    step, _ = min(column(first, 'val/total'), key=lambda row: row[1])
    assert {p.name for p in (first / 'checkpoints').iterdir()} == {f'best_step_{step}', 'final_step_60', 'last.ckpt'}
    numbers = 'classifier_accuracy causal_effect nll recon kl agreement flow/alpha_0 flow/beta_0'
    assert set(numbers.split()) <= set(metrics(first))
    env = json.loads((first / 'environment.json').read_text())
    assert len(env['packages_sha256']) == 64 and env['threads'] and env['fit_seconds'] > 0
    for file in ('config.yaml', 'environment.json'):
        assert str(first) not in (first / file).read_text() and os.uname().nodename not in (first / file).read_text()


@pytest.mark.slow
def test_two_runs_are_one(first, tmp_path):
    "One seed, one result, to the last digit; another seed, another."
    assert measured(smoke(tmp_path / 'again')) == metrics(first) and weights(tmp_path / 'again') == weights(first)
    assert measured(smoke(tmp_path / 'other', seed=1)) != metrics(first)


def test_reload(first):
    model = CVAE.from_pretrained(first / 'model')
    saved = read_checkpoint(first / 'checkpoints/last.ckpt')['objective']
    state = {k.removeprefix('model.'): v for k, v in saved.items()}
    assert set(state) == set(model.state_dict()), 'a checkpoint holds the model and nothing of the classifier'
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    for kept in (first / 'checkpoints').glob('*_step_60'):
        assert same(list(CVAE.from_pretrained(kept).state_dict().values()), list(model.state_dict().values()))


@pytest.mark.slow
def test_papermill_door(first, tmp_path):
    "The notebook's metrics are those of train(cfg)."
    papermill('train_cvae', tmp_path, dataset='digits', smoke=True, run_dir='run')
    assert metrics(tmp_path / 'run') == metrics(first)
    figures = {p.name for p in (tmp_path / 'run/figures').iterdir()}
    assert {'images.png', 'flow.png', 'loss_curves.png', 'sweep_alpha_0.png', 'strip_0.png'} <= figures
    assert pictures(tmp_path / 'out.ipynb') >= 5


def files(folder):
    return {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob('*') if p.is_file()}


@pytest.mark.slow
def test_explore(first, tmp_path):
    "A run is explored as it is, and left as it was; a folder that is no run, and a misspelt parameter, are refused."
    before = files(first)
    papermill('explore_cvae', tmp_path, run=first, order='usage')
    assert files(first) == before
    cells = json.loads((tmp_path / 'out.ipynb').read_text())['cells']
    shown = [o['data'] for c in cells for o in c.get('outputs', []) if 'data' in o]
    films = [data for data in shown if 'createImageBitmap' in ''.join(data.get('text/html', ''))]
    live = ['application/vnd.jupyter.widget-view+json' in data for data in films]
    assert live == [False, True, False], 'a film, the live explorer, and the film of a plane'
    assert 'the folder of a finished run' in papermill('explore_cvae', tmp_path, run=tmp_path, ok=False)
    assert "Did you mean 'order'" in papermill('explore_cvae', tmp_path, oder='kl', ok=False)
    assert 'at most two decimals' in papermill('explore_cvae', tmp_path, step=0.125, ok=False)


def test_reopened_run_trains_nothing(first, tmp_path):
    shutil.copytree(first, tmp_path / 'run')
    shutil.rmtree(tmp_path / 'run/classifier')
    with pytest.raises(BadInput, match='the classifier that this run explains'):
        load_run(tmp_path / 'run')
    with pytest.raises(BadInput, match='Its classifier has changed'):
        load_run(tmp_path / 'run', classifier=CNN(10, width=8))
    assert not (tmp_path / 'run/classifier').exists()


@pytest.mark.slow
def test_command_line_door(first, tmp_path):
    "vaebook-train, with names of other origins."
    line = f'-m vaebook.train data=digits smoke=true trainer.seed=42 run_dir=run {QUIET}'
    command(*line.split(), cwd=tmp_path)
    assert metrics(tmp_path / 'run') == metrics(first)
    assert {p.name for p in tmp_path.iterdir()} == {'run'}, 'nothing is written outside the run folder'


@pytest.mark.slow
def test_multirun(tmp_path):
    few = f'smoke=true trainer.max_steps=3 classifier.trainer.max_steps=3 {QUIET}'
    line = f'-m vaebook.train -m dataset=digits seed=1,2 hydra/launcher=joblib hydra.launcher.n_jobs=2 {few}'
    command(*line.split(), cwd=tmp_path)
    assert sorted(p.parent.name for p in (tmp_path / 'outputs').glob('*/*/metrics.json')) == ['seed=1', 'seed=2']


@pytest.mark.slow
@pytest.mark.parametrize('latents', ['prior', 'fitted', 'posterior'])
def test_killed_and_resumed(latents, tmp_path):
    "SIGKILL in the middle, resume from the last checkpoint, the same weights and log as without."
    steps = f'trainer.max_steps=66 trainer.ema_decay=0.9 loss.latents={latents}'
    measured(smoke(tmp_path / 'whole', steps))
    killed(tmp_path / 'cut', 'dataset=digits', 'smoke=true', *QUIET.split(), *steps.split())
    resumed = measured(compose('cvae', resume=str(tmp_path / 'cut')))
    assert resumed == metrics(tmp_path / 'whole'), 'the folder says all that is needed'
    assert weights(tmp_path / 'cut') == weights(tmp_path / 'whole')
    assert curve(tmp_path / 'cut') == curve(tmp_path / 'whole')


@pytest.mark.slow
def test_killed_while_it_measured(tmp_path):
    "A run that had finished training is loaded, measured and drawn; with averaged weights they are the averaged ones."
    wanted = measured(smoke(tmp_path / 'run', 'trainer.ema_decay=0.9')), weights(tmp_path / 'run')
    for lost in ('metrics.json', 'model/model.safetensors'):
        (tmp_path / 'run' / lost).unlink()
    assert (train(compose('cvae', resume=str(tmp_path / 'run'))), weights(tmp_path / 'run')) == wanted


def test_resume_refuses(first, tmp_path):
    with pytest.raises(BadInput, match='model.n_alpha was 2, is 1'):
        train(smoke(None, 'model.n_alpha=1', resume=str(first)))
    with pytest.raises(BadInput, match="recipe was 'digits', is 'mnist_3_8'"):
        train(compose('cvae', QUIET, recipe='mnist_3_8', smoke=True, resume=str(first)))
    with pytest.raises(BadInput, match='at least the 60 steps'):
        train(smoke(None, 'trainer.max_steps=5', resume=str(first)))
    with pytest.raises(BadInput, match='the folder of a run'):
        train(smoke(None, resume=str(tmp_path)))


@pytest.mark.slow
@pytest.mark.parametrize(
    'given, message',
    [
        (dict(datset='mnist'), "parameter='datset'"),
        (dict(dataset='digits', include_classes='3,99'), '99'),
        (dict(dataset='digits', alpha_samples=1), 'alpha_samples=1'),
    ],
)
def test_bad_parameters(given, message, tmp_path):
    "papermill ends with an error that names the value; no run folder is left."
    assert message in papermill('train_cvae', tmp_path, ok=False, **given)
    assert [p.name for p in tmp_path.iterdir()] == ['out.ipynb']


@pytest.mark.parametrize(
    'given, message',
    [
        (dict(dataset='imagenet'), 'dataset'),
        (dict(recipe='mnist_38'), "Did you mean 'mnist_3_8'"),
        (dict(n_alpha=-1), 'n_alpha=-1'),
        (dict(lr=0.0), 'lr=0.0'),
        (dict(batch_size=100_000), 'batch_size'),
        (dict(vae_model='cvae'), 'vae_model'),
        (dict(classifier='vgg'), 'classifier'),
        (dict(optimizer='Adma'), 'optimizer'),
        (dict(device='tpu'), "accelerator='tpu'"),
        (dict(max_steps=0), 'max_steps'),
        (dict(n_samples_each_class=0), 'n_samples_each_class'),
        (dict(image_size=0), 'image_size'),
        (dict(logger='tensorbord'), 'logger'),
        (dict(epochs=-1), 'max_epochs'),
        (dict(num_workers=-1), 'num_workers'),
    ],
)
def test_bad_values(given, message, tmp_path):
    "Each names the value; no model is left behind."
    with pytest.raises(BadInput, match=message):
        train(smoke(tmp_path / 'run', **given))
    assert not list(tmp_path.rglob('model')) and not list(tmp_path.rglob('metrics.json'))


@pytest.mark.slow
def test_command_line_error(tmp_path):
    for given in ('dataset=imagenet', 'model.n_alpha=-1', 'loss.use_causal=nope'):
        line = [sys.executable, '-m', 'vaebook.train', given, 'size=cpu']
        done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
        key = given.partition('=')[0].split('.')[-1]
        assert done.returncode == 2 and key in done.stderr, done.stderr
        assert done.stderr.startswith('vaebook-train: ') and done.stderr.count('\n') == 1, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_taken_and_unwritable_folders(first, tmp_path):
    before = weights(first)
    with pytest.raises(BadInput, match='this one holds a run'):
        train(smoke(first))
    assert weights(first) == before
    (tmp_path / 'file').write_text('')
    with pytest.raises(BadInput, match='a folder that can be written'):
        train(smoke(tmp_path / 'file/run'))
    with pytest.raises(BadInput, match='log_dir=.* Choose another log_dir'):
        train(smoke(tmp_path / 'run', 'logger=tensorboard', log_dir=str(tmp_path / 'file/logs')))


@pytest.mark.parametrize(
    'options, message', [(['size=200k'], 'room on the disk'), (['ro'], 'a folder that can be written')]
)
def test_disk(options, message, tmp_path):
    "A full disk and a read-only one: a sentence, and no half model."
    if not mount(tmp_path / 'disk', *options):
        pytest.skip('this machine lets us mount no small disk: try as root')
    try:
        with pytest.raises(BadInput, match=message):
            train(smoke(tmp_path / 'disk/run'))
        assert not list(tmp_path.rglob('config.json'))
    finally:
        subprocess.run(['umount', tmp_path / 'disk'], check=True)


@pytest.mark.slow
def test_resume_wants_the_same_classifier(tmp_path):
    "A run whose classifier was replaced is not gone on with."
    from vaebook.models import build_classifier

    net = build_classifier('mnist_cnn', 10, (1, 28, 28), width=4)
    torch.save(net.state_dict(), tmp_path / 'mine')
    given = dict(dataset='digits', save_dir=str(tmp_path), model_name='mine', run_dir=str(tmp_path / 'run'))
    measured(compose('cvae', f'{QUIET} trainer.max_steps=3 classifier.model.width=4 model.width=4', **given))
    net.net[0].weight.data.add_(1)
    torch.save(net.state_dict(), tmp_path / 'mine')
    with pytest.raises(BadInput, match='Its classifier has changed'):
        train(compose('cvae', 'trainer.max_steps=6', resume=str(tmp_path / 'run')))


def test_named_classifier_is_reused(tmp_path):
    "A classifier called model_name in save_dir is used as it is, also a plain state dict."
    from vaebook.models import build_classifier

    torch.manual_seed(0)
    net = build_classifier('mnist_cnn', 10, (1, 28, 28), width=4)
    torch.save(net.state_dict(), tmp_path / 'mine')
    words = f'{QUIET} dataset=digits model_name=mine trainer.max_steps=3 classifier.model.width=4 model.width=4'
    run = experiment(compose('cvae', words, save_dir=str(tmp_path), run_dir=str(tmp_path / 'run')))
    run.fit()
    assert same(list(run.black_box().ask.state_dict().values()), list(net.state_dict().values()))
    assert not (tmp_path / 'run/classifier').exists()


@pytest.mark.slow
def test_both_stages_from_one_file(tmp_path):
    "`vaebook configs`, then the two commands of the original, from one file in its own form."
    command('-m', 'vaebook.cli.main', 'configs', 'configs', cwd=tmp_path)
    assert len(list((tmp_path / 'configs').iterdir())) == 7
    text = (tmp_path / 'configs/fmnist_0_3_4.yml').read_text().replace('device: auto', 'device: cpu')
    (tmp_path / 'mine.yml').write_text(text)
    command('-m', 'vaebook.cli.main', 'train_classifier', '--config', 'mine.yml', '--smoke', cwd=tmp_path)
    out = command('-m', 'vaebook.cli.main', 'train_cvae_lightning', '--config', 'mine.yml', '--smoke', cwd=tmp_path)
    assert 'mine_train_cvae.ipynb' in out and len(list((tmp_path / 'outputs').glob('*/metrics.json'))) == 2
    assert list((tmp_path / 'CVAE_logs').rglob('events.out.tfevents*'))


@pytest.mark.slow
def test_colour_images(tmp_path):
    "cifar10 in the shape of the data set, with VGG-11."
    assert 0 <= train(smoke(tmp_path / 'run', dataset='cifar10'))['classifier_accuracy'] <= 1


def test_own_images_are_asked_for_again(tmp_path):
    "A run on images of your own goes on with these pixels and no others."
    x, y = torch.rand(200, 1, 12, 17), torch.arange(200) % 2
    steps = 'trainer.max_steps=2 trainer.val_every_n_epochs=100 sweep.callback_every=100'
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12 * 17, 2))
    net.outputs = 'logits'  # untrained, they can look like probabilities
    given = dict(data=(x, y), classifier=net)
    cfg = smoke(tmp_path / 'run', steps, dataset='own')
    experiment(cfg, **given).fit()
    assert cfg.dataset.pixels is None, 'what was composed stays as it was'
    resumed = compose('cvae', 'trainer.max_steps=3', resume=str(tmp_path / 'run'))
    for data, message in ((1 - x, y), 'that this run was started with'), (None, 'images of your own, for dataset=own'):
        with pytest.raises(BadInput, match=message):
            experiment(resumed, **given | dict(data=data)).fit()
    with pytest.raises(BadInput, match='dataset.pixels was'):
        other = smoke(None, steps, dataset='digits', resume=str(tmp_path / 'run'))
        experiment(other, **given | dict(data=(1 - x, y))).fit()
    again = experiment(resumed, **given)
    again.fit()
    assert again.model.shape == (1, 12, 17)


@pytest.mark.slow
@pytest.mark.parametrize('size, shape', [('30', (1, 30, 30)), ('[28,45]', (1, 28, 45))])
def test_any_size(size, shape, tmp_path):
    "Odd and unequal sides, through every number and figure."
    steps = 'trainer.max_steps=2 classifier.trainer.max_steps=2'
    run = experiment(smoke(tmp_path / 'run', f'{steps} dataset.image_size={size}'))
    run.figures()
    assert run.data().shape == run.model.shape == run.black_box().ask.shape == shape
    assert load_run(tmp_path / 'run').model.config['image_size'] == (30 if size == '30' else [28, 45])


@pytest.mark.slow
def test_known_factors_are_scored(first, tmp_path):
    "Where the factors of the images are known the code is scored against them, elsewhere not."
    found = train(smoke(tmp_path / 'run', 'trainer.max_steps=2 classifier.trainer.max_steps=2', dataset='shapes'))
    scores = {'mig', 'mig_size', 'sap', 'factor_vae', 'irs', 'modularity', 'dci_informativeness'}
    assert scores <= set(found) and 'mig' not in metrics(first)


PEAKS = '''
import resource, torch
from vaebook.losses import CausalObjective
from vaebook.models import CVAE, CNN
torch.set_num_threads(1)
objective = CausalObjective(CVAE(2, 4, width=16), CNN(3, width=8), chunk_size=32)
for a in (8, 16, 128):
    objective.effect([0, 1], a, 16).backward()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
'''


@pytest.mark.slow
def test_flat_memory():
    "The causal term in chunks: its peak of activations does not grow with the draws."
    small, _, large = map(float, command('-c', PEAKS, cwd=ROOT).split())
    assert large - small < 60, f'{large - small} MiB more for 16 times the draws'
