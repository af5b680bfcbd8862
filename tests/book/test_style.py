"How a notebook reads, as numbers: small cells, visible lessons, stored outputs, imports that go one way."

import ast, functools, importlib, json, re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ORDER = '''
    core
    viz.tiles
    data layers
    bottlenecks
    losses
    models
    metrics
    viz export hub
    explain
    baselines trainers
    experiments
    train book
    cli
'''.split('\n')[1:-1]  # a room imports itself and those on the lines above
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms.split()}


def text(cell):
    return ''.join(cell['source'])


def public(path):
    return not any(part.startswith(('.', '_')) for part in path.parts)


def read_notebooks(folder):
    "name → notebook."
    paths = {p.relative_to(folder): p for p in sorted(folder.rglob('*.ipynb'))}
    return {name.as_posix(): json.loads(p.read_text(encoding='utf-8')) for name, p in paths.items() if public(name)}


def find_modules(folder):
    "dotted name → path."
    paths = [p for p in sorted(folder.rglob('*.py')) if p.name != '_modidx.py']
    return {'.'.join(p.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__'): p for p in paths}


NOTEBOOKS = read_notebooks(ROOT / 'nbs')
MODULES = find_modules(ROOT / 'vaebook')
OPENED = 'train_', 'explore_', 'results', 'bench/', 'bottleneck_shootout'
EXPERIMENTS = [n for n in NOTEBOOKS if n.startswith(OPENED) or n.endswith('/expect')]
each = pytest.mark.parametrize('name', NOTEBOOKS)


def cells(name, kind='code'):
    return [c for c in NOTEBOOKS[name]['cells'] if c['cell_type'] == kind]


def has(cell, directive):
    return re.search(rf'^#\|\s*(?:{directive})\b', text(cell), re.M)


def body(cell):
    return [l for l in text(cell).splitlines() if l.strip() and not l.lstrip().startswith('#|')]


def parse(cell):
    "The statements of a code cell, its magics left out."
    return ast.parse('\n'.join('' if l.lstrip().startswith(('%', '!')) else l for l in text(cell).splitlines())).body


def imports_only(cell):
    return all(isinstance(s, (ast.Import, ast.ImportFrom)) for s in parse(cell))


# Notebooks


@each
def test_opens_with_title_and_promise(name):
    first = next(c for c in NOTEBOOKS[name]['cells'] if c['cell_type'] != 'raw')
    titled = first['cell_type'] == 'markdown' and re.match(r'# \S.*\n\s*> \S', text(first))
    assert titled, 'the first cell is `# title` and `> promise`'


@each
def test_imports_have_cells_of_their_own(name):
    for c in cells(name):
        if 'nbdev_export()' in text(c):
            continue
        kinds = {isinstance(s, (ast.Import, ast.ImportFrom)) for s in parse(c)}
        assert len(kinds) < 2, f'imports and other code in one cell:\n{text(c)}'


@each
def test_no_assertion_is_hidden(name):
    for c in filter(lambda c: has(c, 'hide'), cells(name)):
        nodes = [n for s in parse(c) for n in ast.walk(s)]
        calls = [n.func.id for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
        hidden = [f for f in calls if f.startswith('test_') or f == 'expect_fail']
        hidden += [n for n in nodes if isinstance(n, ast.Assert)]
        assert not hidden, f'make it a lesson:\n{text(c)}'


@each
def test_outputs_are_stored_and_small(name):
    silent = 'export|exporti|exports|hide|eval'
    shown = [c for c in cells(name) if body(c) and not has(c, silent) and not imports_only(c)]
    outputs = [o for c in cells(name) for o in c['outputs']]
    assert outputs or not shown, 'no stored output: run .ci/refresh'
    assert not [o for o in outputs if o['output_type'] == 'error'], 'a stored error'
    said = ''.join(''.join(o.get('text', '')) + ''.join(o.get('data', {}).get('text/plain', '')) for o in outputs)
    assert not re.search(r'\d%\|', said), 'a progress bar: use vaebook.core.progress_bar'
    assert (ROOT / 'nbs' / name).stat().st_size <= 300_000, 'more than 300 kB'


@each
def test_outputs_name_no_place(name):
    "A path of one machine would make a diff on the next."
    if '/' not in name:
        pytest.skip('experiments store a default run')
    plain = []
    for output in (o for c in cells(name) for o in c['outputs']):
        plain.append(''.join(output.get('text', '')))
        plain += [''.join(v) for k, v in output.get('data', {}).items() if k.startswith('text/')]
    assert not re.findall(r'(?<!\w)/(?:home|root|tmp|work|Users|usr)/\S+', '\n'.join(plain))


@each
def test_chance_is_seeded(name):
    "Stored outputs are the same at the next run."
    code = '\n'.join(map(text, cells(name)))
    draws = re.search(r'\b(torch|random)\.(rand|randn|randint|randperm|normal)', code)
    seeded = re.search(r'\b(set_seed|seed_step|manual_seed|default_rng|seed)\(', code)
    assert seeded or not draws, 'it draws numbers: call set_seed first'


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_experiments_have_parameters_and_are_not_run(name):
    assert [c for c in cells(name) if 'parameters' in c['metadata'].get('tags', [])], 'no cell is tagged `parameters`'
    front = '\n'.join(text(c) for c in NOTEBOOKS[name]['cells'][:2] if c['cell_type'] != 'code')
    assert re.search(r'^(- )?skip_exec: true$', front, re.M), '`- skip_exec: true` is missing under the promise'


# The package


@functools.cache
def tree(module):
    return ast.parse(MODULES[module].read_text(encoding='utf-8'))


def functions(module):
    return [f for f in ast.walk(tree(module)) if isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef))]


def is_silent(f):
    "A public function of more than six lines without a docstring."
    size = f.end_lineno - f.lineno + 1
    return not f.name.startswith('_') and size > 6 and not ast.get_docstring(f)


def test_public_functions_say_what_they_do():
    assert [f'{module}.{f.name}' for module in MODULES for f in functions(module) if is_silent(f)] == []


@functools.cache
def public_names(layer):
    "The public list of a layer, its `__init__.pyi`: name → module."
    stub = ROOT / layer.replace('.', '/') / '__init__.pyi'
    if not stub.is_file():
        return {}
    found = [(a.name, f'{layer}.{n.module}') for n in ast.parse(stub.read_text(encoding='utf-8')).body for a in n.names]
    assert len(dict(found)) == len(found), f'{layer}: a name with two meanings'
    return dict(found)


def imported(module, everywhere=True):
    "The modules of the package that `module` imports; also inside functions if `everywhere`."
    package = module.split('.') if MODULES[module].name == '__init__.py' else module.split('.')[:-1]
    names = set()
    for node in ast.walk(tree(module)) if everywhere else tree(module).body:
        if isinstance(node, ast.Import):
            names |= {a.name for a in node.names}
        if isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = '.'.join([*above, *filter(None, [node.module])])
            for name in (a.name for a in node.names):  # a module, or a name: of a layer's list, or of a module
                names.add(f'{base}.{name}' if f'{base}.{name}' in MODULES else public_names(base).get(name, base))
    return {n for n in names if n in MODULES and n not in ('vaebook', module)}


def reached(module):
    "Every module that importing `module` loads."
    seen, todo = set(), [module]
    while todo:
        new = imported(todo.pop(), everywhere=False) - seen
        seen |= new
        todo += new
    return seen


def room(module):
    if module == 'vaebook.viz.tiles':  # draws arrays and knows no model
        return 'viz.tiles'
    return module.split('.')[1]


@pytest.mark.parametrize('module', [m for m in MODULES if m != 'vaebook'])
def test_imports_go_one_way(module):
    assert room(module) in RANK, 'a room of its own: say where it stands in ORDER'
    uses = imported(module) | reached(module)
    assert module not in reached(module), 'imports itself, in a circle'
    above = [m for m in uses if room(m) != room(module) and RANK[room(m)] >= RANK[room(module)]]
    assert above == [], f'{room(module)} stands below what it imports: ' + ' ← '.join(map(str.strip, ORDER))


def test_public_lists_are_true():
    "What a layer's list names is there, public, and made by the module that the list says."
    for stub in sorted((ROOT / 'vaebook').glob('*/__init__.pyi')):
        layer = f'vaebook.{stub.parent.name}'
        for name, module in public_names(layer).items():
            published = getattr(importlib.import_module(layer), name)
            made = getattr(importlib.import_module(module), name)
            assert not name.startswith('_') and published is made, f'{layer}.{name}'
