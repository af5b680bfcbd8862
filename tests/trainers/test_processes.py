"Two processes are one, and a tracker that needs a process of its own: what a notebook cannot show."

import csv, json, os, re

import pytest
import torch
from safetensors.torch import load_file

from helpers import command, torchrun

TRAIN = '''
import sys
from pathlib import Path
import torch
from helpers import short
from toys import Line, pixels
from vaebook.core import set_seed
from vaebook.core.distributed import from_main, world
from vaebook.data.batches import batches, sequential
from vaebook.trainers.fit import fit

home, engine, rank, size = Path(sys.argv[1]), sys.argv[2], *world()
data = pixels()

def train(name, batch_size, steps=12, checkpoint=None, **given):
    plain = dict(accumulate_grad_batches=2, gradient_clip_val=0.1, val_every_n_steps=4, accelerator='auto')
    cfg = short(engine, steps, batch_size=batch_size, **{'scheduler.name': 'constant'} | plain | given)
    folder, many = from_main(lambda: home/name), batch_size * size
    set_seed(0)
    model = Line()
    loader = lambda start, n: batches(data[:64], many, 0, start, n)
    val = dict(a=sequential(data[64:87], 5), b=sequential(data[87:], 5))
    fitted = fit(model, cfg, folder, loader, val, 64 // many, checkpoint=checkpoint)
    torch.save(model.state_dict(), home/f'{name}_{rank}.pt')
    print(f'{rank} {fitted.device}', flush=True)

if size == 1:
    train('one', 16)
else:
    train('two', 8)
    train('cut', 8, steps=8)
    train('cut', 8, checkpoint=home/'cut/checkpoints/last.ckpt')
    shards = dict(ema_decay=None, strategy='fsdp')
    train('ddp', 8, ema_decay=None)
    train('fsdp', 8, **shards)
    train('parts', 8, steps=8, profile=True, **shards)
    train('parts', 8, checkpoint=home/'parts/checkpoints/last.ckpt', **shards)
'''


def train(home, engine, processes):
    "Train in so many processes; what they said."
    (home / 'train.py').write_text(TRAIN)
    launch = torchrun if processes > 1 else command
    return launch('train.py', home, engine, cwd=home, timeout=420)


def rows(run):
    return list(csv.DictReader((run / 'metrics.csv').open()))


def near(a, b):
    "Two rows of a log."
    ours, theirs = ({k: float(v or 'inf') for k, v in row.items()} for row in (a, b))
    return ours == pytest.approx(theirs, rel=1e-4, abs=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize('engine', ['lightning', 'accelerate'])
def test_two_processes_are_one(engine, tmp_path):
    "Two processes of batch 8 are one of batch 16: weights, logs, files; and they go on exactly where they stopped."
    said = train(tmp_path, engine, 2)
    assert said.count('loss terms of step 12') == 5, 'rank 0 alone speaks'
    assert re.search('^1 (cpu|cuda):?[01]?$', said, re.M)
    train(tmp_path, engine, 1)
    first, second, again, one = (torch.load(tmp_path / f'{name}.pt') for name in ('two_0', 'two_1', 'cut_0', 'one_0'))
    for k in first:
        assert torch.equal(first[k], second[k]) and torch.equal(first[k], again[k])
        torch.testing.assert_close(first[k], one[k], rtol=0, atol=1e-6)
    assert len(rows(tmp_path / 'two')) == len(rows(tmp_path / 'one'))
    assert all(map(near, rows(tmp_path / 'two'), rows(tmp_path / 'one')))
    assert rows(tmp_path / 'cut')[-1] == rows(tmp_path / 'two')[-1]

    def names(run):
        return sorted(str(p.relative_to(tmp_path / run)) for p in (tmp_path / run).rglob('*'))

    assert names('two') == names('one') and 'checkpoints/final_step_12/config.json' in names('one')
    spread, mine = (torch.load(tmp_path / f'fsdp_{rank}.pt') for rank in range(2))
    whole, resumed = (torch.load(tmp_path / f'{name}_0.pt') for name in ('ddp', 'parts'))
    for k in whole:
        assert torch.equal(spread[k], mine[k]) and torch.equal(spread[k], resumed[k]), 'fsdp goes on exactly'
        torch.testing.assert_close(spread[k], whole[k], rtol=0, atol=1e-6)
    profiles = list((tmp_path / 'parts/profiler').glob('*.json'))
    assert len(profiles) == 1, 'rank 0 alone is profiled, and the other does not wait for it'
    assert names('fsdp') == names('ddp') and all(map(near, rows(tmp_path / 'fsdp'), rows(tmp_path / 'ddp')))
    kept = load_file(tmp_path / 'fsdp/checkpoints/final_step_12/model.safetensors')
    assert all(torch.equal(kept[k], spread[k]) for k in kept)


CLEARML = '''
import sys
from pathlib import Path
from vaebook.core.config import compose
from vaebook.viz.tiles import new_figure
from vaebook.trainers.loggers import lightning_callbacks_and_logger

run = Path(sys.argv[1])
cfg = compose('cvae', 'logger.mode=offline', dataset='digits', logger='clearml', run_dir=str(run))
logger = lightning_callbacks_and_logger(cfg)[1]
logger.log_metrics({'train/mse': 0.5, 'val/low/mse': 0.25, 'lr-Adam': 0.001}, 7)
fig = new_figure(2, 2)
fig.subplots().plot([1, 2])
logger.log_figure('val_metrics', fig, 7)
logger.finalize('success')
'''


@pytest.mark.slow
def test_clearml_offline(tmp_path, monkeypatch):
    "Scalars and pictures are in the run folder, nothing is in HOME, nothing is asked."
    (tmp_path / 'home').mkdir()
    home = dict(HOME=str(tmp_path / 'home'), MPLCONFIGDIR=str(tmp_path / 'home/.mpl'))
    for key in os.environ:
        if key.startswith(('CLEARML', 'TRAINS')):
            monkeypatch.delenv(key)
    command('-c', CLEARML, 'run', cwd=tmp_path, env=home)
    assert [p.name for p in (tmp_path / 'home').iterdir()] in ([], ['.mpl'])
    assert {p.name for p in tmp_path.iterdir()} == {'home', 'run'}
    lines = [line for p in (tmp_path / 'run').rglob('metrics.jsonl') for line in p.read_text().splitlines()]
    found = [event for line in lines for event in json.loads(line)]
    scalars = {(e['metric'], e['variant']): (e['iter'], e['value']) for e in found if 'value' in e}
    assert scalars == {('train', 'mse'): (7, 0.5), ('val', 'low/mse'): (7, 0.25), ('lr-Adam', 'lr-Adam'): (7, 0.001)}
    assert any(e['metric'] == 'val_metrics' for e in found)
    assert list((tmp_path / 'run').rglob('*.jpeg')), 'the picture is there'
