"""A reader's hands and eyes: JupyterLab and static pages in a real Chromium, by keyboard alone.

It prints the times that it measures, and asserts none. It wants `chromium` (Debian: `apt-get install chromium`) and
`pip install playwright`, whose driver is playwright-core; no browser is downloaded."""

import json, os, shutil, socket, subprocess, sys, time, urllib.request
from pathlib import Path

import nbformat
import pytest

try:
    from playwright.sync_api import sync_playwright
except ImportError:
    sync_playwright = None

ROOT = Path(__file__).resolve().parents[1]
BROWSERS = filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome')))
CHROMIUM = os.environ.get('VAEBOOK_CHROMIUM') or next(BROWSERS, None)
FLAGS = '--no-sandbox --no-first-run --disable-gpu --disable-quic --disable-sync'.split()
FLAGS += '--disable-background-networking --disable-component-update'.split()
missing = [] if CHROMIUM else ['no chromium: apt-get install chromium, or name one in VAEBOOK_CHROMIUM']
missing += [] if sync_playwright else ['no playwright: pip install playwright']
browser_wanted = pytest.mark.skipif(bool(missing), reason='; '.join(missing))

# Runs in the page, on one widget. `see` is what an eye sees: a number for the canvas's pixels.
HELPERS = r'''root => {
  const canvas = root.querySelector('canvas');
  root.see = () => {
    const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
    return pixels.reduce((h, v) => (h * 31 + v) | 0, 7);
  };
  root.waits = [];
  root.addEventListener('keydown', () => {
    const began = performance.now(), before = root.see();
    const look = () => {
      const waited = performance.now() - began;
      if (root.see() !== before) root.waits.push(waited);
      else if (waited < 10000) requestAnimationFrame(look);
    };
    requestAnimationFrame(look);
  }, true);
}'''

RUN_ALL = '''async () => {
  const panel = jupyterapp.shell.currentWidget;
  await panel.context.ready;
  await panel.sessionContext.ready;
  await panel.sessionContext.session.kernel.info;
  jupyterapp.commands.execute('notebook:run-all-cells');
}'''

# The picture has changed once more than `n` times.
CHANGED = '''(root, n) => new Promise((yes, no) => {
  const look = () => root.waits.length > n ? yes() : requestAnimationFrame(look);
  look();
  setTimeout(() => no(new Error('the picture did not change')), 10000);
})'''

# What a screen reader calls the controls.
LABELS = '''root => {
  const shown = [...root.querySelectorAll('input, select, button, audio')].filter(e => !e.hidden);
  return shown.map(e => e.getAttribute('aria-label') || e.labels?.[0]?.textContent || e.textContent || '');
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
    names = dict(JUPYTER_CONFIG_DIR='config', JUPYTER_RUNTIME_DIR='runtime')
    names |= dict(IPYTHONDIR='ipython', JUPYTERLAB_WORKSPACES_DIR='workspaces')
    env = os.environ | {key: str(home / name) for key, name in names.items()}
    log = (home / 'log').open('w')
    flags = '--no-browser --ip=127.0.0.1 --allow-root --IdentityProvider.token= --ServerApp.disable_check_xsrf=True '
    flags += '--LabApp.news_url=None --LabApp.expose_app_in_browser=True'
    places = [f'--ServerApp.root_dir={work}', f'--LabApp.user_settings_dir={home / "settings"}', f'--port={port}']
    line = [sys.executable, '-m', 'jupyter', 'lab', *flags.split(), *places]
    server = subprocess.Popen(line, env=env, stdout=log, stderr=log, cwd=work)
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
    "Open a copy of a notebook in JupyterLab, run all its cells and wait for the last; → its widgets, drawn."
    address, work = lab
    if isinstance(source, Path):
        nb = nbformat.read(source, 4)
    else:
        nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
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
    page.evaluate(RUN_ALL)
    error = '[data-mime-type="application/vnd.jupyter.error"]'
    page.wait_for_selector(f'.jp-OutputArea-output pre:has-text("all done"), {error}', timeout=240_000)
    failed = page.locator(error)
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
        widget.evaluate(CHANGED, done)
    return widget.evaluate('r => r.waits')[-n:]


def alt(widget):
    return widget.locator('canvas').get_attribute('aria-label')


def labelled(widget):
    "The names of all controls, as a screen reader has them."
    names = widget.evaluate(LABELS)
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
    newest = max(runtime.glob('kernel-*.json'), key=lambda p: p.stat().st_mtime)
    client = BlockingKernelClient(connection_file=str(newest))
    client.load_connection_file()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=30)
        said = []

        def hear(message):
            said.append(message['content'].get('text', ''))

        client.execute_interactive(code, store_history=False, timeout=60, output_hook=hear)
        return ''.join(said)
    finally:
        client.stop_channels()


def comes(page, change, otherwise, seconds=20):
    "Fails with the message `otherwise` unless `change()` comes true: a busy machine is slow, not wrong."
    for _ in range(10 * seconds):
        if change():
            return
        page.wait_for_timeout(100)
    raise AssertionError(otherwise)


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
        name = control.get_attribute('aria-label')
        comes(page, lambda: alt(widget) != before[0], f'{name}: the words stay {before[0]!r}')
        comes(page, lambda: widget.evaluate('r => r.see()') != before[1], f'{name}: the picture stays')
    names = [c.get_attribute('aria-label').removesuffix(' (causal)') for c in controls]

    def is_said():
        words = [f'{name} {c.get_attribute("aria-valuetext")}' for name, c in zip(names, controls)]
        return any(said in alt(widget) for said in words)

    comes(page, is_said, f'no slider of {names} says what the picture is: {alt(widget)}')
