"A run outlives its process: killed at any moment, and given the same line again, it ends as if nothing had been."

import multiprocessing, os, random, signal, subprocess, sys, time
from pathlib import Path

import pytest
from helpers import ROOT, command

# Over all chapters; more by hand: VAEBOOK_KILLS=500 pytest tests/trainers/test_survival.py -k killed
KILLS = int(os.environ.get('VAEBOOK_KILLS', 50))
CHAPTERS = dict(cvae='dataset=digits sweep.callback_every=1000', latent_actions='', causal_video='', audio='', world='')
SHORT = '''
    smoke=true logger=csv trainer.progress_bar=false trainer.max_steps=12 trainer.max_epochs=null
    trainer.save_every_n_steps=3 trainer.val_every_n_steps=6 trainer.log_every_n_steps=2 trainer.num_threads=1
'''
SIGNALS = signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT
PRELOAD = ['hydra', 'accelerate', 'matplotlib.figure', 'vaebook.train']
PRELOAD += ['vaebook.trainers.lightning', 'vaebook.trainers.accelerate']
PRELOAD += [f'vaebook.experiments.{name}' for name in ('experiment', *CHAPTERS)]


def job(name, run, said):
    "What the command line does up to the trained model, with a mark at the moment from which on it answers."
    sys.stdout = sys.stderr = open(f'{run}.log', 'a')
    import torch

    torch.set_num_threads(1)
    from vaebook.core.config import compose
    from vaebook.train import experiment

    body = experiment(compose(name, overrides=f'{SHORT} {CHAPTERS[name]} run_dir={run} resume=auto {said}'))
    with body.stop_at_once():
        Path(f'{run}.ready').touch()
        body.fit()


@pytest.fixture(scope='module')
def nursery():
    "Processes that begin as copies of one which has imported everything."
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(PRELOAD)
    return context


def sitting(nursery, name, run, said='', stop=None, after=0.0):
    "One process at work on a run, with a signal after so many seconds; its exit code, seconds, and if it was ready."
    ready = Path(f'{run}.ready')
    ready.unlink(missing_ok=True)
    process = nursery.Process(target=job, args=(name, str(run), said))
    begun = time.perf_counter()
    process.start()
    process.join(after if stop else None)
    if stop and process.is_alive():
        os.kill(process.pid, stop)
    process.join(120)
    assert process.exitcode is not None, 'it goes on and on'
    answers = ready.exists()
    return process.exitcode, time.perf_counter() - begun, answers


def last_words(run):
    return Path(f'{run}.log').read_text()[-2000:]


def model(run):
    return (Path(run) / 'model/model.safetensors').read_bytes()


def rows(run):
    return (Path(run) / 'metrics.csv').read_text()


@pytest.mark.slow
@pytest.mark.parametrize('name', CHAPTERS)
def test_killed_at_any_moment(nursery, name, tmp_path):
    "Stopped up to three times, at random, by any signal: weights and log are those of the run that nobody stopped."
    code, *_ = sitting(nursery, name, tmp_path / 'unbroken')
    assert code == 0, last_words(tmp_path / 'unbroken')
    code, seconds, _ = sitting(nursery, name, tmp_path / 'again')  # everything is in memory now
    chance, kills, ended, number = random.Random(name), 0, {}, 0
    while kills < KILLS / len(CHAPTERS):
        number += 1
        run = tmp_path / f'run_{number}'
        for _ in range(3):
            stop = chance.choice(SIGNALS)
            code, _, answers = sitting(nursery, name, run, stop=stop, after=chance.uniform(0.02, 1.0) * seconds)
            ended[stop.name, code] = ended.get((stop.name, code), 0) + 1
            early = not answers and code in (-stop, 1)  # it was still importing, or composing
            late = code == -stop and (run / 'model').exists()  # the run was over, the process not yet
            stopped = code == (75 if stop is not signal.SIGKILL else -9)
            assert code == 0 or early or late or stopped, f'{stop.name}: {code}\n{last_words(run)}'
            kills += code != 0
        code, *_ = sitting(nursery, name, run)
        assert code == 0, last_words(run)
        assert model(run) == model(tmp_path / 'unbroken') and rows(run) == rows(tmp_path / 'unbroken'), f'run {number}'
        assert not [p for p in run.rglob('*.tmp')], 'nothing half-written is left'
    print(name, f'{seconds:.1f} s', kills, 'kills', number, 'runs', ended)


# What ends a run, and how it says so

TINY = 'experiment=classifier dataset=digits smoke=true logger=csv trainer.progress_bar=false '
TINY += 'trainer.max_epochs=null trainer.max_steps=100000 trainer.val_every_n_steps=100000'


def begun(*line, cwd, env=None):
    "A command line at work, after its first steps."
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process = subprocess.Popen(line, cwd=cwd, env=os.environ | (env or {}), start_new_session=True, **pipes)
    deadline = time.time() + 180
    while time.time() < deadline and process.poll() is None:
        log = Path(cwd, 'run/metrics.csv')
        if log.exists() and len(log.read_text().splitlines()) > 2:
            return process
        time.sleep(0.05)
    process.kill()
    raise AssertionError(''.join(process.communicate())[-3000:])


def batches_done(run):
    import torch

    return torch.load(run / 'checkpoints/last.ckpt', weights_only=True)['batches']


def ended(process, timeout=120):
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


@pytest.mark.slow
@pytest.mark.parametrize('engine', ['lightning', 'accelerate'])
def test_the_command_line_says_how_to_go_on(engine, tmp_path):
    "Exit code 75 and one line on stderr; the same line goes on from the step it names."
    run = tmp_path / 'run'
    line = ['-m', 'vaebook.train', *TINY.split(), f'trainer.engine={engine}', f'run_dir={run}', 'resume=auto']
    process = begun(sys.executable, *line, cwd=tmp_path)
    process.send_signal(signal.SIGTERM)
    code, out, err = ended(process)
    said = err.strip()
    assert code == 75 and '\n' not in said, err
    assert said.startswith('stopped by SIGTERM at step ')
    assert f'of 100000; the checkpoint is in {run}; go on with resume={run}, ' in said
    assert ', or with the same line if it has run_dir and resume=auto' in said
    step = int(said.split('at step ')[1].split()[0])
    assert batches_done(run) == step > 0
    more = [a for a in line if not a.startswith('trainer.max_steps')]
    command(*more, f'trainer.max_steps={step + 5}', cwd=tmp_path)
    assert (run / 'metrics.json').exists() and batches_done(run) == step + 5


LATE = """
import atexit, os, signal, sys
from vaebook.train import main
atexit.register(lambda: os.kill(os.getpid(), signal.SIGUSR1)) # it comes while Python ends
sys.argv = ['vaebook-train', '--version']
main()
"""


@pytest.mark.slow
def test_a_signal_after_the_end():
    "What is over cannot be stopped: the exit code stays 0."
    command('-c', LATE, cwd=ROOT, timeout=60)


WORKERS = """
import os, signal, sys, time, torch
from vaebook.data.batches import batches
from vaebook.data.images import Split
from vaebook.trainers.signals import StopSignals, ignore_signals_in_worker
data = Split(torch.zeros(64, 1, 2, 2, dtype=torch.uint8), torch.zeros(64, dtype=torch.long))
with StopSignals() as stop:
    loader = batches(data, 2, num_workers=1)
    loader.worker_init_fn = ignore_signals_in_worker # as `fit` does
    drawn = iter(loader)
    next(drawn)
    os.killpg(os.getpgrp(), int(sys.argv[1]))
    time.sleep(0.5) # an update that takes its time
    for _ in range(5): next(drawn)
    print(stop.should_stop(1), stop.requested)
"""


@pytest.mark.slow
@pytest.mark.parametrize('stop', [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_to_the_whole_group(stop):
    "Workers that read data go on until the update is over."
    line = [sys.executable, '-c', WORKERS, str(int(stop))]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, start_new_session=True)
    assert done.stdout.strip() == f'True {stop.name}', done.stderr[-2000:]


@pytest.mark.slow
def test_ctrl_c(tmp_path):
    "Like SIGTERM, with a word at once."
    process = begun(sys.executable, '-m', 'vaebook.train', *TINY.split(), f'run_dir={tmp_path / "run"}', cwd=tmp_path)
    process.send_signal(signal.SIGINT)
    code, out, err = ended(process)
    assert code == 75 and 'once more stops at once' in err and 'stopped by Ctrl-C at step' in err


NOTEBOOK = '''
import os, signal, threading, time
from pathlib import Path
from vaebook.core.config import compose
from vaebook.train import experiment

def stop():
    while not Path('{run}/metrics.csv').exists(): time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGUSR1)

threading.Thread(target=stop, daemon=True).start()
experiment(compose('classifier', overrides='{said}', run_dir='{run}')).fit()
'''


@pytest.mark.slow
def test_a_notebook_that_is_stopped(tmp_path):
    "papermill reports the line as the error of the cell; later cells are not run."
    import nbformat, papermill

    said = TINY.replace('experiment=classifier ', '')
    sources = NOTEBOOK.format(said=said, run=tmp_path / 'run'), 'print("went on")'
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    nb.metadata.kernelspec = dict(name='python3', display_name='python3', language='python')
    nbformat.write(nb, tmp_path / 'in.ipynb')
    with pytest.raises(papermill.PapermillExecutionError) as error:
        papermill.execute_notebook(str(tmp_path / 'in.ipynb'), str(tmp_path / 'out.ipynb'))
    assert error.value.ename == 'Stopped' and error.value.evalue.startswith('stopped by SIGUSR1 at step ')
    assert not nbformat.read(tmp_path / 'out.ipynb', 4).cells[-1].outputs
    assert (tmp_path / 'run/checkpoints/last.ckpt').exists()


@pytest.mark.slow
def test_two_processes_stop_together(tmp_path):
    "One of them gets the signal; both end with 75 at the same step, and the checkpoint is whole."
    import psutil

    launch = '-m torch.distributed.run --standalone --nproc-per-node=2 -m vaebook.train'
    line = [*launch.split(), *TINY.split(), 'trainer.engine=accelerate', f'run_dir={tmp_path / "run"}', 'resume=auto']
    process = begun(sys.executable, *line, cwd=tmp_path)
    started = psutil.Process(process.pid).children(recursive=True)
    workers = [p for p in started if 'vaebook.train' in ' '.join(p.cmdline())]
    os.kill(workers[-1].pid, signal.SIGUSR1)
    code, out, err = ended(process)
    assert code == 1, "torchrun's own code is 1"
    assert err.count('stopped by SIGUSR1 at step') == 1 and 'exitcode  : 75' in err, err[-3000:]
    step = batches_done(tmp_path / 'run')
    assert step > 0 and step % 10 == 0 and f'at step {step} of' in err


# The files that ask again

SRUN = '''#!/bin/bash
# A stand-in for srun: one task, to which it hands on signals.
"$@" & task=$!
trap 'kill -USR1 $task' USR1; trap 'kill -TERM $task' TERM
while kill -0 $task 2> /dev/null; do wait $task; done
wait $task
'''
TRAIN = '''#!/bin/bash
echo "vaebook-train $*" >> {log}
exec {python} -m vaebook.train "$@"
'''


@pytest.fixture
def cluster(tmp_path):
    "A folder of commands that stand in for Slurm's, and the log they write."
    log, bin = tmp_path / 'log', tmp_path / 'bin'
    bin.mkdir()
    scripts = dict(srun=SRUN, scontrol=f'#!/bin/bash\necho "scontrol $*" >> {log}\n')
    scripts['vaebook-train'] = TRAIN.format(log=log, python=sys.executable)
    for name, text in scripts.items():
        (bin / name).write_text(text)
        (bin / name).chmod(0o755)
    return dict(PATH=f'{bin}:{os.environ["PATH"]}', SLURM_JOB_ID='17'), log


REQUEUE, RELAUNCH = ROOT / 'nbs/scale/requeue.sbatch', ROOT / 'nbs/scale/relaunch.sh'


def submitted(*words, cwd, env):
    line = ['bash', REQUEUE, *words]
    return subprocess.run(line, cwd=cwd, env=os.environ | env, capture_output=True, text=True, timeout=180)


@pytest.mark.slow
def test_the_batch_file_requeues(cluster, tmp_path):
    "USR1 to the batch script, as Slurm sends it: checkpoint, 75, requeue; the next start ends the run, no requeue."
    env, log = cluster
    process = begun('bash', REQUEUE, *TINY.split(), f'run_dir={tmp_path / "run"}', cwd=tmp_path, env=env)
    process.send_signal(signal.SIGUSR1)
    code, out, err = ended(process)
    assert code == 75 and 'stopped by SIGUSR1 at step' in err
    assert log.read_text().splitlines()[-1] == 'scontrol requeue 17'
    step = int(err.split('at step ')[1].split()[0])
    last = [a for a in TINY.split() if 'max_steps' not in a] + [f'trainer.max_steps={step + 3}']
    done = submitted(*last, f'run_dir={tmp_path / "run"}', cwd=tmp_path, env=env)
    assert done.returncode == 0 and log.read_text().count('scontrol') == 1, done.stderr[-2000:]
    assert (tmp_path / 'run/metrics.json').exists()


@pytest.mark.slow
def test_a_failure_is_not_requeued(cluster, tmp_path):
    env, log = cluster
    done = submitted('recipe=nonsense', 'run_dir=run', cwd=tmp_path, env=env)
    assert done.returncode == 2 and 'scontrol' not in log.read_text()


def test_the_loop_asks_again(tmp_path):
    "Twice 75, then 0: three starts of the same line. Another code ends it."
    count = f'echo "$*" >> {tmp_path}/log; [ $(wc -l < {tmp_path}/log) = 3 ] || exit 75'
    done = subprocess.run(['bash', RELAUNCH, 'bash', '-c', count, 'run', 'a b'], timeout=20)
    assert done.returncode == 0 and (tmp_path / 'log').read_text() == 3 * 'a b\n'
    done = subprocess.run(['bash', RELAUNCH, 'bash', '-c', 'exit 3'], timeout=20)
    assert done.returncode == 3
