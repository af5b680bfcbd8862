"One option, declared once: wrong values are refused by name, right ones pass, and no argument goes unchecked."

import inspect, json, subprocess, sys, time, timeit
from typing import Literal

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

import vaebook.models
from vaebook.bottlenecks import continuous, fsq, lfq, mixture, registry, residual, tokens, vq
from vaebook.core.config import compose
from vaebook.core import BadInput, set_seed
from vaebook.experiments.latent_actions import ActionObjective
from vaebook.losses import CausalObjective
from vaebook.layers import attention, causal, complex, frames, seanet, stft
from vaebook.models import CVAE, CausalVAE, classifiers, world
from vaebook.models.action_tokenizer import ActionTokenizer
from vaebook.models.audio import AudioAutoencoder
from vaebook.models.fsq_vqvae import FSQVQVAE
from vaebook.models.world import DPGMMVariationalRecurrentAutoencoder
from vaebook.core.options import Count, Counts, Flag, Natural, Settings, Share, Weight
from vaebook.core.options import check_settings, checked, describe, describe_type
from vaebook.core.pretrained import Pretrained

NAN, INF = float('nan'), float('inf')
MISSING = object()  # in the table: an argument that is left out

# The table: class → (arguments that are right, {argument: wrong values}, {misspelt argument: the right name},
# {argument: (misspelt choice, the right one)})
TABLE = {
    CVAE: (
        dict(width=4),
        dict(
            n_alpha=[-1, 2.5, 'x', True, None],
            n_beta=[-1, NAN],
            channels=[0, '1'],
            image_size=[0, -28, 28.0],
            width=[0, True, None],
            net=[3, None],
            recon=[0],
        ),
        dict(n_alfa='n_alpha', widht='width', imagesize='image_size'),
        dict(net=('smal', 'small'), recon=('bec', 'bce')),
    ),
    CausalObjective: (
        dict(model=CVAE(width=4), classifier=classifiers.Dummy()),
        dict(
            model=[MISSING, None],
            classifier=[MISSING, 3],
            lam_ml=[-1, NAN, INF, 'x', True],
            kl_weight=[-1, NAN, INF, 'x', True],
            tc_weight=[-1.0, NAN],
            leakage_weight=[-1.0],
            answer_weight=[-1.0, NAN],
            alpha_samples=[0, 2.5],
            beta_samples=['8'],
            conditional=[1],
            use_causal=['no'],
            causal_warmup_steps=[-1],
            causal_every=[0, 1.5],
            chunk_size=[0],
        ),
        dict(kl_wieght='kl_weight', lam='lam_ml', causal_evry='causal_every'),
        dict(estimator=('plugn', 'plugin'), form=('joind', 'joint')),
    ),
    classifiers.CNN: (
        dict(num_classes=3, width=2),
        dict(
            num_classes=[MISSING, 0, 2.5, '3', True], channels=[0, None], image_size=[5, 28.5, '28'], width=[0, -4, NAN]
        ),
        dict(num_clases='num_classes'),
        {},
    ),
    classifiers.VGG11: (
        dict(num_classes=3, width=2),
        dict(num_classes=[MISSING, -1], channels=[1.5], image_size=[28, '32'], width=[0, True]),
        dict(image_sise='image_size'),
        {},
    ),
    classifiers.Dummy: ({}, dict(num_classes=[0, 'two'], channels=[0], width=[-1]), dict(chanels='channels'), {}),
    CausalVAE: (
        dict(base_channels=8),
        dict(
            channels=[0, 3.0, True],
            z_channels=[0, '16'],
            base_channels=[-8, None],
            multipliers=[[], [1, 0, 4], [1, 2.5, 4], 'abc', 4],
            strides=[[[2, 2], [3, 1]], [[2, 2], [2]], [2, 2], 'ab', [[2, 2], [2, True]]],
            blocks=[0, 1.5],
            patch=[0],
            attention=['no', 1, None],
            quant_conv=['yes'],
            linear_skip=['false', 0],
            quantizer=['fsq', [1]],
            frames=[0, 2.5],
            grad_checkpoint=['on'],
            freeze_encoder=['off'],
            num_frames=[0, True],
            resolution=[0, [64], '64', [64, 64.5], None],
            conv=[3],
            length=[8],
        ),
        dict(z_chanels='z_channels', base_chanels='base_channels', stride='strides', atention='attention'),
        dict(
            conv=('ful', 'full'),
            norm=('rsm', 'rms'),
            pad=('replicat', 'replicate'),
            resample=('casual', 'causal'),
            bottleneck=('gausian', 'gaussian'),
            length=('pads', 'pad'),
        ),
    ),
    FSQVQVAE: (
        dict(action_dim=3, horizon=8, num_tokens=2, hidden_dim=8),
        dict(
            action_dim=[MISSING, 0, 3.0, True, 'x'],
            horizon=[0, None],
            num_tokens=[-8, '8'],
            fsq_levels=[[], [1, 5], [8, 5.5], [8, True], '85', {8, 5}, None],
            noise=[-0.1, 1.5, NAN],
            codebook_size=[1, 2.5, 'many'],
            codebook_dim=[0],
            num_quantizers=[0, 1.5],
            hidden_dim=[0, 512.0],
            latent_dim=[-1],
            num_heads=[0, '8'],
            num_encoder_layers=[1.5],
            num_decoder_layers=[True],
            dropout=[1.1, '0.1', True],
            augment=[2, None],
            warmup_steps=[-1, 10.5],
        ),
        dict(acton_dim='action_dim', num_token='num_tokens', codebok_size='codebook_size'),
        dict(
            backbone=('transfomer', 'transformer'),
            bottleneck=('fsqq', 'fsq'),
            bound=('tahn', 'tanh'),
            linear_codec=('pac', 'pca'),
            normalize=('quantil', 'quantile'),
            recon=('mes', 'mse'),
            code_norm=('bacth', 'batch'),
        ),
    ),
    AudioAutoencoder: (
        dict(encoder=dict(width=2)),
        dict(
            channels=[0, '1', 1.0],
            sample_rate=[0, 16e3, None],
            dim=[0, True],
            stft=['512', 512],
            encoder=['seanet_1d', [1]],
            decoder=[7],
            bottleneck=['vae'],
            tanh=['yes', 1],
            samples=[0, 1.5],
            pre_transform=[1],
        ),
        dict(sample_rat='sample_rate', botleneck='bottleneck', enkoder='encoder'),
        dict(pre_transform=('powr', 'power')),
    ),
    DPGMMVariationalRecurrentAutoencoder: (
        dict(max_components=2, latent_dim=4, hidden_dim=8, image_size=32, width=4, context_dim=8),
        dict(
            max_components=[MISSING, 0, 2.0],
            latent_dim=[MISSING, '6'],
            hidden_dim=[-1, True],
            image_size=[64.0, None],
            action_dim=[0],
            context_dim=[60, 0],
            context_depth=[-1, 1.5],
            slots=[0],
            grid=['8'],
            codebook_size=[1, 128.0],
            width=[0],
            embedding=[None],
            sigma=[0, -0.1, NAN],
            concentration=[[6.0], [6.0, 0.0], (6.0, NAN), 6.0, 'ab'],
            overshoot=[-1, 2.5],
        ),
        dict(max_component='max_components', latent_dimm='latent_dim', overshot='overshoot'),
        dict(quantizer=('vqq', 'vq'), likelihood=('gausian', 'gaussian')),
    ),
    ActionObjective: (
        dict(model=torch.nn.Identity()),
        dict(model=[MISSING, 3], commitment_weight=[-0.25, '0.1'], entropy_weight=[NAN]),
        dict(comitment_weight='commitment_weight'),
        {},
    ),
    ActionTokenizer: ({}, dict(model=[MISSING, 3, 'vaebook/actions']), dict(modle='model'), {}),
    fsq.FSQ: (
        dict(levels=[5, 5]),
        dict(levels=[MISSING, [], [1], [5, 2.5], '85', None, [True]], noise=[-1, 2, NAN], bound=[1]),
        dict(level='levels'),
        dict(bound=('cfd', 'cdf')),
    ),
    residual.ResidualFSQ: (
        dict(levels=[5, 5]),
        dict(levels=[[0]], num_quantizers=[0, 1.5, True]),
        dict(num_quantizer='num_quantizers'),
        {},
    ),
    vq.VQ: (
        dict(codebook_size=8, dim=4),
        dict(
            codebook_size=[MISSING, 0, 8.5],
            dim=[MISSING, '4'],
            decay=[1, -0.1, NAN],
            cosine=['no', 1],
            kmeans_init_samples=[-1, 2.5],
            dead_threshold=[-1, None],
            reset_dead_codes=[-1, 1.5],
        ),
        dict(codebook_sise='codebook_size', decya='decay'),
        {},
    ),
    residual.ResidualVQ: (
        dict(codebook_size=8, dim=4),
        dict(codebook_size=[MISSING], num_quantizers=[0, 2.0], dropout=[-1, 1.5], decay=[2], kmeans_init_samples=['8']),
        dict(num_quantizer='num_quantizers', dropuot='dropout', cosin='cosine'),
        {},
    ),
    residual.FactorisedRVQ: (
        dict(codebook_size=8, dim=4),
        dict(dim=[MISSING, 0], num_quantizers=[True], codebook_dim=[0, 8.5], dropout=['0'], dead_threshold=[NAN]),
        dict(codebook_dimm='codebook_dim', reset_dead_code='reset_dead_codes'),
        {},
    ),
    lfq.LFQ: (
        dict(dim=3),
        dict(dim=[MISSING, 0, 63, 3.5, True], sharpness=[0, -1, NAN], group=[0, 2.5]),
        dict(sharpnes='sharpness'),
        {},
    ),
    continuous.NoBottleneck: (dict(dim=4), dict(dim=[MISSING, 0, 4.0, '4', True]), dict(dims='dim'), {}),
    continuous.UnitSphere: (dict(dim=4), dict(dim=[0, None]), dict(dimm='dim'), {}),
    continuous.SoftNorm: (dict(dim=4), dict(dim=[-4, 2.5]), dict(dimm='dim'), {}),
    continuous.Tanh: (dict(dim=4), dict(dim=[0], scale=[0, -1, NAN, 'x']), dict(scal='scale'), {}),
    continuous.VAEBottleneck: (
        dict(dim=4),
        dict(dim=[0], half=['no', 0]),
        dict(halve='half'),
        dict(parameterisation=('softpuls', 'softplus')),
    ),
    continuous.Wasserstein: (
        dict(dim=4),
        dict(tanh=['no'], noise=[-1, NAN], frames=[1, 2.5, True]),
        dict(frame='frames'),
        {},
    ),
    continuous.ComplexVAE: (dict(dim=4), dict(dim=[3, 0, 4.0]), dict(knid='kind'), dict(kind=('propper', 'proper'))),
    mixture.DPGMMPrior: (
        dict(in_dim=8, latent_dim=2, components=3),
        dict(
            in_dim=[0],
            latent_dim=[MISSING, '2'],
            components=[0, 2.5],
            hidden=[0],
            concentration=[(1.0, 0.0), [1.0]],
            anchors=['no'],
        ),
        dict(component='components'),
        {},
    ),
    tokens.FrameTokenizer: (
        dict(features=4, grid=8, image_size=32),
        dict(features=[0], codebook_size=[1, '128'], codebook_dim=[0]),
        dict(codebook_sise='codebook_size'),
        dict(quantizer=('vqs', 'vq')),
    ),
    attention.Attention: (
        dict(dim=8, heads=2),
        dict(dim=[0, 8.0], heads=[0, True], causal=['no']),
        dict(head='heads'),
        {},
    ),
    frames.FrameEncoder: (
        dict(image_size=32),
        dict(image_size=[MISSING, '32'], width=[0], grid=[None]),
        dict(widht='width'),
        {},
    ),
    causal.CausalConv3d: (
        dict(channels=2, out_channels=2),
        dict(channels=[0], kernel=[3, [3, 3], [3, 3, 0]], stride=[[1, 1, 1.5]]),
        dict(kernl='kernel'),
        dict(pad=('zer', 'zero')),
    ),
    complex.ComplexConv2d: (
        dict(channels=2, out_channels=2),
        dict(kernel=[3, [3]], stride=[[0, 1]], dilation=[0], causal=['no'], gain=[0, NAN], bias=[None]),
        dict(transpose='transposed'),
        dict(algebra=('reel', 'real')),
    ),
    stft.STFT: (
        {},
        dict(n_fft=[0, 512.0], hop=[0, '128'], power=[0, 1.5], floor=[-1], gain=[0]),
        dict(nfft='n_fft'),
        {},
    ),
    seanet.SEANetEncoder: (
        dict(channels=1, dim=4),
        dict(
            width=[0, 2.5], strides=[[2, 4], [[1, 0]]], growth=[[0], 'x'], residual=[-1], lstm=[True], identity=['no']
        ),
        dict(algebar='algebra'),
        dict(activation=('elus', 'elu'), pad=('reflekt', 'reflect')),
    ),
    world.FrameLikelihood: ({}, dict(sigma=[0, 'x']), dict(sigm='sigma'), dict(kind=('sigma_va', 'sigma_vae'))),
}


def rows(cls):
    "Each wrong call of a class: its arguments, and what the error has to hold."
    right, wrong, names, choices = TABLE[cls]
    for name, values in wrong.items():
        for value in values:
            given = {k: v for k, v in right.items() if k != name}
            yield (given if value is MISSING else given | {name: value}), [cls.__name__, name]
    for name, nearest in names.items():
        yield right | {name: 1}, [cls.__name__, name, repr(nearest)]
    for name, (value, nearest) in choices.items():
        yield right | {name: value}, [cls.__name__, name, f'Did you mean {nearest!r}?']


def outcome(cls, given, said) -> str:
    "'' for a `BadInput` that holds everything that should be said; else what happened."
    try:
        cls(**given)
    except BadInput as e:
        return '' if all(s in str(e) for s in said) else f'unnamed: {e}'
    except Exception as e:
        return f'raw: {type(e).__name__}: {e}'
    return 'silent'


def test_the_table_is_large():
    assert sum(len([*rows(cls)]) for cls in TABLE) >= 300


@pytest.mark.parametrize('cls', TABLE, ids=lambda c: c.__name__)
def test_wrong_values_are_refused_by_name(cls):
    if TABLE[cls][0]:
        cls(**TABLE[cls][0])
    found = {str(given): outcome(cls, given, said) for given, said in rows(cls)}
    assert not {k: v for k, v in found.items() if v}


@pytest.mark.parametrize(
    'type, options, said',
    [
        ('vea', {}, "Did you mean 'vae'?"),
        ('vae', dict(halv=True), "VAEBottleneck: halv=True.*Did you mean 'half'?"),
        ('rvq', dict(codebook_size=8, num_quantizer=2), "ResidualVQ: num_quantizer=2.*'num_quantizers'"),
        ('fsq', dict(levels=[1]), 'FSQ: levels='),
        ('fsq', dict(codebook_size=8), 'FSQ: codebook_size=8'),
        ('lfq', dict(dim=99), 'make_bottleneck: dim=99.*once'),
        ('lfq', dict(group=0), 'LFQ: group=0'),
        ('vq', dict(decay=0.9), r'VQ: codebook_size=\(missing\)'),
        ('dac_rvq', dict(codebook_size=8, codebook_dim=0), 'FactorisedRVQ: codebook_dim=0'),
        ('tanh', dict(scale='1'), 'Tanh: scale='),
        ('complex_vae', dict(kind='spectal'), "ComplexVAE: kind=.*'spectral'"),
        ('wasserstein', dict(noise=-1), 'Wasserstein: noise=-1'),
        ('none', dict(scale=1.0), 'NoBottleneck: scale'),
        ('softnorm', dict(scale=1.0), 'SoftNorm: scale'),
        ('l2', dict(noise=0.0), 'UnitSphere: noise'),
    ],
)
def test_the_thirteen_bottlenecks_by_name(type, options, said):
    with pytest.raises(BadInput, match=said):
        continuous.make_bottleneck(type, 8, **options)


@pytest.mark.parametrize(
    'wrong, said',
    [
        (dict(encoder=dict(widht=4)), "Encoder: widht=4.*'width'"),
        (dict(encoder=dict(type='seanet')), "Did you mean 'seanet_"),
        (dict(encoder=dict(algebra='reel')), 'algebra'),
        (dict(encoder=dict(dim=3)), 'Encoder: dim=3'),
        (dict(encoder=dict(bins=3)), 'Encoder: bins=3'),
        (dict(encoder=dict(cls=3)), 'Encoder: cls=3'),
        (dict(decoder=dict(last_kernel=0)), 'Decoder: last_kernel=0'),
        (dict(stft=dict(n_ftt=512)), "STFT: n_ftt=512.*'n_fft'"),
        (dict(stft=dict(hop=0)), 'STFT: hop=0'),
        (dict(stft=dict(causal=True)), 'stft.causal'),
        (dict(bottleneck=dict(type='vae', dim=3)), 'bottleneck.dim'),
        (dict(bottleneck=dict(type='fsqq')), "'fsq'"),
    ],
)
def test_blocks_of_an_autoencoder(wrong, said):
    with pytest.raises(BadInput, match=said):
        AudioAutoencoder(**wrong)


# Right values


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    'cls, one, other',
    [
        (FSQVQVAE, dict(action_dim=3, fsq_levels=[8, 5]), dict(action_dim=np.int64(3), fsq_levels=np.array([8, 5]))),
        (
            FSQVQVAE,
            dict(action_dim=3, fsq_levels=[8, 5], dropout=0.0),
            dict(action_dim=3, fsq_levels=OmegaConf.create([8, 5]), dropout=0),
        ),
        (
            FSQVQVAE,
            dict(action_dim=3, fsq_levels=[8, 5]),
            dict(action_dim=3, fsq_levels=(torch.tensor(8), np.int32(5))),
        ),
        (
            CausalVAE,
            dict(base_channels=8, multipliers=[1, 2], strides=[[2, 2]]),
            dict(base_channels=8, multipliers=(1, 2), strides=((2, 2),)),
        ),
        (
            CausalVAE,
            dict(base_channels=8, resolution=[64, 32]),
            dict(base_channels=8, resolution=OmegaConf.create([64, 32])),
        ),
        (
            AudioAutoencoder,
            dict(encoder=dict(width=2), bottleneck=dict(type='fsq', levels=[5, 5])),
            OmegaConf.create(dict(encoder=dict(width=2), bottleneck=dict(type='fsq', levels=[5, 5]))),
        ),
        (
            DPGMMVariationalRecurrentAutoencoder,
            TABLE[DPGMMVariationalRecurrentAutoencoder][0] | dict(concentration=[6.0, 2.0]),
            TABLE[DPGMMVariationalRecurrentAutoencoder][0] | dict(concentration=(6, 2)),
        ),
        (FSQVQVAE, dict(action_dim=3, dropout=0.0), dict(action_dim=3, dropout=np.float32(0))),
    ],
)
def test_what_is_the_same_in_another_form_passes(cls, one, other, tmp_path):
    set_seed(0)
    first = cls(**one)
    set_seed(0)
    second = cls(**other)
    assert same(first, second)
    again = Pretrained.from_pretrained(second.save_pretrained(tmp_path / 'model'))
    assert same(second, again) and json.loads(json.dumps(second.config)) == json.loads(json.dumps(again.config))


@pytest.mark.parametrize(
    'kind, recipes',
    [
        ('cvae', ['digits', 'fmnist_0_3_4', 'mnist_3_8', 'shapes', 'cifar_all', 'cifar_3']),
        ('causal_video', ['causal_video', 'causal_video_gan']),
        ('world', ['world_model', 'humanoid_walk']),
        ('latent_actions', ['latent_actions', 'latent_actions_general']),
        ('audio', ['audio', 'audio_gan', 'audio_music', 'audio_rvq', 'audio_stream']),
    ],
)
def test_recipes_are_right(kind, recipes):
    "What the recipes say of a model passes its checks."
    cls = dict(
        cvae=CVAE,
        causal_video=CausalVAE,
        world=DPGMMVariationalRecurrentAutoencoder,
        latent_actions=FSQVQVAE,
        audio=AudioAutoencoder,
    )[kind]
    for recipe in recipes:
        cfg = compose(kind, recipe=recipe, smoke=True)
        given = {k: v for k, v in cfg.model.items() if k not in ('name', 'autoencoder') and v is not None}
        check_settings(cls, dict(action_dim=3) | given if cls is FSQVQVAE else given)


def test_values_pass_unchanged():
    model = FSQVQVAE(action_dim=3, dropout=0)
    assert type(model.config['dropout']) is int and list(model.config) == [o.name for o in describe(FSQVQVAE)]
    assert CausalVAE(base_channels=8).config['multipliers'] == (1, 2, 4)


# No argument goes unchecked


def bare(cls) -> list:
    "The arguments of a class that no annotation limits."
    hints = {o.name for o in describe(cls)}
    return [p.name for p in inspect.signature(cls).parameters.values() if p.name not in hints]


def ours():
    for name in vaebook.models.__dir__():
        getattr(vaebook.models, name)
    return [cls for cls in Pretrained.kinds.values() if cls.__module__.startswith('vaebook.')]


def test_every_argument_of_every_model_has_a_type():
    found = [cls for cls in ours() if cls.__name__ != 'Classifier']
    found += [cls for cls in [*TABLE, seanet.SEANet] if cls is not seanet.SEANetEncoder]
    assert len(ours()) >= 8 and {cls.__name__: bare(cls) for cls in found if bare(cls)} == {}


def test_every_model_is_in_the_table():
    assert not {cls.__name__ for cls in ours()} - {cls.__name__ for cls in TABLE} - {'Classifier'}


def test_the_test_sees_a_missing_type():
    class Planted(Pretrained):
        def __init__(self, width: Count, depth=2):
            super().__init__()

    try:
        assert bare(Planted) == ['depth'] and outcome(Planted, dict(width=1, depth=-1), []) == 'silent'
    finally:
        del Pretrained.kinds['Planted']


def test_plain_ints_are_not_limits_enough():
    "`int` alone takes -1: an annotation of vaebook's models is one with limits, a choice, a switch, or settings."
    options = [(f'{cls.__name__}.{o.name}', o) for cls in ours() for o in describe(cls)]
    assert {name: o.kind for name, o in options if o.hint in (int, float, str, bool, list, tuple)} == {}


# Classes of users


class Old(Pretrained):  # no annotations, and a plain None default
    def __init__(self, width, levels: list = None):
        super().__init__()
        self.linear = torch.nn.Linear(width, width)


class Wider(CVAE):  # adds an argument and hands the rest on
    def __init__(self, extra: Natural = 0, **options):
        super().__init__(**options)
        self.extra = extra


class Same(CVAE):
    pass


def test_classes_of_users(tmp_path):
    assert Old(3).config == dict(width=3, levels=None) and Old(3, (1, 2)).config['levels'] == (1, 2)
    with pytest.raises(BadInput, match='Same: n_alpha=-1'):
        Same(n_alpha=-1)
    with pytest.raises(BadInput, match='Wider: extra=-1'):
        Wider(extra=-1, width=4)
    with pytest.raises(BadInput, match="Wider: n_bata=1.*'n_beta'"):
        Wider(n_bata=1)
    model = Wider(extra=2, width=4, n_beta=3)
    assert model.config == dict(extra=2, width=4, n_beta=3)
    again = Pretrained.from_pretrained(model.save_pretrained(tmp_path / 'wider'))
    assert again.extra == 2 and same(model, again)
    for cls in (Old, Wider, Same):
        Pretrained.kinds.pop(cls.__name__, None)


def test_a_stored_config_that_is_wrong_is_refused_by_name(tmp_path):
    folder = CVAE(width=4).save_pretrained(tmp_path / 'model')
    saved = json.loads((folder / 'config.json').read_text())
    saved['config']['n_beta'] = -1
    (folder / 'config.json').write_text(json.dumps(saved))
    with pytest.raises(BadInput, match='CVAE: n_beta=-1'):
        CVAE.from_pretrained(folder)


def test_an_error_stays_short():
    with pytest.raises(BadInput) as e:
        ActionTokenizer(CVAE(width=4))
    assert str(e.value) == 'ActionTokenizer: model=(CVAE): expected a FSQVQVAE.'


# The types themselves


@pytest.mark.parametrize(
    'hint, right, wrong',
    [
        (Count, [1, 10**9], [0, True, 1.0, '1', None, NAN]),
        (Natural, [0], [-1, False]),
        (Weight, [0, 0.0, 1, 1e30], [-1e-9, NAN, INF, True, '0']),
        (Share, [0, 1, 0.5], [1.01, -0.01]),
        (Flag, [True, False], [0, 1, 'true', None]),
        (Counts, [[1], (1, 2)], [[], [0], {1}, '12', 1, iter([1])]),
        (Settings, [{}, dict(a=[1])], [[], 'a', {1: 2}]),
        (Count | None, [None, 3], ['None', 0]),
        (Literal['a', 1], ['a', 1], ['b', 2, '1']),
        (list[int], [(1,), [-3]], [[1.0], [True]]),
        (tuple[int, ...], [[1, 2], (3,)], [['x']]),
        (float, [1, -2.5], [NAN, '1']),
    ],
)
def test_types(hint, right, wrong):
    def f(x):
        return x

    f.__annotations__ = dict(x=hint)
    f = checked(f)
    for value in right:
        assert f(value) is value or f(value) == value
    for value in wrong:
        with pytest.raises(BadInput, match='f: x='):
            f(value)
    assert describe_type(hint)


def test_one_check_costs_little():
    "At most 100 µs of this process more than the plain constructor; measured 8."

    def cost(call):
        return min(timeit.repeat(call, number=500, repeat=5, timer=time.process_time)) / 500 * 1e6

    class Plain(torch.nn.Module):
        def __init__(self, dim, scale=1.0):
            super().__init__()
            self.dim = dim

    assert cost(lambda: continuous.NoBottleneck(4)) - cost(lambda: Plain(4)) < 100


def test_options_load_without_torch():
    code = 'import sys, vaebook.core.options; assert "torch" not in sys.modules and "omegaconf" not in sys.modules'
    subprocess.run([sys.executable, '-c', code], check=True)


# Nothing else escapes

POOL = [None, -1, 0, 1, 2, 3, 7, 1.5, NAN, np.nan, True, 'x', '', b'x', object()]
POOL += [[], [1], [2, 2], [[1, 2]], (3, 3, 3), {}, dict(a=1), set(), np.array([1, 2]), torch.ones(2)]


def calls():
    "Constructors with one argument, or one of a block, taken from the pool."
    for value in POOL:
        for cls, (right, *_) in TABLE.items():
            for name in [o.name for o in describe(seanet.SEANet if cls is seanet.SEANetEncoder else cls)]:
                yield cls, right | {name: value}
        for part, cls in dict(encoder=seanet.SEANet, decoder=seanet.SEANet, stft=stft.STFT).items():
            usual = dict(n_fft=64, hop=16) if part == 'stft' else dict(width=2)
            for o in describe(cls):
                yield AudioAutoencoder, {'encoder': dict(width=2), part: usual | {o.name: value}}
        for kind, cls in registry.QUANTIZERS.items():
            for o in describe(cls):
                yield CausalVAE, dict(base_channels=8, bottleneck=kind, quantizer={o.name: value})
        for kind, cls in continuous.BOTTLENECKS.items():
            for o in describe(cls):
                yield continuous.make_bottleneck, dict(type=kind, dim=8) | {o.name: value}


def test_a_constructor_builds_or_refuses():
    "Whatever one argument is: no error but ours."
    found, refused = {}, 0
    for cls, given in calls():
        try:
            cls(**given)
        except BadInput:
            refused += 1
        except Exception as e:
            found[f'{cls.__name__}({given})'] = repr(e)
    assert not found and refused > 5000
