"Collecting episodes of the DeepMind Control Suite: processes, what a killed one leaves, what is told to the user."

import json, signal, subprocess, sys, time

import numpy as np
import pytest

from helpers import command
from vaebook.cli.main import main
from vaebook.core import BadInput
from vaebook.data import dmc_collect
from vaebook.data.dmc_collect import backend, collect

h5py = pytest.importorskip('h5py')
SMALL = dict(env='cartpole-swingup', episodes=3, steps=8, level=['random', 'medium', 'mixed'], distractor='dynamic')


def content(path):
    with h5py.File(path) as f:
        return {k: f[k][()] for k in f if isinstance(f[k], h5py.Dataset)}, dict(f.attrs)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    return collect(**SMALL, workers=1, path=tmp_path_factory.mktemp('whole') / 'a.h5')


def test_the_file_says_how_it_was_made(whole):
    _, attrs = content(whole)
    plan, versions, quality = (json.loads(attrs[k]) for k in ('plan', 'versions', 'quality'))
    assert attrs['action_convention'] == 'after' and attrs['repeat'] == 4 and plan['steps'] == 8
    assert set(versions) == {'dm-control', 'mujoco'} and quality['offsamples'] == 0
    assert not whole.with_name('a.h5.parts').exists()


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_killed_collection_goes_on(whole, tmp_path, monkeypatch):
    path = tmp_path / 'b.h5'
    code = f'from vaebook.data.dmc_collect import collect; collect(**{SMALL!r}, workers=2, path={str(path)!r})'
    process = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 120

    def parts():
        return [p for p in tmp_path.glob('b.h5.parts/*/*.npz') if not p.name.startswith('.')]

    while not parts() and not path.exists() and time.time() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept, asked, share_out = {int(p.stem) for p in parts()}, [], dmc_collect._share_out
    assert kept and not path.exists()

    def watched(plan, folder, missing, workers):
        asked.extend(missing)
        share_out(plan, folder, missing, workers)

    monkeypatch.setattr(dmc_collect, '_share_out', watched)
    collect(**SMALL, workers=1, path=path)
    assert kept.isdisjoint(asked)
    a, b = content(whole)[0], content(path)[0]
    assert a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def test_what_is_there_is_used(whole):
    before = whole.stat().st_mtime_ns
    assert collect(**SMALL, path=whole).stat().st_mtime_ns == before
    with pytest.raises(BadInput, match='The file has seed=0'):
        collect(**SMALL, seed=1, path=whole)


def test_a_body_is_not_painted_over():
    plan = dmc_collect.make_plan('cartpole-swingup', 1, 3, 4, 32, 'random', 'static', 1.0, 0)
    made = dmc_collect.suite_simulator('cartpole-swingup')
    films = [dmc_collect._episode(made, plan | dict(distractor=d), 0) for d in ('static', 'none')]
    noisy, plain = (film['observations'].astype(int) for film in films)
    body = plain[:, 0] > plain[:, 2] + 20
    assert 0 < body.mean() < 0.1
    gap = abs(noisy - plain).mean(1)
    assert gap[body].mean() < 0.3 * gap[~body].mean()
    still, drift = (dmc_collect._waves(np.random.default_rng(0), (32, 32), s) for s in (0.0, 0.3))
    assert (still(0) == still(9)).all() and 0.01 < abs(drift(0) - drift(9)).mean()


@pytest.mark.slow
def test_a_process_that_fails_says_why(tmp_path):
    plan = dmc_collect.make_plan('cartpole-swingpu', 1, 2, 1, 32, 'random', 'none', 0.0, 0)
    with pytest.raises(RuntimeError, match='cartpole-swingpu'):
        dmc_collect._share_out(plan, tmp_path, [0], 2)


def test_no_library_that_draws(monkeypatch):
    monkeypatch.setattr(dmc_collect, '_TRIAL', 'raise SystemExit(1)')
    with pytest.raises(BadInput, match='apt-get install libegl1 libegl-mesa0'):
        backend.__wrapped__()


@pytest.mark.slow
def test_command(tmp_path, capsys):
    line = '-m vaebook.cli.main data dmc --episodes 1 --steps 4 --level random --workers 1'
    out = command(*line.split(), '--out', tmp_path, cwd=tmp_path)
    assert out.strip().splitlines()[-1].endswith('.h5') and len(list(tmp_path.glob('*.h5'))) == 1
    for given, code, says in ('--help', 0, '--distractor'), ('--level=expert', 2, 'one of random, medium, mixed'):
        with pytest.raises(SystemExit) as e:
            main(['data', 'dmc', given])
        text = capsys.readouterr()
        assert e.value.code == code and says in text.out + text.err
