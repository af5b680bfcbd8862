"""Every reader against files that are cut, damaged, forged or meant to harm.

It gives values that make sense, or a `BadInput` that names the file: never another exception, a crash, more than 5 s,
more than 1.5 GiB, or code of the file's."""

import gzip, json, pickle, struct

import numpy as np
import pytest
import torch

from hostility import attempt, mutations
from vaebook.data import images

pytestmark = pytest.mark.slow

# The files, small and whole: `kind(folder)` gives the path, a function that reads it, and what an error may name
# beside the file
IDX = b'\0\0\x08\x03' + struct.pack('>3I', 5, 4, 3) + bytes(range(60))
KINDS = {}


def kind(f):
    KINDS[f.__name__] = f
    return f


def written(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@kind
def idx(d):
    return written(d / 'a-idx', IDX), images.read_idx


@kind
def idx_gz(d):
    return written(d / 'a-idx.gz', gzip.compress(IDX)), images.read_idx


@kind
def cifar(d):
    return written(d / 'a.bin', (bytes([9]) + bytes(3072)) * 3), images.read_cifar


@kind
def pictures(d):
    Image = pytest.importorskip('PIL.Image')
    for i in range(2):
        (d / 'pictures/a').mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (16, 16, 3), 'uint8')).save(d / f'pictures/a/{i}.png')

    def read(path):
        assert images.read_folder(d / 'pictures', 16).parts['train'][0].shape[1:] == (3, 16, 16)

    return d / 'pictures/a/0.png', read


@kind
def npz(d):
    from vaebook.data.npz import read_npz

    np.savez_compressed(
        d / 'a.npz', actions=np.random.default_rng(0).random((30, 4)), lengths=np.array([10, 20]), fps=np.array(20.0)
    )
    return d / 'a.npz', lambda path: read_npz(path).actions, 'of a:'


def episodes(write):
    def make(d):
        from vaebook.data.dmc import DMCVBDataset, pendulum_episodes

        path = d / 'episodes.x'
        write(path, pendulum_episodes(2, steps=12, size=16))

        def read(path):
            data = DMCVBDataset(path, 5)
            for i in (0, len(data) - 1):
                x = data[i]
                assert x['observations'].shape[:2] == (5, 3) and x['observations'].dtype == torch.uint8
                assert x['rewards'].shape == (5,)
                assert all(v.isfinite().all() for v in x.values())

        return path, read

    return make


def as_dict(e):
    return dict(observations=e.observations, actions=e.actions, rewards=e.rewards, dones=e.dones)


def write_h5(path, films):
    pytest.importorskip('h5py')
    from vaebook.data.episodes import write_episodes

    write_episodes(path, films)


def write_npz(path, films):
    with open(path, 'wb') as f:
        np.savez_compressed(f, **as_dict(films[0]))


def write_tfrecord(path, films):
    from test_dmc_data import tfrecord

    tfrecord(path, films)


def write_torch(path, films):
    tensors = [{k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in as_dict(e).items()} for e in films]
    torch.save(tensors, path)


def write_pickle(path, films):
    path.write_bytes(pickle.dumps([as_dict(e) for e in films], protocol=4))


KINDS |= dict(
    episodes_h5=episodes(write_h5),
    episodes_npz=episodes(write_npz),
    episodes_tfrecord=episodes(write_tfrecord),
    episodes_torch=episodes(write_torch),
    episodes_torch_numpy=episodes(lambda path, films: torch.save(as_dict(films[0]), path)),
    episodes_pickle=episodes(write_pickle),
)


def lerobot(which):
    def make(d):
        pytest.importorskip('pyarrow')
        from vaebook.data.synthetic import synthetic_actions
        from vaebook.data.lerobot import read_lerobot, write_lerobot

        folder = write_lerobot(synthetic_actions(episodes=3)[0][0], d / 'robot')
        return (
            folder / which,
            lambda path: [len(a) for a in read_lerobot(folder).actions],
            'robot',
            'reach',
            'codebase_version',
        )

    return make


KINDS |= dict(
    lerobot_info=lerobot('meta/info.json'),
    lerobot_episodes=lerobot('meta/episodes/chunk-000/file-000.parquet'),
    lerobot_data=lerobot('data/chunk-000/file-000.parquet'),
)


@kind
def vbk(d):
    from vaebook.export.codec import Codes, CodesHeader

    ids = torch.arange(3 * 20).view(1, 3, 20) % 7
    return Codes(CodesHeader('ids', 1, 20, 3, 7, 1280, 8000, 1, 1280, 8000, 64, 'model'), ids).save(
        d / 'a.vbk'
    ), Codes.open


def sound(name, codec, rate):
    def make(d):
        pytest.importorskip('av')
        from test_audio_data import encoded, tone
        from vaebook.data.audio import read_audio

        encoded(d / name, tone(0.2, rate), codec, rate)

        def heard(path):
            x, _ = read_audio(path)
            assert x.isfinite().all() and x.numel()

        return d / name, heard

    return make


def video(name):
    def make(d):
        pytest.importorskip('av')
        from vaebook.data.video.reader import read_frames, write_video

        write_video(
            d / name,
            torch.randint(0, 256, (3, 6, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)),
            12,
        )

        def seen(path):
            x = read_frames(path)
            assert x.dtype == torch.uint8 and x.ndim == 4 and len(x)

        return d / name, seen

    return make


KINDS |= dict(
    wav=sound('a.wav', 'pcm_s16le', 16000),
    flac=sound('a.flac', 'flac', 16000),
    mp3=sound('a.mp3', 'libmp3lame', 44100),
    mp4=video('a.mp4'),
    mkv=video('a.mkv'),
    gif=video('a.gif'),
)


def saved(which, *more):
    def make(d):
        from vaebook.models import CVAE

        CVAE(width=2).save_pretrained(d / 'model')
        return d / 'model' / which, lambda path: CVAE.from_pretrained(path.parent), *more

    return make


KINDS |= dict(weights=saved('model.safetensors'))
KINDS |= dict(config=saved('config.json', 'config=', 'kind=', 'CVAE: ', 'model.safetensors'))


@kind
def checkpoint(d):
    from vaebook.trainers.callbacks import read_checkpoint

    torch.save(dict(batches=3, objective=dict(a=torch.zeros(9), b=torch.zeros(2, 2))), d / 'last.ckpt')
    return d / 'last.ckpt', read_checkpoint


RUN = {
    'config.yaml': 'recipe: digits\nsize: cpu\nseed: 1\nmodel:\n  a: [2, 3]\n',
    'environment.json': '{"python": "3.12", "fit_seconds": 2.0}',
    'metrics.json': '{"a": 1.5, "b": 2}',
    'metrics.csv': 'step,train/recon,val/total\n1,2.5,\n2,2.25,3.5\n',
}


def run_file(which):
    def make(d):
        from vaebook.experiments.experiment import read_curves
        from vaebook.core.runs import collect

        run = d / 'run'
        for name, text in RUN.items():
            written(run / name, text.encode())
        return run / which, lambda path: (collect([run]), read_curves(run))

    return make


KINDS |= {f'run_{name}': run_file(name) for name in RUN}


def latents(which):
    def make(d):
        from safetensors.torch import save_file
        from vaebook.export.latents import Latents

        d = d / 'latents'
        d.mkdir()
        save_file({f'{i:08d}': torch.ones(2, 3) for i in range(3)}, shard := d / 'latents-00000-of-00001.safetensors')
        index = dict(
            shards=[dict(file=shard.name, clips=3, bytes=shard.stat().st_size)],
            dtype='float32',
            sample=False,
            ratio=[1, 1],
            mean=[0.0, 0.0],
            std=[1.0, 1.0],
            shapes=[[2, 3]] * 3,
            lengths=[5] * 3,
            model=dict(kind='X', digest='a'),
        )
        (d / 'index.json').write_text(json.dumps(index))

        def read(path):
            found = Latents(d)
            return [found[i] for i in range(len(found))]

        return d / which, read, 'shard='

    return make


KINDS |= dict(latents_index=latents('index.json'), latents_shard=latents('latents-00000-of-00001.safetensors'))


@kind
def yaml_parameters(d):
    from vaebook.cli.main import read_parameters

    return written(d / 'mine.yml', b'general:\n  seed: 1\nvae:\n  n_alpha: 2\n  list: [1, 2]\n'), read_parameters


@pytest.mark.parametrize('name', KINDS)
def test_damage(name, tmp_path, monkeypatch):
    "Hundreds of damaged copies."
    monkeypatch.setenv('VAEBOOK_CACHE', str(tmp_path / 'cache'))
    path, read, *more = KINDS[name](tmp_path)
    read(path)
    fates = attempt(read, path, mutations(path.read_bytes(), 120), [path.name, *more])
    assert len(fates) > 120 and [f for f in fates if f[1] not in ('read', 'refused')] == []
    if name != 'pictures':  # one that is damaged is left out with a warning
        assert 'refused' in [f[1] for f in fates]
