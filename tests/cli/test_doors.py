"A notebook that is run from a shell and stopped: its kernel writes a checkpoint, and one line says how to go on."

import json, signal, subprocess, sys, time

import pytest

pytestmark = pytest.mark.slow
RUN = '-m vaebook.cli.main run train_latent_actions out.ipynb'.split()
RUN += '-p smoke True -p logger csv -p dataset synthetic_actions -p progress_bar False'.split()


def start(folder, steps):
    return subprocess.Popen(
        [sys.executable, *RUN, '-p', 'max_steps', str(steps)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def trained(folder):
    "Wait for the first row of the log."
    deadline = time.time() + 120
    while not list(folder.glob('outputs/*/metrics.csv')) and time.time() < deadline:
        time.sleep(0.1)
    return next(folder.glob('outputs/*'))


@pytest.mark.parametrize('sent', ['SIGTERM', 'SIGUSR1', 'SIGINT'])
def test_a_notebook_that_is_stopped(tmp_path, sent):
    process = start(tmp_path, 100_000)
    run = trained(tmp_path)
    process.send_signal(getattr(signal, sent))
    said = process.communicate(timeout=60)[1].splitlines()[-1]
    assert process.returncode == 75 and said.startswith('vaebook: stopped by')
    assert f'outputs/{run.name}' in said and 'resume=' in said
    assert (run / 'checkpoints/last.ckpt').exists()


def test_a_wrong_parameter(tmp_path):
    command = [sys.executable, *RUN, '-p', 'max_step', '3']
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    said = done.stderr.splitlines()
    assert done.returncode == 2 and "Did you mean 'max_steps'?" in said[-2] and said[-2].startswith('vaebook: ')
    assert 'Passed unknown parameter' not in done.stderr and 'Traceback' not in done.stderr


def test_a_kernel_that_dies(tmp_path):
    import psutil

    process = start(tmp_path, 100_000)
    trained(tmp_path)
    kernel = next(c for c in psutil.Process(process.pid).children() if 'ipykernel' in ' '.join(c.cmdline()))
    kernel.kill()
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 1 and 'vaebook: the kernel died' in said.splitlines()[-1] and 'Traceback' not in said


def test_signals_before_there_is_a_kernel(capsys):
    from vaebook.cli.main import _Execution

    with pytest.raises(KeyboardInterrupt):
        _Execution().forward(signal.SIGINT, None)
    with pytest.raises(SystemExit) as e:
        _Execution().forward(signal.SIGTERM, None)
    said = capsys.readouterr().err
    assert e.value.code == 75
    assert said == 'vaebook: stopped by SIGTERM before the run began; the same command line starts it\n'


def test_the_run_is_named(tmp_path):
    process = start(tmp_path, 3)
    said = process.communicate(timeout=120)[0].splitlines()[-2:]
    run = next(tmp_path.glob('outputs/*'))
    assert said == [f'The run: outputs/{run.name}', 'The executed notebook: out.ipynb']
    assert (run / 'metrics.json').exists()
    cells = json.loads((tmp_path / 'out.ipynb').read_text())['cells']
    injected = [''.join(c['source']) for c in cells if 'injected-parameters' in c['metadata'].get('tags', [])]
    assert f'outputs/{run.name}' in ''.join(injected)
