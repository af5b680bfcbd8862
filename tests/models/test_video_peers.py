"Folders of diffusers that cannot be read say why: a damaged file, missing and foreign weights, another class."

import pytest
import torch

from helpers import set_json, set_weights
from vaebook.core import BadInput
from vaebook.models import CausalVAE, from_wan, to_wan
from vaebook.models.wan import CONFIG, WAN, WEIGHTS
from vaebook.trainers.video import load_initial

SMALL = dict(WAN, z_channels=4, base_channels=4, multipliers=[1, 2], strides=[[2, 2]], blocks=1)


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    return to_wan(CausalVAE(**SMALL), tmp_path)


@pytest.mark.parametrize(
    'change, said',
    [
        (lambda w: w.pop('decoder.conv_in.weight'), 'missing: decoder.conv_in.weight'),
        (lambda w: w.update(loss=torch.ones(1)), 'unexpected: loss'),
        (lambda w: w.update({'quant_conv.bias': torch.ones(3)}), 'shape: quant_conv.bias'),
    ],
)
def test_weights_are_named(folder, change, said):
    set_weights(folder / WEIGHTS, change)
    with pytest.raises(BadInput, match=said):
        from_wan(folder)


@pytest.mark.parametrize(
    'changed, said',
    [
        (dict(_class_name='AutoencoderKLCogVideoX'), 'AutoencoderKLWan'),
        (dict(is_residual=True), 'Wan 2.2'),
        (dict(patch_size=2), 'Wan 2.2'),
        (dict(decoder_base_dim=8), 'decoder_base_dim'),
        (dict(attn_scales=[0.5]), 'attn_scales'),
        (dict(dim_mult=[2, 4]), 'begins with 1'),
        (dict(latents_std=[1.0]), 'latents_std'),
        (dict(window=3), 'window'),
    ],
)
def test_other_networks_are_named(folder, changed, said):
    set_json(folder / CONFIG, **changed)
    with pytest.raises(BadInput, match=said):
        from_wan(folder)


def test_damaged_files(folder, tmp_path):
    with pytest.raises(BadInput, match=CONFIG):
        from_wan(tmp_path / 'nowhere')
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])
    with pytest.raises(BadInput, match=WEIGHTS):
        from_wan(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(BadInput, match=WEIGHTS):
        from_wan(folder)
    for text in ('{', '[]'):
        (folder / CONFIG).write_text(text)
        with pytest.raises(BadInput, match=CONFIG):
            from_wan(folder)


def test_half_precision_is_read_as_float32(folder):
    set_weights(folder / WEIGHTS, lambda w: w.update({k: v.bfloat16() for k, v in w.items()}))
    assert all(p.dtype == torch.float32 for p in from_wan(folder).parameters())


def test_training_begins_with_it(folder):
    "`load_from_checkpoint` takes a folder of diffusers."
    model = load_initial(CausalVAE(**SMALL), folder)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), from_wan(folder).state_dict().values()))
    with pytest.raises(BadInput, match='missing'):
        load_initial(CausalVAE(base_channels=8), folder)
