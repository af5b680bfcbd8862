"A run outlives its process: killed at any moment, and given the same line again, it ends as if nothing had been."
import multiprocessing, os, random, signal, subprocess, sys, time
from pathlib import Path

import pytest
from conftest import ROOT, command

KILLS = int(os.environ.get('VAEBOOK_KILLS', 50)) # over all chapters; more by hand: VAEBOOK_KILLS=500 pytest tests/test_survival.py -k killed
CHAPTERS = {
    'cvae': 'dataset=digits sweep.callback_every=1000',
    'latent_actions': '',
    'causal_video': '',
    'audio': '',
    'world': ''}
SHORT = 'smoke=true logger=csv trainer.progress_bar=false trainer.max_steps=12 trainer.max_epochs=null trainer.save_every_n_steps=3 trainer.val_every_n_steps=6 trainer.log_every_n_steps=2 trainer.num_threads=1'
SIGNALS = signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT
PRELOAD = ['vaebook.train', 'vaebook.experiments.experiment', 'vaebook.trainers.lightning', 'vaebook.trainers.accelerate', 'matplotlib.figure', 'hydra', 'accelerate',
           *(f'vaebook.experiments.{name}' for name in CHAPTERS)]


def job(name, run, said):
    "What the command line does up to the trained model."
    sys.stdout = sys.stderr = open(f'{run}.log', 'a')
    import torch
    torch.set_num_threads(1)
    from vaebook.config import compose
    from vaebook.train import experiment
    experiment(compose(name, overrides=f'{SHORT} {CHAPTERS[name]} run_dir={run} resume=auto {said}')).fit()


@pytest.fixture(scope='module')
def nursery():
    "Processes that begin as copies of one which has imported everything."
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(PRELOAD)
    return context


def sitting(nursery, name, run, said='', stop=None, after=0.):
    "One process at work on a run; it gets a signal after so many seconds, if it is still there. Its exit code, and the seconds it took."
    process = nursery.Process(target=job, args=(name, str(run), said))
    begun = time.perf_counter()
    process.start()
    process.join(after if stop else None)
    if stop and process.is_alive(): os.kill(process.pid, stop)
    process.join(120)
    assert process.exitcode is not None, 'it goes on and on'
    return process.exitcode, time.perf_counter() - begun


def model(run): return (Path(run) / 'model/model.safetensors').read_bytes()


def rows(run): return (Path(run) / 'metrics.csv').read_text()


@pytest.mark.slow
@pytest.mark.parametrize('name', CHAPTERS)
def test_killed_at_any_moment(nursery, name, tmp_path):
    "Stopped up to three times, at random, by any signal: the same weights and the same log as the run that nobody stopped."
    code, _ = sitting(nursery, name, tmp_path / 'unbroken')
    assert code == 0, (tmp_path / 'unbroken.log').read_text()[-2000:]
    code, seconds = sitting(nursery, name, tmp_path / 'again') # everything is in memory now
    chance, kills, ended, number = random.Random(name), 0, {}, 0
    while kills < KILLS / len(CHAPTERS):
        number += 1
        run = tmp_path / f'run_{number}'
        for _ in range(3):
            stop = chance.choice(SIGNALS)
            code, _ = sitting(nursery, name, run, stop=stop, after=chance.uniform(0.02, 1.) * seconds)
            ended[stop.name, code] = ended.get((stop.name, code), 0) + 1
            assert code in (0, 75, -stop) or stop is signal.SIGINT and code == 1, f'{stop.name}: {code}\n' + Path(f'{run}.log').read_text()[-2000:]
            kills += code != 0
        code, _ = sitting(nursery, name, run)
        assert code == 0, Path(f'{run}.log').read_text()[-2000:]
        assert model(run) == model(tmp_path / 'unbroken') and rows(run) == rows(tmp_path / 'unbroken'), f'run {number}'
        assert not [p for p in run.rglob('*.tmp')], 'nothing half-written is left'
    print(name, f'{seconds:.1f} s', kills, 'kills', number, 'runs', ended)
