"The world chapter's episodes where a lesson is not enough: formats there and back, broken files, workers, memory."

import io, os, pickle, struct, subprocess, sys, zlib

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from vaebook.core import BadInput
from vaebook.data.batches import batches, sequential
from vaebook.data.dmc import DMCVBDataset, load_episodes, pendulum_episodes, split_of
from vaebook.data.episodes import Episode, episode_names, write_episodes
from vaebook.data.tfrecord import masked_crc32c

h5py, Image = pytest.importorskip('h5py'), pytest.importorskip('PIL.Image')

FILMS = pendulum_episodes(5, steps=20, size=16, seed=1)
LENGTHS = 20, 20, 13, 20, 17
FILMS = [
    Episode(*(getattr(e, k)[:n] for k in ('observations', 'actions', 'rewards')), np.arange(n) == n - 1, e.name)
    for e, n in zip(FILMS, LENGTHS)
]


def chw(e):
    return e.observations


def hwc(e):
    return e.observations.transpose(0, 2, 3, 1)


def led(e):
    "The actions that led to each frame: a zero, then all but the last."
    return np.concatenate([np.zeros_like(e.actions[:1]), e.actions[:-1]])


def as_dict(e, pictures=hwc, names=('observations', 'actions', 'rewards', 'dones')):
    return dict(zip(names, (pictures(e), e.actions, e.rewards, e.dones)))


def tensors(e):
    return {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in as_dict(e).items()}


def to_h5(path, arrays):
    with h5py.File(path, 'w') as f:
        for k, v in arrays.items():
            f[k] = v


def block(number, body):
    n, out = len(body), bytes([number << 3 | 2])
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n]) + body


def bytes_list(values):
    return block(1, b''.join(block(1, v) for v in values))


def picture(x, kind):
    if kind in ('raw', 'zlib'):
        return x.tobytes() if kind == 'raw' else zlib.compress(x.tobytes())
    fine = dict(quality=100, subsampling=0) if kind == 'JPEG' else {}
    Image.fromarray(x).save(out := io.BytesIO(), kind, **fine)
    return out.getvalue()


def tfrecord(path, episodes, kind='zlib', floats=False):
    "A shard as TFDS writes it; floats: the actions are one list of float32 and not packed float64."
    with open(path, 'wb') as f:
        for e in episodes:
            if floats:
                actions = block(2, block(1, e.actions.astype('<f4').tobytes()))
            else:
                actions = bytes_list([zlib.compress(a.astype('<f8').tobytes()) for a in e.actions])
            first = bytes([1] + [0] * (len(e) - 1))
            lists = {
                'observation/pixels': bytes_list([picture(x, kind) for x in hwc(e)]),
                'observation/height': block(2, block(1, e.rewards.tobytes())),
                'action': actions,
                'reward': block(2, block(1, e.rewards.astype('<f4').tobytes())),
                'is_first': block(3, block(1, first)),
                'is_last': block(3, block(1, e.dones.tobytes())),
                'is_terminal': block(3, block(1, bytes(len(e)))),
            }
            body = block(1, b''.join(block(1, block(1, f'steps/{k}'.encode()) + block(2, v)) for k, v in lists.items()))
            head = struct.pack('<Q', len(body))
            f.write(head + struct.pack('<I', masked_crc32c(head)) + body + struct.pack('<I', masked_crc32c(body)))


def dreamer(e):
    return dict(
        image=hwc(e),
        action=led(e),
        reward=e.rewards,
        discount=np.ones(len(e), 'float32'),
        is_first=np.arange(len(e)) == 0,
        is_last=e.dones,
        is_terminal=np.zeros(len(e), bool),
    )


def shard(episodes):
    types = [np.where(e.dones, 2, np.where(np.arange(len(e)) == 0, 0, 1)) for e in episodes]
    return dict(
        observation=np.concatenate([e.observations for e in episodes]),
        action=np.concatenate([led(e) for e in episodes]),
        reward=np.concatenate([e.rewards for e in episodes]),
        discount=np.ones(sum(map(len, episodes))),
        step_type=np.concatenate(types),
    )


SAME = [e for e in FILMS if len(e) == 20]
STACKED = {k: np.stack([as_dict(e)[k] for e in SAME]) for k in as_dict(SAME[0])}
SEED = 'observation_pixels', 'action', 'reward', 'done'
SEED_LAST = 'pixels', 'action', 'reward', 'is_last'


def each(write):
    return lambda folder: [write(folder, i, e) for i, e in enumerate(FILMS)]


def shard_of(kind):
    return lambda d: tfrecord(d / 'dmc_vb-train.tfrecord-00000-of-00001', FILMS, kind, floats=kind == 'raw')


WRITERS = dict(
    ours=lambda d: write_episodes(d / 'a.h5', FILMS),
    seed=each(lambda d, i, e: to_h5(d / f'{i}.hdf5', as_dict(e, hwc, SEED))),
    seed_last=each(lambda d, i, e: to_h5(d / f'{i}.h5', as_dict(e, chw, SEED_LAST))),
    plural=each(lambda d, i, e: to_h5(d / f'{i}.h5', as_dict(e))),
    stacked=lambda d: np.savez_compressed(d / 'a.npz', **STACKED),
    dreamer=each(lambda d, i, e: np.savez_compressed(d / f'{i}.npz', **dreamer(e))),
    drq=lambda d: [to_h5(d / f'{i}.hdf5', shard(FILMS[3 * i : 3 * i + 3])) for i in range(2)],
    torch=each(lambda d, i, e: torch.save(tensors(e), d / f'{i}.pt')),
    torch_numpy=each(lambda d, i, e: torch.save(as_dict(e), d / f'{i}.pt')),
    torch_list=lambda d: torch.save([tensors(e) for e in FILMS], d / 'a.pt'),
    torch_stacked=lambda d: torch.save({k: torch.from_numpy(v) for k, v in STACKED.items()}, d / 'a.pt'),
    pickled=each(lambda d, i, e: (d / f'{i}.pkl').write_bytes(pickle.dumps(tensors(e)))),
    pickled_numpy=lambda d: (d / 'a.pickle').write_bytes(pickle.dumps([as_dict(e) for e in FILMS], protocol=4)),
    **{f'tfrecord_{kind}': shard_of(kind) for kind in ('zlib', 'raw', 'PNG', 'JPEG')},
)


@pytest.mark.parametrize('form', WRITERS)
def test_there_and_back(tmp_path, form):
    "Every format gives every window of every episode: pictures, actions after the frame, rewards, ends."
    WRITERS[form](tmp_path)
    films, T = SAME if 'stacked' in form else FILMS, 5
    data = DMCVBDataset(tmp_path, sequence_length=T)
    assert len(data) == sum(len(e) - T + 1 for e in films)
    before = form in ('dreamer', 'drq')
    for i, (e, a) in enumerate((e, a) for e in films for a in range(len(e) - T + 1)):
        item, actions, rewards = data[i], e.actions[a : a + T].copy(), e.rewards
        if 'record' in form:  # RLDS: a row's reward is that of its action
            rewards = np.append(0, rewards[:-1]).astype(np.float32)
        if before and a + T == len(e):
            actions[-1] = 0  # nobody knows what came after the last frame
        assert [item[k].dtype for k in item] == [torch.uint8, torch.float32, torch.float32, torch.bool]
        error = np.abs(item['observations'].numpy().astype(int) - e.observations[a : a + T]).max()
        assert error <= (24 if 'JPEG' in form else 0)
        assert np.array_equal(item['actions'], actions)
        assert np.array_equal(item['rewards'], rewards[a : a + T])
        assert np.array_equal(item['dones'], e.dones[a : a + T])


def test_convention_can_be_said(tmp_path):
    "The word of the user goes before that of the format."
    write = {'after': WRITERS['plural'], 'before': WRITERS['dreamer']}
    for stored, f in write.items():
        (folder := tmp_path / stored).mkdir()
        f(folder)
        said = {c: DMCVBDataset(folder, 5, action_convention=c)[3]['actions'].numpy() for c in ('after', 'before')}
        rows = FILMS[0].actions if stored == 'after' else led(FILMS[0])
        assert np.array_equal(said['after'], rows[3:8]) and np.array_equal(said['before'], rows[4:9])


def test_converted(tmp_path):
    "Any format becomes a file of ours, with the actions after the frame."
    WRITERS['drq'](tmp_path)
    data = DMCVBDataset(tmp_path, 5)
    ours = DMCVBDataset(write_episodes(tmp_path / 'ours' / 'a.h5', data.episodes()), 5)
    assert ours.names == data.names and all(torch.equal(a[k], b[k]) for a, b in zip(data, ours) for k in a)


def test_append(tmp_path):
    "Episodes are added; a failure, a name that is there, another shape leave the file as it was."
    path = write_episodes(tmp_path / 'a.h5', FILMS[:2], env='pendulum')
    write_episodes(path, FILMS[2:4])
    assert episode_names(path) == [e.name for e in FILMS[:4]]
    whole = path.read_bytes()

    def fails():
        yield FILMS[4]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_episodes(path, fails())
    with pytest.raises(BadInput, match='not in the file yet'):
        write_episodes(path, [FILMS[4], FILMS[0]])
    with pytest.raises(BadInput, match='episodes before'):
        write_episodes(path, pendulum_episodes(1, 20, 32, seed=9))
    assert path.read_bytes() == whole and os.listdir(tmp_path) == ['a.h5']
    with h5py.File(path) as f:
        assert f.attrs['env'] == 'pendulum' and f.attrs['action_convention'] == 'after'


def test_splits(tmp_path):
    "Disjoint, complete, the same anywhere, and unmoved by episodes that are added."
    names = [f'episode-{i}' for i in range(500)]
    where, fewer = split_of(names, 0.1, 0.1), split_of(names[:300], 0.1, 0.1)
    assert (where[:300] == fewer).all() and 30 <= (where == 'val').sum() <= 70 and 30 <= (where == 'test').sum() <= 70
    assert sorted(split_of(['a', 'b', 'c'], 0.01, 0.01)) == ['test', 'train', 'val']
    with pytest.raises(BadInput, match='at least 3'):
        split_of(['a', 'b'], 0.1, 0.1)
    state = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    world = load_episodes('pendulum', episodes=20, steps=20, sequence_length=5, image_size=16)
    sets = [set(s.names) for s in (world.train, world.val, world.test)]
    assert sum(map(len, sets)) == len(set().union(*sets)) == 20
    assert torch.equal(state[0], torch.random.get_rng_state()) and (state[1] == np.random.get_state()[1]).all()


def test_loaders(tmp_path):
    "A plain DataLoader with workers, the order of this book with workers, a tensor of numbers: the same windows."
    WRITERS['ours'](tmp_path)
    data = DMCVBDataset(tmp_path, 5)
    plain = list(DataLoader(data, batch_size=8, num_workers=2))
    assert sum(len(b['dones']) for b in plain) == len(data)
    for i, (b, c) in enumerate(zip(plain, sequential(data, 8, num_workers=2))):
        at_once = data[torch.arange(8 * i, min(8 * i + 8, len(data)))]
        assert all(torch.equal(b[k], c[k]) and torch.equal(b[k], at_once[k]) for k in b)
    one, two = (next(iter(batches(data, 4, seed=3, num_workers=n)))['actions'] for n in (0, 2))
    assert torch.equal(one, two)


def test_a_window_is_a_copy():
    "What is done to a batch is not done to the data."
    data = DMCVBDataset(pendulum_episodes(2, 20, 16), 5)
    was = data[0]['observations'].clone()
    data[0]['observations'].zero_()
    assert torch.equal(data[0]['observations'], was)


def test_sizes(tmp_path):
    "The whole picture at another size, and folders of several environments."
    big = pendulum_episodes(2, 12, 64)
    for env, films in dict(pendulum_64=big, pendulum_16=FILMS).items():
        write_episodes(tmp_path / env / 'a.h5', films)
    small = DMCVBDataset(tmp_path, 4, environment='pendulum_64', image_size=32)[0]['observations'].float()
    pixels = torch.from_numpy(big[0].observations[:4]).float()
    mean = pixels.unflatten(-1, (32, 2)).unflatten(-3, (32, 2)).mean((-1, -3))
    assert small.shape == (4, 3, 32, 32) and (small - mean).abs().mean() < 2
    with pytest.raises(BadInput, match='pendulum_16'):
        DMCVBDataset(tmp_path, 4, environment='pendulum_17')
    with pytest.raises(BadInput, match='one shape.*environment'):
        DMCVBDataset(tmp_path, 4)


@pytest.mark.parametrize('form', WRITERS)
def test_truncated(tmp_path, form):
    "A file that ends too soon is named, wherever it ends."
    WRITERS[form](tmp_path)
    path = min(tmp_path.iterdir())
    whole = path.read_bytes()
    for part in (0, 5, len(whole) // 3, len(whole) - 3):
        path.write_bytes(whole[:part])
        with pytest.raises(BadInput, match=path.name):
            [DMCVBDataset(path, 5)[i] for i in range(1)]


def test_refused(tmp_path):
    "What cannot be right is said, with the name of the file."
    e = FILMS[0]
    good = as_dict(e)
    cases = dict(
        floats=good | dict(observations=hwc(e) / 255),
        nan=good | dict(actions=e.actions * np.nan),
        short=good | dict(actions=e.actions[:-1]),
        grey=good | dict(observations=hwc(e)[..., :1]),
        text=good | dict(actions=np.array(['x'] * 20)),
        missing={k: v for k, v in good.items() if k != 'rewards'},
        infinite=good | dict(rewards=e.rewards + np.inf),
    )
    for name, arrays in cases.items():
        np.savez(tmp_path / f'{name}.npz', **arrays)
        with pytest.raises(BadInput, match=f'{name}.npz'):
            DMCVBDataset(tmp_path / f'{name}.npz', 5)[0]
    (tmp_path / 'a.h5').write_text('something else altogether')
    with pytest.raises(BadInput, match='Formats read'):
        DMCVBDataset(tmp_path / 'a.h5')
    with pytest.raises(BadInput, match='is not there'):
        DMCVBDataset(tmp_path / 'none')
    with pytest.raises(BadInput, match='longest'):
        DMCVBDataset([e], 21, split='train', val_fraction=0)


class Evil:
    def __reduce__(self):
        return os.mkdir, (os.environ['EVIL'],)


@pytest.mark.parametrize('save', [lambda x, p: torch.save(x, p), lambda x, p: p.write_bytes(pickle.dumps(x))])
def test_pickles_run_nothing(tmp_path, monkeypatch, save):
    monkeypatch.setenv('EVIL', str(tmp_path / 'made'))
    save(dict(tensors(FILMS[0]), extra=Evil()), tmp_path / 'a.pkl')
    with pytest.raises(BadInput, match='a.pkl|mkdir'):
        DMCVBDataset(tmp_path / 'a.pkl', 5)
    assert not (tmp_path / 'made').exists()


PEAK = '''
import sys
from vaebook.data.dmc import DMCVBDataset
for folder in sys.argv[1:]:
    data = DMCVBDataset(folder, 16, stride=16)
    for i in range(len(data)): data[i]
    print(next(int(l.split()[1]) for l in open('/proc/self/status') if l.startswith('VmHWM')))
'''


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists('/proc/self/status'), reason='the peak of memory is read from /proc')
def test_memory_is_flat(tmp_path):
    "After some episodes, four times as many take no more memory: not a fifth of what they would fill."
    noise = np.random.default_rng(0).integers(0, 256, (128, 3, 64, 64), dtype=np.uint8)
    still = np.zeros((128, 1), np.float32), np.zeros(128, np.float32), np.arange(128) == 127
    films = [Episode(noise, *still, f'{i}') for i in range(24)]
    for form, write in dict(h5=write_episodes, tfrecord=quick).items():
        for n in (6, 24):
            (tmp_path / f'{form}{n}').mkdir()
            write(tmp_path / f'{form}{n}' / f'a.{form}', films[:n])
    folders = [tmp_path / f for f in ('h56', 'h524', 'tfrecord6', 'tfrecord24')]
    line = [sys.executable, '-c', PEAK, *folders]
    printed = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True, timeout=120).stdout
    peak = [int(kilobytes) for kilobytes in printed.split()]
    for few, many in (peak[:2], peak[2:]):
        assert many - few < 18 * noise.nbytes / 1024 / 5, peak


def quick(path, episodes):
    "A shard without the slow checksum of its records."
    import unittest.mock as mock

    with mock.patch(f'{__name__}.masked_crc32c', lambda b: checksum_of(b) if len(b) == 8 else 0):
        tfrecord(path, episodes, 'raw', True)


checksum_of = masked_crc32c
