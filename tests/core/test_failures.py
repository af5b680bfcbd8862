"""What goes wrong around a run: two in one folder, half a line in a log, clocks that jump, strange homes and names.

And what a run folder tells of the machine: nothing."""

import getpass, json, os, platform, re, socket, subprocess, time, zipfile
from pathlib import Path

import pytest

from helpers import ROOT, command, measured, mount
from vaebook.core.config import compose
from vaebook.core import BadInput
from vaebook.core.runs import Run, git_commit, lock, unlock
from vaebook.train import load_run


def start(cfg, gate):
    "Begin a run in a child when the gate opens: its exit code is 0 if the folder is its own, 3 if that is refused."
    if child := os.fork():
        return child
    code = 9
    try:
        os.read(gate, 1)
        Run(cfg).start()
        code = 0
        time.sleep(0.5)
    except BadInput as e:
        code = 3 if 'no other run is at work' in str(e) or 'holds a run' in str(e) else 4
    finally:
        os._exit(code)


def test_two_runs_in_one_folder(tmp_path):
    "Of six that begin at once one gets the folder; later it is free to be resumed, by one at a time."
    cfg, (gate, door) = compose('cvae', dataset='digits', smoke=True, run_dir=str(tmp_path / 'run')), os.pipe()
    children = [start(cfg, gate) for _ in range(6)]
    time.sleep(0.2)
    os.write(door, b'!' * 6)
    assert sorted(os.waitstatus_to_exitcode(os.waitpid(c, 0)[1]) for c in children) == [0, 3, 3, 3, 3, 3]
    (tmp_path / 'run/checkpoints').mkdir()
    (tmp_path / 'run/checkpoints/last.ckpt').write_bytes(b'')
    held = lock(tmp_path / 'run')
    again = Run(compose('cvae', dataset='digits', smoke=True, resume=str(tmp_path / 'run')))
    with pytest.raises(BadInput, match='no other run is at work'):
        again.start()
    unlock(held)
    again.start()
    again.release()
    again.start()


def test_half_a_line(tmp_path):
    "A disk that was full has cut the last line of metrics.csv: the rows before it stay."
    from vaebook.trainers.loggers import StepCSV

    (tmp_path / 'metrics.csv').write_text('step,train/recon,val/total\n10,2.5,\n20,2.25,3.5\n2')
    logger = StepCSV(tmp_path, 20)
    assert logger.read() == [
        {'step': '10', 'train/recon': '2.5'},
        {'step': '20', 'train/recon': '2.25', 'val/total': '3.5'},
    ]


def test_a_look_at_the_commit_locks_nothing(tmp_path, monkeypatch):
    "Git refreshes its index when it is asked for the status; a run killed meanwhile would leave `.git/index.lock`."

    def git(*words):
        line = ['git', '-C', tmp_path, '-c', 'user.name=a', '-c', 'user.email=a@b', *words]
        subprocess.run(line, check=True, capture_output=True)

    (tmp_path / 'core.py').write_text('')
    git('init')
    git('add', '.')
    git('commit', '-m', 'first')
    os.utime(tmp_path / 'core.py', (1, 1))  # the index is out of date, though nothing has changed
    before = (tmp_path / '.git/index').read_bytes()
    monkeypatch.setattr('vaebook.__file__', str(tmp_path / 'core.py'))
    assert re.fullmatch(r'[0-9a-f]{7,}', git_commit())
    assert (tmp_path / '.git/index').read_bytes() == before
    git('status')
    assert (tmp_path / '.git/index').read_bytes() != before, 'else this test could not fail'


NAMES = 'WANDB_API_KEY', 'CLEARML_API_SECRET_KEY', 'HF_TOKEN', 'AWS_SECRET_ACCESS_KEY', 'AWS_ACCESS_KEY_ID'
SECRETS = {k: f'SECRETOF{k.replace("_", "")}' for k in NAMES}


def told(folder) -> list:
    "(file, word) wherever a file of a run, or one packed in it, has a word that tells of this machine."
    places = ROOT, ROOT.parent, Path.home(), Path(folder).resolve().parent
    words = [*SECRETS.values(), *map(str, places), socket.gethostname(), platform.node()]
    words = {w for w in words if len(w) > 4} | {f'/home/{getpass.getuser()}', f'/{getpass.getuser()}/'}
    found = []
    for p in Path(folder).rglob('*'):
        if not p.is_file():
            continue
        parts = [p.read_bytes(), str(p.relative_to(folder)).encode()]
        if zipfile.is_zipfile(p):
            with zipfile.ZipFile(p) as z:
                parts += [z.read(n) for n in z.namelist()]
        found += [(str(p.relative_to(folder)), w) for w in words if any(w.encode() in part for part in parts)]
    return found


@pytest.mark.slow
@pytest.mark.parametrize('experiment', ['cvae', 'causal_video', 'latent_actions', 'audio', 'world'])
def test_a_run_tells_nothing_of_the_machine(experiment, tmp_path, monkeypatch):
    """No secret, home, host, user or place stands in any file, checkpoint, picture or table.

    The clock may run backwards meanwhile; a run that was moved opens."""
    for k, v in SECRETS.items():
        monkeypatch.setenv(k, v)
    start, clock = time.time(), iter(range(10**9))
    monkeypatch.setattr(time, 'time', lambda: start - next(clock))
    measured(compose(experiment, 'trainer.progress_bar=false logger=csv', smoke=True, run_dir=str(tmp_path / 'a run')))
    assert told(tmp_path / 'a run') == []
    assert 0 < json.loads((tmp_path / 'a run/environment.json').read_text())['fit_seconds'] < 600
    (tmp_path / 'a run').rename(tmp_path / 'moved')
    load_run(tmp_path / 'moved')


def test_a_child_does_not_keep_the_folder(tmp_path):
    "A worker that lives on has the lock's file open too: giving it back is for all of them."
    held = lock(tmp_path)
    if not (child := os.fork()):
        time.sleep(60)
        os._exit(0)
    try:
        unlock(held)
        unlock(lock(tmp_path))
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


@pytest.mark.slow
@pytest.mark.parametrize('lacking, options', [('HOME', ['ro']), ('TMPDIR', ['size=4k'])])
def test_strange_surroundings(lacking, options, tmp_path):
    """A home that cannot be written, or a full /tmp; no locale but C.

    The folder's name has spaces and letters of other languages, and run_dir is a link."""
    here, place = tmp_path / 'Bücher über VAE ✓', tmp_path / 'place'
    here.mkdir()
    (tmp_path / 'elsewhere').mkdir()
    (here / 'link').symlink_to(tmp_path / 'elsewhere')
    if not mount(place, *options):
        pytest.skip('this machine lets us mount no small disk: try as root')
    if lacking == 'TMPDIR':
        (place / 'full').write_bytes(bytes(4096))
    plain = dict(LC_ALL='C', PYTHONCOERCECLOCALE='0', PYTHONUTF8='0', PYTHONIOENCODING='')
    line = '-m vaebook.train dataset=digits smoke=true logger=csv trainer.max_steps=4 run_dir=link'
    try:
        command(*line.split(), cwd=here, env=plain | {lacking: str(place)})
    finally:
        subprocess.run(['umount', place], check=True)
    assert {p.name for p in (tmp_path / 'elsewhere').iterdir()} >= {'config.yaml', 'metrics.json', 'model', 'figures'}


@pytest.mark.parametrize('key', ['trainer.optimizer', 'trainer.optimizer.name', 'classifier.trainer.scheduler'])
def test_a_configuration_that_lost_a_key(tmp_path, key):
    from omegaconf import OmegaConf

    cfg = compose('cvae', dataset='digits', smoke=True)
    block, _, name = key.rpartition('.')
    OmegaConf.select(cfg, block).pop(name)
    OmegaConf.save(cfg, tmp_path / 'config.yaml')
    with pytest.raises(BadInput, match=f'config.yaml.: expected the configuration of a run; {key}.* is missing'):
        compose('cvae', resume=str(tmp_path))
