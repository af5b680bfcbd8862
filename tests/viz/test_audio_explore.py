"`explore_audio.ipynb` as papermill runs it: small, free of errors, and its sliders change what is seen and heard."

import io, wave

import nbformat
import numpy as np
import pytest
import torch
from PIL import Image

from helpers import outputs, papermill
from browsing import browser_wanted, can_be_moved, labelled, ready
from vaebook.models.audio import AudioAutoencoder
from vaebook.viz.probe import StandardizedLatents
from vaebook.viz.traversal import latent_traversal, plane
from vaebook.viz.explorer import Explorer, animate

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "The notebook after a smoke run; → notebook, folder of its files."
    folder = tmp_path_factory.mktemp('explored')
    papermill('explore_audio', folder, 'made.ipynb', smoke=True, out=folder / 'out')
    return nbformat.read(folder / 'made.ipynb', 4), folder


def test_every_section_shows(made):
    nb, folder = made
    shown = [m for o in outputs(nb) for m in o.get('data', {})]
    assert shown.count('image/png') >= 4 and shown.count('text/html') >= 4
    assert sum(len(str(o)) for o in outputs(nb)) < 300_000
    for name in ('original.wav', 'reconstruction.wav', 'turned.wav', 'channels.gif', 'channels.html'):
        assert (folder / 'out' / name).stat().st_size > 1000
    assert 'http' not in (folder / 'out/channels.html').read_text()


def test_a_run_that_is_none(tmp_path):
    (tmp_path / 'empty').mkdir()
    said = papermill('explore_audio', tmp_path, run=tmp_path / 'empty', ok=False)
    assert 'the folder of a finished run' in said


@pytest.fixture(scope='module')
def units():
    "A small model, untrained, in units of its latents."
    torch.manual_seed(0)
    model = AudioAutoencoder(
        dim=8,
        samples=2048,
        stft=dict(n_fft=128, hop=32),
        encoder=dict(width=4, first_stride=(4, 2), strides=[(4, 1)]),
        bottleneck=dict(type='complex_vae'),
    ).eval()
    x = torch.randn(3, 1, 2048).clamp(-3, 3) / 6
    return StandardizedLatents(model, model.encode(x).z.detach()), x


def samples(wav):
    with wave.open(io.BytesIO(bytes(wav))) as file:
        kind = {1: 'u1', 2: '<i2'}[file.getsampwidth()]
        sound = np.frombuffer(file.readframes(file.getnframes()), kind)
        return sound.astype(float), file.getframerate()


def test_units(units):
    model, x = units
    z = model.encode(x).z
    assert model.sample_rate == 16000 and z.shape == (3, 8, 32)
    assert torch.allclose(z.mean((0, 2)), torch.zeros(8), atol=1e-4)
    assert torch.allclose(z.std((0, 2)), torch.ones(8), atol=0.02)
    assert torch.allclose(model.decode(z), model.model.decode(model.model.encode(x).z), atol=1e-5)


def test_sliders_move_picture_and_sound(units):
    model, x = units
    explorer = Explorer(model, x, most=3)
    explorer.view.start = 'input 1'
    picture, original = explorer.view.picture, samples(explorer.view.original)[0]
    sound, rate = samples(explorer.view.sounds[0])
    decoded = model.decode(model.encode(x[1:2]).z)[0, 0].detach()
    assert rate == 16000 and np.abs(sound / 32767 - decoded.clamp(-1, 1).numpy()).max() < 1e-4  # as loud as it is
    assert np.abs(original / 32767 - x[1, 0].numpy()).max() < 1e-4
    explorer.move(z1=3.0)
    moved = samples(explorer.view.sounds[0])[0]
    assert explorer.view.picture != picture and (moved != sound).any() and 'z1' in explorer.view.alts[0]
    z = explorer.latents() - model.encode(x[1:2]).z
    all_frames_of_one_channel = 3.0 * (torch.arange(8) == 1)[:, None].expand(8, 32)
    assert torch.allclose(z, all_frames_of_one_channel, atol=1e-4)
    explorer.view.values = explorer.view.rest
    assert explorer.view.picture == picture and (samples(explorer.view.sounds[0])[0] == sound).all()
    explorer.view.start = 'inputs'
    assert not explorer.view.original and explorer.view.sounds


def test_films_hold_their_sounds(units):
    model, x = units
    each = animate(
        latent_traversal(model, x[:1], dims=[0, 1], values=[-2, 0, 2]), sample_rate=16000, original=x[0], bits=8
    )
    both = animate(plane(model, x[:1], dims=[0, 1], steps=3), sample_rate=16000)
    assert (len(each.sounds), len(both.sounds), each.grid, both.grid) == (6, 9, [2, 3], [3, 3])
    assert len(each.sounds[0]) == len(each.original) == 44 + 2048 and len({bytes(s) for s in both.sounds}) == 9
    assert Image.open(io.BytesIO(each.picture)).format == 'WEBP' and each.html().count('base64') == 0


@browser_wanted
def test_films_are_heard_in_a_page(made, units, chromium):
    "Offline: sliders change picture and sound, which plays on while they move; one player plays at a time."
    (_, folder), (model, x) = made, units
    animate(latent_traversal(model, x[:1], dims=[0], values=[-2, 0, 2]), sample_rate=16000, original=x[0]).save(
        folder / 'both.html'
    )
    context = chromium.new_context(offline=True)
    page = context.new_page()
    problems = []
    page.on('pageerror', lambda e: problems.append(str(e)))

    def opened(path):
        page.goto(path.as_uri())
        (moving,) = ready(page)
        return moving, moving.locator('audio:not([hidden])').all()

    def play(audio):
        audio.evaluate('a => { a.muted = true; return a.play(); }')
        return audio.element_handle()

    moving, (audio,) = opened(folder / 'out/channels.html')
    assert 'the sound of these latents' in labelled(moving)
    playing, before = play(audio), audio.get_attribute('src')
    moving.locator('.vb-controls input').first.focus()
    page.keyboard.press('End')
    page.wait_for_function('([a, before]) => a.src !== before && !a.paused && a.duration > 0.2', arg=[playing, before])

    moving, (original, decoded) = opened(folder / 'both.html')
    can_be_moved(page, moving)
    playing = play(original)
    play(decoded)
    page.wait_for_function('a => a.paused', arg=playing)
    assert not decoded.evaluate('a => a.paused') and problems == []
    context.close()
