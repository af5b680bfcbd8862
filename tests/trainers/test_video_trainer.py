"The training script of the video chapter: the origin's four snippets, what a user may get wrong, and going on."

import json
from pathlib import Path

import pytest
import torch
from helpers import command, metrics, weights

from vaebook.core import BadInput, set_seed
from vaebook.trainers.step import Step
from vaebook.trainers.video import TrainingArguments, load_callbacks_and_logger, load_initial, main, read_weights, train

TINY = dict(smoke=True, max_steps=2, val_every=1, logger='csv')


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    "A run of four steps that nothing stopped."
    folder = tmp_path_factory.mktemp('video') / 'run'
    train(TINY | dict(max_steps=4, ema_decay=0.9, output_dir=str(folder)))
    return folder


# The four snippets of the origin's document


def test_training_arguments(capsys):
    args = TrainingArguments()
    print(args.output_dir)
    assert capsys.readouterr().out == 'results/causalvae\n'
    assert [line for line in TrainingArguments.help().splitlines() if not line[43:]] == []


def test_set_seed():
    set_seed(42)
    first = torch.rand(3)
    set_seed(42)
    assert torch.equal(first, torch.rand(3))


def test_load_callbacks_and_logger():
    args = TrainingArguments(save_steps=20)
    callbacks, logger = load_callbacks_and_logger(args)
    model_checkpoint_callback, lr_monitor = callbacks
    assert type(logger).__name__ == 'WandbLogger' and logger.name == 'vaebook'
    assert model_checkpoint_callback._every_n_train_steps == 20
    assert Path(model_checkpoint_callback.dirpath).parent.name == 'causalvae'
    assert type(lr_monitor).__name__ == 'LearningRateMonitor'
    assert type(load_callbacks_and_logger(dict(save_steps=20))[0][0]) is type(model_checkpoint_callback)


@pytest.mark.slow
def test_train():
    args = {
        "devices": [0],
        "n_nodes": 1,
    }
    numbers = train(args | TINY | dict(logger='wandb'))
    assert numbers == metrics('results/causalvae') and numbers['psnr'] > 0
    assert sorted(p.name for p in Path('results/causalvae/model').iterdir()) == ['config.json', 'model.safetensors']
    assert list(Path('results/causalvae/logs').rglob('offline-run-*'))


@pytest.mark.slow
def test_train_on_a_folder(root):
    "Every clip that a folder tree holds, eight at a time."
    av = pytest.importorskip('av')
    for i in range(12):
        Path('clips/deep').mkdir(parents=True, exist_ok=True)
        with av.open(f'clips/deep/{i}.mp4', 'w') as file:
            stream = file.add_stream('mpeg4', rate=10)
            stream.width = stream.height = 64
            stream.pix_fmt = 'yuv420p'
            for t in range(24):
                grey = torch.full((64, 64, 3), 10 * i + 5 * t, dtype=torch.uint8)
                frame = av.VideoFrame.from_ndarray(grey.numpy(), format='rgb24')
                file.mux(stream.encode(frame))
            file.mux(stream.encode(None))
    args = {
        "video_path": "clips",
        "batch_size": 8,
        "devices": [0],
        "n_nodes": 1,
        "num_workers": 0,
        "video_num_frames": 9,
        "resolution": 32,
    }
    assert train(args | TINY)['psnr'] > 0


# What a user may get wrong


@pytest.mark.parametrize(
    'wrong, said',
    [
        (dict(batchsize=8), "argument='batchsize': expected one of exp_name"),
        (dict(video_paht='x'), "Did you mean 'video_path'?"),
        (dict(batch_size='many'), "batch_size='many': expected a value of type int"),
        (dict(devices=[0, 0]), 'devices=[0, 0]: expected auto'),
        (dict(n_nodes=2), 'torchrun --nnodes=2 --nproc-per-node=1'),
        (dict(precision='half'), 'precision'),
        (dict(logger='wand'), "Did you mean 'wandb'?"),
        (dict(model_config='lost.yaml'), "model_config='lost.yaml'"),
        (dict(resume_from_checkpoint='lost'), "resume='lost': expected the folder of a run"),
        (dict(load_from_checkpoint='lost'), "load_from_checkpoint='lost'"),
        (dict(video_path='lost'), 'lost'),
    ],
)
def test_mistakes(wrong, said):
    with pytest.raises(BadInput) as e:
        train(TINY | wrong)
    assert said in str(e.value)
    assert not Path('results/causalvae/model').exists()


def test_a_folder_is_taken(run):
    with pytest.raises(BadInput, match='resume_from_checkpoint='):
        train(TINY | dict(output_dir=str(run)))


# Going on, and beginning with weights


@pytest.mark.slow
def test_resume(run, monkeypatch):
    "A run that dies in its third step and goes on ends as one that nothing stopped, bit by bit."
    whole = Step.__call__

    def power_cut(self, batch):
        if self.step == 2:
            raise RuntimeError('power cut')
        return whole(self, batch)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match='power cut'):
        patch.setattr(Step, '__call__', power_cut)
        train(TINY | dict(max_steps=4, ema_decay=0.9, output_dir='cut'))
    assert not Path('cut/model').exists()
    train(dict(resume_from_checkpoint='cut', logger='csv', output_dir='unused'))
    assert weights('cut') == weights(run) and metrics('cut') == metrics(run) and not Path('unused').exists()


def test_weights_from_everywhere(run):
    "A run, its model and its checkpoint hold the same weights; another model names what does not fit."
    import vaebook.core.pretrained

    model = vaebook.core.pretrained.Pretrained.from_pretrained(run / 'model')
    for place in ('.', 'model', 'checkpoints/last.ckpt'):
        found = read_weights(run / place)
        assert all(torch.equal(v, found[k]) for k, v in model.named_parameters()), place
    with pytest.raises(BadInput, match='missing: weight, bias; unexpected: '):
        load_initial(torch.nn.Linear(2, 2), run)


@pytest.mark.slow
def test_load_from_checkpoint(run):
    "Training starts at these weights: with a learning rate of almost nothing they are also its end."
    train(TINY | dict(load_from_checkpoint=str(run), output_dir='tuned', lr=1e-12))
    old, new = (read_weights(f) for f in (run, 'tuned'))
    assert all(torch.allclose(old[k], new[k].to(old[k]), atol=1e-6) for k in old if not k.startswith('latent_'))


# Other doors


@pytest.mark.slow
def test_command_line(tmp_path):
    options = [f'--{k}={json.dumps(v) if v is not True else "true"}'.replace('"', '') for k, v in TINY.items()]
    out = command('-m', 'vaebook.trainers.video', *options, '--output_dir', 'shell', cwd=tmp_path)
    assert 'psnr' in out and metrics(tmp_path / 'shell')['psnr'] > 0


def test_command_line_explains(capsys):
    with pytest.raises(SystemExit, match='2'):
        main(['--logger', 'wand'])
    assert "Did you mean 'wandb'?" in capsys.readouterr().err
    with pytest.raises(SystemExit, match='0'):
        main(['--help'])
    assert '--video_path' in capsys.readouterr().out


@pytest.mark.slow
def test_two_processes(tmp_path, run):
    "`devices=2` starts two processes; each takes its part of every batch."
    tiny = TINY | dict(devices=2, accelerator='cpu', output_dir='two', batch_size=1)
    (tmp_path / 'two.py').write_text(
        f'from vaebook.trainers.video import train\nif __name__ == "__main__": print(train({tiny}))'
    )
    command('two.py', cwd=tmp_path)
    assert metrics(tmp_path / 'two')['psnr'] > 0


# What notebooks can't show: TorchScript wants a source file


class Features(torch.nn.Module):
    "As an I3D file is called: clips in [-1, 1], to be resized there, features and not classes."

    def forward(self, x, rescale: bool = True, resize: bool = False, return_features: bool = False):
        y = x.flatten(2)
        if resize and return_features and not rescale:
            return torch.cat([y.mean(2), y.std(2)], 1)
        return torch.zeros(x.shape[0], 1)


@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_fvd_of_a_file():
    from vaebook.metrics.video import frechet, fvd

    torch.jit.script(Features()).save('i3d.pt')
    x = torch.rand(40, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    found = fvd(x, x.square(), 'i3d.pt')
    features = [Features()(v, rescale=False, resize=True, return_features=True) for v in (x, x.square())]
    assert found == {'fvd': pytest.approx(frechet(*features))} and found['fvd'] > 0
    Path('text.pt').write_text('not a network')
    with pytest.raises(BadInput, match='expected a TorchScript file'):
        fvd(x, x, 'text.pt')
