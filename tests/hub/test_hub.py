"""Models on the Hub: `push_to_hub` and `from_pretrained('user/model')`, against a small hub of our own on this machine.

The hub answers what `huggingface_hub` really asks for: repositories, branches, uploads (small files in the commit,
weights by the LFS protocol), files with their etag and commit. Xet, the third way, needs a server that cannot be stood
in for."""

import base64, hashlib, http.server, json, os, re, shlex, subprocess, sys, threading, time
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import pytest
import torch
import yaml
from omegaconf import OmegaConf
from PIL import Image

from vaebook.hub.card import model_card
from vaebook.core.config import compose
from vaebook.core import BadInput, flatten_dict
from vaebook.data.images import to_unit
from vaebook.data.video.reader import to_float
from vaebook.models import CNN, CVAE, FSQVQVAE, ActionTokenizer
from vaebook.viz.tiles import new_figure
from vaebook.core.pretrained import Pretrained
from vaebook.train import experiment

hub = pytest.importorskip('huggingface_hub')
TOKEN = 'hf_ThisIsTheSecretOfTheTest'


class Hub(http.server.BaseHTTPRequestHandler):
    """Repositories in memory: {name: {'private', 'branches': {branch: commit}, 'commits': {commit: {path: bytes}}}}.

    `trouble` makes some requests fail."""

    protocol_version = 'HTTP/1.1'
    repos, blobs, log, trouble = {}, {}, [], {}

    def log_message(self, *args):
        pass

    def answer(self, body=None, status=200, **headers):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for key, value in {'Content-Type': 'application/json', 'Content-Length': len(data), **headers}.items():
            self.send_header(key.replace('_', '-'), str(value))
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(data)

    def no(self, status, code='', text=''):
        self.answer(
            {'error': text}, status, **{k: v for k, v in {'X-Error-Code': code, 'X-Error-Message': text}.items() if v}
        )

    def handle_any(self):
        path, sent = unquote(urlsplit(self.path).path), self.rfile.read(int(self.headers.get('Content-Length') or 0))
        self.log.append((self.command, path, self.headers.get('Authorization')))
        for pattern, (status, code, text) in self.trouble.items():
            if re.search(pattern, f'{self.command} {path}'):
                return self.no(status, code, text)
        if (
            self.command in ('POST', 'PUT')
            and '/storage/' not in path
            and self.headers.get('Authorization') != f'Bearer {TOKEN}'
        ):
            return self.no(401, '', 'Invalid credentials in Authorization header')
        routes = {
            r'/api/validate-yaml': self.validate,
            r'/api/repos/create': self.create,
            r'/api/models/([\w.-]+/[\w.-]+)': self.info,
            r'/api/models/([\w.-]+/[\w.-]+)/branch/(.+)': self.branch,
            r'/api/models/([\w.-]+/[\w.-]+)/preupload/(.+)': self.preupload,
            r'/api/models/([\w.-]+/[\w.-]+)/commit/(.+)': self.commit,
            r'/([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch': self.batch,
            r'/storage/(\w+)': self.store,
            r'/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)': self.resolve,
        }
        for pattern, route in routes.items():
            if found := re.fullmatch(pattern, path):
                return route(sent, *found.groups())
        self.no(404, '', f'no route for {self.command} {path}')

    do_GET = do_POST = do_PUT = do_HEAD = handle_any

    def validate(self, sent):
        front = yaml.safe_load(json.loads(sent)['content'].split('---')[1])
        self.answer(
            {'errors': [], 'warnings': []} if front else {'errors': [{'message': 'no front matter'}], 'warnings': []},
            200 if front else 400,
        )

    def create(self, sent):
        asked = json.loads(sent)
        name = f"{asked.get('organization') or 'ada'}/{asked['name']}"
        new = name not in self.repos
        if new:
            self.repos[name] = dict(
                private=bool(asked.get('private')) or asked.get('visibility') == 'private',
                branches={'main': '0' * 40},
                commits={'0' * 40: {}},
            )
        self.answer({'url': f'http://{self.headers["Host"]}/{name}', 'name': name}, 200 if new else 409)

    def known(self, name):
        repo = self.repos.get(name)
        if repo and (not repo['private'] or self.headers.get('Authorization') == f'Bearer {TOKEN}'):
            return repo
        self.no(401 if self.headers.get('Authorization') is None else 404, 'RepoNotFound', 'Repository not found')

    def info(self, sent, name):
        if repo := self.known(name):
            self.answer({'id': name, 'private': repo['private'], 'sha': repo['branches']['main'], 'siblings': []})

    def branch(self, sent, name, branch):
        if not (repo := self.known(name)):
            return
        if branch in repo['branches']:
            return self.no(409, '', 'Reference already exists')
        repo['branches'][branch] = repo['branches']['main']
        self.answer({})

    def preupload(self, sent, name, revision):
        if not (repo := self.known(name)):
            return
        if revision not in repo['branches']:
            return self.no(404, 'RevisionNotFound', 'Invalid rev id')
        files = []
        for path in (f['path'] for f in json.loads(sent)['files']):
            mode = 'lfs' if path.endswith(('.safetensors', '.png')) else 'regular'
            files.append(dict(path=path, uploadMode=mode, shouldIgnore=False, oid=None))
        self.answer({'files': files})

    def batch(self, sent, name):
        objects = []
        for o in json.loads(sent)['objects']:
            found = dict(oid=o['oid'], size=o['size'])
            if o['oid'] not in self.blobs:
                found['actions'] = {'upload': {'href': f'http://{self.headers["Host"]}/storage/{o["oid"]}'}}
            objects.append(found)
        self.answer({'transfer': 'basic', 'objects': objects})

    def store(self, sent, oid):
        if self.command != 'PUT':
            return self.answer(self.blobs[oid])
        assert hashlib.sha256(sent).hexdigest() == oid
        self.blobs[oid] = sent
        self.answer({})

    def commit(self, sent, name, revision):
        repo = self.repos[name]
        files = dict(repo['commits'][repo['branches'][revision]])
        for line in map(json.loads, sent.splitlines()):
            value = line['value']
            if line['key'] == 'file':
                files[value['path']] = base64.b64decode(value['content'])
            if line['key'] == 'lfsFile':
                files[value['path']] = self.blobs[value['oid']]
        oid = hashlib.sha1(repr((name, sorted(files), time.time())).encode()).hexdigest()
        repo['commits'][oid], repo['branches'][revision] = files, oid
        url = f'http://{self.headers["Host"]}/{name}/commit/{oid}'
        self.answer({'success': True, 'commitOid': oid, 'commitUrl': url, 'hookOutput': ''})

    def resolve(self, sent, name, revision, path):
        if not (repo := self.known(name)):
            return
        oid = repo['branches'].get(revision, revision)
        if oid not in repo['commits']:
            return self.no(404, 'RevisionNotFound', 'Invalid rev id')
        if path not in repo['commits'][oid]:
            return self.answer({}, 404, X_Error_Code='EntryNotFound', X_Repo_Commit=oid)
        data = repo['commits'][oid][path]
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        headers = dict(X_Repo_Commit=oid, ETag=etag, X_Linked_Size=len(data), Accept_Ranges='bytes')
        if self.command == 'GET' and self.trouble.get('cut'):  # the line breaks after half of the file, without a word
            headers['Content_Length'], data = len(data) // 2, data[: len(data) // 2]
        start = int(re.fullmatch(r'bytes=(\d+)-', self.headers.get('Range', 'bytes=0-'))[1])
        self.answer(data[start:], 206 if start else 200, **headers)


@pytest.fixture(scope='module')
def address():
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def quiet(address, tmp_path, monkeypatch):
    "`huggingface_hub` of this process asks our hub, without Xet; its cache and token are in a folder of this test."
    from huggingface_hub import constants, file_download
    from huggingface_hub.utils import _http

    hurry = SimpleNamespace(**vars(time) | dict(sleep=lambda seconds: None))  # else it waits half a minute
    for module in (_http, file_download):
        monkeypatch.setattr(module, 'time', hurry)
    url = address + '/{repo_id}/resolve/{revision}/{filename}'
    home, cache, token = (str(tmp_path / place) for place in ('hf', 'hf/hub', 'hf/token'))
    settings = dict(ENDPOINT=address, HUGGINGFACE_CO_URL_TEMPLATE=url, HF_HUB_OFFLINE=False, HF_HUB_DISABLE_XET=True)
    settings |= dict(HF_HOME=home, HF_HUB_CACHE=cache, HF_TOKEN_PATH=token)
    for key, value in settings.items():
        monkeypatch.setattr(constants, key, value)
    monkeypatch.setenv('HF_HUB_DISABLE_PROGRESS_BARS', '1')
    for key in ('HF_TOKEN', 'HUGGING_FACE_HUB_TOKEN', 'HF_HUB_OFFLINE'):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.chdir(tmp_path)
    for store in (Hub.repos, Hub.blobs, Hub.log, Hub.trouble):
        store.clear()


def cvae(**more):
    return CVAE(**dict(n_alpha=1, n_beta=2, width=4) | more)


def files(name, revision='main'):
    return Hub.repos[name]['commits'][Hub.repos[name]['branches'][revision]]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def fails(contains, call, *args, **how):
    "It ends in one `BadInput` that says `contains`, and the token is nowhere in it."
    with pytest.raises(BadInput) as caught:
        call(*args, **how)
    assert contains in str(caught.value) and TOKEN not in str(caught.value) and '\n' not in str(caught.value)


# There and back


def test_a_model_comes_back_equal(address):
    model = cvae()
    assert model.push_to_hub('ada/digits', token=TOKEN) == f'{address}/ada/digits'
    assert files('ada/digits').keys() == {'config.json', 'model.safetensors', 'README.md'}
    for again in (CVAE.from_pretrained('ada/digits'), Pretrained.from_pretrained('ada/digits')):
        assert same(again.state_dict(), model.state_dict()) and again.config == model.config and not again.training
    assert files('ada/digits')['README.md'].decode() == model_card(model, None, 'ada/digits')


def test_nothing_but_config_and_weights_is_fetched(tmp_path):
    cvae().push_to_hub('ada/digits', token=TOKEN)
    files('ada/digits').update({'pytorch_model.bin': b'pickle', 'evil.py': b'import os'})
    Hub.log.clear()
    CVAE.from_pretrained('ada/digits')
    assert {path.split('/')[-1] for _, path, _ in Hub.log} == {'config.json', 'model.safetensors'}
    cached = {p.name for p in (tmp_path / 'hf/hub').glob('models--*/snapshots/*/*')}
    assert cached == {'config.json', 'model.safetensors'}


def test_the_second_time_nothing_is_fetched_again_and_then_no_network_is_needed(monkeypatch):
    cvae().push_to_hub('ada/digits', token=TOKEN)
    first = CVAE.from_pretrained('ada/digits')
    Hub.log.clear()
    CVAE.from_pretrained('ada/digits')
    assert not [path for verb, path, _ in Hub.log if verb == 'GET']
    Hub.trouble['resolve'] = 503, '', 'down'
    assert same(CVAE.from_pretrained('ada/digits').state_dict(), first.state_dict())


def test_branches_and_commits():
    old, new = cvae(), cvae()
    old.push_to_hub('ada/digits', token=TOKEN)
    new.push_to_hub('ada/digits', token=TOKEN, revision='wider')
    assert same(CVAE.from_pretrained('ada/digits').state_dict(), old.state_dict())
    assert same(CVAE.from_pretrained('ada/digits', revision='wider').state_dict(), new.state_dict())
    commit = Hub.repos['ada/digits']['branches']['wider']
    assert same(CVAE.from_pretrained('ada/digits', revision=commit).state_dict(), new.state_dict())
    new.push_to_hub('ada/digits', token=TOKEN)  # a second push is a second commit
    assert same(CVAE.from_pretrained('ada/digits').state_dict(), new.state_dict())


def test_a_private_model_is_private(tmp_path):
    cvae().push_to_hub('ada/mine', private=True, token=TOKEN)
    assert Hub.repos['ada/mine']['private']
    fails('run `hf auth login`', CVAE.from_pretrained, 'ada/mine')
    assert CVAE.from_pretrained('ada/mine', token=TOKEN).config['width'] == 4
    cvae().push_to_hub('ada/open', token=TOKEN)
    before = files('ada/open')
    fails('is public already', cvae().push_to_hub, 'ada/open', private=True, token=TOKEN)
    assert files('ada/open') == before


def test_a_folder_of_that_name_comes_first(tmp_path):
    cvae().push_to_hub('ada/digits', token=TOKEN)
    cvae(width=6).save_pretrained('ada/digits')
    assert CVAE.from_pretrained('ada/digits').config['width'] == 6
    Hub.log.clear()
    fails('a folder with config.json', CVAE.from_pretrained, Path('ada/other'))  # a Path is never a name
    assert Hub.log == []


def test_actions():
    "The tokenizer goes with the two files that AutoProcessor reads, and without the pickle of `save_pretrained`."
    model = FSQVQVAE(action_dim=2, horizon=8, hidden_dim=32).eval()
    model.push_to_hub('ada/tokens', token=TOKEN)
    usual = {'config.json', 'model.safetensors', 'README.md'}
    assert files('ada/tokens').keys() == usual
    chunks = torch.linspace(-1, 1, 32).view(2, 8, 2)
    ActionTokenizer(model).push_to_hub('ada/tokenizer', token=TOKEN)
    assert files('ada/tokenizer').keys() == usual | {'processor_config.json', 'processing_vaebook.py'}
    for name in ('ada/tokens', 'ada/tokenizer'):
        assert (ActionTokenizer.from_pretrained(name).encode(chunks) == ActionTokenizer(model).encode(chunks)).all()
    assert ActionTokenizer.from_pretrained('ada/tokenizer', revision='main').action_dim == 2


# The card

EXPERIMENTS = dict(
    cvae='CVAE',
    classifier='CNN',
    latent_actions='ActionTokenizer',
    causal_video='CausalVAE',
    audio='AudioAutoencoder',
    world='DPGMMVariationalRecurrentAutoencoder',
)
METRICS = dict(
    cvae=dict(nll=57.02, causal_effect=0.5),
    classifier=dict(classifier_accuracy=0.9),
    latent_actions=dict(rmse=0.19, effective_bits=66.7),
    causal_video=dict(psnr=25.13, kl=3.0),
    audio=dict(si_sdr=-9.87, stoi=float('nan')),
    world=dict(elbo=857.9, psnr_open_h4=22.1),
)


def scientific(cfg):
    "What of a configuration is no matter of place or taste."
    personal = 'run_dir', 'resume', 'logger', 'trainer.progress_bar'
    values = flatten_dict(OmegaConf.to_container(cfg))
    return {k: v for k, v in values.items() if not k.removeprefix('classifier.').startswith(personal)}


def untrained(name, folder, **more):
    "The run folder of an experiment, as if it had been trained, and the experiment."
    given = dict(smoke=True, overrides='trainer.progress_bar=false') | more
    body = experiment(compose(name, run_dir=str(folder), **given))
    body.model.save_pretrained(body.folder() / 'model')
    body.run.save_metrics(**METRICS[name])
    for figure in ('reconstructions', 'loss_curves', 'other'):
        body.run.save_figure(figure, new_figure(1, 1))
    return body


@pytest.mark.slow
@pytest.mark.parametrize('name', EXPERIMENTS)
def test_every_chapter_has_a_card_that_keeps_its_word(name, tmp_path):
    body = untrained(name, tmp_path / 'run')
    model = Pretrained.from_pretrained(tmp_path / 'run/model')
    sent = ActionTokenizer(model) if name == 'latent_actions' else model
    sent.push_to_hub('ada/it', tmp_path / 'run', token=TOKEN)
    card = files('ada/it')['README.md'].decode()
    pictures = {'figures/reconstructions.png', 'figures/loss_curves.png'}
    assert {p for p in files('ada/it') if p.endswith('.png')} == pictures
    assert set(re.findall(r'\((figures/\S+)\)', card)) == pictures
    front = yaml.safe_load(card.split('---\n')[1])
    assert front['library_name'] == 'vaebook' and 'license' not in front
    assert 'model-index' not in front, 'numbers of a smoke run are not for show'
    assert 'its numbers mean nothing' in card and 'arxiv.org/abs/' in card
    assert str(tmp_path) not in card and 'nan' not in card
    for metric in METRICS[name]:
        assert metric == 'stoi' or f'| {metric} |' in card
    lines = re.search(r'```python\n(.*?)\n```', card, re.S)[1]
    assert len(lines.splitlines()) == 3 and f'import {EXPERIMENTS[name]}\n' in lines
    batch = next(iter(body.train_batches(0, 1)))
    names = dict(x='images', video='clips', audio='sound')
    known = {names.get(k, k): dict(x=to_unit, video=to_float).get(k, lambda v: v)(v) for k, v in batch.items()}
    exec(lines, known)  # the three lines run as they stand
    command = shlex.split(re.search(r'^vaebook-train .*', card, re.M)[0])[1:]
    again = compose(name, overrides=[c for c in command if not c.startswith('experiment=')])
    assert scientific(again) == scientific(body.cfg)  # the command is the run


def test_numbers_for_the_hub(tmp_path):
    "A real run shows its headline numbers in the front matter; places and names of this machine stay here."
    own = Path('secret-of-ada')
    (own / 'cats').mkdir(parents=True)
    (own / 'dogs').mkdir()
    for kind in ('cats', 'dogs'):
        for i in range(40):
            Image.new('RGB', (28, 28), (i, i, i)).save(own / kind / f'{i}.png')
    words = f'dataset.root={own.resolve()} trainer.batch_size=8 trainer.progress_bar=false'
    words += ' classifier.trainer.max_steps=2 classifier.trainer.max_epochs=null'
    body = untrained('cvae', tmp_path / 'run', smoke=False, dataset='folder', overrides=words)
    card = model_card(body.model, tmp_path / 'run', 'ada/pets')
    front = yaml.safe_load(card.split('---\n')[1])
    found = {m['type']: (m['value'], m['name']) for r in front['model-index'][0]['results'] for m in r['metrics']}
    assert found == {'nll': (57.02, 'nll, nats an image'), 'causal_effect': (0.5, 'causal_effect, nats')}
    assert front['model-index'][0]['name'] == 'pets'
    assert 'license' not in front and "its author's own data" in card  # nobody but Ada can say
    for root in (str(own.resolve()), own.name, f'[{own.name}, other]'):  # a relative one tells as much
        saved = tmp_path / 'run/config.yaml'
        cfg = OmegaConf.load(saved)
        cfg.dataset.root = root
        OmegaConf.save(cfg, saved)
        card = model_card(body.model, tmp_path / 'run', 'ada/pets', license='mit')
        assert 'secret' not in card and str(tmp_path) not in card and "'dataset.root='\"'\"'<yours>'" in card, card
    assert yaml.safe_load(card.split('---\n')[1])['license'] == 'mit'  # the author said so


def test_a_run_of_another_model(tmp_path):
    untrained('cvae', tmp_path / 'run')
    fails('the run of this model', cvae().push_to_hub, 'ada/digits', tmp_path / 'run', token=TOKEN)
    fails('the folder of a run that has ended', cvae().push_to_hub, 'ada/digits', tmp_path, token=TOKEN)
    assert Hub.repos == {}


# What is refused


@pytest.mark.parametrize('pickle', ['pytorch_model.bin', 'model.pkl', 'weights.ckpt'])
def test_pickles_are_never_fetched(pickle, tmp_path):
    model = cvae()
    model.push_to_hub('ada/old', token=TOKEN)
    held = files('ada/old')
    held[pickle] = held.pop('model.safetensors')
    fails('can run code and are never fetched', CVAE.from_pretrained, 'ada/old')
    shelf = next(
        (tmp_path / 'hf/hub').glob('models--*/snapshots/*')
    )  # another program may have put one into the cache that all share
    torch.save(model.state_dict(), shelf / 'pytorch_model.bin')
    fails('can run code and are never fetched', CVAE.from_pretrained, 'ada/old')


@pytest.mark.parametrize(
    'config, says',
    [
        (b'{"model_type": "llama"}', 'an object with "kind" and "config"'),
        (b'{"kind": "os.system", "config": {}}', 'the name of a model of vaebook'),
        (b'{"kind"', 'expected JSON'),
    ],
)
def test_a_foreign_model_is_refused_before_its_weights_come(config, says):
    cvae().push_to_hub('ada/digits', token=TOKEN)
    files('ada/digits')['config.json'] = config
    Hub.log.clear()
    fails(says, Pretrained.from_pretrained, 'ada/digits')
    assert not [path for _, path, _ in Hub.log if path.endswith('safetensors')]


def test_the_wrong_kind():
    cvae().push_to_hub('ada/digits', token=TOKEN)
    Hub.log.clear()
    fails('Load it with CVAE.from_pretrained', CNN.from_pretrained, 'ada/digits')
    assert not [path for _, path, _ in Hub.log if path.endswith('safetensors')]


def test_mistyped_and_missing():
    fails('a folder on this disk, or a model on the Hub that you may read', CVAE.from_pretrained, 'outputs/run')
    cvae().push_to_hub('ada/digits', token=TOKEN)
    fails("model='ada/digits@v2': expected a branch, tag or commit", CVAE.from_pretrained, 'ada/digits', revision='v2')
    fails("such as 'user/model'", CVAE.from_pretrained, 'ada/two--dashes')
    for name in ('digits', 'a/b/c', '../digits', '', None, 3):
        fails("expected 'user/model'", cvae().push_to_hub, name, token=TOKEN)


@pytest.mark.parametrize(
    'status, code, says',
    [(403, 'GatedRepo', 'whose terms you have accepted'), (429, '', 'fewer requests'), (500, '', 'Hub')],
)
def test_the_hub_says_no(status, code, says):
    cvae().push_to_hub('ada/digits', token=TOKEN)
    Hub.trouble['HEAD'] = status, code, 'no'
    fails(says, CVAE.from_pretrained, 'ada/digits')


def test_a_download_that_breaks_off_can_be_repeated():
    model = cvae()
    model.push_to_hub('ada/digits', token=TOKEN)
    Hub.trouble['cut'] = 0, '', ''
    with pytest.raises(BadInput, match='Try again: what has arrived is kept'):
        CVAE.from_pretrained('ada/digits')
    del Hub.trouble['cut']
    assert same(CVAE.from_pretrained('ada/digits').state_dict(), model.state_dict())


def test_no_network(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, 'ENDPOINT', 'http://127.0.0.1:9')
    monkeypatch.setattr(
        constants, 'HUGGINGFACE_CO_URL_TEMPLATE', 'http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}'
    )
    fails('place config.json and model.safetensors in a folder by hand', CVAE.from_pretrained, 'ada/digits')
    fails('the Hub within reach', cvae().push_to_hub, 'ada/digits', token=TOKEN)


# Tokens


def test_a_token_that_does_not_fit():
    fails('a valid access token', cvae().push_to_hub, 'ada/digits', token='hf_other')
    fails('access token', cvae().push_to_hub, 'ada/digits')
    for call in (CVAE.from_pretrained, cvae().push_to_hub):
        fails("token='…'", call, 'ada/digits', token=f'{TOKEN}\n')
    Hub.trouble['POST /api/repos'] = 403, '', 'You do not have the rights'
    fails('a token that may do this', cvae().push_to_hub, 'ada/digits', token=TOKEN)
    assert Hub.repos == {}


def test_the_token_is_told_to_the_hub_alone(tmp_path):
    model = cvae()
    model.push_to_hub('ada/digits', private=True, token=TOKEN)
    again = CVAE.from_pretrained('ada/digits', token=TOKEN)
    again.save_pretrained('copy')
    assert f'Bearer {TOKEN}' in {said for _, _, said in Hub.log}
    kept = [p for p in tmp_path.rglob('*') if p.is_file()]
    assert kept and not [p for p in kept if TOKEN.encode() in p.read_bytes()]
    assert not [path for path, data in files('ada/digits').items() if TOKEN.encode() in data]


@pytest.mark.slow
def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    for call in (lambda: CVAE.from_pretrained('ada/digits'), lambda: cvae().push_to_hub('ada/digits')):
        with pytest.raises(ImportError, match=r"pip install 'vaebook\[hub\]'"):
            call()
    with pytest.raises(ImportError, match='ada/digits is no folder here'):
        CVAE.from_pretrained('ada/digits')
    assert CVAE.from_pretrained(cvae().save_pretrained('here')).config['width'] == 4


@pytest.mark.slow
def test_by_the_environment_alone(address, tmp_path):
    "As a user has it: HF_ENDPOINT, HF_HOME and HF_TOKEN in the environment of a new process."
    code = '''import torch
from vaebook.models import CVAE
model = CVAE(n_alpha=1, n_beta=2, width=4)
model.push_to_hub('ada/digits')
again = CVAE.from_pretrained('ada/digits')
print(all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters())))'''
    env = os.environ | dict(HF_ENDPOINT=address, HF_HOME=str(tmp_path / 'home'), HF_TOKEN=TOKEN, HF_HUB_DISABLE_XET='1')
    done = subprocess.run(
        [sys.executable, '-c', code], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip().endswith('True'), done.stderr[-2000:]
