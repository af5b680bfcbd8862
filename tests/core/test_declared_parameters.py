"Every parameter that a notebook declares does something."

import io
import re
import tokenize

import nbformat
import pytest
from helpers import ROOT

from vaebook.core.config import compose
from vaebook.core.errors import flatten_dict
from vaebook.core.facade import has_key, own_aliases, translate

TRAINING = dict(
    train_classifier='classifier',
    train_cvae='cvae',
    train_latent_actions='latent_actions',
    train_causal_video='causal_video',
    train_audio='audio',
    train_world_model='world',
)
COMPOSED = {'recipe', 'dataset', 'size', 'smoke', 'overrides', 'model', 'loss', 'trainer', 'logger'}  # choices, no keys
OTHERS = [p for p in sorted((ROOT / 'nbs').rglob('*.ipynb')) if p.stem not in TRAINING and 'outputs' not in p.parts]


def declared(path):
    "The cell with the tag `parameters`: name → type; and the text of all other code."
    cells = [c for c in nbformat.read(path, 4).cells if c.cell_type == 'code']
    tagged = [c for c in cells if 'parameters' in c.metadata.get('tags', [])]
    found = dict(re.findall(r'^(\w+)(?:: (\w+))? = ', tagged[0].source, re.M)) if tagged else {}
    return found, '\n'.join(c.source for c in cells if c not in tagged)


@pytest.mark.parametrize('name', TRAINING)
def test_a_parameter_of_a_training_notebook_is_a_key(name):
    from omegaconf import OmegaConf

    experiment = TRAINING[name]
    keys = flatten_dict(OmegaConf.to_container(compose(experiment)))
    parameters, _ = declared(ROOT / f'nbs/{name}.ipynb')
    blocks = {name for name, kind in parameters.items() if kind == 'dict'}
    used = {name: translate(name, own_aliases(experiment))[0] for name in parameters if name not in blocks | COMPOSED}
    unused = [name for name, key in used.items() if key.split('@')[0] not in COMPOSED and not has_key(keys, key)]
    assert len(used) > 10 and not unused


@pytest.mark.parametrize('path', OTHERS, ids=lambda p: p.stem)
def test_a_parameter_of_another_notebook_is_read(path):
    parameters, code = declared(path)
    lines = [line for line in code.splitlines() if not line.startswith(('%', '!'))]
    words = (
        {t.string for t in tokenize.generate_tokens(io.StringIO('\n'.join(lines)).readline)} if parameters else set()
    )
    idle = {'smoke'} if path.stem == 'results' else set()  # it says so: it takes seconds anyway
    assert set(parameters) - words == idle
