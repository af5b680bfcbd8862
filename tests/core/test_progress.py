"Progress bars: the one of a notebook looks at TQDM_DISABLE as well."

import pytest

from vaebook.core import progress_bar


@pytest.mark.parametrize('kind', ['std', 'notebook'])
def test_the_environment_hides_a_bar(kind, monkeypatch, capsys):
    "tqdm.notebook passes `disable=False` on, whatever the environment says."
    module = pytest.importorskip(f'tqdm.{kind}')
    monkeypatch.setattr('tqdm.auto.tqdm', module.tqdm)
    monkeypatch.setenv('TQDM_DISABLE', '1')
    bar = progress_bar(range(3), 'counting')
    assert bar.disable and list(bar) == [0, 1, 2]
    assert not any(capsys.readouterr())
