"""The five chapters through their front door: in two processes as in one, under both engines, on any device.

All are `vaebook.train`, and all see the same batches. The noise that models draw for themselves is each process's own;
here it is dealt out as the samples are (drawn for the batch of all processes, of which each takes its rows), so that
weights can be compared. The optimiser is SGD without clipping, as Adam and clipping hide gradients that are too large
by a factor. What depends on a batch as a whole and is no mean of its samples (`perplexity`, `psnr`) is another number
in halves."""

import csv, re, subprocess, sys
from pathlib import Path

import pytest
import torch

ALL = '''
    smoke=true logger=csv trainer.progress_bar=false trainer.max_steps=4 trainer.val_every_n_steps=4
    trainer.log_every_n_steps=1 trainer.optimizer.name=SGD trainer.gradient_clip_val=null
    trainer.scheduler.warmup_steps=0 trainer.scheduler.name=constant
'''
# name → (batch of all processes, overrides); without VQ, whose codebook begins with vectors of process 0
CHAPTERS = dict(
    images=(24, 'recipe=dummy loss.causal_warmup_steps=0 classifier.trainer.max_steps=4 trainer.optimizer.lr=0.0001'),
    video=(4, 'recipe=causal_video trainer.optimizer.lr=0.1'),
    actions=(128, 'recipe=latent_actions trainer.optimizer.lr=0.1'),
    audio=(6, 'recipe=audio trainer.optimizer.lr=0.0001'),
    world=(8, 'recipe=world_model model.quantizer=fsq dream.pictures=0 dream.monitor=0 trainer.optimizer.lr=0.00001'),
)
SHARDED = dict(fsdp=('actions', 'trainer.strategy=fsdp'))  # name → (the chapter, what is added): in two processes alone
ENGINES = ['lightning', 'accelerate']


def line(name, home, engine, processes):
    if name in SHARDED:
        return [f'run_dir={home}/{name}', *line(SHARDED[name][0], home, engine, processes)[1:], SHARDED[name][1]]
    batch, own = CHAPTERS[name]
    return f'run_dir={home}/{name} trainer.engine={engine} trainer.batch_size={batch // processes} {own} {ALL}'.split()


def launch(home, engine, processes):
    "Train every chapter in so many processes; each leaves its weights before and after in `home`."
    many = ['-m', 'torch.distributed.run', '--standalone', f'--nproc-per-node={processes}'] if processes > 1 else []
    line = [sys.executable, *many, __file__, home, engine]
    with (home / 'said').open('w') as said:
        return subprocess.Popen(line, stdout=said, stderr=said, stdin=subprocess.DEVNULL)


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    "Folders of the runs: in one process, and in two under each engine."
    homes = {}
    for name, engine, processes in [('one', 'lightning', 1), ('open', 'accelerate', 1), *((e, e, 2) for e in ENGINES)]:
        homes[name] = home = tmp_path_factory.mktemp(name)
        assert launch(home, engine, processes).wait(timeout=600) == 0, (home / 'said').read_text()[-4000:]
    return homes


def logged(run):
    "(step, term) → value, of the means that do not depend on the batch as a whole."
    found = {}
    for row in csv.DictReader((run / 'metrics.csv').open()):
        step = row.pop('step')
        found |= {(step, k): float(v) for k, v in row.items() if v and not re.search('perplexity|psnr', k)}
    return found


def tree(run):
    return sorted(str(p.relative_to(run)) for p in run.rglob('*'))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize('name', CHAPTERS)
def test_both_engines_are_one(name, runs):
    "In one process: weights to the last bit, every number that is logged, every file."
    (_, one), (_, other) = (torch.load(runs[home] / f'{name}_0.pt') for home in ('one', 'open'))
    assert torch.equal(one, other)
    assert logged(runs['one'] / name) == pytest.approx(logged(runs['open'] / name), rel=1e-6)
    assert tree(runs['one'] / name) == tree(runs['open'] / name)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize('name, engine', [(n, e) for n in [*CHAPTERS, *SHARDED] for e in ENGINES])
def test_two_processes_are_one(name, engine, runs):
    "Weights to a thousandth of the way they went, every mean that is logged to 1e-4; one run folder, one voice."
    alone, together = runs['one'] / SHARDED.get(name, [name])[0], runs[engine] / name
    before, one = torch.load(f'{alone}_0.pt')
    two, second = (torch.load(f'{together}_{rank}.pt')[1] for rank in (0, 1))
    far, apart = (one - before).abs().max(), (one - two).abs().max()
    print(f'{name} {engine}: moved {far:.2g}, apart {apart:.2g}, {apart / far:.1e} of it')
    assert torch.equal(two, second) and far > 1e-5 and apart < 1e-3 * far
    a, b = logged(alone), logged(together)
    assert a.keys() == b.keys() and len(a) > 4
    for key in a:
        assert a[key] == pytest.approx(b[key], rel=1e-4, abs=1e-6), key
    assert tree(alone) == tree(together) and 'model/model.safetensors' in tree(alone)
    assert (runs[engine] / 'said').read_text().count(f'{name}: finished') == 1


# A process of `launch`

DRAWN = {
    torch.randn: 'normal_',
    torch.randn_like: 'normal_',
    torch.rand: 'uniform_',
    torch.rand_like: 'uniform_',
    torch.Tensor.exponential_: 'exponential_',
}


class Dealt(torch.overrides.TorchFunctionMode):
    "Noise whose shape has the samples of this process is drawn for those of all, of which it takes its own."

    def __init__(self, samples, rank, size):
        super().__init__()
        self.samples, self.rank, self.size = samples, rank, size

    def __torch_function__(self, f, types, args=(), kwargs=None):
        if f not in DRAWN:
            return f(*args, **kwargs or {})
        first = args[0]
        if isinstance(first, torch.Tensor):
            shape = list(first.shape)
        else:
            shape = list(first if isinstance(first, (tuple, list)) else args)
        here = shape.index(self.samples) if self.samples in shape else None
        if here is not None:
            shape[here] *= self.size
        full = getattr(torch.empty(shape), DRAWN[f])()
        mine = full if here is None else full.unflatten(here, (self.samples, self.size)).select(here + 1, self.rank)
        return first.copy_(mine) if f is torch.Tensor.exponential_ else mine


def process(home, engine):
    "Train every chapter; evaluation and pictures have their own tests."
    import vaebook.train
    from vaebook.core import seed_step
    from vaebook.core.distributed import world
    from vaebook.experiments import experiment
    from vaebook.trainers import step

    rank, size = world()
    call, fit = step.Step.__call__, experiment.fit

    def flat(objective):
        return torch.cat([p.detach().flatten().clone() for p in objective.parameters()])

    def dealt(self, batch):
        with Dealt(len(next(iter(batch.values()))), rank, size):
            return call(self, batch)

    def measured(objective, cfg, *args):
        before = flat(objective)
        fitted = fit(objective, cfg, *args)
        if cfg.experiment != 'classifier':
            torch.save((before, flat(objective)), home / f'{name}_{rank}.pt')
        return fitted

    step.Step.__call__, experiment.fit = dealt, measured
    step.seed_step = lambda seed, number, rank: seed_step(seed, number)
    experiment.Experiment.evaluate = experiment.Experiment.figures = lambda self: {}
    sharded = SHARDED if size > 1 else []
    for name in [*CHAPTERS, *sharded]:
        sys.argv = ['vaebook-train', *line(name, home, engine, size)]
        vaebook.train.main()
        if rank == 0:
            print(f'{name}: finished')


if __name__ == '__main__':
    process(Path(sys.argv[1]), sys.argv[2])
