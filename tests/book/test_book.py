"""The book as its readers have it: built with warnings as errors, then opened in Chromium at two sizes, offline.

It wants `pip install '.[book]'`, and for the browser what tests/viz/test_browser.py wants."""

import os, re, subprocess, sys, threading
from functools import partial
from html import unescape
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest
from browsing import CHROMIUM, FLAGS, browser_wanted, can_be_moved, ready, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
pytest.importorskip('myst_nb', reason="no Sphinx: pip install -c constraints.txt -e '.[book]'")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SIZES = {'phone': (390, 844), 'desk': (1280, 900)}
PAGES = 'index', 'train_cvae', 'core/gaussian', 'explore_world', 'api/models', 'bench/audio', 'world/mixture'


@pytest.fixture(scope='session')
def site(tmp_path_factory):
    "The folder of the built site, or the one that VAEBOOK_BOOK names."
    if 'VAEBOOK_BOOK' in os.environ:
        return Path(os.environ['VAEBOOK_BOOK'])
    out = tmp_path_factory.mktemp('book')
    done = subprocess.run(
        [sys.executable, ROOT / '.ci/book/build', out], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return out


@pytest.fixture(scope='session')
def address(site):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()


@pytest.fixture(scope='module')
def chromium():
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(params=SIZES)
def page(request, chromium, address):
    "A page of that size that records what goes wrong: errors, failed requests, other hosts."
    width, height = SIZES[request.param]
    page = chromium.new_page(viewport=dict(width=width, height=height))
    page.set_default_timeout(120_000)
    page.problems, page.size = [], request.param
    page.on('pageerror', lambda e: page.problems.append(str(e)))
    page.on('console', lambda m: page.problems.append(m.text) if m.type == 'error' else None)

    def failed(request):
        if request.failure != 'net::ERR_ABORTED':  # the page was left; what is missing answers 404
            page.problems.append(f'failed: {request.url}')

    def answered(response):
        if response.status >= 400:
            page.problems.append(f'{response.status}: {response.url}')

    def asked(request):
        if not request.url.startswith((address, 'data:', 'blob:')):
            page.problems.append(f'another host: {request.url}')

    page.on('requestfailed', failed)
    page.on('response', answered)
    page.on('request', asked)
    yield page
    page.close()


def test_every_link_of_the_site_leads_somewhere(site):
    "Pages, anchors, pictures and scripts; nothing points to where the book would be published."
    pages = {p.relative_to(site).as_posix(): p for p in site.rglob('*.html')}
    text = {n: p.read_text(encoding='utf-8') for n, p in pages.items() if not n.startswith('_static/')}
    body = {n: re.sub(r'<(script|pre|textarea)\b.*?</\1>', '', t, flags=re.S) for n, t in text.items()}
    ids = {n: {unescape(i) for i in re.findall(r'\bid="([^"]+)"', t)} for n, t in body.items()}
    lost = set()
    for name, html in body.items():
        assert 'vaebook.github.io' not in html, name
        for link in {unescape(u) for u in re.findall(r'\s(?:href|src)="([^"]*)"', html)}:
            if re.match(r'[a-z]+:|//', link):
                continue
            path, _, anchor = unquote(link).partition('#')
            target = (site / name).parent / path.partition('?')[0] if path else site / name
            inside = target.resolve().is_relative_to(site.resolve())
            to = target.resolve().relative_to(site.resolve()).as_posix() if inside else link
            if not (site / to).is_file() or anchor and to in ids and anchor not in ids[to]:
                lost.add(f'{name}: {link}')
    assert not lost, sorted(lost)[:20]
    notebooks = [p.relative_to(ROOT / 'nbs') for p in (ROOT / 'nbs').rglob('*.ipynb')]
    shown = [p for p in notebooks if not any(part[0] in '._' for part in p.parts)]
    assert {p.with_suffix('.html').as_posix() for p in shown} <= text.keys()


def test_api_has_every_public_name(site):
    from vaebook._modidx import d

    api = ''.join(p.read_text(encoding='utf-8') for p in (site / 'api').glob('*.html'))
    ids = set(re.findall(r'\bid="(vaebook\.[^"]+)"', api))
    public = set()
    for module, names in d['syms'].items():
        if module.startswith('vaebook.book.'):  # which makes the book
            continue
        for full in names:
            parts = full[len(module) + 1 :].split('.')
            if not any(part.startswith('_') for part in parts):
                public.add(full)
    short = {i.rpartition('.')[2] for i in ids}
    assert len(ids) > 900
    assert [n for n in public if n not in ids and n.rpartition('.')[2] not in short] == []


@browser_wanted
def test_pages_fit_and_ask_nobody(page, address):
    "No error, no request to another host, nothing wider than the screen, and the maths is set."
    for name in PAGES:
        page.goto(f'{address}/{name}.html')
        if name in ('core/gaussian', 'world/mixture'):
            page.wait_for_selector('mjx-container')
        page.wait_for_load_state('networkidle')  # else the next page cuts its requests off
        wide = page.evaluate('document.documentElement.scrollWidth - innerWidth')
        assert wide <= 0, f'{name} is {wide} pixels wider than the {page.size}'
    assert page.problems == []


@browser_wanted
def test_contents_and_search(page, address):
    "The contents open, and lead to a chapter; the search finds a function."
    page.goto(f'{address}/index.html', wait_until='networkidle')
    contents = page.locator('.bd-sidebar-primary')
    link = contents.get_by_role('link', name='Explain a classifier', exact=True)
    if page.size == 'phone':
        assert not link.is_visible()
        page.locator('label.primary-toggle, button.primary-toggle').locator('visible=true').first.click()
        contents = page.locator('#pst-primary-sidebar-modal, .bd-sidebar-primary').locator('visible=true').first
        link = contents.get_by_role('link', name='Explain a classifier', exact=True)
    link.click()
    page.wait_for_url(
        '**/train_cvae.html', wait_until='networkidle'
    )  # to leave a page that still loads fails its requests
    page.goto(f'{address}/search.html?q=gaussian_kl')
    page.wait_for_selector(
        '#search-results li a[href*="api/bottlenecks.html#vaebook.bottlenecks.gaussian.gaussian_kl"]'
    )
    assert page.problems == []


@browser_wanted
def test_films_move(page, address):
    "A film of an explorer, without a kernel: its sliders change its pixels."
    page.goto(f'{address}/explore_cvae.html')
    films = [w for w in ready(page) if w.locator('.vb-controls input:enabled').count()]
    assert len(films) >= 2
    can_be_moved(page, films[0])
    assert page.problems == []
