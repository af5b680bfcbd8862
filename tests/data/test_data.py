"What the notebooks on data cannot show: damage anywhere in a file, two processes at once, locked caches, real data."

import gzip, hashlib, os, random, struct, subprocess, sys, tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import publish
from vaebook.core import BadInput
from vaebook.data import download, images
from vaebook.data.batches import BatchOrder, batches
from vaebook.data.download import DownloadError, Files

ROOT = Path(__file__).resolve().parents[2]
CONTENTS = dict(images=bytes(range(200)) * 50, labels=b'\0\1' * 50)
DIGESTS = {n: hashlib.md5(b).hexdigest() for n, b in CONTENTS.items()}
IDX = b'\0\0\x08\x03' + struct.pack('>3I', 5, 4, 3) + bytes(range(60))


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    "A data set `tiny` with a publisher on this disk and an empty cache; returns the publisher's folder."
    publisher = tmp_path / 'publisher'
    publisher.mkdir()
    for n, b in CONTENTS.items():
        (publisher / f'{n}.gz').write_bytes(gzip.compress(b))
    monkeypatch.setenv('VAEBOOK_CACHE', str(tmp_path / 'cache'))
    for k in 'VAEBOOK_DATA', 'VAEBOOK_OFFLINE':
        monkeypatch.delenv(k, raising=False)
    publish(monkeypatch, 'tiny', Files(DIGESTS, urls=(publisher.as_uri() + '/',)))
    return publisher


def mutations(data: bytes, n: int):
    "Truncations at every kind of place, and `n` single-byte changes."
    r = random.Random(0)
    yield from (data[:k] for k in sorted({0, 1, 3, 4, 5, len(data) // 2, len(data) - 1}))
    yield data + b'!'
    for _ in range(n):
        i = r.randrange(len(data))
        yield data[:i] + bytes([data[i] ^ r.randrange(1, 256)]) + data[i + 1 :]


def only_bad_input(read, path, n=300):
    "Every mutation of `path` is read, or refused as `BadInput`; nothing else escapes."
    data, refused = path.read_bytes(), 0
    for m in mutations(data, n):
        path.write_bytes(m)
        try:
            read(path)
        except BadInput as e:
            refused += 1
            assert path.name in str(e)
    return refused


@pytest.mark.parametrize('pack', [bytes, gzip.compress])
def test_idx_damage(tmp_path, pack):
    (tmp_path / 'f').write_bytes(pack(IDX))
    assert images.read_idx(tmp_path / 'f').shape == (5, 4, 3)
    assert only_bad_input(images.read_idx, tmp_path / 'f') > 40


def test_idx_header_fields(tmp_path):
    for k in range(16):
        for v in 1, 255:
            (tmp_path / 'f').write_bytes(IDX[:k] + bytes([IDX[k] ^ v]) + IDX[k + 1 :])
            with pytest.raises(BadInput, match='an IDX file of bytes'):
                images.read_idx(tmp_path / 'f')


def test_cifar_damage(tmp_path):
    (tmp_path / 'f').write_bytes((bytes([9]) + bytes(3072)) * 3)
    assert only_bad_input(images.read_cifar, tmp_path / 'f', 50) >= 7


def test_digits_damage(tmp_path):
    (tmp_path / 'f.npz').write_bytes((ROOT / 'vaebook/data/digits.npz').read_bytes())
    assert only_bad_input(images.read_digits, tmp_path / 'f.npz', 200) > 150
    np.savez(tmp_path / 'f.npz', x=np.zeros((3, 8, 8), 'u1'), y=np.zeros(3, 'u1'))
    with pytest.raises(BadInput):
        images.read_digits(tmp_path / 'f.npz')


def test_broken_labels_file(tiny, tmp_path):
    with pytest.raises(BadInput, match='labels 0 to 1'):
        images.ImageData.from_tensors(torch.zeros(4, 8, 8), torch.tensor([0, 1, 1, 7]), classes=['a', 'b'])
    with pytest.raises(BadInput, match='has none'):
        images.ImageData.from_tensors(torch.zeros(40, 8, 8), torch.zeros(40).long(), classes=['a', 'b'])


def test_publisher_serves_something_else(tiny):
    (tiny / 'labels.gz').write_bytes(gzip.compress(b'<html>moved</html>'))
    with pytest.raises(DownloadError) as e:
        download.fetch('tiny')
    assert "file='labels.gz'" in str(e.value) and DIGESTS['labels'] in str(e.value)
    assert [p.name for p in download.cache_dir('data', 'tiny').iterdir()] == ['images.gz']


def test_publisher_cuts(tiny):
    (tiny / 'labels.gz').write_bytes((tiny / 'labels.gz').read_bytes()[:-7])
    with pytest.raises(DownloadError, match='truncated or damaged'):
        download.fetch('tiny')


def test_bad_cached_copy_is_replaced_and_bad_own_copy_is_an_error(tiny, tmp_path, monkeypatch):
    folder = download.fetch('tiny')
    (folder / 'images').write_bytes(b'an unpacked, wrong one')
    assert download.fetch('tiny') == folder and sorted(p.name for p in folder.iterdir()) == ['images.gz', 'labels.gz']
    own = tmp_path / 'own' / 'tiny'
    own.mkdir(parents=True)
    for n, b in CONTENTS.items():
        (own / f'{n}.gz').write_bytes(gzip.compress(b)[:-4])
    monkeypatch.setenv('VAEBOOK_DATA', str(tmp_path / 'own'))
    with pytest.raises(BadInput, match="file='images.gz': expected a whole compressed file"):
        download.fetch('tiny')
    (own / 'images.gz').unlink()
    assert download.fetch('tiny') == folder


def test_archive_placed_by_hand(tiny, tmp_path, monkeypatch):
    own = tmp_path / 'own' / 'packed'
    own.mkdir(parents=True)
    with tarfile.open(own / 'all.tar.gz', 'w:gz') as tar:
        [tar.add(tiny / f'{n}.gz', f'../../{n}.gz') for n in CONTENTS]
    md5 = hashlib.md5((own / 'all.tar.gz').read_bytes()).hexdigest()
    publish(monkeypatch, 'packed', Files(DIGESTS, archives={'https://example.invalid/all.tar.gz': md5}))
    monkeypatch.setenv('VAEBOOK_DATA', str(tmp_path / 'own'))
    monkeypatch.setenv('VAEBOOK_OFFLINE', '1')
    assert download.fetch('packed') == tmp_path / 'cache' / 'data' / 'packed'
    assert [p.name for p in own.iterdir()] == ['all.tar.gz']


FETCH = '''
import sys; from vaebook.data import download as d
d.SOURCES['tiny'] = d.Source('Tiny', 'tests', 'none', '', (d.Files(eval(sys.argv[1]), urls=(sys.argv[2],)),))
print(d.fetch('tiny'))
'''


def start(publisher, cache):
    env = os.environ | dict(VAEBOOK_CACHE=str(cache), PYTHONPATH=str(ROOT), HOME=str(cache))
    line = [sys.executable, '-c', FETCH, repr(DIGESTS), publisher.as_uri() + '/']
    return subprocess.Popen(line, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.slow
def test_two_processes_at_once(tiny, tmp_path):
    both = [start(tiny, tmp_path / 'cache') for _ in range(2)]
    outs = [p.communicate(timeout=60) for p in both]
    assert [p.returncode for p in both] == [0, 0], outs
    assert sorted(p.name for p in (tmp_path / 'cache/data/tiny').iterdir()) == ['images.gz', 'labels.gz']
    assert {p.name for p in (tmp_path / 'cache/data').iterdir()} == {'tiny', '.verified'}


@pytest.mark.slow
def test_two_processes_clear_what_killed_ones_left(tiny, tmp_path):
    "Folders older than a day go, and nothing else; that another process removes them too is no error."
    data = tmp_path / 'cache/data'
    for i in range(40):
        (data / f'.fetching-{i}/lists').mkdir(parents=True)
        (data / f'.fetching-{i}/lists/file').write_text('half')
        os.utime(data / f'.fetching-{i}', (0, 0))
    (data / '.fetching-young').mkdir()
    both = [start(tiny, tmp_path / 'cache') for _ in range(2)]
    outs = [p.communicate(timeout=60) for p in both]
    assert [p.returncode for p in both] == [0, 0], outs
    assert {p.name for p in data.iterdir()} == {'tiny', '.verified', '.fetching-young'}


def test_cache_that_cannot_be_written(tiny, tmp_path, monkeypatch):
    (tmp_path / 'file').write_text('not a folder')
    monkeypatch.setenv('VAEBOOK_CACHE', str(tmp_path / 'file' / 'cache'))
    with pytest.raises(DownloadError, match='Not a directory'):
        download.fetch('tiny')
    own = tmp_path / 'own' / 'tiny'
    own.mkdir(parents=True)
    for n, b in CONTENTS.items():
        (own / n).write_bytes(b)
    monkeypatch.setenv('VAEBOOK_DATA', str(tmp_path / 'own'))
    assert download.fetch('tiny') == own


def test_read_only_cache(tiny, tmp_path, monkeypatch):
    "A cache without permission to write: full, it serves; empty, the error says so."
    folder = download.fetch('tiny')
    for p in folder.iterdir():
        p.chmod(0o444)
    folder.chmod(0o555)
    assert download.fetch('tiny') == folder

    def refuse(path):
        raise PermissionError(13, 'Permission denied', str(path))

    monkeypatch.setattr(download, 'atomic_write', refuse)
    folder.chmod(0o755)
    (folder / 'labels.gz').unlink()
    with pytest.raises(DownloadError, match='Permission denied'):
        download.fetch('tiny')


def test_offline_error_is_the_manual(tiny, monkeypatch):
    monkeypatch.setenv('VAEBOOK_OFFLINE', '1')
    with pytest.raises(DownloadError) as e:
        download.fetch('fmnist')
    tried = 'Fashion-MNIST cannot be had', '$VAEBOOK_DATA: not set', 'VAEBOOK_OFFLINE is set'
    for words in (*tried, 'train-images-idx3-ubyte', 'a folder named fmnist'):
        assert words in str(e.value)
    assert 'http://fashion' not in str(e.value)


def test_debian_failures_are_reasons(tiny, monkeypatch):
    publish(monkeypatch, 'deb', Files(DIGESTS, debian='no-such-package'))
    monkeypatch.setattr(download.shutil, 'which', lambda name: None)
    with pytest.raises(DownloadError, match='no-such-package: this system has no apt-get'):
        download.fetch('deb')
    monkeypatch.setattr(download.shutil, 'which', lambda name: '/usr/bin/' + name)

    def slow(*a, **k):
        raise subprocess.TimeoutExpired('apt-get update', 300)

    monkeypatch.setattr(download.subprocess, 'run', slow)
    with pytest.raises(DownloadError, match='timed out after 300 seconds'):
        download.fetch('deb')
    assert [p.name for p in download.cache_dir('data').iterdir() if 'fetching' in p.name] == []


def test_a_package_is_read_without_dpkg(tiny, tmp_path, monkeypatch):
    with tarfile.open(tmp_path / 'data.tar.xz', 'w:xz') as tar:
        [tar.add(tiny / f'{n}.gz', f'./usr/share/{n}.gz') for n in CONTENTS]
    packed = (tmp_path / 'data.tar.xz').read_bytes()
    members = {'debian-binary': b'2.0\n', 'control.tar.xz': b'odd', 'data.tar.xz': packed}
    deb = b'!<arch>\n'
    for name, content in members.items():
        deb += f'{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n'.encode()
        deb += content + b'\n' * (len(content) % 2)
    (tmp_path / 'x.deb').write_bytes(deb)
    monkeypatch.setattr(download.shutil, 'which', lambda name: None)
    download._extract_data_tar(tmp_path / 'x.deb', tmp_path / 'out.tar')
    download._from_tar(tmp_path / 'out.tar', Files(DIGESTS), tmp_path / 'got')
    assert gzip.decompress((tmp_path / 'got' / 'labels.gz').read_bytes()) == CONTENTS['labels']
    for cut in 0, 4, 30, 90, 200:
        (tmp_path / 'y.deb').write_bytes((tmp_path / 'x.deb').read_bytes()[:cut])
        with pytest.raises(BadInput, match='a Debian package'):
            download._extract_data_tar(tmp_path / 'y.deb', tmp_path / 'out2.tar')


def test_every_image_once_an_epoch_and_resume_with_workers():
    data = images.load_images('digits', max_train=103)
    xs = [b['y'] for b in batches(data.train, 10, seed=3, num_batches=40)]
    for k in 0, 9, 10, 23, 40:
        assert all(map(torch.equal, [b['y'] for b in batches(data.train, 10, seed=3, start=k, num_batches=40)], xs[k:]))
    for e in range(4):
        assert len(set(torch.cat(list(BatchOrder(103, 10, 3, e * 10, e * 10 + 10))).tolist())) == 100
    loaded = [b['y'] for b in batches(data.train, 10, seed=3, start=7, num_batches=12, num_workers=2)]
    assert all(map(torch.equal, loaded, xs[7:12])) and len(loaded) == 5


@pytest.mark.parametrize(
    'name, shape, train, test',
    [('mnist', (1, 28, 28), 60000, 10000), ('fmnist', (1, 28, 28), 60000, 10000), ('cifar10', (3, 32, 32), None, None)],
)
def test_real(name, shape, train, test, monkeypatch):
    monkeypatch.setenv('VAEBOOK_OFFLINE', '1')
    try:
        data = images.load_images(name)
    except DownloadError as e:
        pytest.skip(f'{name} is neither under VAEBOOK_DATA nor in the cache: {str(e).splitlines()[-1]}')
    assert data.shape == shape and len(set(data.train.y.tolist())) == 10
    if train:
        assert (len(data.train) + len(data.val), len(data.test)) == (train, test)
    else:
        assert 'subset' in data.note or len(data.test) == 10000
    if name == 'mnist':
        pair = images.load_images('mnist', include_classes=[3, 8])
        assert len(pair.train) + len(pair.val) == 6131 + 5851 and pair.classes == ['3', '8']


@pytest.mark.slow
def test_the_check_of_shapes_compiles():
    "A network that looks at the shape of its images is still one graph, for any batch."
    from vaebook.models import CNN, CVAE

    model, judge = CVAE(width=4), CNN(3, width=4).eval()

    def verdict(x):
        return judge(model.decode(model.encode(x).z))

    compiled = torch.compile(verdict, backend='eager', fullgraph=True, dynamic=True)
    for x in torch.rand(4, 1, 28, 28), torch.rand(5, 1, 28, 28):
        assert torch.equal(compiled(x), verdict(x))
