"What tests of runs share."

import contextlib, csv, importlib, io, json, os, signal, subprocess, sys, time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# The sizes of a world model that learns in seconds
TINY_WORLD = dict(image_size=16, action_dim=1, grid=4, width=8, embedding=32)
TINY_WORLD |= dict(context_dim=16, context_depth=1, slots=2, codebook_size=16)


def weights(run):
    return (Path(run) / 'model/model.safetensors').read_bytes()


def metrics(run):
    return json.loads((Path(run) / 'metrics.json').read_text())


def column(run, key):
    return [(int(r['step']), float(r[key])) for r in csv.DictReader((Path(run) / 'metrics.csv').open()) if r.get(key)]


def same(a, b):
    "Are the tensors of two lists equal?"
    import torch

    return len(a) == len(b) and all(map(torch.equal, a, b))


def outputs(nb):
    return [o for c in nb.cells for o in c.get('outputs', [])]


def set_json(path, **changed):
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def set_weights(path, change):
    from safetensors.torch import load_file, save_file

    weights = load_file(path)
    change(weights)
    save_file(weights, path)


def command(*args, cwd, ok=True, timeout=240, env=None):
    "A command line of ours in a process of its own, in another folder; its output."
    done = subprocess.run(
        [sys.executable, *map(str, args)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
        env=os.environ | (env or {}),
    )
    assert (done.returncode == 0) == ok, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


def papermill(notebook, cwd, made='out.ipynb', /, ok=True, **parameters):
    "Execute a notebook of `nbs/` in a folder; what papermill prints."
    given = [word for key, value in parameters.items() for word in ('-p', key, value)]
    source = ROOT / f'nbs/{notebook}.ipynb'
    return command('-m', 'papermill', source, made, '--no-progress-bar', *given, cwd=cwd, ok=ok)


def pictures(notebook):
    "How many an executed notebook shows."
    cells = json.loads(notebook.read_text())['cells']
    return sum('image/png' in o.get('data', {}) for c in cells for o in c.get('outputs', []))


def torchrun(*args, processes=2, **options):
    "`command` in several processes of this machine."
    return command('-m', 'torch.distributed.run', '--standalone', f'--nproc-per-node={processes}', *args, **options)


def said(*args, cwd, status=0, of='vaebook.train'):
    "What a command line of ours says in this process, in another folder: no libraries are loaded anew."
    words = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(words), contextlib.redirect_stderr(words):
        patch.chdir(cwd)
        patch.setattr(sys, 'argv', [of, *map(str, args)])
        try:
            importlib.import_module(of).main()
            code = 0
        except SystemExit as e:
            code = e.code or 0
    assert code == status, words.getvalue()
    return words.getvalue()


def short(engine, steps, **trainer):
    "The configuration of a run of a few steps, for a model and batches of one's own."
    usual = dict(max_steps=steps, log_every_n_steps=2, val_every_n_steps=10, gradient_clip_val=1.0, ema_decay=0.9)
    given = dict(engine=engine, accelerator='cpu', progress_bar=False) | usual | trainer
    return toy_config(**given)


def toy_config(**trainer):
    "A configuration of which only the trainer counts."
    from vaebook.core.config import compose

    return compose('cvae', dataset='digits', logger='csv', **{f'trainer.{k}': v for k, v in trainer.items()})


def mount(folder, *options):
    "Mount a small disk of its own there; False where this machine does not let us."
    folder.mkdir()
    line = ['mount', '-t', 'tmpfs', '-o', ','.join(options), 'tmpfs', folder]
    return subprocess.run(line, capture_output=True).returncode == 0


def publish(monkeypatch, name, *ways):
    "A data set that `download.fetch(name)` finds in these ways."
    from vaebook.data.download import SOURCES, Source

    monkeypatch.setitem(SOURCES, name, Source(name.title(), 'tests', 'none', 'https://example.org', ways))


def measured(cfg):
    "As `train`, without the pictures: the final numbers."
    from vaebook.train import experiment

    body = experiment(cfg)
    for part in (body.data, body.summary, body.fit):
        part()
    return dict(body.evaluate())


def killed(run, *args):
    "Start `vaebook-train run_dir=<run> <args>` and kill it when it has its first checkpoint, before it has ended."
    line = [sys.executable, '-m', 'vaebook.train', f'run_dir={run}', *args]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 120
    while not (run / 'checkpoints/last.ckpt').exists() and process.poll() is None and time.time() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (run / 'model').exists() and not (run / 'metrics.json').exists()


def follows_golden(run, name):
    """The run's losses are those of `nbs/golden/<name>.txt` within 2 % or 0.0005: other processors round differently.

    `VAEBOOK_GOLDEN=write pytest -k golden` writes the file."""
    file = ROOT / f'nbs/golden/{name}.txt'
    stored = [line.split() for line in file.read_text().splitlines()]
    head, now = stored[0], []
    for row in csv.DictReader((Path(run) / 'metrics.csv').open()):
        line = [f'{float(row[t]):.6g}' if row.get(t) else '-' for t in head]
        if set(line[1:]) != {'-'}:
            now.append(line)
    if os.environ.get('VAEBOOK_GOLDEN') == 'write':
        file.write_text(''.join(' '.join(line) + '\n' for line in [head, *now]))
        return
    assert [line[0] for line in stored[1:]] == [line[0] for line in now] and len(now) > 4
    for old, new in zip(stored[1:], now):
        for term, a, b in zip(head, old, new):
            near = a == b or '-' not in (a, b) and abs(float(a) - float(b)) <= max(0.02 * abs(float(a)), 5e-4)
            assert near, f'{term} at step {old[0]}: {b}, was {a}'
