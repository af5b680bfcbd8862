"`explore_video.ipynb` as papermill runs it: small, free of errors; its films move in a page without a kernel, offline."

import nbformat
import pytest

from helpers import ROOT, command, outputs, papermill
from browsing import browser_wanted, can_be_moved, labelled, opened, ready

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "The notebook after a smoke run; → notebook, folder of its files."
    folder = tmp_path_factory.mktemp('explored')
    papermill('explore_video', folder, 'made.ipynb', smoke=True, out=folder / 'out')
    return nbformat.read(folder / 'made.ipynb', 4), folder


def test_every_section_shows(made):
    nb, folder = made
    shown = [m for o in outputs(nb) for m in o.get('data', {})]
    assert shown.count('image/png') >= 9 and shown.count('text/html') >= 3
    assert sum(len(str(o)) for o in outputs(nb)) < 300_000
    for name in ('reconstructions.mp4', 'channels.gif', 'channels.mp4', 'channels.html'):
        assert (folder / 'out' / name).stat().st_size > 1000


def test_a_run_that_is_none(tmp_path):
    (tmp_path / 'empty').mkdir()
    said = papermill('explore_video', tmp_path, run=tmp_path / 'empty', ok=False)
    assert 'the folder of a finished run' in said


@browser_wanted
def test_films_move_in_a_page(made, chromium):
    "Offline: the clip plays, and each slider of the film changes its picture."
    _, folder = made
    command('-m', 'jupyter', 'nbconvert', '--to', 'html', 'made.ipynb', cwd=folder)
    context = chromium.new_context(offline=True)
    page = context.new_page()
    problems = []
    page.on('pageerror', lambda e: problems.append(str(e)))
    page.goto((folder / 'made.html').as_uri())
    page.locator('video').scroll_into_view_if_needed()  # a browser plays only what is seen
    page.wait_for_function('document.querySelector("video").currentTime > 0.2', timeout=20_000)
    films = [w for w in ready(page) if w.locator('.vb-controls input:enabled').count()]
    assert len(films) == 1
    assert films[0].locator('.vb-controls input').last.get_attribute('aria-label') == 'time'
    can_be_moved(page, films[0])
    assert problems == []
    context.close()


@browser_wanted
def test_explorer_in_jupyterlab(lab, page, tmp_path):
    "Live: sliders of channels and of the frame."
    nb = nbformat.read(ROOT / 'nbs/explore_video.ipynb', 4)
    for cell in nb.cells:
        cell.source = cell.source.replace('smoke: bool = False', 'smoke: bool = True')
    nbformat.write(nb, tmp_path / 'video.ipynb')
    film, explorer = opened(page, lab, tmp_path / 'video.ipynb')
    assert 'frame' in labelled(explorer)
    for widget in (film, explorer):
        can_be_moved(page, widget)
    assert page.problems == []
