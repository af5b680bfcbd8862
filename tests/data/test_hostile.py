"Files that are meant to harm: pickles that run, claims of endless sizes, archives that climb or burst."

import gzip, io, json, os, pickle, struct, tarfile, zipfile

import numpy as np
import pytest
import torch

from helpers import publish
from hostility import attempt, mutations
from vaebook.core import files
from vaebook.core import BadInput, read_json, read_settings
from vaebook.data import download, images
from vaebook.data.download import DownloadError, Files


class Spy:
    "A pickle that makes a folder."

    def __init__(self, place):
        self.place = str(place)

    def __reduce__(self):
        return os.mkdir, (self.place,)


class Flags:
    "A pickle of floats that claims to hold objects: numpy would follow their bytes as addresses."

    class Kind:
        def __reduce__(self):
            return np.dtype, ('f8', False, True), (3, '<', None, None, None, -1, -1, 63)

    def __reduce__(self):
        return np._core.multiarray._reconstruct, (np.ndarray, (0,), b'b'), (1, (4,), Flags.Kind(), False, b'A' * 32)


def hostile(place) -> dict:
    "name → (write(path), read(path))."
    from vaebook.data.npz import read_npz
    from vaebook.data.dmc import DMCVBDataset
    from vaebook.losses.perceptual import read_tensors
    from vaebook.trainers.callbacks import read_checkpoint

    film = dict(observations=np.zeros((9, 3, 8, 8), 'u1'), actions=np.zeros((9, 1), 'f4'), rewards=np.zeros(9, 'f4'))

    def episodes(path):
        return DMCVBDataset(path, 5)[0]

    def objects(path):
        np.savez(path, **film | dict(actions=np.array([Spy(place)] * 9, object), lengths=np.array([9])))

    def bomb(path):
        large = np.zeros((9, 3, 1 << 9, 1 << 9), 'u1')
        np.savez_compressed(path, **film | dict(observations=large, lengths=np.array([9])))

    def h5_bomb(path):
        with pytest.importorskip('h5py').File(path, 'w') as f:
            for k, v in film.items():
                chunks = (1 << 22, *v.shape[1:]) if k == 'rewards' else None
                f.create_dataset(k, data=v, maxshape=(None, *v.shape[1:]), chunks=chunks)

    def laughs(path):
        "A billion of them: each line holds four of the line above."
        lines = ['a0: &a0 [1, 1]']
        lines += [f'a{i}: &a{i} [*a{i - 1}, *a{i - 1}, *a{i - 1}, *a{i - 1}]' for i in range(1, 20)]
        path.write_text('\n'.join(lines))

    return dict(
        pickle=(lambda p: p.write_bytes(pickle.dumps(film | dict(x=Spy(place)))), episodes),
        torch=(lambda p: torch.save(film | dict(x=Spy(place)), p), episodes),
        flags=(lambda p: p.write_bytes(pickle.dumps(film | dict(rewards=Flags()))), episodes),
        flags_torch=(lambda p: torch.save(film | dict(rewards=Flags()), p), episodes),
        checkpoint=(lambda p: torch.save(dict(batches=1, x=Spy(place)), p), read_checkpoint),
        perceptual=(lambda p: torch.save(dict(x=Spy(place)), p), read_tensors),
        objects=(objects, read_npz),
        objects_film=(objects, episodes),
        bomb=(bomb, read_npz),
        bomb_film=(bomb, episodes),
        bomb_gz=(lambda p: p.write_bytes(gzip.compress(bytes(2 << 20))), images.read_idx),
        bomb_h5=(h5_bomb, episodes),
        yaml=(lambda p: p.write_text(f'a: !!python/object/apply:os.mkdir ["{place}"]'), read_settings),
        laughs=(laughs, read_settings),
        environment=(lambda p: p.write_text('a: ${oc.env:HOME}'), read_settings),
        deep=(lambda p: p.write_text('{"a": ' + '[' * 99_999), read_json),
    )


@pytest.mark.parametrize('name', hostile(''))
def test_harm(name, tmp_path, monkeypatch):
    "Refused by name, within 5 s and 1.5 GiB; nothing of it has run. (Here a file may grow to 1 MiB.)"
    for module in (files, download):
        monkeypatch.setattr(module, 'max_unpacked', lambda path: 1 << 20)
    write, read = hostile(tmp_path / 'made')[name]
    path = tmp_path / 'a.npz'
    write(path)
    assert [fate for _, fate in attempt(read, path, [(name, path.read_bytes())], seconds=5)] == ['refused']
    assert not (tmp_path / 'made').exists()


def test_safetensors_headers(tmp_path):
    "A header of 2⁶³ bytes, offsets that overlap or leave the file, another type, another shape."
    from vaebook.models import CVAE

    path = CVAE(width=2).save_pretrained(tmp_path) / 'model.safetensors'
    data = path.read_bytes()
    (n,) = struct.unpack('<Q', data[:8])
    head, body = json.loads(data[8 : 8 + n]), data[8 + n :]
    first, second = [k for k in head if k != '__metadata__'][:2]

    def forged(**new):
        text = json.dumps(head | {first: head[first] | new}).encode()
        return struct.pack('<Q', len(text)) + text + body

    cases = {f'{size}': struct.pack('<Q', size) + data[8:] for size in (0, 1, 2**31, 2**63, 2**64 - 1)}
    cases |= dict(
        overlap=forged(data_offsets=head[second]['data_offsets']),
        outside=forged(data_offsets=[0, 10**12]),
        kind=forged(dtype='I64'),
        odd=forged(dtype='F7'),
        shape=forged(shape=[1, *head[first]['shape']]),
        large=forged(shape=[2**40, 2**40]),
        negative=forged(shape=[-1]),
        empty=b'',
    )
    fates = dict(attempt(lambda p: CVAE.from_pretrained(tmp_path), path, cases.items()))
    assert fates == dict.fromkeys(cases, 'refused')


def archive(path, members):
    "A tar of (TarInfo, bytes)."
    with tarfile.open(path, 'w') as tar:
        [tar.addfile(info, io.BytesIO(data)) for info, data in members]


def member(name, size=0, **what):
    info = tarfile.TarInfo(name)
    info.size = size
    for k, v in what.items():
        setattr(info, k, v)
    return info


def test_archives_write_nowhere_else(tmp_path, monkeypatch):
    "Of members that climb, links, devices and doubles, only what is wanted lands, under its name and in its folder."
    monkeypatch.setenv('VAEBOOK_CACHE', str(tmp_path / 'cache'))
    want = Files(dict(a=download.hashlib.md5(b'right').hexdigest()))
    (tmp_path / 'secret').write_text('secret')
    archive(tmp_path / 'x.tar', [(member('../../a', 5), b'right'), (member('/etc/a2', 5), b'wrong')])
    download._from_tar(tmp_path / 'x.tar', want, tmp_path / 'out/here')
    made = [p.relative_to(tmp_path).as_posix() for p in sorted((tmp_path / 'out').rglob('*'))]
    assert made == ['out/here', 'out/here/a']
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
        archive(tmp_path / 'y.tar', [(member('a', type=kind, linkname=str(tmp_path / 'secret')), b'')])
        download._from_tar(tmp_path / 'y.tar', want, tmp_path / 'linked')
        assert not (tmp_path / 'linked').exists()
    with zipfile.ZipFile(tmp_path / 'x.whl', 'w') as z:
        z.writestr('../../../a', 'right')
    download._from_zip(tmp_path / 'x.whl', want, tmp_path / 'zipped')
    assert [p.name for p in (tmp_path / 'zipped').iterdir()] == ['a']
    tree = download.Tree('.txt', 1, '0' * 64, 'in/')
    link = member('in/c.txt', type=tarfile.SYMTYPE, linkname='/etc/passwd')
    archive(tmp_path / 'z.tar', [(member('in/../../b.txt', 1), b'x'), (link, b'')])
    with pytest.raises(BadInput, match='it has 0'):
        download._extract_tree(tmp_path / 'z.tar', tree, tmp_path / 'planted')
    assert not (tmp_path / 'planted').exists() and not (tmp_path / 'b.txt').exists()


def test_archives_do_not_burst(tmp_path, monkeypatch):
    "A wheel and a tar whose wanted file unpacks to more than they may hold; nothing of it is left."
    monkeypatch.setattr(files, 'max_unpacked', lambda path: 1 << 20)
    want, data = Files(dict(a='0' * 32)), bytes(3 << 20)
    with zipfile.ZipFile(tmp_path / 'x.whl', 'w', zipfile.ZIP_DEFLATED) as z:
        z.writestr('a', data)
    with tarfile.open(tmp_path / 'x.tar', 'w:gz') as tar:
        tar.addfile(member('a', len(data)), io.BytesIO(data))
    for take, name in (download._from_zip, 'x.whl'), (download._from_tar, 'x.tar'):
        with pytest.raises(BadInput, match=f'{name}.*1048576'):
            take(tmp_path / name, want, tmp_path / 'out')
    assert not list((tmp_path / 'out').iterdir())


def test_archives_that_are_damaged(tmp_path, monkeypatch):
    "From a damaged tar in one's own folder to one error that says what was tried."
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode='w:gz') as tar:
        tar.addfile(member('a', 5), io.BytesIO(b'right'))
    monkeypatch.setenv('VAEBOOK_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setenv('VAEBOOK_DATA', str(tmp_path / 'own'))
    monkeypatch.setenv('VAEBOOK_OFFLINE', '1')
    (tmp_path / 'own/packed').mkdir(parents=True)
    for what, broken in mutations(data.getvalue(), 60):
        md5 = download.hashlib.md5(broken).hexdigest()
        publish(monkeypatch, 'packed', Files(dict(a='0' * 32), archives={'https://example.invalid/all.tar.gz': md5}))
        (tmp_path / 'own/packed/all.tar.gz').write_bytes(broken)
        with pytest.raises(DownloadError, match='Packed cannot be had'):
            download.fetch('packed')
