"What probes, traversals and explorers refuse, and the awkward models that they take."

import io
import math

import numpy as np
import pytest
import torch
from einops import reduce, repeat
from PIL import Image
from torch import nn

from vaebook.bottlenecks.fsq import FSQ
from vaebook.core import BadInput, Latent
from vaebook.models.classifiers import CNN
from vaebook.models.cvae import CVAE
from vaebook.viz.explorer import Explorer, animate
from vaebook.viz.probe import DigitLatents, StandardizedLatents, open_probe
from vaebook.viz.tiles import as_images
from vaebook.viz.traversal import latent_traversal, offsets, perturb, plane


class Bands(nn.Module):
    "Each latent is the brightness of a band of the image."

    latent_spec = [dict(name=name, range=(-3.0, 3.0)) for name in ('top', 'middle', 'bottom')]

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.ones(()))

    def encode(self, x):
        return Latent(reduce(x, 'n 1 (d h) w -> n d', 'mean', d=3).logit() / self.slope, {})

    def decode(self, z):
        return repeat((self.slope * z).sigmoid(), 'n d -> n 1 (d 3) 9')


class Steps(nn.Module):
    "A tokenizer of two tokens, one for each half of a chunk of actions."

    layout = 't d'
    latent_spec = [dict(name=f'token_{i}', kind='index', range=(0, 14)) for i in range(2)]

    def __init__(self):
        super().__init__()
        self.bottleneck = FSQ([5, 3])

    def encode(self, x):
        return self.bottleneck(reduce(x, 'n (k t) d -> n d k', 'mean', k=2).atanh() / 0.8)

    def decode(self, z):
        return repeat(z, 'n d k -> n (k t) d', t=4)

    def decode_indices(self, ids):
        return self.decode(self.bottleneck.indices_to_codes(ids))


class Dot(nn.Module):
    "A clip of a dot that wanders along a row."

    layout, value_range = 'c t h w', (-1.0, 1.0)
    latent_spec = [dict(name='row', kind='index', range=(0, 3)), dict(name='time', kind='time', range=(0, 4))]

    def __init__(self):
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))

    def encode(self, x):
        return Latent((x == 1).any(-1)[:, 0, 0].float().argmax(-1, keepdim=True), {})

    def decode(self, z):
        rows = nn.functional.one_hot(z[:, 0].long(), 4)[:, None, :, None]
        return 2 * self.one * (rows * torch.eye(5)[:, None])[:, None] - 1


class Pitch(nn.Module):
    "A sound of some pitch."

    layout, value_range, sample_rate = 'c t', (-1.0, 1.0), 8_000
    latent_spec = [dict(name='pitch', range=(-3.0, 3.0))]

    def __init__(self):
        super().__init__()
        self.base = nn.Parameter(torch.tensor(20.0))

    def encode(self, x):
        return Latent(x.new_zeros(len(x), 1), {})

    def decode(self, z):
        return (6.28 * self.base * 2**z * torch.arange(2_000) / self.sample_rate).sin()[:, None]


class Scaled(nn.Module):
    "A map of latents that knows its mean and deviation."

    layout, latent_shape, latent_spec = 't d', (2, 1), [dict(name=name, range=(-3.0, 3.0)) for name in 'ab']

    def encode(self, x):
        return Latent(x.mT, {})

    def decode(self, z):
        return z.mT


def bands(**spec):
    "The model with another specification of its first latent."
    model = Bands()
    model.latent_spec = [dict(name='a') | spec]
    return model


def flat():
    model = Bands()
    model.decode = lambda z: z
    return model


MODEL, KNOWN = Bands(), torch.tensor([[-1.0, -2.0, 0.0], [0.8, -1.0, 1.0], [0.5, 1.0, 0.0], [-0.3, -0.2, -1.0]])
IMAGES = MODEL.decode(KNOWN).detach()
SEEN = nn.Sequential(nn.Flatten(), nn.Linear(81, 2))
SEEN.outputs = 'logits'
STEPS = Steps()
IDS = torch.tensor([[0, 14], [7, 3]])
CHUNKS = STEPS.decode_indices(IDS)

REFUSED = {
    'chunk_size=0': lambda: open_probe(MODEL, IMAGES, chunk_size=0),
    'a network with encode, decode and latent_spec': lambda: open_probe(CNN(3, width=4), IMAGES),
    'expected latents [N, 3]': lambda: open_probe(MODEL, KNOWN[:, :2]),
    'finite latents': lambda: open_probe(MODEL, KNOWN * math.inf),
    'range of a': lambda: open_probe(bands()),
    "Did you mean 'continuous'?": lambda: open_probe(bands(kind='continous', range=(0, 1))),
    '(low, high)': lambda: open_probe(bands(range=(3, 0))),
    'expected [N, C, H, W]': lambda: open_probe(flat(), IMAGES),
    # inputs
    "x=[4, 1, 9, 2]: expected inputs [N, 1, 9, 9] as the model decodes them": lambda: open_probe(
        MODEL, IMAGES[..., :2]
    ),
    "x='str': expected inputs [N, 1, 9, 9]": lambda: open_probe(MODEL, 'picture'),
    'Leave out number 1': lambda: open_probe(MODEL, torch.tensor([0.0, math.nan]).view(2, 1, 1, 1).expand(2, 1, 9, 9)),
    'a normalisation belongs into the classifier': lambda: open_probe(MODEL, IMAGES * 4 - 2),
    "x='torch.int64'": lambda: open_probe(MODEL, (IMAGES * 255).long()),
    "x='torch.uint8': expected floats": lambda: open_probe(Scaled(), torch.zeros(3, 1, 2, dtype=torch.uint8)),
    'x=[4, 1, 9, 9]: expected inputs [N, 1, T]': lambda: open_probe(Pitch(), IMAGES),
    'x=[1, 3, 4, 16, 16]: expected inputs [N, 1, T, 4, 5]': lambda: open_probe(Dot(), torch.rand(1, 3, 4, 16, 16)),
    'Say which: x[None], or Latent(z, {})': lambda: open_probe(Pitch(), torch.zeros(1, 1)),
    'z=[99.0, 0.0]: expected whole numbers in the range of each token': lambda: open_probe(
        STEPS, Latent(torch.tensor([[99.0, 0.0]]), {})
    ),
    # classifiers
    'which may be a logit or a probability': lambda: open_probe(MODEL, IMAGES, lambda x: x.mean((2, 3))),
    'a network, or a function, of images': lambda: open_probe(MODEL, IMAGES, nn.Linear(5, 2)),
    'expected package.module:name': lambda: open_probe(MODEL, IMAGES, 'vgg'),
    'sigmoids of separate questions': lambda: open_probe(MODEL, IMAGES, lambda x: SEEN(x).sigmoid()),
}

TRAVERSALS = {
    'latent=3: expected an index from 0 to 2, or a name': lambda: latent_traversal(MODEL, dims=[3]),
    'latent=1.7': lambda: latent_traversal(MODEL, dims=[1.7]),
    'at least one of top': lambda: latent_traversal(MODEL, dims=[]),
    "Did you mean 'middle'?": lambda: latent_traversal(MODEL, dims=['midle']),
    'most=0': lambda: latent_traversal(MODEL, most=0),
    '2 names, one a class': lambda: latent_traversal(MODEL, IMAGES, classifier=SEEN, classes=['dark']),
    'a list of finite numbers': lambda: latent_traversal(MODEL, values=[0, math.nan]),
    "sweeping_stepsize='wide': expected a number above 0": lambda: offsets('wide'),
    'sweeping_stepsize=0': lambda: offsets(0),
    'These are index, time: traverse them apart': lambda: latent_traversal(Dot(), dims=[0, 1]),
    'whole numbers from 0 to 3': lambda: latent_traversal(Dot(), values=[4]),
    'values=[15.0]: expected whole numbers from 0 to 14': lambda: latent_traversal(STEPS, values=[15]),
    'classifier=None': lambda: latent_traversal(MODEL, IMAGES, order='flow'),
    'two inputs or more': lambda: latent_traversal(MODEL, IMAGES[:1], order='usage'),
    'a model with Gaussian posteriors': lambda: latent_traversal(MODEL, IMAGES, order='kl'),
    '3 finite numbers, one a latent': lambda: latent_traversal(MODEL, IMAGES, order=[1, 2]),
    'an index from 0 to 2': lambda: latent_traversal(MODEL).plot(latent=9),
    'dims=[0, 1, 2]: expected one or two latents': lambda: plane(MODEL, dims=[0, 1, 2]),
    'Choose one: x[0]': lambda: plane(MODEL, IMAGES),
}

EXPLORERS = {
    'a list of finite numbers': lambda: Explorer(MODEL).move(top=math.nan),
    'tiles=0': lambda: Explorer(MODEL, tiles=0),
    'most=0': lambda: Explorer(MODEL, most=0),
    'step=0': lambda: Explorer(MODEL, step=0),
    '2 names, one a class': lambda: Explorer(MODEL, None, SEEN, ['dark']),
    'whole numbers from 0 to 3': lambda: Explorer(Dot()).move(row=4),
    'the result of latent_traversal or plane': lambda: animate(IMAGES),
}


@pytest.mark.parametrize('message', REFUSED)
def test_probes_refuse_in_words(message):
    with pytest.raises(BadInput) as refused, REFUSED[message]():
        pass
    assert message in str(refused.value)


@pytest.mark.parametrize('message, call', [*TRAVERSALS.items(), *EXPLORERS.items()])
def test_traversals_and_explorers_refuse_in_words(message, call):
    with pytest.raises(BadInput) as refused:
        call()
    assert message in str(refused.value)


def test_broken_weights_are_named():
    broken = Bands()
    broken.slope.data.fill_(math.nan)
    with pytest.raises(BadInput, match='finite numbers'):
        latent_traversal(broken)


def test_bytes_are_floats_in_the_value_range():
    with open_probe(MODEL, torch.full((1, 9, 9), 51, dtype=torch.uint8)) as probe:
        assert (probe.x - 0.2).abs().max() < 1e-6
    with open_probe(Pitch(), torch.zeros(2, 1, 16_000, dtype=torch.uint8)) as probe:
        assert probe.x.eq(-1).all()


def test_a_classifier_is_asked_in_its_own_precision():
    with open_probe(MODEL, IMAGES.double(), SEEN.double()) as probe:
        assert probe.classifier(probe.x).dtype == torch.float32
    SEEN.float()


@pytest.mark.parametrize('dtype, eps', [(torch.double, 1e-5), (torch.bfloat16, 0.03)])
def test_precision_changes_nothing(dtype, eps):
    model, judge = CVAE(1, 2, width=8).to(dtype).requires_grad_(False), CNN(3, width=4)
    again = latent_traversal(model, torch.rand(4, 1, 28, 28), classifier=judge)
    assert again.images.dtype == again.probs.dtype == torch.float32 and judge.training
    theirs, ours = (latent_traversal(m, IMAGES, values=[-1, 1]).images for m in (Bands().to(dtype), MODEL))
    assert (theirs - ours).abs().max() < eps


def test_a_map_is_moved_as_a_whole():
    moved = perturb(torch.zeros(5, 2, 4, 4), [0], torch.ones(3))
    assert moved.shape == (5, 1, 3, 2, 4, 4) and moved.sum((-1, -2))[0, 0, 0].tolist() == [16.0, 0.0]


@pytest.mark.parametrize('step, count', [(0.5, 13), (0.75, 9), (1.0, 7)])
def test_a_step_gives_as_many_columns_as_offsets(step, count):
    assert latent_traversal(MODEL, IMAGES, dims=['bottom'], values=offsets(step)).images.shape[:3] == (4, 1, count)


def test_the_time_comes_alone_and_in_its_own_order():
    assert latent_traversal(Dot(), dims='time', order='usage').names == ['time']


def test_ids_may_be_given_in_place_of_inputs():
    decoded = latent_traversal(STEPS, CHUNKS).decoded
    for given in (STEPS.encode(CHUNKS), Latent(IDS, {})):
        assert latent_traversal(STEPS, given).decoded.equal(decoded)
    both = latent_traversal(DigitLatents(STEPS), CHUNKS, dims=['token_0.0', 'token_1.0'])
    assert both.values.tolist() == [0, 1, 2, 3, 4], 'the narrowest range of the digits that are set'


def test_units_of_a_model_are_its_own_or_measured():
    measured = StandardizedLatents(MODEL, KNOWN)
    with open_probe(measured, IMAGES) as probe:
        images, _ = probe.decode(probe.z)
    assert (images - IMAGES).abs().max() < 1e-5 and (probe.z.std(0) - 1).abs().max() < 1e-5


def test_pictures_of_numbers_without_a_range():
    assert as_images(torch.full((1, 1, 2), 5.0), value_range=None).unique().tolist() == [0.5]
    above = as_images(torch.ones(9, 2), 't d', (1, 3))  # 0 is outside, so there is no line for it
    assert (above[:, :60].unique() - 0.96).abs().max() < 1e-6
    many = torch.randn(5, 20, 3)
    assert as_images(many, 't d', (-2, 2))[2].equal(as_images(many[2], 't d', (-2, 2)))


def picture(shade):
    out = io.BytesIO()
    Image.new('L', (90, 60), shade).save(out, format='PNG')
    return out.getvalue()


def test_an_upload_of_the_same_name_takes_its_place():
    explorer = Explorer(MODEL, IMAGES, SEEN, ['dark', 'lit'])
    seen = []
    for shade in (60, 200):
        explorer.upload('own.png', picture(shade))
        seen.append(explorer.view.picture)
    assert explorer.view.start == 'own: own.png' and explorer.starts['own: own.png'].shape == (1, 3)
    assert seen[0] != seen[1]


def test_what_a_reader_does_wrong_is_shown_in_the_page():
    explorer = Explorer(MODEL)
    explorer.view._handle_custom_msg(dict(what='upload', name='notes.txt'), [b'no picture'])
    assert "own input='notes.txt': expected a picture" in explorer.view.error
    explorer.view._handle_custom_msg(dict(what='randomise'), [])
    assert explorer.view.error == '' and any(explorer.view.values)


def test_an_explorer_of_ids_has_no_upload_and_starts_at_0():
    explorer = Explorer(STEPS)
    assert explorer.view.alts[0] == 'token_0 0, token_1 0' and explorer.view.accepts == ''
    assert np.asarray(Image.open(io.BytesIO(explorer.view.picture))).std() > 0
