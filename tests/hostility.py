"Damaged and hostile files: how they are made, and what reading them may do."

import os, random, resource, signal, warnings

from vaebook.core import BadInput

HUGE = 0, 1, 127, 255, 2**15 - 1, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1
TEXTS = b'-1', b'99999999999', b'0', b'1e9', b'null', b'"x"', b'[]', b'NaN', b'../../x', b'${oc.env:HOME}'


def mutations(data: bytes, n: int):
    "Yield (what was done, bytes): cuts, noise, and `n` changes, most of them near the two ends, where headers are."
    r, size = random.Random(0), len(data)
    end = min(size, 512)

    def near():
        places = r.randrange(16), r.randrange(end), r.randrange(size), size - 1 - r.randrange(end)
        return min(size - 1, r.choice(places))

    doublings = [2**i for i in range(size.bit_length())]
    for k in sorted({size - 1, size - 3, *doublings, *(r.randrange(size) for _ in range(6))}):
        yield f'cut at {k}', data[:k]
    yield from {'empty': b'', 'junk behind': data + b'!' * 9, 'twice': data + data, 'noise': r.randbytes(size)}.items()
    for _ in range(n):
        out, a, b = bytearray(data), near(), near()
        kind = r.choice('bit field field noise zeros swap header gone text'.split())
        if kind == 'bit':
            out[a] ^= 1 << r.randrange(8)
            out[b] ^= 1 << r.randrange(8)
        if kind == 'field':
            width = r.choice((1, 2, 4, 8))
            out[a : a + width] = (r.choice(HUGE) % 256**width).to_bytes(width, r.choice(('little', 'big')))
        if kind == 'noise':
            out[a : a + 16] = r.randbytes(16)
        if kind == 'zeros':
            out[a : a + 64] = bytes(64)
        if kind == 'swap':
            out[a : a + 16], out[b : b + 16] = out[b : b + 16], out[a : a + 16]
        if kind == 'header':
            out[a:a] = out[:64]
        if kind == 'gone':
            del out[a : a + 8]
        if kind == 'text' and (digits := [i for i in range(size) if 48 <= out[i] <= 57]):
            i = r.choice(digits)
            out[i : i + 1] = r.choice(TEXTS)
        yield f'{kind} at {a}, {b}', bytes(out)


def judged(read, path, names):
    "What became of reading it."
    try:
        read(path)
    except BadInput as e:
        return 'refused' if any(n in str(e) for n in names) else f'unnamed: {str(e)[:200]}'
    except BaseException as e:
        return f'{type(e).__name__}: {str(e)[:200]}'
    return 'read'


def limit_memory(more):
    "This process may take `more` bytes than it has; it leaves no core file."
    if os.path.exists('/proc/self/statm'):
        taken = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + more, taken + more))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def attempt(read, path, cases, names=(), seconds=5.0, memory=3 << 29) -> list:
    "What became of each (what, bytes) at `path`; in a child, so that a crash, a hang and a flood of memory are seen."
    whole, (ear, mouth) = path.read_bytes(), os.pipe()
    if not (child := os.fork()):
        try:
            warnings.simplefilter('ignore')
            for stream in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
            limit_memory(memory)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            for what, data in cases:
                path.write_bytes(data)
                os.write(mouth, f'{what}\t'.encode())
                signal.setitimer(signal.ITIMER_REAL, seconds)
                fate = judged(read, path, names or [path.name])
                signal.setitimer(signal.ITIMER_REAL, 0)
                os.write(mouth, fate.replace('\n', ' ').encode(errors='replace') + b'\n')
        finally:
            os._exit(0)
    os.close(mouth)
    with os.fdopen(ear) as f:
        out = [line.rstrip('\n').split('\t') for line in f]
    status = os.waitpid(child, 0)[1]
    path.write_bytes(whole)
    return [[what, fate or f'died of signal {status & 127}'] for what, fate in out]
