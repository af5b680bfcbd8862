"Trackers: what they keep, whom they ask, and that none of them stops a run."

import json, os, socket, sqlite3, subprocess, sys, time

import pytest
from vaebook.core.config import compose
from vaebook.viz.tiles import new_figure
from vaebook.trainers import loggers
from vaebook.trainers.loggers import FailSafeTracker, StepCSV, make_tracker

SMOKE = 'smoke=true dataset=digits trainer.progress_bar=false trainer.max_steps=6 trainer.max_epochs=null '
SMOKE += 'trainer.val_every_n_steps=3 trainer.log_every_n_steps=1'


def settings(name, *said):
    return compose('classifier', dataset='digits', logger=name, overrides=list(said))


def figure():
    fig = new_figure(2, 2)
    fig.subplots().plot([1, 2])
    return fig


def tell(tracker):
    "What a run tells a tracker."
    tracker.log_metrics({'train/mse': 0.5, 'epoch': 0}, 3)
    tracker.log_metrics({'val/mse': 0.25}, 4)
    tracker.log_figure('val_metrics', figure(), 4)
    tracker.finalize('success')


@pytest.fixture
def port(request):
    "A port of this machine where nobody listens ('refused'), or somebody who never says a word ('silent')."
    with socket.socket() as server:
        server.bind(('127.0.0.1', 0))
        if request.param == 'silent':
            server.listen(5)
        yield server.getsockname()[1]


AWAY = '''
import sys, time
from pathlib import Path
from vaebook.core.config import compose
from vaebook.trainers.loggers import make_loggers
need = __import__(sys.argv[1]) # its import is not what is measured
begun = time.time()
cfg = compose('classifier', dataset='digits', logger=sys.argv[1])
trackers = make_loggers(cfg, Path(sys.argv[2]))
for step in range(3):
    for tracker in trackers: tracker.log_metrics({'train/mse': 0.5}, step)
for tracker in trackers: tracker.finalize('success')
print(f'{time.time() - begun:.2f} seconds')
'''


@pytest.mark.slow
@pytest.mark.parametrize('port', ['refused', 'silent'], indirect=True)
@pytest.mark.parametrize('name', ['clearml', 'wandb', 'mlflow'])
def test_a_server_that_is_down(name, port, tmp_path):
    "At most ten seconds and one line, then metrics.csv; the process ends when its work is done."
    pytest.importorskip(name)
    hosts = 'CLEARML_API_HOST', 'CLEARML_WEB_HOST', 'CLEARML_FILES_HOST', 'WANDB_BASE_URL', 'MLFLOW_TRACKING_URI'
    there = dict.fromkeys(hosts, f'http://127.0.0.1:{port}') | dict(HOME=str(tmp_path), WANDB_MODE='online')
    there |= dict(CLEARML_API_ACCESS_KEY='a', CLEARML_API_SECRET_KEY='b', WANDB_API_KEY=40 * 'a')
    begun, line = time.time(), [sys.executable, '-c', AWAY, name, tmp_path / 'run']
    done = subprocess.run(line, cwd=tmp_path, env=os.environ | there, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    line, seconds = done.stdout.strip().splitlines()[-2:]
    assert 'is lost' in line and 'this run goes on with metrics.csv alone' in line and done.stdout.count('is lost') == 1
    assert float(seconds.split()[0]) < 11, seconds
    assert len(StepCSV(tmp_path / 'run', until=9).read()) == 3
    assert time.time() - begun < 60, 'nothing waits for the server at the end'


class Dying(FailSafeTracker):
    "A server that goes away in mid-run."

    title, remote = 'Dying', True

    def __init__(self):
        self.asked = 0

    def log_metrics(self, metrics, step=None):
        self.attempt(self._send, step)

    def _send(self, step):
        self.asked += 1
        if step > 2:
            raise ConnectionResetError('connection reset by peer')


def test_a_tracker_that_dies_in_mid_run(tmp_path, monkeypatch, capsys):
    "One line; the run ends as it would have, with all its rows."
    dying = Dying()
    monkeypatch.setitem(loggers.TRACKERS, 'wandb', lambda *args, **given: dying)
    from vaebook.train import experiment

    experiment(compose('classifier', overrides=SMOKE, logger='wandb', run_dir=str(tmp_path / 'run'))).fit()
    words = 'Dying is lost (connection reset by peer): this run goes on with metrics.csv alone.'
    assert capsys.readouterr().out.count(words) == 1
    assert 2 < dying.asked < 5 and (tmp_path / 'run/model/model.safetensors').exists()
    assert max(int(row['step']) for row in StepCSV(tmp_path / 'run', until=99).read()) == 6


def test_rows_survive(tmp_path):
    "Rows up to the checkpoint stay, a broken one and later ones go; a new column rewrites the file whole."
    log = StepCSV(tmp_path)
    for step in (1, 2, 3):
        log.log_metrics({'a': step}, step)
    log.log_metrics({'a': 4, 'b': 1.5}, 4)
    with (tmp_path / 'metrics.csv').open('a') as file:
        file.write('9')
    again = StepCSV(tmp_path, until=3)
    again.log_metrics({'c': 0.5}, 4)
    assert again.read() == [*({'a': n, 'step': n} for n in '123'), {'c': '0.5', 'step': '4'}]
    assert [p.name for p in tmp_path.iterdir()] == ['metrics.csv']
    assert StepCSV(tmp_path).read() == []


def scalars_of_mlflow(run):
    with sqlite3.connect(run / 'logs/mlflow.db') as db:
        return db.execute('select run_uuid, key, value, step from metrics order by step').fetchall()


@pytest.mark.slow
def test_mlflow(tmp_path):
    "Numbers, parameters and pictures are in the run folder; a second sitting goes on with the same run."
    pytest.importorskip('mlflow', reason='mlflow is not installed')
    run = tmp_path / 'run'
    run.mkdir()
    (run / 'config.yaml').write_text('seed: 42\ntrainer: {batch_size: 8}\n')
    tell(make_tracker(settings('mlflow'), run))
    first = scalars_of_mlflow(run)
    assert [row[1:] for row in first if row[1] != 'epoch'] == [('train/mse', 0.5, 3), ('val/mse', 0.25, 4)]
    with sqlite3.connect(run / 'logs/mlflow.db') as db:
        assert dict(db.execute('select key, value from params').fetchall()) == {'seed': '42', 'trainer.batch_size': '8'}
    assert len(list(run.rglob('step_4.png'))) == 1
    tell(make_tracker(settings('mlflow'), run))
    assert {row[0] for row in scalars_of_mlflow(run)} == {first[0][0]}
    assert [p.name for p in tmp_path.iterdir()] == ['run']


@pytest.mark.slow
def test_trackio(tmp_path, monkeypatch, capsys):
    "The same; two runs of one process have a folder each."
    pytest.importorskip('trackio', reason='trackio is not installed')
    monkeypatch.chdir(tmp_path)
    for name in ('one', 'two', 'one'):
        tell(make_tracker(settings('trackio'), tmp_path / name))
    for name, rows in dict(one=6, two=3).items():
        with sqlite3.connect(tmp_path / name / 'logs/trackio/vaebook.db') as db:
            found = db.execute('select run_name, step, metrics from metrics').fetchall()
        assert len(found) == rows and {row[0] for row in found} == {name}
        assert len(list((tmp_path / name).rglob('*.png'))) == rows // 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ['one', 'two'] and not capsys.readouterr().out


@pytest.mark.slow
def test_wandb_goes_on_with_its_run(tmp_path):
    "The id is that of the first sitting."
    for _ in range(2):
        tell(make_tracker(settings('wandb'), tmp_path / 'run'))
    ids = {p.name.split('-')[3] for p in (tmp_path / 'run/logs').rglob('offline-run-*') if p.is_dir()}
    assert ids == {json.loads((tmp_path / 'run/logs/tracker.json').read_text())['wandb']}


def test_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tell(make_tracker(settings('tensorboard'), tmp_path / 'run'))
    seen = EventAccumulator(str(tmp_path / 'run/logs')).Reload()
    assert [(e.step, e.value) for e in seen.Scalars('val/mse')] == [(4, 0.25)]
    assert seen.Images('val_metrics')[0].step == 4


LIGHT = '''
import sys
import vaebook.trainers.loggers, vaebook.trainers.signals, vaebook.core.runs
heavy = 'pytorch_lightning', 'lightning', 'accelerate', 'wandb', 'clearml', 'mlflow'
print([m for m in sys.modules if m.startswith(heavy)])
'''


def test_no_lightning(tmp_path):
    "What writes metrics.csv does not load Lightning."
    assert subprocess.run([sys.executable, '-c', LIGHT], capture_output=True, text=True).stdout.strip() == '[]'
