"Audio losses and measures beside the packages others use, where those are installed."

import math

import pytest
import torch
from vaebook.metrics.audio import AudioFidelity, perceptual_scores
from vaebook.core.config import load_yaml
from vaebook.losses.spectral import DEFAULT_LOSS, AudioLoss, MRSTFT, Mel, mel_filters


def sounds(n=16384, channels=1, rate=16000):
    "Bursts of coloured noise, a little like syllables, and a noisy copy."
    torch.manual_seed(0)
    t = torch.arange(n) / rate
    x = (
        torch.randn(2, channels, n).cumsum(-1).diff(dim=-1, prepend=torch.zeros(2, channels, 1))
        * 0.1
        * (1 + torch.sin(2 * math.pi * 3 * t)).clamp(0.05)
    )
    return x + 0.02 * torch.randn_like(x), x


@pytest.mark.parametrize('setting', [(1024, 256, 1024), (2048, 240, 1200), (512, 50, 240)])
def test_mrstft_is_that_of_auraloss(setting):
    "Of one item: of a batch, auraloss takes one norm over all items."
    auraloss = pytest.importorskip('auraloss')
    n_fft, hop, win = setting
    x_hat, x = (v[:1] for v in sounds())
    ours = MRSTFT(fft_sizes=(n_fft,), hop_sizes=(hop,), win_lengths=(win,), w_lin=0.5)
    torch.testing.assert_close(
        ours(x_hat, x), auraloss.freq.STFTLoss(n_fft, hop, win, w_lin_mag=0.5)(x_hat, x), rtol=1e-5, atol=1e-6
    )
    theirs = auraloss.freq.MultiResolutionSTFTLoss([2048, 512], [512, 128], [2048, 512])(x_hat, x)
    torch.testing.assert_close(MRSTFT(fft_sizes=(2048, 512))(x_hat, x), theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('rate, n_fft, n_mels', [(16000, 512, 40), (44100, 2048, 320), (1600, 256, 8)])
def test_mel_filters_are_slaneys(rate, n_fft, n_mels):
    theirs = pytest.importorskip('transformers.audio_utils').mel_filter_bank(
        n_fft // 2 + 1, n_mels, 0, rate / 2, rate, norm='slaney', mel_scale='slaney'
    )
    ours = mel_filters(rate, n_fft, n_mels, torch.device('cpu'), torch.float64)
    torch.testing.assert_close(ours, torch.from_numpy(theirs.T))


def test_inference_first_then_training():
    "Windows and filters cached in inference mode serve a later training step."
    x_hat, x = sounds(4096)
    spectral = dict(weights=dict(mrstft=1.0, mel=1.0, phase=1.0, stft_mse=1.0))
    spectral |= dict(mrstft=dict(config=dict(perceptual_weighting=True)))
    loss = AudioLoss(dict(spectral=spectral), 15999)
    with torch.inference_mode():
        loss(dict(x=x, x_hat=x_hat))
    x_hat.requires_grad_()
    loss(dict(x=x, x_hat=x_hat)).total.backward()
    assert x_hat.grad.isfinite().all() and x_hat.grad.abs().max() > 0


def test_losses_are_float32_under_autocast():
    x_hat, x = sounds(4096)
    spectral = dict(weights=dict(mrstft=1.0, mel=1.0, phase=1.0, stft_mse=1.0))
    loss = AudioLoss(dict(spectral=spectral, time=dict(weights=dict(l1=1.0, l2=1.0, sisdr=1.0))), 16000)
    plain = loss(dict(x=x, x_hat=x_hat))
    with torch.autocast('cpu', torch.bfloat16):
        low = loss(dict(x=x, x_hat=x_hat))
    for name in plain:
        torch.testing.assert_close(low[name].value, plain[name].value, rtol=0, atol=0)


@pytest.mark.parametrize('name', ['mel', 'mrstft'])
def test_loss_configuration_of_omegaconf(name):
    OmegaConf = pytest.importorskip('omegaconf').OmegaConf
    config = dict(fft_sizes=[512, 256]) | (dict(n_mels=20) if name == 'mel' else {})
    given = {'spectral': {name: {'config': config}, 'weights': {name: 2.0}}, 'discriminator': None}
    x_hat, x = sounds(4096)
    single = Mel(sample_rate=16000, **config) if name == 'mel' else MRSTFT(**config)
    loss = AudioLoss(OmegaConf.create(given), 16000)
    torch.testing.assert_close(loss(dict(x=x, x_hat=x_hat)).total, 2 * single(x_hat, x))


def test_the_default_is_the_recipes():
    "A model trained in a loop of one's own has the terms of `vaebook-train recipe=audio`."
    assert repr(AudioLoss(DEFAULT_LOSS, 16000)) == repr(AudioLoss(load_yaml('loss/audio'), 16000))


@pytest.mark.parametrize('rate', [8000, 16000, 44100])
def test_pesq_and_stoi(rate):
    for package in ('pesq', 'pystoi', 'soxr'):
        pytest.importorskip(package)
    x_hat, x = sounds(2 * rate, channels=2, rate=rate)
    good, bad = perceptual_scores(x_hat, x, rate), perceptual_scores(x_hat + 0.2 * torch.randn_like(x), x, rate)
    assert all(good[k].shape == (2,) and (good[k] > bad[k]).all() for k in ('pesq', 'stoi')), (good, bad)


def test_silent_clips_have_no_pesq():
    for package in ('pesq', 'pystoi'):
        pytest.importorskip(package)
    x_hat, x = sounds(32000)
    x[1] = 0
    fidelity = AudioFidelity(16000, optional=True)
    fidelity.update(x_hat, x)
    report = fidelity.report()
    assert report['pesq_clips'] == 1 and 'left_out' not in report and math.isfinite(report['pesq'])
