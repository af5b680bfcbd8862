"A reader's hands and eyes: JupyterLab and static pages in a real Chromium, by keyboard alone; times are printed."

import statistics, time
from pathlib import Path

import pytest
from PIL import Image

from browsing import ROOT, alt, browser_wanted, can_be_moved, kernel, labelled, opened, press, ready
from helpers import command, papermill

pytestmark = [pytest.mark.slow, browser_wanted, pytest.mark.timeout(300)]


MEASURE = '''
import ipywidgets, psutil
print(len(ipywidgets.widgets.widget._instances), psutil.Process().memory_info().rss // 2**20)
'''
HEAP = '() => { for (let i = 0; i < 3; i++) gc(); return performance.memory.usedJSHeapSize / 2**20; }'
SHOWS_OWN = '''([root, before]) => {
  const label = root.querySelector('canvas').getAttribute('aria-label');
  return root.see() !== before && label.startsWith('own: own.png');
}'''
DURATION = '''audio => new Promise(yes => {
  const go = () => audio.duration > 0 ? yes(audio.duration) : setTimeout(go, 50);
  go();
})'''


def test_explorer_in_jupyterlab(lab, page, tell):
    "The notebook runs as a reader runs it; sliders change the picture (time printed), and 200 moves leave nothing."
    film, explorer, chart = opened(page, lab, ROOT / 'nbs/explore_cvae.ipynb')
    assert {'alpha_0 (causal)', 'beta_0', 'Reset', 'Randomise', 'Save picture'} < set(labelled(explorer))
    sliders = explorer.locator('input[type=range]')
    first = sliders.first
    first.scroll_into_view_if_needed()
    first.focus()
    press(page, explorer, 'ArrowRight', 3)
    assert 'alpha_0 +0.30' in alt(explorer) or 'alpha_1 +0.30' in alt(explorer)
    press(page, explorer, 'ArrowRight', 10)
    before, js = kernel(lab, MEASURE).split(), page.evaluate(HEAP)
    waits = [w for key in ('ArrowRight', 'ArrowLeft') * 10 for w in press(page, explorer, key, 10)]
    after, js_after = kernel(lab, MEASURE).split(), page.evaluate(HEAP)
    half, most = statistics.median(waits), sorted(waits)[len(waits) * 9 // 10]
    tell(
        f'4x4 tiles of 28x28, key to changed picture: median {half:.0f} ms, 90 % within {most:.0f} ms, '
        f'of {len(waits)} moves; '
        f'widgets {before[0]} -> {after[0]}, kernel {before[1]} -> {after[1]} MiB, page {js:.0f} -> {js_after:.0f} MiB'
    )
    assert before[0] == after[0] and int(after[1]) - int(before[1]) < 20 and js_after - js < 10
    page.keyboard.press('Tab')
    assert page.evaluate('document.activeElement.getAttribute("aria-label")') == labelled(explorer)[1]
    press(page, explorer, 'PageUp')
    with page.expect_download() as download:
        explorer.get_by_role('button', name='Save picture').press('Enter')
    assert download.value.suggested_filename.endswith('.png')
    assert Path(download.value.path()).read_bytes()[1:4] == b'PNG'
    for button in ('Reset', 'Randomise'):
        explorer.get_by_role('button', name=button).focus()
        press(page, explorer, 'Enter')
    explorer.get_by_label('start').focus()
    press(page, explorer, 'ArrowUp')
    picture = lab[1] / 'own.png'
    for shade in ('white', 'black'):  # a second file of the same name is another picture
        before = explorer.evaluate('r => r.see()')
        Image.new('L', (90, 60), shade).save(picture)
        explorer.locator('input[type=file]').set_input_files(picture)
        page.wait_for_function(SHOWS_OWN, arg=[explorer.element_handle(), before])
    (lab[1] / 'notes.txt').write_text('no picture')
    explorer.locator('input[type=file]').set_input_files(lab[1] / 'notes.txt')
    explorer.locator('.vb-error:has-text("expected a picture")').wait_for()
    for still in (film, chart):
        can_be_moved(page, still)
    assert page.problems == []


def test_actions_in_jupyterlab(lab, page):
    "Tokens of action chunks: two films of curves, and an explorer with a box for each id."
    widgets = opened(page, lab, ROOT / 'nbs/explore_actions.ipynb')
    assert len(widgets) == 3
    for widget in widgets:
        can_be_moved(page, widget)
    assert page.problems == []


def test_every_kind_of_latent(lab, page):
    "Sliders, index boxes, times and sounds of the toys in the widgets notebook."
    widgets = opened(page, lab, ROOT / 'nbs/core/explorer.ipynb')
    assert len(widgets) >= 6
    for widget in widgets:
        can_be_moved(page, widget)
    sound = page.locator('.vaebook audio:not([hidden])').first
    assert sound.evaluate(DURATION) == pytest.approx(0.25, abs=0.01)
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
    from vaebook.viz.traversal import latent_traversal
    from vaebook.viz.explorer import animate

    class Bars(torch.nn.Module):
        latent_spec = [dict(name='<!-- <script>', range=(-3.0, 3.0)), dict(name='</script><b>"b\'', range=(-3.0, 3.0))]

        def decode(self, z):
            return z.sigmoid()[:, None, :, None].repeat_interleave(4, 2).expand(-1, 1, -1, 8)

        def encode(self, x):
            return Latent(x[:, 0, ::4, 0].logit(), {})

    def classifier(x):
        return x.mean((2, 3)) * torch.tensor([1.0, -1.0])

    bars = latent_traversal(Bars(), values=[1.0, 2.0], classifier=classifier, classes=['<i>', '&amp;'])
    made = animate(bars).html()
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
    (widget,) = opened(page, lab, SLOW)
    widget.locator('input[type=range]').focus()
    for _ in range(25):
        page.keyboard.press('ArrowRight')
    began = time.time()
    last = 'r => r.querySelector("canvas").getAttribute("aria-label").includes("level +2.50")'
    page.wait_for_function(last, arg=widget.element_handle(), timeout=10_000)
    waited, pictures = time.time() - began, int(kernel(lab, 'print(explorer.view.turn)'))
    tell(f'25 quick moves, 250 ms a picture: {pictures} pictures, the last {waited:.1f} s after the last key')
    assert pictures < 15 and waited < 2


@pytest.mark.parametrize(
    'name, anew',
    [('explore_cvae', False), ('explore_cvae', True), ('explore_actions', False), ('core/explorer', False)],
)
def test_static_page(name, anew, chromium, tmp_path, tell):
    "The page made from the stored notebook, or from one that papermill ran: no kernel, no network, and the films move."
    notebook = ROOT / f'nbs/{name}.ipynb'
    if anew:
        papermill(name, tmp_path, smoke=True)
        notebook = (tmp_path / 'out.ipynb').rename(tmp_path / notebook.name)
    command('-m', 'jupyter', 'nbconvert', '--to', 'html', '--output-dir', tmp_path, notebook, cwd=tmp_path)
    context = chromium.new_context(offline=True)
    page = context.new_page()
    problems = []
    page.on('pageerror', lambda e: problems.append(str(e)))
    page.goto((tmp_path / f'{Path(name).name}.html').as_uri())
    films = [w for w in ready(page) if w.locator('.vb-controls input:enabled').count()]
    assert len(films) >= 2
    for film in films:
        can_be_moved(page, film)
    film = films[0]
    film.locator('.vb-controls input').first.focus()
    waits = press(page, film, 'End')
    for key in ('ArrowLeft', 'ArrowRight') * 5:
        waits += press(page, film, key, 3)
    tell(f'{name}, without a kernel: key to changed picture, median {statistics.median(waits):.0f} ms')
    assert problems == []
    context.close()
