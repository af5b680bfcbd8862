"The audio chapter's promises that need a run: the seed's commands, resume, every choice by key, bad input, own files."

import math

import pytest
import torch

from helpers import metrics, weights
from vaebook.core.config import compose
from vaebook.core import BadInput
from vaebook.data.audio import load_sounds, write_wav
from vaebook.train import experiment, load_run, train

QUIET = 'trainer.progress_bar=false logger=csv demo.clips=0'


def smoke(run_dir, changes='', **given):
    return compose('audio', f'{QUIET} trainer.max_steps=4 {changes}', smoke=True, run_dir=str(run_dir), **given)


@pytest.fixture
def sounds(tmp_path):
    "A folder of eight short stereo files."
    data = load_sounds('tones', samples=6000, sample_rate=8000, channels=2)
    for i in range(8):
        write_wav(tmp_path / f'sounds/{i}.wav', data.train[torch.tensor([i])]['audio'][0], 8000)
    return tmp_path / 'sounds'


SEED = '''
    model=SEANet_real data=jamendo_highres data.train_dataloader.batch_size=2 dataset.synthetic=false dataset.channels=2
    model.autoencoder.pre_transform=none
    trainer.seed=7 trainer.num_gpus=0 trainer.optimizer.type=RAdam trainer.optimizer.config.lr=1e-3
    trainer.scheduler.type=InverseLR trainer.scheduler.config.inv_gamma=10.
    trainer.trainer.gradient_clip_val=20. trainer.trainer.accumulate_grad_batches=2 trainer.wandb.use_wandb=false
    trainer.loss_config.spectral.stft_mse.config.reduction=mean trainer.loss_config.spectral.weights.stft_mse=2.0
    trainer.loss_config.bottleneck.weights.kl=1.0 trainer.eval_loss_config.stft.fft_size=512
    trainer.eval_loss_config.stft.hop_size=128 trainer.eval_loss_config.stft.win_length=512
'''


@pytest.mark.slow
def test_the_seeds_commands(tmp_path, sounds):
    "`model=SEANet_real data=jamendo_highres` with a folder of the user's, and the keys of the seed's document."
    cfg = smoke(tmp_path / 'run', f'{SEED} data.train_dataset.audio_dir={sounds}')
    assert cfg.model.name == 'seanet_real' and cfg.seed == 7 and cfg.trainer.accelerator == 'cpu'
    numbers = train(cfg)
    assert numbers == metrics(tmp_path / 'run') and math.isfinite(numbers['si_sdr']) and numbers['clips'] == 1
    model = load_run(tmp_path / 'run').model
    assert (model.channels, model.sample_rate, model.config['pre_transform']) == (2, 16000, 'none')


GAN = 'loss.discriminator.weights.adversarial=1 loss.discriminator.weights.feature_matching=1 '
GAN += 'loss.discriminator.config={filters:2,n_ffts:[512,256]} balancer=true'
CHANGES = [
    'model=seanet_wide model.encoder.width=4',
    'model=seanet_wave model.encoder.width=3',
    'model.encoder.causal=true',
    'bottleneck=none model.encoder.activation=crelu',
    'bottleneck=vae',
    'bottleneck=l2 model.encoder.activation=cardioid',
    'bottleneck=wasserstein',
    'bottleneck=tanh model.pre_transform=none',
    'model.bottleneck={type:rvq,codebook_size:16,num_quantizers:3,dropout:0.5}',
    'model.bottleneck={type:dac_rvq,codebook_size:16,num_quantizers:2}',
    'model.bottleneck={type:fsq,levels:[8,8,5]}',
    'loss.spectral.weights.mel=1 loss.spectral.weights.phase=1 loss.time.weights.l2=1 loss.time.weights.sisdr=0.1',
    GAN,
    'trainer.engine=accelerate trainer.precision=bf16-mixed',
]


@pytest.mark.slow
@pytest.mark.parametrize('changes', CHANGES)
def test_every_choice_trains(tmp_path, changes):
    "Each runs from data to numbers, and its model comes back from the folder with the same latents."
    named = [c for c in changes.split() if c.startswith('bottleneck=')]
    blocks = [f"'{c}'" if '{' in c else c for c in changes.split() if c not in named]
    cfg = smoke(tmp_path / 'run', ' '.join(blocks), **dict(c.split('=') for c in named))
    body = experiment(cfg)
    numbers = body.evaluate()
    assert all(math.isfinite(v) for k, v in numbers.items() if k not in ('pesq', 'stoi'))
    assert ('kbps' in numbers) != ('compression' in numbers)
    x = body.held_out()
    with torch.no_grad():
        assert torch.equal(load_run(tmp_path / 'run').model.eval().encode(x).z, body.model.eval().encode(x).z)


@pytest.mark.slow
def test_resume_is_exact(tmp_path):
    "Four steps, then four more from the checkpoint: the weights of eight at once, by noise, codebooks and schedule."
    how = "'model.bottleneck={type:rvq,codebook_size:16,num_quantizers:2,kmeans_init_samples:16,dropout:0.5}'"
    how += ' trainer.val_every_n_steps=2 trainer.scheduler.name=constant'
    train(smoke(tmp_path / 'whole', f'{how} trainer.max_steps=8'))
    train(smoke(tmp_path / 'parts', how))
    train(smoke(tmp_path / 'parts', f'{how} trainer.max_steps=8', resume=str(tmp_path / 'parts')))
    assert weights(tmp_path / 'whole') == weights(tmp_path / 'parts')


def test_bad_input_is_named(tmp_path, sounds):
    "What is wrong is said before training: keys, weights, losses, folders, channels."
    wrong = {
        'loss.spectral.weights.stft_mse=-1': 'weight',
        'loss.spectral.weights.mrsftf=1': 'mrstft',
        'model.encoder.algebar=real': 'algebra',
        'model.bottleneck.type=vea': 'vae',
        'eval_loss.pesk.zero_mean=true': 'sisdr',
        'model.dim=63': 'multiple of 2',
        'dataset.samples=100': 'window',
    }
    for changes, words in wrong.items():
        with pytest.raises(BadInput, match=words):
            experiment(smoke(tmp_path / 'x', changes)).first_loss()
    with pytest.raises(BadInput, match='root'):
        experiment(smoke(tmp_path / 'x', 'dataset.synthetic=false', dataset='jamendo_highres')).data()
    with pytest.raises(BadInput, match='folder'):
        experiment(smoke(tmp_path / 'x', 'dataset.synthetic=false', audio_dir=str(tmp_path / 'none'))).data()
    (sounds / 'broken.wav').write_bytes(b'RIFF')
    real = 'dataset.synthetic=false dataset.sample_rate=8000'
    with pytest.raises(BadInput, match='broken.wav'):
        experiment(smoke(tmp_path / 'x', real, audio_dir=str(sounds))).data()
    body = experiment(smoke(tmp_path / 'x', f'{real} dataset.skip_broken=true', audio_dir=str(sounds)))
    assert 'broken.wav' in str(body.data().skipped)
    assert not (tmp_path / 'x').exists()


def test_a_batch_that_is_not_finite(tmp_path, capsys):
    "It is skipped and counted; the weights stay finite."
    body = experiment(smoke(tmp_path / 'run'))
    real = body.data().train

    class Broken:
        def __len__(self):
            return len(real)

        def __getitem__(self, i):
            batch = real[i]
            self.count = getattr(self, 'count', 0) + 1
            return dict(audio=batch['audio'].float() / 32768 * (float('nan') if self.count == 2 else 1))

    body.data().train = Broken()
    body.fit()
    assert all(v.isfinite().all() for v in body.model.state_dict().values())
    assert 'train/skipped' in (tmp_path / 'run/metrics.csv').read_text()


@pytest.mark.slow
def test_determinism(tmp_path):
    "Two runs of one seed are equal, also with strict deterministic kernels."
    for name in 'ab':
        train(smoke(tmp_path / name, 'trainer.trainer.strict_deterministic=true'))
    assert weights(tmp_path / 'a') == weights(tmp_path / 'b')
