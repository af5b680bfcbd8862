"""A reader's hands and eyes: JupyterLab and static pages in a real Chromium, by keyboard alone. It prints what it measures, and asserts no time.

It wants `chromium` (Debian: `apt-get install chromium`) and `pip install playwright`, whose driver is playwright-core; no browser is downloaded."""

import json, os, shutil, socket, subprocess, sys, time, urllib.request
from pathlib import Path

import nbformat
import pytest

try:
    from playwright.sync_api import sync_playwright
except ImportError:
    sync_playwright = None

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = os.environ.get('VAEBOOK_CHROMIUM') or next(
    filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None
)
FLAGS = '--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync'.split()
missing = [] if CHROMIUM else ['no chromium: apt-get install chromium, or name one in VAEBOOK_CHROMIUM']
missing += [] if sync_playwright else ['no playwright: pip install playwright']

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
        browser = p.chromium.launch(
            executable_path=CHROMIUM,
            headless=True,
            args=[*FLAGS, '--enable-precise-memory-info', '--js-flags=--expose-gc'],
        )
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
    home = tmp_path_factory.mktemp('lab')
    work = home / 'work'
    work.mkdir()
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    for name, settings in {
        'notebook-extension/tracker': dict(windowingMode='none'),
        'apputils-extension/notification': dict(fetchNews='false', checkForUpdates=False),
    }.items():
        file = home / f'settings/@jupyterlab/{name}.jupyterlab-settings'
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(settings))
    env = (
        os.environ
        | {f'JUPYTER_{k}_DIR': str(home / k.lower()) for k in ('CONFIG', 'RUNTIME')}
        | dict(IPYTHONDIR=str(home / 'ipython'), JUPYTERLAB_WORKSPACES_DIR=str(home / 'workspaces'))
    )
    log = (home / 'log').open('w')
    server = subprocess.Popen(
        [
            sys.executable,
            '-m',
            'jupyter',
            'lab',
            '--no-browser',
            '--ip=127.0.0.1',
            f'--port={port}',
            '--allow-root',
            '--IdentityProvider.token=',
            '--ServerApp.disable_check_xsrf=True',
            f'--ServerApp.root_dir={work}',
            f'--LabApp.user_settings_dir={home / "settings"}',
            '--LabApp.news_url=None',
            '--LabApp.expose_app_in_browser=True',
        ],
        env=env,
        stdout=log,
        stderr=log,
        cwd=work,
    )
    address = f'http://127.0.0.1:{port}'
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f'{address}/api/status', timeout=2)
                break
            except OSError:
                time.sleep(0.5)
        else:
            pytest.fail((home / 'log').read_text()[-3000:])
        yield address, work
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()


def opened(page, lab, source, more=()):
    "Open a copy of a notebook in JupyterLab, run all its cells and wait for the last; → the widgets in it, each ready to be looked at."
    address, work = lab
    nb = (
        nbformat.read(source, 4)
        if isinstance(source, Path)
        else nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    )
    for cell in nb.cells:
        if cell.cell_type == 'code':
            cell.outputs = []
        if 'nbdev_export()' in cell.source:
            cell.source = ''
    nb.cells.append(nbformat.v4.new_code_cell("print('all ' + 'done')"))
    nb.metadata.kernelspec = dict(name='python3', display_name='python3', language='python')
    name = f'{source.stem if isinstance(source, Path) else "made"}.ipynb'
    nbformat.write(nb, work / name)
    page.goto(f'{address}/lab/tree/{name}?reset')
    page.wait_for_selector('.jp-Notebook .jp-Cell', timeout=60_000)
    page.evaluate("""async () => { const panel = jupyterapp.shell.currentWidget; await panel.context.ready; await panel.sessionContext.ready;
                     await panel.sessionContext.session.kernel.info; jupyterapp.commands.execute('notebook:run-all-cells'); }""")
    page.wait_for_selector(
        '.jp-OutputArea-output pre:has-text("all done"), [data-mime-type="application/vnd.jupyter.error"]',
        timeout=240_000,
    )
    failed = page.locator('[data-mime-type="application/vnd.jupyter.error"]')
    assert not failed.count(), failed.first.inner_text()
    return ready(page)


def ready(page):
    "All widgets of a page, drawn."
    page.wait_for_selector('.vaebook canvas[aria-label]')
    page.wait_for_timeout(500)
    widgets = page.locator('.vaebook').all()
    for w in widgets:
        w.evaluate(HELPERS)
    return widgets


def press(page, widget, key, n=1):
    "Press a key where the focus is, `n` times, each time until the picture has changed; → waits in ms."
    for _ in range(n):
        done = widget.evaluate('r => r.waits.length')
        page.keyboard.press(key)
        widget.evaluate(
            '(r, n) => new Promise((yes, no) => { const look = () => r.waits.length > n ? yes() : requestAnimationFrame(look); look(); setTimeout(() => no(new Error("the picture did not change")), 10000); })',
            done,
        )
    return widget.evaluate('r => r.waits')[-n:]


def alt(widget):
    return widget.locator('canvas').get_attribute('aria-label')


def labelled(widget):
    "The names of all controls, as a screen reader has them."
    names = widget.evaluate(
        'r => [...r.querySelectorAll("input, select, button, audio")].filter(e => !e.hidden).map(e => e.getAttribute("aria-label") || e.labels?.[0]?.textContent || e.textContent || "")'
    )
    assert all(names), names
    canvas = widget.locator('canvas')
    assert canvas.get_attribute('role') == 'img' and alt(widget)
    return names


@pytest.fixture
def tell(capsys):
    "Print to the terminal, whatever pytest captures."

    def say(text):
        with capsys.disabled():
            print(f'\n    {text}', flush=True)

    return say


def kernel(lab, code):
    "Run code in the only kernel, beside its notebook, and give what it prints."
    from jupyter_client import BlockingKernelClient

    runtime = Path(lab[1]).parent / 'runtime'
    client = BlockingKernelClient(
        connection_file=str(max(runtime.glob('kernel-*.json'), key=lambda p: p.stat().st_mtime))
    )
    client.load_connection_file()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=30)
        said = []
        client.execute_interactive(
            code, store_history=False, timeout=60, output_hook=lambda m: said.append(m['content'].get('text', ''))
        )
        return ''.join(said)
    finally:
        client.stop_channels()


def can_be_moved(page, widget):
    "Every control of a widget changes its picture, its words or its sound by keyboard."
    labelled(widget)
    controls = widget.locator('.vb-controls input').all()
    for control in controls:
        control.scroll_into_view_if_needed()
        control.focus()
        before = alt(widget), widget.evaluate('r => r.see()')
        for key in ('ArrowRight', 'End') if control.get_attribute('type') == 'range' else ('Control+A', '1'):
            page.keyboard.press(key)
        page.wait_for_timeout(400)
        assert alt(widget) != before[0], f'{control.get_attribute("aria-label")}: the words stay {before[0]!r}'
        assert widget.evaluate('r => r.see()') != before[1], f'{control.get_attribute("aria-label")}: the picture stays'
    says = {
        c.get_attribute('aria-label').removesuffix(' (causal)'): c.get_attribute('aria-valuetext') for c in controls
    }
    said = [f'{name} {value}' for name, value in says.items() if f'{name} {value}' in alt(widget)]
    assert said, f'no slider says what the picture is: {says}, {alt(widget)}'
