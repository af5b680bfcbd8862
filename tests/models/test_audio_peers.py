"EnCodec and DAC of transformers: the same numbers at full size, the recipes' sizes, and errors for bad folders."

import json

import pytest
import torch
from safetensors.torch import load_file

from helpers import set_json, set_weights
from vaebook.core.config import load_yaml
from vaebook.core import BadInput
from vaebook.models.audio import AudioAutoencoder
from vaebook.models.encodec_dac import _CONFIG, _FILES
from vaebook.models.encodec_dac import dac_arguments, encodec_arguments, from_dac, from_encodec, load_audio

transformers = pytest.importorskip('transformers')
SMALL = dict(num_filters=4, hidden_size=16, codebook_size=16, target_bandwidths=[0.3])
TINY = dict(encoder_hidden_size=4, decoder_hidden_size=16, downsampling_ratios=[2, 4])
TINY |= dict(codebook_size=16, codebook_dim=4, n_codebooks=2)


def encodec(**config):
    return transformers.EncodecModel(transformers.EncodecConfig(**config)).eval()


def dac(**config):
    return transformers.DacModel(transformers.DacConfig(**config)).eval()


def numbers(model):
    return sum(p.numel() for p in model.parameters())


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    encodec(**SMALL).save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture
def dac_folder(tmp_path):
    torch.manual_seed(0)
    dac(**TINY).save_pretrained(tmp_path / 'dac')
    return tmp_path / 'dac'


def close(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * float(b.abs().max()))


@torch.no_grad()
def test_encodec_as_published():
    "14.85 M weights; 32 stages of 1,024 codes."
    torch.manual_seed(0)
    theirs, x = encodec(), torch.randn(1, 1, 320 * 20) / 4
    rest = theirs.encoder(torch.randn(1, 1, 320 * 100) / 4)
    for stage in theirs.quantizer.layers:  # codes spread as what is left over
        stage.codebook.embed.copy_(torch.randn(1024, 128) * rest[0].std(1) + rest[0].mean(1))
        rest = rest - stage.decode(stage.encode(rest))
    ours = from_encodec((theirs.config.to_dict(), theirs.state_dict()))
    lengths = sum(p.numel() for name, p in theirs.named_parameters() if name.endswith('original0'))
    assert round(numbers(theirs) / 1e6, 2) == 14.85 and numbers(ours) == numbers(theirs) - lengths
    codes, latent = theirs.encode(x, bandwidth=24.0).audio_codes, ours.encode(x)
    assert torch.equal(latent.info['indices'], codes[0].mT) and codes.unique().numel() > 100
    close(ours.encoder(x)[:, :, 0], theirs.encoder(x))
    close(ours.decode(latent.z), theirs.decode(codes, [None]).audio_values)
    recipe = AudioAutoencoder.from_config(load_yaml('model/encodec_24khz'))
    assert shapes(recipe) == shapes(ours)


@pytest.mark.slow
@torch.no_grad()
def test_dac_as_published():
    "76.6 M weights, codebooks among them; 9 stages of 1,024 codes."
    torch.manual_seed(0)
    theirs, x = dac(sampling_rate=44100), torch.randn(1, 1, 512 * 6) / 4
    for name, p in theirs.named_parameters():
        if p.ndim == 3 and 'alpha' not in name:
            p.copy_(torch.randn_like(p) / p[0].numel() ** 0.5 * (0.2 if 'conv2' in name else 0.75))
    ours = from_dac((theirs.config.to_dict(), theirs.state_dict()))
    assert round(numbers(theirs) / 1e6, 1) == 76.6 and numbers(ours) == numbers(theirs) - 9 * 1024 * 8
    codes, latent = theirs.encode(x).audio_codes, ours.encode(x)
    assert torch.equal(latent.info['indices'], codes.mT) and codes.unique().numel() > 20
    close(ours.encoder(x)[:, :, 0], theirs.encoder(x))
    close(ours.decode(latent.z)[:, 0], theirs.decode(audio_codes=codes).audio_values)
    recipe = AudioAutoencoder.from_config(load_yaml('model/dac_44khz'))
    assert shapes(recipe) == shapes(ours)


def shapes(model):
    return {name: p.shape for name, p in model.named_parameters()}


@torch.no_grad()
@pytest.mark.parametrize(
    'config',
    [
        dict(audio_channels=2),
        dict(use_causal_conv=False),
        dict(use_conv_shortcut=False, num_residual_layers=2),
        dict(pad_mode='constant'),
        dict(kernel_size=5, last_kernel_size=3),
    ],
)
def test_other_settings(config):
    torch.manual_seed(0)
    theirs = encodec(**SMALL | config)
    ours, x = (
        from_encodec((theirs.config.to_dict(), theirs.state_dict())),
        torch.randn(2, config.get('audio_channels', 1), 320 * 12) / 4,
    )
    close(ours.encoder(x)[:, :, 0], theirs.encoder(x))
    z = torch.randn(2, 16, 12)
    close(ours.decode(z), theirs.decoder(z))


@pytest.mark.parametrize(
    'change, said',
    [
        (lambda w: w.pop('encoder.layers.0.conv.bias'), 'missing: encoder.layers.0.conv.bias'),
        (lambda w: w.update(loss=torch.ones(1)), 'unexpected: loss'),
        (lambda w: w.update({'encoder.layers.0.conv.bias': torch.ones(3)}), 'shape: encoder.layers.0.conv.bias'),
    ],
)
def test_weights_are_named(folder, change, said):
    set_weights(folder / _FILES[0], change)
    with pytest.raises(BadInput, match=said):
        from_encodec(folder)


@pytest.mark.parametrize(
    'changed, said',
    [
        (dict(norm_type='time_group_norm'), '48 kHz'),
        (dict(normalize=True), 'normalize'),
        (dict(chunk_length_s=1.0), 'chunk_length_s'),
        (dict(trim_right_ratio=0.5), 'trim_right_ratio'),
        (dict(pad_mode='circular'), 'pad_mode'),
        (dict(upsampling_ratios='8542'), 'upsampling_ratios'),
        (dict(codebook_dim=8), 'codebook_dim'),
        (dict(model_type='mimi'), 'model_type'),
    ],
)
def test_other_networks_are_named(folder, changed, said):
    set_json(folder / _CONFIG, **changed)
    with pytest.raises(BadInput, match=said):
        from_encodec(folder)


def test_kinds_are_told_apart(folder, dac_folder, tmp_path):
    for theirs, read_it in ((folder, from_encodec), (dac_folder, from_dac)):
        ours = load_audio(theirs)
        assert load_audio(ours.save_pretrained(tmp_path / 'ours')).config == ours.config == read_it(theirs).config
        assert not ours.training and all(p.dtype == torch.float32 for p in ours.parameters())
    with pytest.raises(BadInput, match='model_type'):
        from_dac(folder)
    set_json(folder / _CONFIG, model_type='mimi')
    with pytest.raises(BadInput, match='encodec, dac'):
        load_audio(folder)


def test_damaged_files(folder, tmp_path):
    with pytest.raises(BadInput, match=_CONFIG):
        load_audio(tmp_path / 'nowhere')
    (folder / _FILES[0]).write_bytes((folder / _FILES[0]).read_bytes()[:-100])
    with pytest.raises(BadInput, match=_FILES[0]):
        load_audio(folder)
    (folder / _FILES[0]).unlink()
    with pytest.raises(BadInput, match=_FILES[0]):
        load_audio(folder)
    for text in ('{', '[]'):
        (folder / _CONFIG).write_text(text)
        with pytest.raises(BadInput, match=_CONFIG):
            load_audio(folder)


def test_weights_of_torch_and_of_half_precision(folder):
    "pytorch_model.bin with g and v under their old names; nothing but tensors is unpickled."
    whole = from_encodec(folder).state_dict()
    weights = {}
    for key, value in load_file(folder / _FILES[0]).items():
        key = key.replace('parametrizations.weight.original0', 'weight_g')
        weights[key.replace('parametrizations.weight.original1', 'weight_v')] = value
    (folder / _FILES[0]).unlink()
    torch.save(weights, folder / _FILES[1])
    assert all(torch.equal(a, b) for a, b in zip(whole.values(), load_audio(folder).state_dict().values()))
    torch.save({k: v.bfloat16() for k, v in weights.items()}, folder / _FILES[1])
    assert all(p.dtype == torch.float32 for p in load_audio(folder).parameters())
    torch.save(dict(weights, epoch=3), folder / _FILES[1])
    with pytest.raises(BadInput, match='tensors by name'):
        load_audio(folder)


def test_arguments_are_plain_json():
    for arguments in (encodec_arguments({}), dac_arguments({})):
        assert json.loads(json.dumps(arguments)) == arguments
