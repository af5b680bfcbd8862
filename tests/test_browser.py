"""A reader's hands and eyes: JupyterLab and static pages in a real Chromium, by keyboard alone. It prints what it measures, and asserts no time.

It wants `chromium` (Debian: `apt-get install chromium`) and `pip install playwright`, whose driver is playwright-core; no browser is downloaded."""
import json, os, shutil, socket, statistics, subprocess, sys, time, urllib.request
from pathlib import Path

import nbformat
import pytest
from PIL import Image

try: from playwright.sync_api import sync_playwright
except ImportError: sync_playwright = None

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = os.environ.get('VAEBOOK_CHROMIUM') or next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
FLAGS = '--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync'.split()
missing = [] if CHROMIUM else ['no chromium: apt-get install chromium, or name one in VAEBOOK_CHROMIUM']
missing += [] if sync_playwright else ['no playwright: pip install playwright']
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing), reason='; '.join(missing)), pytest.mark.timeout(300)]

# Runs in the page, on one widget. `see` is what an eye sees: a number for the canvas's pixels.
HELPERS = r'''root => {
  const canvas = root.querySelector('canvas');
  root.see = () => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.reduce((h, v) => (h * 31 + v) | 0, 7);
  root.waits = [];
  root.addEventListener('keydown', () => {
    const began = performance.now(), before = root.see();
    const look = () => { const now = performance.now();
      if (root.see() !== before) root.waits.push(now - began); else if (now - began < 10000) requestAnimationFrame(look); };
    requestAnimationFrame(look);
  }, true);
}'''


@pytest.fixture(scope='module')
def chromium():
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, headless=True, args=[*FLAGS, '--enable-precise-memory-info', '--js-flags=--expose-gc'])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium):
    "A new page that records its errors."
    page = chromium.new_page(viewport=dict(width=1300, height=1200))
    page.problems = []
    page.on('pageerror', lambda e: page.problems.append(str(e)))
    yield page
    page.close()


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    "A JupyterLab server on loopback in a folder of its own, with copies of the notebooks; → address, folder."
    home = tmp_path_factory.mktemp('lab'); work = home / 'work'; work.mkdir()
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
    for name, settings in {'notebook-extension/tracker': dict(windowingMode='none'), 'apputils-extension/notification': dict(fetchNews='false', checkForUpdates=False)}.items():
        file = home / f'settings/@jupyterlab/{name}.jupyterlab-settings'
        file.parent.mkdir(parents=True, exist_ok=True); file.write_text(json.dumps(settings))
    env = os.environ | {f'JUPYTER_{k}_DIR': str(home / k.lower()) for k in ('CONFIG', 'RUNTIME')} | dict(IPYTHONDIR=str(home / 'ipython'), JUPYTERLAB_WORKSPACES_DIR=str(home / 'workspaces'))
    log = (home / 'log').open('w')
    server = subprocess.Popen([sys.executable, '-m', 'jupyter', 'lab', '--no-browser', '--ip=127.0.0.1', f'--port={port}', '--allow-root', '--IdentityProvider.token=',
                               '--ServerApp.disable_check_xsrf=True', f'--ServerApp.root_dir={work}', f'--LabApp.user_settings_dir={home / "settings"}', '--LabApp.news_url=None', '--LabApp.expose_app_in_browser=True'],
                              env=env, stdout=log, stderr=log, cwd=work)
    address = f'http://127.0.0.1:{port}'
    try:
        for _ in range(120):
            try: urllib.request.urlopen(f'{address}/api/status', timeout=2); break
            except OSError: time.sleep(0.5)
        else: pytest.fail((home / 'log').read_text()[-3000:])
        yield address, work
    finally:
        server.terminate()
        try: server.wait(20)
        except subprocess.TimeoutExpired: server.kill()


def opened(page, lab, source, more=()):
    "Open a copy of a notebook in JupyterLab, run all its cells and wait for the last; → the widgets in it, each ready to be looked at."
    address, work = lab
    nb = nbformat.read(source, 4) if isinstance(source, Path) else nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    for cell in nb.cells:
        if cell.cell_type == 'code': cell.outputs = []
        if 'nbdev_export()' in cell.source: cell.source = ''
    nb.cells.append(nbformat.v4.new_code_cell("print('all ' + 'done')"))
    nb.metadata.kernelspec = dict(name='python3', display_name='python3', language='python')
    name = f'{source.stem if isinstance(source, Path) else "made"}.ipynb'
    nbformat.write(nb, work / name)
    page.goto(f'{address}/lab/tree/{name}?reset')
    page.wait_for_selector('.jp-Notebook .jp-Cell', timeout=60_000)
    page.evaluate("""async () => { const panel = jupyterapp.shell.currentWidget; await panel.context.ready; await panel.sessionContext.ready;
                     await panel.sessionContext.session.kernel.info; jupyterapp.commands.execute('notebook:run-all-cells'); }""")
    page.wait_for_selector('.jp-OutputArea-output pre:has-text("all done"), [data-mime-type="application/vnd.jupyter.error"]', timeout=240_000)
    failed = page.locator('[data-mime-type="application/vnd.jupyter.error"]')
    assert not failed.count(), failed.first.inner_text()
    return ready(page)


def ready(page):
    "All widgets of a page, drawn."
    page.wait_for_selector('.vaebook canvas[aria-label]')
    page.wait_for_timeout(500)
    widgets = page.locator('.vaebook').all()
    for w in widgets: w.evaluate(HELPERS)
    return widgets


def press(page, widget, key, n=1):
    "Press a key where the focus is, `n` times, each time until the picture has changed; → waits in ms."
    for _ in range(n):
        done = widget.evaluate('r => r.waits.length')
        page.keyboard.press(key)
        widget.evaluate('(r, n) => new Promise((yes, no) => { const look = () => r.waits.length > n ? yes() : requestAnimationFrame(look); look(); setTimeout(() => no(new Error("the picture did not change")), 10000); })', done)
    return widget.evaluate('r => r.waits')[-n:]


def alt(widget): return widget.locator('canvas').get_attribute('aria-label')


def labelled(widget):
    "The names of all controls, as a screen reader has them."
    names = widget.evaluate('r => [...r.querySelectorAll("input, select, button, audio")].filter(e => !e.hidden).map(e => e.getAttribute("aria-label") || e.labels?.[0]?.textContent || e.textContent || "")')
    assert all(names), names
    canvas = widget.locator('canvas')
    assert canvas.get_attribute('role') == 'img' and alt(widget)
    return names


@pytest.fixture
def tell(capsys):
    "Print to the terminal, whatever pytest captures."
    def say(text):
        with capsys.disabled(): print(f'\n    {text}', flush=True)
    return say


def kernel(lab, code):
    "Run code in the only kernel, beside its notebook, and give what it prints."
    from jupyter_client import BlockingKernelClient
    runtime = Path(lab[1]).parent / 'runtime'
    client = BlockingKernelClient(connection_file=str(max(runtime.glob('kernel-*.json'), key=lambda p: p.stat().st_mtime)))
    client.load_connection_file(); client.start_channels()
    try:
        client.wait_for_ready(timeout=30)
        said = []
        client.execute_interactive(code, store_history=False, timeout=60, output_hook=lambda m: said.append(m['content'].get('text', '')))
        return ''.join(said)
    finally: client.stop_channels()


def test_explorer_in_jupyterlab(lab, page, tell):
    "The notebook runs as a reader runs it; sliders change the picture in at most 100 ms (printed), and 200 moves leave nothing behind."
    film, explorer, chart = opened(page, lab, ROOT / 'nbs/explore_cvae.ipynb')
    assert {'alpha_0 (causal)', 'beta_0', 'Reset', 'Randomise', 'Save picture'} < set(labelled(explorer))
    sliders = explorer.locator('input[type=range]')
    first = sliders.first; first.scroll_into_view_if_needed(); first.focus()
    press(page, explorer, 'ArrowRight', 3)
    assert 'alpha_0 +0.30' in alt(explorer) or 'alpha_1 +0.30' in alt(explorer)
    measure = 'import ipywidgets, psutil; print(len(ipywidgets.widgets.widget._instances), psutil.Process().memory_info().rss // 2**20)'
    heap = lambda: page.evaluate('() => { for (let i = 0; i < 3; i++) gc(); return performance.memory.usedJSHeapSize / 2**20; }')
    press(page, explorer, 'ArrowRight', 10)
    before, js = kernel(lab, measure).split(), heap()
    waits = [w for key in ('ArrowRight', 'ArrowLeft') * 10 for w in press(page, explorer, key, 10)]
    after, js_after = kernel(lab, measure).split(), heap()
    tell(f'4x4 tiles of 28x28, key to changed picture: median {statistics.median(waits):.0f} ms, 90 % within {sorted(waits)[len(waits) * 9 // 10]:.0f} ms, of {len(waits)} moves; '
          f'widgets {before[0]} -> {after[0]}, kernel {before[1]} -> {after[1]} MiB, page {js:.0f} -> {js_after:.0f} MiB')
    assert before[0] == after[0] and int(after[1]) - int(before[1]) < 20 and js_after - js < 10
    page.keyboard.press('Tab')
    assert page.evaluate('document.activeElement.getAttribute("aria-label")') == labelled(explorer)[1]
    press(page, explorer, 'PageUp')
    with page.expect_download() as download: explorer.get_by_role('button', name='Save picture').press('Enter')
    assert download.value.suggested_filename.endswith('.png') and Path(download.value.path()).read_bytes()[1:4] == b'PNG'
    for button in ('Reset', 'Randomise'):
        explorer.get_by_role('button', name=button).focus(); press(page, explorer, 'Enter')
    explorer.get_by_label('start').focus(); press(page, explorer, 'ArrowUp')
    picture = lab[1] / 'own.png'
    for shade in ('white', 'black'): # a second file of the same name is another picture
        before = explorer.evaluate('r => r.see()')
        Image.new('L', (90, 60), shade).save(picture)
        explorer.locator('input[type=file]').set_input_files(picture)
        page.wait_for_function('([r, before]) => r.see() !== before && r.querySelector("canvas").getAttribute("aria-label").startsWith("own: own.png")', arg=[explorer.element_handle(), before])
    (lab[1] / 'notes.txt').write_text('no picture')
    explorer.locator('input[type=file]').set_input_files(lab[1] / 'notes.txt')
    explorer.locator('.vb-said:has-text("expected a picture")').wait_for()
    for still in (film, chart): can_be_moved(page, still)
    assert page.problems == []


def test_actions_in_jupyterlab(lab, page):
    "Tokens of action chunks: two films of curves, and an explorer with a box for each id."
    widgets = opened(page, lab, ROOT / 'nbs/explore_actions.ipynb')
    assert len(widgets) == 3
    for widget in widgets: can_be_moved(page, widget)
    assert page.problems == []


def can_be_moved(page, widget):
    "Every control of a widget changes its picture, its words or its sound by keyboard."
    labelled(widget)
    controls = widget.locator('.vb-controls input').all()
    for control in controls:
        control.scroll_into_view_if_needed(); control.focus()
        before = alt(widget), widget.evaluate('r => r.see()')
        for key in ('ArrowRight', 'End') if control.get_attribute('type') == 'range' else ('Control+A', '1'): page.keyboard.press(key)
        page.wait_for_timeout(400)
        assert alt(widget) != before[0], f'{control.get_attribute("aria-label")}: the words stay {before[0]!r}'
        assert widget.evaluate('r => r.see()') != before[1], f'{control.get_attribute("aria-label")}: the picture stays'
    says = {c.get_attribute('aria-label').removesuffix(' (causal)'): c.get_attribute('aria-valuetext') for c in controls}
    said = [f'{name} {value}' for name, value in says.items() if f'{name} {value}' in alt(widget)]
    assert said, f'no slider says what the picture is: {says}, {alt(widget)}'


def test_every_kind_of_latent(lab, page):
    "Sliders, index boxes, times and sounds of the toys in the widgets notebook."
    widgets = opened(page, lab, ROOT / 'nbs/core/widgets.ipynb')
    assert len(widgets) >= 6
    for widget in widgets: can_be_moved(page, widget)
    assert page.locator('.vaebook audio:not([hidden])').first.evaluate('a => new Promise(yes => { const go = () => a.duration > 0 ? yes(a.duration) : setTimeout(go, 50); go(); })') == pytest.approx(0.25, abs=0.01)
    assert page.problems == []


SLOW = '''
import time, torch
from torch import nn
from vaebook.core import Latent
from vaebook.viz.explorer import Explorer
class Slow(nn.Module):
    latent_spec = [dict(name='level', range=(-3., 3.))]
    def __init__(self): super().__init__(); self.one = nn.Parameter(torch.ones(()))
    def encode(self, x): return Latent(x[:, 0, 0, :1], {})
    def decode(self, z): time.sleep(0.25); return (self.one * z).sigmoid()[:, :, None, None].expand(-1, 1, 8, 8)
explorer = Explorer(Slow(), tiles=1)
explorer
'''


def test_awkward_pages(page, tmp_path):
    "One film twice in a page, and names that look like HTML."
    import torch
    from vaebook.core import Latent
    from vaebook.viz.traversal import sweep
    from vaebook.viz.explorer import film
    class Bars(torch.nn.Module):
        latent_spec = [dict(name='<!-- <script>', range=(-3., 3.)), dict(name='</script><b>"b\'', range=(-3., 3.))]
        def decode(self, z): return z.sigmoid()[:, None, :, None].repeat_interleave(4, 2).expand(-1, 1, -1, 8)
        def encode(self, x): return Latent(x[:, 0, ::4, 0].logit(), {})
    made = film(sweep(Bars(), values=[1., 2.], classifier=lambda x: x.mean((2, 3)) * torch.tensor([1., -1.]), classes=['<i>', '&amp;'])).html()
    (tmp_path / 'twice.html').write_text(f'<!doctype html><meta charset="utf-8"><body>{made}<p>again</p>{made}</body>')
    page.goto((tmp_path / 'twice.html').as_uri())
    widgets = ready(page)
    assert len(widgets) == 2 and [w.locator('canvas').count() for w in widgets] == [1, 1]
    can_be_moved(page, widgets[1])
    texts = widgets[0].locator('.vb-controls .vb-row span:last-child').all_inner_texts()
    assert texts == ['+1.00', 'as it is'], 'an untouched latent is where the input has it, not at +1'
    assert page.locator('.vaebook b, .vaebook i').count() == 0 and page.problems == []


def test_latest_value_wins(lab, page, tell):
    "A model four times slower than the hand: pictures are left out, the last one is right, and soon there."
    widget, = opened(page, lab, SLOW)
    widget.locator('input[type=range]').focus()
    for _ in range(25): page.keyboard.press('ArrowRight')
    began = time.time()
    page.wait_for_function('r => r.querySelector("canvas").getAttribute("aria-label").includes("level +2.50")', arg=widget.element_handle(), timeout=10_000)
    waited, pictures = time.time() - began, int(kernel(lab, 'print(explorer.view.turn)'))
    tell(f'25 quick moves, 250 ms a picture: {pictures} pictures, the last {waited:.1f} s after the last key')
    assert pictures < 15 and waited < 2


@pytest.mark.parametrize('name, anew', [('explore_cvae', False), ('explore_cvae', True), ('explore_actions', False), ('core/widgets', False)])
def test_static_page(name, anew, chromium, tmp_path, tell):
    "The page made from the stored notebook, or from one that papermill ran: no kernel, no network, and the films move."
    notebook, run = ROOT / f'nbs/{name}.ipynb', lambda *args: subprocess.run([sys.executable, '-m', *map(str, args)], check=True, capture_output=True)
    if anew: run('papermill', notebook, notebook := tmp_path / notebook.name, '-p', 'smoke', 'True', '--cwd', tmp_path)
    run('jupyter', 'nbconvert', '--to', 'html', '--output-dir', tmp_path, notebook)
    context = chromium.new_context(offline=True); page = context.new_page()
    problems = []
    page.on('pageerror', lambda e: problems.append(str(e)))
    page.goto((tmp_path / f'{Path(name).name}.html').as_uri())
    films = [w for w in ready(page) if w.locator('.vb-controls input:enabled').count()]
    assert len(films) >= 2
    for film in films: can_be_moved(page, film)
    film = films[0]
    film.locator('.vb-controls input').first.focus()
    waits = press(page, film, 'End') + [w for key in ('ArrowLeft', 'ArrowRight') * 5 for w in press(page, film, key, 3)]
    tell(f'{name}, without a kernel: key to changed picture, median {statistics.median(waits):.0f} ms')
    assert problems == []
    context.close()
