"torch.distributions, torch.nn and TorchJD as oracles of the world chapter's mathematics."

import math

import pytest
import torch
from torch import distributions as D
from torch import nn

from vaebook.bottlenecks.mixture import (
    Mixture,
    expected_log,
    expected_log1m,
    expected_log_weights,
    gaussian_kl_between,
    kl_gamma,
    kl_kumaraswamy_beta,
    kumaraswamy_log_mean,
    kumaraswamy_log_prob,
    kumaraswamy_rsample,
    stick_breaking,
)
from vaebook.core import set_seed
from vaebook.layers.attention import Attention
from vaebook.losses.balancing import make_balancer
from vaebook.losses.likelihoods import balanced_kl, gaussian_nll, logistic_log_prob
from vaebook.losses.world import LossAggregator, elbo_terms, reward_continue_terms
from vaebook.models.world import WorldModel

TINY = dict(image_size=16, action_dim=2, context_dim=8, slots=2, grid=4, codebook_size=8, width=4, embedding=16)


def near(a, b, eps=1e-5):
    torch.testing.assert_close(a, b.to(a.dtype), rtol=eps, atol=eps)


@pytest.fixture(autouse=True)
def seeded():
    set_seed(0)


@pytest.fixture
def shapes():
    return torch.meshgrid(*[torch.tensor([0.3, 1.0, 2.5, 8.0], dtype=torch.float64)] * 2, indexing='ij')


def episodes():
    return dict(
        observations=torch.randint(256, (3, 6, 3, 16, 16), dtype=torch.uint8),
        actions=torch.rand(3, 6, 2),
        rewards=torch.rand(3, 6),
    )


def test_kumaraswamy(shapes):
    a, b = shapes
    theirs = D.Kumaraswamy(a, b)
    v = torch.rand(200, 4, 4, dtype=torch.float64) * 0.75 + 0.2  # where theirs is exact
    near(kumaraswamy_log_prob(v, a, b), theirs.log_prob(v))
    near(kumaraswamy_log_mean(a, b).exp(), theirs.mean)
    draws = theirs.sample((40_000,)).clamp(1e-12, 1 - 1e-12)
    for ours, sample in [(expected_log(a, b), draws.log()), (expected_log1m(a, b), torch.log1p(-draws))]:
        assert ((ours - sample.mean(0)).abs() < 5 * sample.std(0) / len(draws) ** 0.5 + 1e-3).all()
    log_v, log1m_v = kumaraswamy_rsample(a.expand(40_000, 4, 4), b.expand(40_000, 4, 4))
    near(log_v.exp() + log1m_v.exp(), torch.ones_like(log_v))
    near(log_v.exp().mean(0), theirs.mean, 1e-2)
    near(log_v.exp().var(0), theirs.variance, 1e-2)


def test_kl_of_sticks_and_their_concentration(shapes):
    a, b = shapes
    q, p = D.Kumaraswamy(a, b), D.Beta(torch.ones_like(a), torch.full_like(a, 3.0))
    v = q.sample((40_000,)).clamp(1e-12, 1 - 1e-12)
    gap = q.log_prob(v) - p.log_prob(v)
    kl = kl_kumaraswamy_beta(a, b, torch.full_like(a, 3.0))
    error = 5 * gap.std(0) / len(v) ** 0.5
    assert ((kl - gap.mean(0)).abs() < error + 2e-3).all()
    near(kl_gamma(a, b, 6.0, 2.0), D.kl_divergence(D.Gamma(a, b), D.Gamma(6.0, 2.0)))


def test_stick_breaking():
    x = torch.randn(50, 7, dtype=torch.float64)
    v = torch.sigmoid(x - torch.arange(7, 0, -1, dtype=torch.float64).log())
    near(stick_breaking(v.log(), torch.log1p(-v)).exp(), D.StickBreakingTransform()(x))


def mixture(*batch, K=4, dims=3):
    a, b = torch.rand(2, *batch, K - 1) * 3 + 0.3
    mean, logvar = torch.randn(*batch, K, dims), torch.randn(*batch, K, dims) / 2
    shape, rate = torch.rand(batch) + 1, torch.rand(batch) + 1
    return Mixture(mean, logvar, expected_log_weights(a, b), a, b, shape, rate)


def normal(mean, logvar):
    return D.Independent(D.Normal(mean, (logvar / 2).exp()), 1)


def test_mixture():
    p, mean, logvar = mixture(20), torch.randn(20, 3), torch.randn(20, 3) / 2
    theirs = D.MixtureSameFamily(D.Categorical(logits=p.log_weights), normal(p.mean, p.logvar))
    z = torch.randn(20, 3)
    near(p.log_prob(z), theirs.log_prob(z))
    near(p.sample('mean'), theirs.mean)
    q = normal(mean, logvar)
    near(gaussian_kl_between(mean, logvar, z, -logvar), D.kl_divergence(q, normal(z, -logvar)))
    draws = q.sample((10_000,))
    gap = q.log_prob(draws) - theirs.log_prob(draws)
    error = 5 * gap.std(0) / len(draws) ** 0.5
    assert (p.kl(mean, logvar, 'lower') < gap.mean(0) + error).all()
    assert (p.kl(mean, logvar) > gap.mean(0) - error).all()
    assert ((p.kl(mean, logvar, 'mc', samples=10_000) - gap.mean(0)).abs() < 2 * error).all()


def test_likelihoods():
    x, x_hat = torch.rand(2, 3, 3, 8, 8), torch.rand(2, 3, 3, 8, 8)
    near(gaussian_nll(x_hat, x, 0.2), -D.Independent(D.Normal(x_hat, 0.2), 3).log_prob(x), 1e-4)
    mean, log_scale = torch.randn(50, 1, dtype=torch.float64), torch.randn(50, 1, dtype=torch.float64) - 1
    logistic = D.TransformedDistribution(
        D.Uniform(torch.zeros_like(mean), torch.ones_like(mean), validate_args=False),
        [D.SigmoidTransform().inv, D.AffineTransform(mean, log_scale.exp())],
        validate_args=False,
    )
    edges = (2 * torch.arange(257, dtype=torch.float64) - 1) / 255 - 1
    steps = torch.cat([torch.zeros(50, 1), logistic.cdf(edges[1:-1]), torch.ones(50, 1)], 1).diff(dim=1)
    near(logistic_log_prob(torch.linspace(-1, 1, 256, dtype=torch.float64), mean, log_scale).exp(), steps, 1e-9)
    q, p = (torch.randn(9, 4), torch.randn(9, 4)), (torch.randn(9, 4), torch.randn(9, 4))
    kl = D.kl_divergence(normal(*q), normal(*p))
    near(balanced_kl(lambda a, b: gaussian_kl_between(*a, *b), q, p, 0.5, 0.1), 0.6 * kl)


def test_attention():
    ours, theirs = Attention(16, 4), nn.MultiheadAttention(16, 4, batch_first=True)
    x, source = torch.randn(3, 5, 16), torch.randn(3, 9, 16)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.q.weight, ours.kv.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.q.bias, ours.kv.bias]))
    theirs.out_proj.load_state_dict(ours.out.state_dict())
    near(ours(x, source), theirs(x, source, source)[0])


def test_a_single_component_is_a_gaussian_prior():
    "The model's KL, from frames on, and its terms for rewards and ends."
    model, batch = WorldModel(1, 4, 16, **TINY), episodes() | dict(dones=torch.rand(3, 6) < 0.2)
    out = model.forward_sequence(**batch)
    terms = elbo_terms(out) | reward_continue_terms(out)
    posterior = normal(out.posterior.mean, out.posterior.logvar)
    prior = normal(out.prior.mean[..., 0, :], out.prior.logvar[..., 0, :])
    near(terms['kl_z'], D.kl_divergence(posterior, prior), 1e-4)
    near(terms['hierarchical_kl'], torch.zeros(3, 6))
    near(terms['continue_loss'], -D.Bernoulli(logits=out.decoded.continue_logit).log_prob(1 - batch['dones'].float()))
    rewards = D.Normal(out.decoded.rewards, model.reward_scale.sigma)
    near(terms['reward_loss'], -rewards.log_prob(batch['rewards']) - math.log(2 * math.pi) / 2, 1e-4)


def world():  # a model, and its three losses on a batch
    set_seed(0)
    model = WorldModel(3, 4, 16, overshoot=2, **TINY)
    return model, LossAggregator().terms(model.forward_sequence(**episodes())).tasks


@pytest.mark.parametrize('name', ['upgrad', 'mgda', 'mean', 'dualproj', 'imtlg', 'alignedmtl'])
def test_a_model_balanced_as_by_torchjd(name):
    "Gradients of the encoder, beside those of TorchJD's own engine."
    pytest.importorskip('torchjd')
    from torchjd.autojac import backward, jac_to_grad

    from vaebook.losses.balancing import aggregators

    (model, tasks), (peer, theirs) = world(), world()
    shared, aggregator = [*peer.encoder.parameters()], aggregators()[name]()
    make_balancer(name, model.encoder.parameters).backward(tasks, model.parameters())
    backward([*theirs.values()], inputs=shared, parallel_chunk_size=1)  # channels_last frames cannot be batched
    jac_to_grad(shared, aggregator)
    ours, want = (torch.cat([p.grad.flatten() for p in m.encoder.parameters()]) for m in (model, peer))
    torch.testing.assert_close(ours, want, rtol=1e-3, atol=1e-4 * float(want.abs().max()))


def test_private_weights_get_the_plain_sum():
    (model, tasks), (peer, theirs) = world(), world()
    make_balancer('rgb', model.encoder.parameters).backward(tasks, model.parameters())
    sum(theirs.values()).backward()
    for (name, p), q in zip(model.named_parameters(), peer.parameters()):
        assert (p.grad is None) == (q.grad is None), name
        if q.grad is not None and not name.startswith('encoder.'):
            torch.testing.assert_close(
                p.grad, q.grad, rtol=1e-3, atol=1e-4 * (1e-3 + float(q.grad.abs().max())), msg=lambda m: f'{name}: {m}'
            )


def test_pcgrad():
    "Of two tasks the same numbers; of three, whose order is drawn, the same few directions."
    jd = pytest.importorskip('torchjd.aggregation')
    for n, size in [(2, 5), (3, 4)]:
        g = torch.randn(n, size, dtype=torch.float64)
        g[1] -= 2 * g[0]
        if n == 3:
            g[2] -= g[0] + g[1]
        ours = make_balancer('pcgrad', lambda: [])
        mine = torch.stack([ours.combine(g, g @ g.T, torch.ones(n, dtype=torch.bool)) for _ in range(80)])
        theirs = torch.stack([jd.PCGrad()(g) for _ in range(80)])
        kinds = [sorted({tuple(round(v, 6) + 0.0 for v in row.tolist()) for row in rows}) for rows in (mine, theirs)]
        assert kinds[0] == kinds[1] and (len(kinds[0]) == 1) == (n == 2)


def test_upgrad_goes_against_no_task():
    "While a sum does; gradients of similar lengths, as TorchJD adds 1e-4 of the largest to its Gramian."
    pytest.importorskip('torchjd')
    upgrad, against = make_balancer('upgrad', lambda: []), 0
    for _ in range(20):
        g = torch.nn.functional.normalize(torch.randn(3, 4), dim=1)
        out = upgrad.combine(g, g @ g.T, torch.ones(3, dtype=torch.bool))
        assert (g @ out > -2e-3 * out.norm()).all()
        against += (g @ g.sum(0) < -1e-2).any().item()
    assert against > 2
