"The audio chapter's data where a lesson is not enough: formats, broken files, killed processes, memory, real sounds."

import json, os, signal, subprocess, sys, time

import numpy as np
import pytest
import torch

from helpers import command
from vaebook.core import BadInput
from vaebook.data import audio
from vaebook.data.audio import Tones, load_sounds, read_audio, pcm_to_float, write_wav
from vaebook.data.download import DownloadError

av, soxr = pytest.importorskip('av'), pytest.importorskip('soxr')


HOME = os.environ.get('VAEBOOK_CACHE')  # of the user, who has the recordings perhaps


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('VAEBOOK_CACHE', str(tmp_path / 'cache'))
    return tmp_path / 'cache/audio'


def tone(seconds, rate=16000, channels=1):
    return pcm_to_float(Tones(1, int(seconds * rate), rate, channels)[0]['audio'][0])


def encoded(path, x, codec, rate=16000, fmt='s16'):
    "Write a sound by FFmpeg's encoder `codec`."
    layout = 'mono' if len(x) == 1 else 'stereo'
    y = (
        (x * (32768 if fmt == 's16' else 2**31))
        .round()
        .clamp(-(2**31), 2**31 - 128)
        .numpy()
        .astype({'s16': 'int16', 's32': 'int32'}[fmt])
    )
    with av.open(str(path), 'w') as out:
        stream = out.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(y.T.reshape(1, -1)), format=fmt, layout=layout)
        frame.sample_rate = rate
        change = av.AudioResampler(stream.format, layout, rate, frame_size=stream.frame_size or 1024)
        for f in [*change.resample(frame), *change.resample(None)]:
            out.mux(stream.encode(f))
        out.mux(stream.encode())


@pytest.mark.parametrize(
    'name, codec, rate, channels, fmt, dB',
    [
        ('a.flac', 'flac', 44100, 2, 's16', 200),
        ('b.flac', 'flac', 16000, 1, 's32', 120),
        ('c.wav', 'pcm_s24le', 16000, 2, 's32', 120),
        ('d.wav', 'pcm_u8', 16000, 1, 's16', 30),
        ('e.opus', 'libopus', 48000, 2, 's16', 8),
        ('f.mp3', 'libmp3lame', 44100, 2, 's16', 8),
        ('g.g722', 'g722', 16000, 1, 's16', 8),
        ('h.wav', 'pcm_f64le', 8000, 1, 's16', 200),
    ],
)
def test_formats(tmp_path, name, codec, rate, channels, fmt, dB):
    "What FFmpeg wrote is read: rate, channels, length, and the sound as far as its format keeps it."
    x = tone(1.5, rate, channels)
    encoded(tmp_path / name, x, codec, rate, fmt)
    y, found = read_audio(tmp_path / name)
    assert found == rate and len(y) == channels and abs(y.shape[1] - x.shape[1]) <= 2500
    n = min(x.shape[1], y.shape[1])
    best = max(
        10 * torch.log10(x[:, : n - d].square().sum() / (y[:, d:n] - x[:, : n - d]).square().sum().clamp_min(1e-30))
        for d in range(0, 40 if dB < 20 else 1)
    )
    assert best > dB


def test_broken_half_way(tmp_path):
    "A file that breaks in its middle leaves nothing of itself between the others."
    root = tmp_path / 'sounds'
    root.mkdir()
    for i in range(6):
        write_wav(root / f'{i}.wav', tone(1 + i / 10), 16000)
    bad = torch.cat([tone(3), torch.full((1, 10), float('nan'))], 1)
    write_wav(root / '33.wav', bad, 16000, 'float32')
    with pytest.raises(BadInput, match='33.wav.*finite'):
        load_sounds('audio_folder', root=root, val_every=3)
    assert not list((tmp_path / 'cache/audio').glob('[!.]*')), 'a failed decode leaves nothing but its lock'
    data = load_sounds('audio_folder', root=root, val_every=3, skip_broken=True)
    assert len(data.skipped) == 1 and '33.wav' in data.skipped[0] and len(data.index) == 6
    for split in ('train', 'val'):
        for name, x in data.files(split):
            assert x.equal(audio.float_to_pcm(read_audio(root / name)[0]))


def test_changed_files_are_decoded_again(tmp_path, cache, capsys):
    root = tmp_path / 'sounds'
    root.mkdir()
    for i in range(3):
        write_wav(root / f'{i}.wav', tone(1), 16000)
    first = load_sounds('audio_folder', root=root).seconds('train')

    def stamp():
        return sorted((p.name, p.stat().st_mtime_ns) for p in cache.rglob('*'))

    before = stamp()
    load_sounds('audio_folder', root=root, samples=100, seed=7)
    assert stamp() == before, 'another crop is the same array'
    write_wav(root / '2.wav', tone(2), 16000)
    assert load_sounds('audio_folder', root=root).seconds('train') == first + 1
    load_sounds('audio_folder', root=root, sample_rate=8000, channels=2)
    assert len(list(cache.glob('[!.]*'))) == 3 and capsys.readouterr().out == ''


LOAD = '''
import resource, sys
from vaebook.data.audio import load_sounds
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
load_sounds('audio_folder', root=sys.argv[1], sample_rate=int(sys.argv[2]), channels=int(sys.argv[3]))
print(peak())
'''


@pytest.mark.slow
def test_decoding_has_flat_memory(tmp_path):
    "Four minutes of stereo, resampled, against ten seconds: 42 MB as int16, 85 MB as floats."
    peaks, x = [], tone(10, 16000, 2)
    for seconds in (10, 240):
        root = tmp_path / f'sounds{seconds}'
        root.mkdir()
        for i in range(2):
            with audio.wav_writer(root / f'{i}.wav', 16000, 2) as write:
                for _ in range(seconds // 10):
                    write(x)
        (tmp_path / 'load.py').write_text(LOAD)
        peaks.append(int(command('load.py', root, 44100, 2, cwd=tmp_path).split()[-1]))
    assert peaks[1] < 1.1 * peaks[0]


def test_killed_while_decoding(tmp_path, cache):
    "A killed process leaves no array that another would read."
    root, x = tmp_path / 'sounds', tone(10)
    root.mkdir()
    for i in range(20):
        write_wav(root / f'{i}.wav', x, 16000)
    (tmp_path / 'load.py').write_text(LOAD)
    line = [sys.executable, tmp_path / 'load.py', root, '44100', '1']
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 60
    while not list(cache.glob('.*/sound.npy')) and time.time() < deadline and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not [p for p in cache.iterdir() if not p.name.startswith('.')]
    assert len(load_sounds('audio_folder', root=root, sample_rate=44100).index) == 20


def test_speech16k(monkeypatch):
    "The real prompts: 568 files, 29 held out, known lengths, and every crop full of speech."
    monkeypatch.setenv('VAEBOOK_CACHE', HOME) if HOME else monkeypatch.delenv('VAEBOOK_CACHE')
    try:
        data = load_sounds('speech16k')
    except DownloadError as e:
        pytest.skip(str(e).splitlines()[0])
    assert (data.sample_rate, data.channels, data.samples) == (16000, 1, 16384) and 'CC BY-SA' in data.note
    assert len(data.index) == 568 and sum(held for _, held, *_ in data.index) == 29
    assert round(data.seconds('train') + data.seconds('val')) == 1529 and not data.skipped
    x = data.train[torch.arange(64)]['audio']
    assert x.shape == (64, 1, 16384) and x.dtype == torch.int16 and (pcm_to_float(x).std((1, 2)) > 1e-3).all()
    assert len(list(data.files('val'))) == 29
    json.dumps(data.index)
