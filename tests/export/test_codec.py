"The codec where a lesson is not enough: damaged and forged files, memory, the shell."

import csv, json, random, struct, time, zlib
from pathlib import Path

import pytest
import torch

from helpers import command
from vaebook.cli.main import main
from vaebook.export.codec import _MAGIC, Codec, Codes
from vaebook.core import BadInput
from vaebook.data.audio import Tones, read_audio, pcm_to_float, wav_writer, write_wav
from vaebook.models.audio import AudioAutoencoder

pytest.importorskip('av')
pytest.importorskip('soxr')


def tone(seconds, rate=8000, channels=1):
    return pcm_to_float(Tones(1, int(seconds * rate), rate, channels)[0]['audio'][0])


KINDS = dict(
    rvq=dict(codebook_size=100, num_quantizers=3),
    fsq=dict(levels=[8, 5, 5]),
    vq=dict(codebook_size=7),
    dac_rvq=dict(codebook_size=16, num_quantizers=2, codebook_dim=4),
    vae={},
    none={},
    lfq={},
    complex_vae={},
)
WAVE = dict(encoder=dict(width=4, strides=[(1, 4), (1, 4), (1, 4)]))
SPECTRUM = dict(stft=dict(n_fft=128, hop=32), encoder=dict(width=4, first_stride=(4, 2), strides=[(4, 1), (4, 1)]))
NETS = dict(wave=WAVE, complex=SPECTRUM)


@torch.no_grad()
def small(kind='rvq', channels=1, net='wave', sample_rate=8000, **encoder):
    "A model of 64 samples a frame whose codebooks have heard noise."
    torch.manual_seed(0)
    options = NETS[net] | dict(encoder=NETS[net]['encoder'] | encoder, bottleneck=dict(type=kind, **KINDS[kind]))
    model = AudioAutoencoder(channels, sample_rate, 8, **options).requires_grad_(False)
    for _ in range(5):
        model.encode(torch.randn(1, channels, 16000) / 4)
    return model.eval()


def run(*args):
    "`vaebook codec <args>`, in this process."
    main(['codec', *map(str, args)])


def codec(kind='rvq', channels=1, seconds=0.5, **options):
    return Codec(small(kind, channels, **options), seconds)


def same(c, a, x):
    "Codes and sound are those of the model at once."
    latent = c.model.encode(x[None])
    ids = a.header.kind == 'ids'
    whole = latent.info['indices'].view(1, a.header.frames, -1).movedim(1, 2) if ids else latent.z
    assert a.numbers.shape == whole.shape
    if ids:
        assert (a.numbers != whole).float().mean() < 1e-3, 'a tie may fall the other way by rounding'
        assert whole.unique().numel() > 3
    else:
        assert (a.numbers.float() - whole).abs().max() < 2e-3, 'float16'
    back, at_once = c.decode(a), c.model.decode(c.to_latents(a.numbers), x.shape[1])[0]
    assert back.shape == x.shape and (back - at_once).abs().max() < 1e-5


@pytest.mark.parametrize(
    'kind, options',
    [
        *((kind, {}) for kind in KINDS if kind != 'complex_vae'),
        ('rvq', dict(causal=True)),
        *(('complex_vae', dict(net='complex', causal=c)) for c in (False, True)),
        ('rvq', dict(net='complex')),
        ('rvq', dict(net='complex', causal=True)),
        ('rvq', dict(lstm=1, causal=True)),
        ('vae', dict(lstm=2, causal=True, pad='reflect')),
        ('rvq', dict(net='complex', algebra='real', activation='elu', lstm=1, causal=True)),
    ],
)
def test_chunks_are_the_whole(kind, options, tmp_path):
    "In pieces of any length, in chunks or as a stream: the codes and the sound of the whole; a file of them is exact."
    model = small(kind, **options)
    x = tone(5.01)
    for seconds in (0.1, 0.5, 1000):
        c = Codec(model, seconds)
        same(c, a := c.encode(x), x)
    back = Codes.open(a.save(tmp_path / 'a.vbk'))
    assert back.numbers.equal(a.numbers) and back.header == a.header
    assert model.has_finite_context == ('lstm' not in options)


def test_an_lstm_without_causality_is_refused():
    with pytest.raises(BadInput, match='an LSTM'):
        Codec(small(lstm=1))


def test_encodec(tmp_path):
    "EnCodec's folder is a model for the shell: its LSTM makes it a stream."
    transformers = pytest.importorskip('transformers')
    torch.manual_seed(0)
    sizes = dict(num_filters=4, hidden_size=16, codebook_size=16, target_bandwidths=[1.2])
    transformers.EncodecModel(transformers.EncodecConfig(**sizes)).save_pretrained(tmp_path / 'model')
    write_wav(tmp_path / 'in.wav', tone(2, 44100, 2), 44100)
    run('encode', tmp_path / 'in.wav', tmp_path / 'out.vbk', '--model', tmp_path / 'model')
    run('decode', tmp_path / 'out.vbk', tmp_path / 'back.wav', '--model', tmp_path / 'model')
    assert read_audio(tmp_path / 'back.wav')[0].shape == (2, 88200)
    assert Codes.open(tmp_path / 'out.vbk').numbers.shape == (2, 4, 150)


MANY = codec(), codec('vae', 2), codec('complex_vae', net='complex', causal=True), codec('vae', lstm=1, causal=True)


@pytest.mark.parametrize('n', [1, 2, 63, 64, 65, 4000, 4001, 31999])
@pytest.mark.parametrize('rate, channels', [(8000, 1), (44100, 2), (11025, 1)])
def test_every_sample_comes_back(n, rate, channels):
    x = tone(n / rate + 1, rate, channels)[:, :n]
    for c in MANY:
        y = c.reconstruct(x, rate)
        assert y.shape == x.shape and y.isfinite().all()


def test_rates():
    "Stages fit into kbps; what can be had is listed; continuous latents have one rate."
    c, x = codec(), tone(2)
    assert [len(c.encode(x, kbps=k).numbers[0]) for k in (0.88, 1.8, 2.63, 99)] == [1, 2, 3, 3]
    with pytest.raises(BadInput, match='one of 0.875, 1.75, 2.625'):
        c.encode(x, kbps=0.5)
    with pytest.raises(BadInput, match='continuous'):
        codec('vae').encode(x, kbps=3)
    with pytest.raises(BadInput, match='finite'):
        c.encode(torch.full((1, 100), float('nan')))


def damage(data, rng):
    "One of five kinds of damage."
    data, kind = bytearray(data), rng.randrange(5)
    at = rng.randrange(len(data)) if rng.random() < 0.5 else rng.randrange(min(len(data), 320))  # the header more often
    if kind == 0:
        data[at] ^= 1 << rng.randrange(8)
    if kind == 1:
        data[at] = rng.randrange(256)
    if kind == 2:
        del data[at:]
    if kind == 3:
        data[at:at] = rng.randbytes(rng.randrange(1, 9))
    if kind == 4:
        data[at : at + rng.randrange(1, 20)] = rng.choice(
            [b'9' * 9, b'-1', b'"', b'{', b'[[[[', b'1e99', b'null', b'true', bytes(4)]
        )
    return bytes(data)


@pytest.mark.parametrize('kind', ['rvq', 'vae'])
@pytest.mark.parametrize('forged', [False, True])
def test_damaged_files(kind, forged, tmp_path):
    "A damaged file is refused; one whose CRC was made to fit is refused or is another sound of honest size."
    rng, c = random.Random(0), codec(kind)
    good, path = c.encode(tone(1)).save(tmp_path / 'good.vbk').read_bytes(), tmp_path / 'bad.vbk'
    start, accepted = time.process_time(), 0
    for _ in range(300):
        data = damage(good, rng)
        if data == good:
            continue
        if forged:
            data = data[:-4] + struct.pack('<I', zlib.crc32(data[:-4]))
        path.write_bytes(data)
        try:
            codes = Codes.open(path)
        except BadInput:
            continue
        accepted += 1
        h = codes.header
        assert forged and codes.numbers.numel() == h.numbers and h.size < len(data)
        assert (codes.numbers < h.vocab).all() if h.kind == 'ids' else codes.numbers.isfinite().all()
        try:
            assert c.decode(codes).shape == (h.channels, h.length)
        except BadInput:
            pass
    assert accepted < 300 and time.process_time() - start < 6


def test_forged_sizes(tmp_path):
    "Whatever a header claims, nothing is made of it before the file has that many bytes."
    good, path = codec().encode(tone(1)).save(tmp_path / 'good.vbk').read_bytes(), tmp_path / 'bad.vbk'
    size = struct.unpack('<I', good[4:8])[0]
    head, body = json.loads(good[8 : 8 + size]), good[8 + size : -4]

    def forge(body=body, **changes):
        text = json.dumps(head | changes).encode()
        data = _MAGIC + struct.pack('<BI', 1, len(text)) + text + body
        path.write_bytes(data + struct.pack('<I', zlib.crc32(data)))
        return path

    assert Codes.open(forge()).header.frames == 125
    for k in head:
        for v in (-1, 0, 2**40, 2**70, 1.5, None, 'x', [], True):
            if k == 'model' and v == 'x':
                continue
            with pytest.raises(BadInput):
                Codes.open(forge(**{k: v}))
    big = dict(frames=2**30, samples=2**36, length=2**36)
    with pytest.raises(BadInput, match='as its header says'):
        Codes.open(forge(**big))
    with pytest.raises(BadInput, match='ids below 100'):
        Codes.open(forge(bytes([255]) * len(body)))
    path.write_bytes(good[:4] + struct.pack('<I', 2**32 - 1) + good[8:])
    with pytest.raises(BadInput, match='at most 2048'):
        Codes.open(path)
    path.write_bytes(good[:4] + struct.pack('<I', 2000) + b'[' * 2000)
    with pytest.raises(BadInput, match='JSON'):
        Codes.open(path)


MEMORY = r'''
import re, sys
sys.path += [sys.argv[1], sys.argv[1] + '/..']
import torch
from test_codec import Codes, codec
torch.set_num_threads(1)
c = codec(sys.argv[2], net=sys.argv[3], sample_rate=16000, seconds=4.)
c.encode('in.wav').save('codes.vbk')
c.decode_file(Codes.open('codes.vbk'), 'back.wav')
print(re.search(r'VmHWM:\s+(\d+)', open('/proc/self/status').read())[1])
'''


@pytest.mark.slow
@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='the peak is read as Linux tells it')
@pytest.mark.parametrize('kind, net', [('rvq', 'wave'), ('complex_vae', 'complex')])
def test_memory_is_flat(kind, net, tmp_path):
    """Ten minutes peak at most 1.2 times where 20 seconds do, from a file to a file, from the process's start.

    600 s of 16 kHz stereo are 77 MB as floats. The peak is VmHWM: ru_maxrss of a child begins with the memory of its
    parent, which here is the larger."""
    (tmp_path / 'measure.py').write_text(MEMORY)
    peaks, x = [], tone(20, 16000, 2)
    for seconds in (20, 600):
        with wav_writer(tmp_path / 'in.wav', 16000, 2) as write:
            for _ in range(seconds // 20):
                write(x)
        peaks.append(int(command('measure.py', Path(__file__).parent, kind, net, cwd=tmp_path).split()[-1]))
        assert (tmp_path / 'back.wav').stat().st_size == (tmp_path / 'in.wav').stat().st_size
    print(*(f'{p / 1024:.0f} MiB' for p in peaks), f'× {peaks[1] / peaks[0]:.3f}')
    assert peaks[1] <= 1.2 * peaks[0], peaks


def test_shell(tmp_path, monkeypatch, capsys):
    "encode, decode, eval; what goes wrong is one line and exit code 2."
    small().save_pretrained(tmp_path / 'model')
    (tmp_path / 'a').mkdir()
    for i in range(2):
        write_wav(tmp_path / f'a/{i}.wav', tone(1 + i, 16000, 2), 16000)
    M = '--model', tmp_path / 'model'
    for i in range(2):
        run('encode', tmp_path / f'a/{i}.wav', tmp_path / f'{i}.vbk', '--kbps', 2, *M)
        monkeypatch.setenv('VAEBOOK_MODEL', str(tmp_path / 'model'))
        run('decode', tmp_path / f'{i}.vbk', tmp_path / f'b/{i}.wav')
        monkeypatch.delenv('VAEBOOK_MODEL')
        assert read_audio(tmp_path / f'b/{i}.wav')[0].shape == (2, 16000 * (1 + i))
    assert [len(Codes.open(tmp_path / '0.vbk').numbers[0])] == [1], 'two rows share 2 kbit/s'
    run('eval', tmp_path / 'a', tmp_path / 'b', '--out', tmp_path / 'numbers.csv')
    rows = list(csv.DictReader(open(tmp_path / 'numbers.csv')))
    assert [r['file'] for r in rows] == ['0', '1', 'mean'] and 'si_sdr' in rows[0]
    capsys.readouterr()
    (tmp_path / 'text.wav').write_text('no sound')
    (tmp_path / 'empty').mkdir()
    wrong = [
        (('encode', tmp_path / 'a/0.wav', 'x.vbk', *M, '--which', 'best'), 'kept its best model'),
        (('encode', tmp_path / 'no.wav', 'x.vbk', *M), 'no.wav'),
        (('encode', tmp_path / 'text.wav', 'x.vbk', *M), 'FFmpeg can read'),
        (('encode', tmp_path / 'a/0.wav', 'x.vbk'), 'VAEBOOK_MODEL'),
        (('encode', tmp_path / 'a/0.wav', 'x.vbk', '--kbps', 0.1, *M), 'one of'),
        (('decode', tmp_path / 'a/0.wav', 'x.wav', *M), 'starts with VBK'),
        (('decode', tmp_path / '0.vbk', 'x.wav', '--model', tmp_path / 'empty'), 'config.json'),
        (('eval', tmp_path / 'a', tmp_path / 'empty'), 'at least one file'),
        (('eval', tmp_path / 'a', tmp_path / 'nowhere'), 'a folder of sounds'),
    ]
    for args, says in wrong:
        with pytest.raises(SystemExit) as e:
            run(*args)
        err = capsys.readouterr().err
        assert e.value.code == 2 and says in err and err.count('\n') == 1, err
    assert not Path('x.vbk').exists() and not Path('x.wav').exists()
