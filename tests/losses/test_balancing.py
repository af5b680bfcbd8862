"Two processes balance the gradients of one: what a notebook cannot show."

import os, subprocess, sys

import pytest
import torch

BALANCE = '''
import os, sys
import torch
import torch.distributed as dist
from torch import nn
from vaebook.losses.balancing import make_balancer

home, rank, size = sys.argv[1], int(os.environ.get('RANK', 0)), int(os.environ.get('WORLD_SIZE', 1))
if size > 1: dist.init_process_group('gloo', init_method=f'file://{home}/meet', rank=rank, world_size=size)
torch.manual_seed(0)
trunk, heads, idle = nn.Linear(4, 8), nn.ModuleList(nn.Linear(8, 1) for _ in range(3)), nn.Linear(2, 2)
params, out = [*trunk.parameters(), *heads.parameters(), *idle.parameters()], {}
x, y = torch.randn(6, 8, 4), torch.randn(6, 8, 3)
for name in ('sum', 'uncertainty', 'pcgrad', 'rgb', 'mgda'):
    balancer = make_balancer(name, trunk.parameters)
    for p in params: p.grad = None
    for step in range(6):
        mine = slice(rank * 8 // size, (rank + 1) * 8 // size)
        h = trunk(x[step, mine]).tanh()
        losses = {f'task{i}': (head(h)[:, 0] - y[step, mine, i]).square().mean() for i, head in enumerate(heads)}
        if step == 4 and rank == size - 1 and name not in ('sum', 'uncertainty'):
            losses['task1'] = losses['task1'] * torch.inf
        torch.manual_seed(rank)
        balancer.backward(losses, params)
    assert all(p.grad is None for p in idle.parameters())
    out[name] = torch.cat([p.grad.flatten() for p in params if p.grad is not None])
torch.save(out, f'{home}/{size}_{rank}.pt')
if size > 1: dist.destroy_process_group()
'''


def start(home, rank, size):
    env = os.environ | dict(RANK=str(rank), WORLD_SIZE=str(size))
    line = [sys.executable, 'balance.py', home]
    return subprocess.Popen(line, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)


@pytest.mark.slow
def test_two_processes_balance_as_one(tmp_path):
    "Half of the samples each, one of them with a broken task: the same gradients in both, and those of one process."
    pytest.importorskip('torchjd')
    (tmp_path / 'balance.py').write_text(BALANCE)
    started = [start(tmp_path, rank, size) for rank, size in ((0, 2), (1, 2), (0, 1))]
    try:
        for p in started:
            assert 'Error' not in (said := p.communicate(timeout=120)[0]) and p.returncode == 0, said[-4000:]
    finally:
        for p in started:
            p.kill()
    first, second, one = (torch.load(tmp_path / f'{name}.pt') for name in ('2_0', '2_1', '1_0'))
    for name in one:
        assert one[name].isfinite().all() and torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], one[name], rtol=0, atol=1e-5, msg=lambda m: f'{name}: {m}')
