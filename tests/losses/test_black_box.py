"Every kind of answer, of every kind of classifier, at every door: the same numbers, or a refusal with the mend."

import copy
import types

import pytest
import torch
from fastcore.test import test_close as close
from torch import nn

from vaebook.core import BadInput, Latent, seed_step
from vaebook.explain import alpha_plane, counterfactual, explain, removal
from vaebook.losses import BlackBox, CausalObjective
from vaebook.viz.explorer import Explorer
from vaebook.viz.traversal import latent_traversal


class Lamps(nn.Module):
    "Four bands of an image, each as bright as its latent says; the first two are causal."

    n_alpha, n_beta = 2, 2
    latent_spec = [dict(name=f'band_{i}', causal=i < 2, range=(-3.0, 3.0)) for i in range(4)]

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(4.0))

    def encode(self, x):
        return Latent(x.unflatten(2, (4, 2)).mean((1, 3, 4)).logit() / self.slope, {})

    def decode(self, z):
        return (self.slope * z).sigmoid().repeat_interleave(2, 1)[:, None, :, None].expand(-1, 1, -1, 8)


class Net(nn.Module):
    "Flat pixels, batch norm, dropout: in training mode, unless somebody puts it at rest."

    def __init__(self, channels=1, m=3):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(channels * 64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout())
        self.head = nn.Linear(8, m)
        self.read = lambda s, h: s

    def forward(self, x):
        features = self.body(x)
        return self.read(30 * self.head(features), features)


class Holder:
    def __init__(self, net):
        self.nets = dict(first=net)

    def __call__(self, x):
        return self.nets['first'](x)


READINGS = dict(
    logits=lambda s, h: s,
    log_probs=lambda s, h: s.log_softmax(1),
    probs=lambda s, h: s.softmax(1),
    probs_and_logits=lambda s, h: (s.softmax(1), s),
    object=lambda s, h: types.SimpleNamespace(logits=s),
    mapping=lambda s, h: dict(logits=s),
    one_logit=lambda s, h: s[:, 1:2] - s[:, :1],
)
WRAPPERS = dict(
    module=lambda net: net,
    lambda_around=lambda net: lambda x: net(x),
    method=lambda net: net.forward,
    holder=Holder,
)


@pytest.fixture(scope='module')
def world():
    torch.manual_seed(0)
    model, net = Lamps(), Net()
    net(torch.rand(64, 1, 8, 8))  # some running statistics
    return model, net.train(), torch.rand(6, 1, 8, 8)


def rested(net, x, m=3):
    training = net.training
    with torch.no_grad():
        s = 30 * net.eval().head(net.body(x))
    net.train(training)
    return (torch.stack([0 * s[:, 0], s[:, 1] - s[:, 0]], 1) if m == 2 else s).log_softmax(1)


@pytest.mark.parametrize('wrapper', WRAPPERS)
@pytest.mark.parametrize('reading', READINGS)
@pytest.mark.parametrize('channels', [1, 3])
def test_every_answer_is_read_and_nothing_is_changed(reading, wrapper, channels):
    torch.manual_seed(1)
    net, x = Net(channels), torch.rand(6, channels, 8, 8)
    net.read = READINGS[reading]
    before = {k: v.clone() for k, v in net.state_dict().items()}
    box = BlackBox(WRAPPERS[wrapper](net))
    close(box(x).exp().detach(), rested(net, x, 2 if reading == 'one_logit' else 3).exp(), eps=1e-4)
    assert all(m.training for m in net.modules()) and all(p.requires_grad for p in net.parameters())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def logits_and_features(s, h):
    return s, h


@pytest.mark.parametrize('wrapper', WRAPPERS)
def test_scores_beside_features_are_found_by_the_number_of_classes_or_asked_for(world, wrapper):
    _, net, x = world
    net.read = logits_and_features
    try:
        with pytest.raises(BadInput, match=r'outputs=…: logits\[0\] or logits\[1\]'):
            BlackBox(WRAPPERS[wrapper](net))(x)
        for told in (dict(num_classes=3), dict(outputs='logits[0]')):
            close(BlackBox(WRAPPERS[wrapper](net), **told)(x).detach(), rested(net, x), eps=1e-3)
    finally:
        net.read = READINGS['logits']


DOORS = dict(
    explain=lambda model, f, x: explain(model, f, x).probs,
    sweep=lambda model, f, x: latent_traversal(model, x, classifier=f).probs,
    counterfactual=lambda model, f, x: counterfactual(model, f, x).offset.nan_to_num(9),
    removal=lambda model, f, x: torch.tensor(list(removal(model, f, x).values())),
    plane=lambda model, f, x: alpha_plane(model, f, steps=5).probs,
    explorer=lambda model, f, x: Explorer(model, x, f).traverse().probs,
)


def measured(model, classifier):
    seed_step(0, 0)
    return CausalObjective(model, classifier).eval().measure([0, 1], 64, 16).value


@pytest.mark.parametrize('reading', [name for name in READINGS if name != 'one_logit'])
@pytest.mark.parametrize('door', DOORS)
def test_every_door_reads_alike(world, door, reading):
    model, net, x = world
    before = {k: v.clone() for k, v in net.state_dict().items()}
    right = DOORS[door](model, net, x)
    net.read = READINGS[reading]
    try:
        for wrapper in WRAPPERS.values():
            close(DOORS[door](model, wrapper(net), x), right, eps=0.02)
    finally:
        net.read = READINGS['logits']
    assert net.training and all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize('wrapper', WRAPPERS)
def test_the_effect_is_the_same_whatever_the_classifier_returns(world, wrapper):
    model, net, _ = world
    right = measured(model, net)
    assert right > 0.05
    for reading in READINGS:
        if reading == 'one_logit':
            continue
        net.read = READINGS[reading]
        try:
            assert abs(measured(model, WRAPPERS[wrapper](net)) - right) < 0.02
        finally:
            net.read = READINGS['logits']


def test_a_network_in_double_precision_and_a_traced_one_are_explained(world):
    model, net, x = world
    right = measured(model, net)
    assert abs(measured(model, copy.deepcopy(net).double()) - right) < 0.02
    traced = torch.jit.trace(copy.deepcopy(net).eval(), x)
    assert abs(measured(model, traced) - right) < 0.02
