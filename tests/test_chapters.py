"""The five chapters through their front door, in two processes as in one.

Both are `vaebook.train`, and both see the same batches. The noise that models draw for themselves is each process's own; here it is dealt out as the samples are
(drawn for the batch of all processes, of which each takes its rows), so that weights can be compared. The optimiser is SGD without clipping, as Adam and clipping
hide gradients that are too large by a factor. What depends on a batch as a whole and is no mean of its samples (`perplexity`, `psnr`) is another number in halves."""
import csv, os, re, subprocess, sys
from pathlib import Path

import pytest
import torch

ALL = 'smoke=true logger=csv trainer.engine=accelerate trainer.accelerator=cpu trainer.progress_bar=false trainer.max_steps=4 trainer.val_every_n_steps=4 trainer.log_every_n_steps=1 ' \
      'trainer.optimizer.name=SGD trainer.gradient_clip_val=null trainer.scheduler.warmup_steps=0 trainer.scheduler.name=constant'
CHAPTERS = dict( # name → (batch of all processes, overrides)
    images=(24, 'recipe=dummy loss.causal_warmup_steps=0 classifier.trainer.max_steps=4 trainer.optimizer.lr=0.0001'),
    video=(4, 'recipe=causal_video trainer.optimizer.lr=0.1'),
    actions=(128, 'recipe=latent_actions trainer.optimizer.lr=0.1'),
    audio=(6, 'recipe=audio trainer.optimizer.lr=0.0001'),
    world=(8, 'recipe=world_model model.quantizer=fsq dream.pictures=0 dream.doctor=0 trainer.optimizer.lr=0.00001')) # a codebook begins with vectors of process 0
SHARDED = dict(fsdp=('actions', 'trainer.strategy=fsdp')) # name → (the chapter, what is added): in two processes alone


def line(name, home, processes):
    if name in SHARDED: return [f'run_dir={home}/{name}', *line(SHARDED[name][0], home, processes)[1:], SHARDED[name][1]]
    batch, own = CHAPTERS[name]
    return f'run_dir={home}/{name} trainer.batch_size={batch // processes} {own} {ALL}'.split()


def launch(home, processes):
    "Train every chapter in so many processes; each leaves its weights before and after in `home`."
    many = ['-m', 'torch.distributed.run', '--standalone', f'--nproc-per-node={processes}'] if processes > 1 else []
    with (home / 'said').open('w') as said: return subprocess.Popen([sys.executable, *many, __file__, str(home)], stdout=said, stderr=said, stdin=subprocess.DEVNULL, env=os.environ | dict(OMP_NUM_THREADS='1'))


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    "Folders of the runs in one process and in two."
    homes = [tmp_path_factory.mktemp(f'processes_{n}') for n in (1, 2)]
    started = [launch(home, n) for n, home in enumerate(homes, 1)]
    assert [p.wait(timeout=600) for p in started] == [0, 0], '\n'.join((home / 'said').read_text()[-2000:] for home, p in zip(homes, started) if p.returncode)
    return homes


def rows(run): return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader((run / 'metrics.csv').open())]


@pytest.mark.timeout(700)
@pytest.mark.parametrize('name', [*CHAPTERS, *SHARDED])
def test_two_processes_are_one(name, runs):
    "Weights to a thousandth of the way they went (measured: 2e-7 of it for images, 6e-5 video, 1e-5 actions, 7e-5 audio, 1e-5 world), every mean that is logged to 1e-4; one run folder, one voice."
    alone = SHARDED.get(name, [name])[0]
    (before, one), (_, two), (_, second) = (torch.load(home / f'{n}_{rank}.pt') for n, home, rank in [(alone, runs[0], 0), (name, runs[1], 0), (name, runs[1], 1)])
    far, apart = ((a - b).abs().max() for a, b in [(one, before), (one, two)])
    print(f'{name}: moved {far:.2g}, apart {apart:.2g}, {apart / far:.1e} of it')
    assert torch.equal(two, second) and far > 1e-5 and apart < 1e-3 * far
    a, b = (rows(home / n) for home, n in zip(runs, (alone, name)))
    assert [r.keys() for r in a] == [r.keys() for r in b] and len(a) > 4
    for x, y in zip(a, b): assert {k: v for k, v in x.items() if not re.search('perplexity|psnr', k)} == pytest.approx({k: v for k, v in y.items() if not re.search('perplexity|psnr', k)}, rel=1e-4, abs=1e-6)
    names = [sorted(str(p.relative_to(home / n)) for p in (home / n).rglob('*')) for home, n in zip(runs, (alone, name))]
    assert names[0] == names[1] and 'model/model.safetensors' in names[0]
    assert (runs[1] / 'said').read_text().count(f'{name}: finished') == 1


# A process of `launch`

DRAWN = {torch.randn: 'normal_', torch.randn_like: 'normal_', torch.rand: 'uniform_', torch.rand_like: 'uniform_', torch.Tensor.exponential_: 'exponential_'}


class Dealt(torch.overrides.TorchFunctionMode):
    "Noise whose shape has the samples of this process is drawn for those of all, of which it takes its own."
    def __init__(self, samples, rank, size): super().__init__(); self.samples, self.rank, self.size = samples, rank, size

    def __torch_function__(self, f, types, args=(), kwargs=None):
        if f not in DRAWN: return f(*args, **kwargs or {})
        shape = list(args[0].shape) if isinstance(args[0], torch.Tensor) else list(args[0] if isinstance(args[0], (tuple, list)) else args)
        here = shape.index(self.samples) if self.samples in shape else None
        if here is not None: shape[here] *= self.size
        full = getattr(torch.empty(shape), DRAWN[f])()
        mine = full if here is None else full.unflatten(here, (self.samples, self.size)).select(here + 1, self.rank)
        return args[0].copy_(mine) if f is torch.Tensor.exponential_ else mine


def process(home):
    "Train every chapter; evaluation and pictures have their own tests."
    import vaebook.train
    from vaebook.core import seed_step
    from vaebook.experiments.experiment import Experiment
    from vaebook.trainers import accelerate
    rank, size = accelerate.world()
    loss, fit = accelerate.Loss.forward, accelerate.fit
    flat = lambda objective: torch.cat([p.detach().flatten().clone() for p in objective.parameters()])

    def forward(self, batch, step):
        with Dealt(len(next(iter(batch.values()))), rank, size): return loss(self, batch, step)

    def measured_fit(objective, cfg, *args):
        before = flat(objective)
        device = fit(objective, cfg, *args)
        if cfg.experiment != 'classifier': torch.save((before, flat(objective)), home / f'{name}_{rank}.pt')
        return device

    accelerate.Loss.forward, accelerate.fit = forward, measured_fit
    accelerate.seed_step = lambda seed, step, rank: seed_step(seed, step)
    Experiment.evaluate = Experiment.figures = lambda self: {}
    for name in [*CHAPTERS, *(SHARDED if size > 1 else [])]:
        sys.argv = ['vaebook-train', *line(name, home, size)]
        vaebook.train.main()
        if rank == 0: print(f'{name}: finished')


if __name__ == '__main__': process(Path(sys.argv[1]))
