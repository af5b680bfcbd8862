"What tests of runs share."

import contextlib, csv, importlib, io, json, os, signal, subprocess, sys, time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


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


def measured(cfg):
    "As `train`, without the pictures: the final numbers."
    from vaebook.train import experiment

    body = experiment(cfg)
    for part in (body.data, body.summary, body.fit):
        part()
    return dict(body.evaluate())


def killed(run, *args):
    "Start `vaebook-train run_dir=<run> <args>` and kill it when it has its first checkpoint, before it has ended."
    process = subprocess.Popen(
        [sys.executable, '-m', 'vaebook.train', f'run_dir={run}', *args],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.time() + 120
    while not (run / 'checkpoints/last.ckpt').exists() and process.poll() is None and time.time() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (run / 'model').exists() and not (run / 'metrics.json').exists()


def follows_golden(run, name):
    "The run's losses are those of `nbs/golden/<name>.txt` within 2 % or 0.0005 (other processors round differently); `VAEBOOK_GOLDEN=write pytest -k golden` writes it."
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
            assert a == b or '-' not in (a, b) and abs(float(a) - float(b)) <= max(0.02 * abs(float(a)), 5e-4), (
                f'{term} at step {old[0]}: {b}, was {a}'
            )
