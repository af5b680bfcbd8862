"The world model's trainer and its monitor: bad input, going on exactly, checkpoints of ours and of the origin."

import csv, math, warnings
from pathlib import Path

import pytest
import torch
from helpers import TINY_WORLD, weights

from vaebook.core import BadInput, set_seed
from vaebook.data.dmc import DMCVBDataset, pendulum_episodes
from vaebook.metrics.world import diagnose, evaluate_batch
from vaebook.losses.world import WorldObjective
from vaebook.models.world import DPGMMVariationalRecurrentAutoencoder
from vaebook.trainers.monitor import WorldModelMonitor
from vaebook.trainers.callbacks import read_checkpoint
from vaebook.trainers.fit import fit
from vaebook.losses.likelihoods import beta_schedule
from vaebook.trainers.world import DMCVBTrainer, load_checkpoint, save_checkpoint
from vaebook.trainers.world import validate, visualize_reconstructions

TINY = dict(max_components=3, latent_dim=4, hidden_dim=16, overshoot=2) | TINY_WORLD
TRAIN, VAL = (DMCVBDataset(pendulum_episodes(n, 16, 16, seed=n), sequence_length=8, stride=4) for n in (4, 2))


def new(**more):
    set_seed(0)
    return DPGMMVariationalRecurrentAutoencoder(**TINY | more)


def trainer(model=None, **more):
    usual = dict(train_dataset=TRAIN, val_dataset=VAL, batch_size=4, sequence_length=8, accelerator='cpu')
    usual |= dict(learning_rate=1e-3, beta_warmup_epochs=1, log_interval=3)
    return DMCVBTrainer(model or new(), **usual | more)


def rows(path):
    with open(path, newline='') as file:
        return list(csv.DictReader(file))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    warnings.filterwarnings('ignore', message='step ')


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    "A run of four epochs that nothing stopped."
    folder = tmp_path_factory.mktemp('world') / 'run'
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        trainer(run_dir=folder).train(num_epochs=4)
    return folder


# What a user may get wrong


@pytest.mark.parametrize(
    'key, value',
    [
        ('learning_rate', 0),
        ('learning_rate', 'fast'),
        ('batch_size', 0),
        ('batch_size', 99),
        ('batch_size', 2.5),
        ('sequence_length', 16),
        ('sequence_length', 0),
        ('grad_clip', 0),
        ('grad_clip', -1.0),
        ('scheduler', 'cosines'),
        ('beta_start', -1),
        ('beta_end', float('nan')),
        ('beta_warmup_epochs', -1),
        ('beta_shape', 'line'),
        ('balancer', 'rgp'),
        ('rgb_mu', 1.0),
        ('rgb_lambd', -1.0),
        ('rgb_alpha_steps', 1.5),
        ('lambda_recon', -1),
        ('lambda_att_dyn', None),
        ('entropy_weight', -0.1),
        ('attention_kl_weight', 'x'),
        ('diversity_weight', -1),
        ('reward_weight', float('inf')),
        ('lambda_overshoot', -1),
        ('foreground_weight', '0'),
        ('kl', 'uper'),
        ('num_workers', -1),
        ('log_interval', 0),
        ('seed', -1),
        ('seed', 0.5),
        ('accelerator', 'gpus'),
        ('precision', 'bf16'),
        ('logger', 'cvs'),
        ('resume', 'nowhere'),
        ('train_dataset', []),
        ('val_dataset', 3),
        ('val_dataset', [torch.zeros(8)]),
        ('model', torch.nn.Linear(2, 2)),
        ('pin_memory', 'yes'),
        ('monitor', 'no'),
    ],
)
def test_bad_arguments(key, value, tmp_path):
    with pytest.raises(BadInput) as e:
        more = dict(run_dir=tmp_path / 'run') | {key: value}
        trainer(**more).train(1) if key == 'resume' else trainer(**more)
    assert key.removeprefix('rgb_') in str(e.value), e.value
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('epochs', [0, -1, 'many', None])
def test_bad_epochs(epochs, tmp_path):
    with pytest.raises(BadInput, match='num_epochs'):
        trainer(run_dir=tmp_path / 'run').train(epochs)
    assert not (tmp_path / 'run').exists()


def test_model_of_other_frames():
    with pytest.raises(BadInput, match='observations'):
        trainer(new(image_size=32))
    with pytest.raises(BadInput, match='actions'):
        trainer(new(action_dim=2))


# Runs


def test_what_a_run_leaves(run):
    found, findings = rows(run / 'metrics.csv'), rows(run / 'findings.csv')
    val = [r for r in found if r.get('val/total')]
    assert len(val) == 4 and float(val[-1]['val/mse']) < float(val[0]['val/mse'])
    names = 'recon_loss kl_z hierarchical_kl attention_kl cluster_entropy vq_loss token_ce attention_diversity'
    assert all(r[f'val/{n}'] for r in val for n in (*names.split(), 'overshoot_loss', 'mse', 'psnr'))
    train = [r for r in found if r.get('train/grad_norm')]
    assert len(train) >= 4 and all(float(r['train/grad_norm']) > 0 and r['train/cosine_elbo_update'] for r in train)
    assert any(r.get('lr-Adam') for r in found)
    assert any(r.get('found/component_2') and r['found/perplexity'] and r['found/latent_std'] for r in found)
    assert {'recons_step_3.png', 'attention_step_12.png'} <= {p.name for p in (run / 'figures').iterdir()}
    detectors = 'kl_collapse gradient_explosion task_conflict data_problems action_convention'
    assert {r['name'] for r in findings} >= set(detectors.split())
    assert sorted(p.name for p in (run / 'model').iterdir()) == ['config.json', 'model.safetensors']


def test_resume_is_exact(run, tmp_path, monkeypatch):
    "Stopped after two epochs and gone on with, by a trainer with another model: the same weights, codes and rotation."
    part, stop = tmp_path / 'part', RuntimeError('the power went')

    def fail(self, trainer, module, *args):
        if module.step == 7:
            raise stop

    with monkeypatch.context() as m:
        m.setattr(WorldModelMonitor, 'on_train_batch_end', fail)
        with pytest.raises(RuntimeError, match='power'):
            trainer(run_dir=part).train(4)
    other = new()
    with torch.no_grad():
        for p in other.parameters():
            p.add_(1.0)
    trainer(other.eval(), resume=part).train(4)
    assert weights(part) == weights(run)
    a, b = (read_checkpoint(r / 'checkpoints/last.ckpt') for r in (part, run))
    assert a['batches'] == b['batches'] == 12 and set(b['extra']) == {'d', 'alpha'} and b['extra']['d'].norm() > 0
    assert all(torch.equal(a['extra'][k], b['extra'][k]) for k in b['extra'])
    books = [k for k in b['objective'] if 'quantizer' in k]
    assert books and all(torch.equal(a['objective'][k], b['objective'][k]) for k in books)
    last, wanted = ([x for x in rows(r / 'metrics.csv') if x.get('val/total')][-1] for r in (part, run))
    assert last == wanted


@pytest.mark.slow
def test_going_on(tmp_path):
    "A second call goes on; other settings do not."
    settings = dict(scheduler='constant', log_interval=50)
    one = trainer(run_dir=tmp_path / 'a', **settings)
    one.train(1)
    first = one.train(2)
    assert one.model.training is False
    assert trainer(run_dir=tmp_path / 'b', monitor=False, **settings).train(2) == first
    with pytest.raises(BadInput, match='learning_rate|lr'):
        trainer(resume=tmp_path / 'a', scheduler='constant', learning_rate=1e-2).train(3)
    with pytest.raises(BadInput, match='at least'):
        one.train(1)


def test_bf16_is_finite(tmp_path):
    values = trainer(run_dir=tmp_path / 'run', precision='bf16-mixed', log_interval=1).train(2)
    assert all(math.isfinite(v) for v in values.values())
    norms = [r['train/grad_norm'] for r in rows(tmp_path / 'run/metrics.csv') if r.get('train/grad_norm')]
    assert all(math.isfinite(float(norm)) for norm in norms)


@pytest.mark.parametrize('balancer', ['sum', 'pcgrad', 'uncertainty'])
def test_balancers(balancer, tmp_path):
    assert trainer(run_dir=tmp_path / 'run', balancer=balancer, num_workers=1).train(1)['val/total'] > 0


def test_any_dataset_will_do(tmp_path):
    "Subsets, and samples of no rewards with columns that are no business of ours."
    windows = [TRAIN[i] for i in range(8)]
    plain = [dict(observations=w['observations'], actions=w['actions'], proprio=torch.zeros(8, 3)) for w in windows]
    part = torch.utils.data.Subset(VAL, [1, 2])
    values = trainer(train_dataset=plain, val_dataset=part, run_dir=tmp_path / 'run').train(1)
    assert 'val/reward_loss' in values


# Checkpoints


def test_checkpoints(tmp_path):
    "What is saved comes back, optimiser and half-gathered codebook included; the origin's own file is read."
    model = new()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    batch = {k: v for k, v in TRAIN[torch.arange(2)].items()}

    def step(model, optimizer):
        torch.manual_seed(5)
        optimizer.zero_grad()
        model.compute_loss(batch).total.backward()
        optimizer.step()

    step(model, optimizer)
    save_checkpoint(model, optimizer, 3, tmp_path / 'ours.pt')
    theirs = dict(epoch=3, model_state_dict=model.state_dict(), optimizer_state_dict=optimizer.state_dict())
    torch.save(theirs, tmp_path / 'theirs.pt')
    step(model, optimizer)
    for name in ('ours.pt', 'theirs.pt'):
        again = new()
        opt = torch.optim.Adam(again.parameters(), lr=1.0)
        assert load_checkpoint(again, opt, tmp_path / name) == 3
        step(again, opt)
        assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())
    assert [p.name for p in sorted(tmp_path.iterdir())] == ['ours.pt', 'theirs.pt']


def test_checkpoints_that_are_none(tmp_path):
    "Damaged, foreign, of another model, of another optimiser: each is said, and nothing is changed."
    model = new()
    optimizer = torch.optim.Adam(model.parameters())
    before = {k: v.clone() for k, v in model.state_dict().items()}
    whole = save_checkpoint(model, optimizer, 1, tmp_path / 'whole.pt').read_bytes()
    (tmp_path / 'half.pt').write_bytes(whole[: len(whole) // 2])
    (tmp_path / 'empty.pt').write_bytes(b'')
    (tmp_path / 'text.pt').write_text('hello')
    torch.save(model.state_dict(), tmp_path / 'weights.pt')
    torch.save([1], tmp_path / 'list.pt')
    torch.save(dict(epoch=Path('x')), tmp_path / 'code.pt')
    other = new(hidden_dim=24)
    save_checkpoint(other, torch.optim.Adam(other.parameters()), 1, tmp_path / 'other.pt')
    save_checkpoint(model, torch.optim.Adam(list(model.parameters())[:3]), 1, tmp_path / 'optimizer.pt')
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
    changed = {k: v.clone() for k, v in model.state_dict().items()}
    for name in ('missing', 'half', 'empty', 'text', 'weights', 'list', 'code', 'other', 'optimizer'):
        with pytest.raises(BadInput, match=f'{name}.pt'):
            load_checkpoint(model, optimizer, tmp_path / f'{name}.pt')
        assert all(torch.equal(v, changed[k]) for k, v in model.state_dict().items()), name
    with pytest.raises(BadInput):
        save_checkpoint(model, optimizer, 1, tmp_path / 'whole.pt' / 'inside.pt')
    load_checkpoint(model, optimizer, tmp_path / 'whole.pt')
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_validate_leaves_no_trace():
    "Mode, statistics and the generator are as before; batches of any size give one mean."
    model, loader = new(), lambda size: torch.utils.data.DataLoader(VAL, batch_size=size)
    before, noise = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    first = validate(model, loader(6))
    assert model.training and torch.equal(noise, torch.get_rng_state()) and validate(model, loader(6)) == first
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert validate(model.eval(), loader(4)) == pytest.approx(first, rel=0.05) and not model.training


def test_pictures(tmp_path):
    x = torch.rand(2, 5, 3, 16, 16)
    from PIL import Image

    for step, v in enumerate((x, (255 * x).byte(), x.requires_grad_())):
        assert visualize_reconstructions(v, v, step, tmp_path / 'new') == tmp_path / f'new/recons_step_{step}.png'
    assert Image.open(tmp_path / 'new/recons_step_0.png').size == (5 * 17, 2 * 17)
    with pytest.raises(BadInput):
        visualize_reconstructions(x[0], x[0], 0)
    assert beta_schedule(5) == 0.5


# The monitor


def test_monitor_is_silent_on_healthy_run(run):
    "Nothing is said of data, gradients or actions in the run above."
    bad = {r['name'] for r in rows(run / 'findings.csv') if r['severity'] == 'error'}
    assert not bad


def test_monitor_beside_accelerate(tmp_path):
    "The other engine calls it in the same way, and the run is the same as without it."
    pytest.importorskip('accelerate')
    one = trainer(run_dir=tmp_path / 'none')
    cfg = one.config(1)
    cfg['trainer'] |= dict(engine='accelerate', progress_bar=False)
    states = []
    for monitor in ([], [WorldModelMonitor(tmp_path, every=2)]):
        model = new()
        folder = tmp_path / str(len(states))
        folder.mkdir()
        objective = WorldObjective(model, beta=dict(warmup=2), balancer='rgb')
        fit(objective, cfg, folder, one.train_loader, [VAL[torch.arange(2)]], one.per_epoch, monitor)
        states.append(model.state_dict())
    assert all(torch.equal(v, states[1][k]) for k, v in states[0].items())
    assert {r['step'] for r in rows(tmp_path / 'findings.csv')} == {'1', '2', '3'}
    assert 'task_conflict' in monitor[0].report()


def test_monitor_finds_a_dead_model():
    "A model whose latents, slots and codes were switched off, on a batch that is fine."
    model, batch = new(), TRAIN[torch.arange(8)]
    with torch.no_grad():
        for layer in (model.posterior[-1], model.prior.gaussians):
            layer.weight.zero_()
            layer.bias.zero_()
        model.prior.anchors.zero_()
        model.schema.slots.start.copy_(model.schema.slots.start[:1].expand_as(model.schema.slots.start))
        codebook = model.tokenizer.quantizer.codebook
        codebook.copy_(codebook[:1].expand_as(codebook))
    found = {f['name']: f for f in diagnose(model, batch)}
    dead = 'kl_collapse inactive_latents components_equal attention_collapse codebook_collapse static_background'
    for name in dead.split():
        assert found[name], found[name]
    assert not found['data_problems']
    without_kl = {f['name'] for f in diagnose(model, batch, beta=0.0) if f}
    assert not without_kl & {'kl_collapse', 'inactive_latents'}
    assert evaluate_batch(model, batch).posterior.z.requires_grad is False and model.training
