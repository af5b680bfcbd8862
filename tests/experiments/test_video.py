"The video chapter's promises that want a process or a longer run: flat memory, recipes, a discriminator, real files."

import pytest
import torch

from helpers import command, metrics
from vaebook.core import BadInput
from vaebook.core.config import compose
from vaebook.data.video.clips import load_videos
from vaebook.data.video.reader import to_bytes, write_video
from vaebook.models import CausalVAE
from vaebook.train import experiment, load_run, train

QUIET = 'trainer.progress_bar=false logger=csv'

STREAM = '''
import sys, torch
from vaebook.models import CausalVAE

torch.set_num_threads(1)
model = CausalVAE().eval().requires_grad_(False)

def kib(key):
    return int(next(l.split()[1] for l in open('/proc/self/status') if l.startswith(key)))

def frames(n):
    for i in range(0, n, 4):
        yield torch.rand(1, 3, min(4, n - i), 128, 128) * 2 - 1

n, before = int(sys.argv[1]), kib('VmRSS')
latents = (latent.z for latent in model.encode_stream(frames(n)))
assert sum(x.shape[2] for x in model.decode_stream(latents)) >= n
print(kib('VmHWM') - before, before)
'''


@pytest.mark.slow
def test_streams_have_flat_memory(tmp_path):
    "Encoding and decoding 257 frames, a piece at a time, peaks where 33 frames do."
    (tmp_path / 'stream.py').write_text(STREAM)
    peak, most = (int(command('stream.py', n, cwd=tmp_path).split()[-2]) for n in (33, 257))  # KiB over those before
    assert most <= 1.1 * peak + 8_000, 'the clips alone are 50,000 KiB each way'


def test_published_size_composes():
    "The large recipe is a model of 125 million parameters at 4×8×8."
    cfg = compose('causal_video', recipe='causal_video_large', dataset='video_folder')
    with torch.device('meta'):
        model = CausalVAE(**{k: v for k, v in cfg.model.items() if k not in ('name', 'quantizer')})
    assert model.ratio == (4, 8, 8) and 125e6 < sum(p.numel() for p in model.parameters()) < 126e6


def test_from_files_to_numbers(tmp_path):
    "A folder of films by its path alone; reopened, the model is the trained one, whose stream equals the whole."
    clips = load_videos('moving', sprites='shapes', num_frames=40, resolution=48).val[torch.arange(3)]['video']
    for i, clip in enumerate(clips):
        write_video(tmp_path / f'films/{i}.mp4', to_bytes(clip), 12)
    (tmp_path / 'films/broken.mp4').write_bytes(b'no film')
    words = f'{QUIET} dataset.synthetic=false trainer.max_steps=6'
    places = dict(video_path=str(tmp_path / 'films'), run_dir=str(tmp_path / 'run'))
    cfg = compose('causal_video', words, smoke=True, **places)
    assert cfg.dataset.name == 'video_folder'
    numbers = train(cfg)
    assert {'psnr', 'ssim', 'temporal_error', 'kl', 'psnr_floor'} <= set(numbers)
    assert numbers == metrics(tmp_path / 'run')
    body = load_run(tmp_path / 'run')
    model, x = body.model.double(), body.held_out().double()
    with torch.no_grad():
        whole = model.decode(model.encode(x).z, x.shape[2])
        latents = (latent.z for latent in model.encode_stream(x.split(2, 2)))
        parts = torch.cat(list(model.decode_stream(latents, x.shape[2])), 2)
    assert (whole - parts).abs().max() < 1e-12
    assert (tmp_path / 'run/figures/reconstructions_step_6.mp4').stat().st_size > 500


@pytest.mark.parametrize(
    'changes',
    [
        'model.bottleneck=fsq model.quantizer={levels:[8,8,5]}',
        'model.bottleneck=vq model.quantizer={codebook_size:32,dim:4}',
        'model.norm=group model.conv=full model.attention=true loss.recon=l1 loss.kl_per=latent',
        'model.resample=bypass model.pad=zero model.quant_conv=true model.linear_skip=false',
        'loss.perceptual=msgrad loss.disc_weight=0.5 loss.disc_start=2 trainer.engine=accelerate',
        'trainer.precision=bf16-mixed dataset.channels=1 dataset.num_frames=6 model.length=trim',
    ],
)
def test_variants_are_keys(changes, tmp_path):
    words = f'{QUIET} trainer.max_steps=4 {changes}'
    numbers = train(compose('causal_video', words, smoke=True, run_dir=str(tmp_path / 'run')))
    assert 0 < numbers['psnr'] < 60


@pytest.mark.parametrize(
    'wrong, said',
    [
        ('loss.kl_weight=-1e-4', 'kl_weight=-0.0001'),
        ('loss.kl_weight=nan', 'kl_weight=nan'),
        ('loss.commitment_weight=-1', 'commitment_weight=-1'),
        ('loss.entropy_weight=null', 'entropy_weight=None'),
        ('loss.recon=L1', "Did you mean 'l1'?"),
        ('loss.kl_per=pixels', "Did you mean 'pixel'?"),
        ('loss.kl_wieght=1', 'kl_weight'),
        ('loss.disc_weight=-1', 'disc_weight=-1'),
        ('loss.disc_norm=batch', 'disc_norm'),
        ('model.kl_weight=1', 'kl_weight'),
    ],
)
def test_a_wrong_loss_is_named_before_any_data_is_loaded(wrong, said):
    with pytest.raises(BadInput) as e:
        experiment(compose('causal_video', f'{QUIET} {wrong}', smoke=True))
    assert said in str(e.value)
