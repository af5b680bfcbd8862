"How a notebook reads, as numbers: small cells, visible lessons, stored outputs, imports that go one way."

import ast, functools, importlib, json, re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ORDER = [
    line.split()
    for line in (
        'core',
        'viz.tiles',
        'data layers',
        'bottlenecks',
        'losses',
        'models',
        'metrics',
        'viz export hub',
        'explain trainers',
        'experiments',
        'train book',
        'cli',
    )
]
RANK = {
    room: rank for rank, rooms in enumerate(ORDER) for room in rooms
}  # a room imports itself and those on the lines above
text = lambda c: ''.join(c['source'])
public = lambda p, base: not any(part.startswith(('.', '_')) for part in p.relative_to(base).parts)
NOTEBOOKS = {
    p.relative_to(ROOT / 'nbs').as_posix(): json.loads(p.read_text(encoding='utf-8'))
    for p in sorted((ROOT / 'nbs').rglob('*.ipynb'))
    if public(p, ROOT / 'nbs')
}
MODULES = {
    '.'.join(p.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__'): p
    for p in sorted((ROOT / 'vaebook').rglob('*.py'))
    if p.name != '_modidx.py'
}
EXPERIMENTS = [
    n
    for n in NOTEBOOKS
    if n.startswith(('train_', 'explore_', 'results', 'bench/', 'bottleneck_shootout')) or n.endswith('/expect')
]
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
    assert first['cell_type'] == 'markdown' and re.match(r'# \S.*\n\s*> \S', text(first)), (
        'the first cell is `# title` and `> promise`'
    )


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
        calls = [
            n.func.id for s in parse(c) for n in ast.walk(s) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
        ]
        hidden = [f for f in calls if f.startswith('test_') or f == 'expect_fail']
        assert not hidden and not any(isinstance(n, ast.Assert) for s in parse(c) for n in ast.walk(s)), (
            f'make it a lesson:\n{text(c)}'
        )


@each
def test_outputs_are_stored_and_small(name):
    shown = [
        c for c in cells(name) if body(c) and not has(c, 'export|exporti|exports|hide|eval') and not imports_only(c)
    ]
    outputs = [o for c in cells(name) for o in c['outputs']]
    assert outputs or not shown, 'no stored output: run .ci/refresh'
    assert not [o for o in outputs if o['output_type'] == 'error'], 'a stored error'
    assert (ROOT / 'nbs' / name).stat().st_size <= 300_000, 'more than 300 kB'


@each
def test_outputs_name_no_place(name):
    "A path of one machine would make a diff on the next."
    if '/' not in name:
        pytest.skip('experiments store a default run')
    plain = [
        ''.join(o.get('text', '')) + ''.join(''.join(v) for k, v in o.get('data', {}).items() if k.startswith('text/'))
        for c in cells(name)
        for o in c['outputs']
    ]
    assert not re.findall(r'(?<!\w)/(?:home|root|tmp|work|Users|usr)/\S+', '\n'.join(plain))


@each
def test_chance_is_seeded(name):
    "Stored outputs are the same at the next run."
    code = '\n'.join(map(text, cells(name)))
    assert not re.search(r'\b(torch|random)\.(rand|randn|randint|randperm|normal)', code) or re.search(
        r'\b(set_seed|seed_step|manual_seed|default_rng|seed)\(', code
    ), 'it draws numbers: call set_seed first'


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_experiments_have_parameters_and_are_not_run(name):
    assert [c for c in cells(name) if 'parameters' in c['metadata'].get('tags', [])], 'no cell is tagged `parameters`'
    front = '\n'.join(text(c) for c in NOTEBOOKS[name]['cells'][:2] if c['cell_type'] != 'code')
    assert re.search(r'^(- )?skip_exec: true$', front, re.M), '`- skip_exec: true` is missing under the promise'


# The package


def functions(path):
    return [
        f
        for f in ast.walk(ast.parse(path.read_text(encoding='utf-8')))
        if isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]


def size(f):
    return f.end_lineno - f.lineno + 1


def test_public_functions_say_what_they_do():
    assert [
        f'{module}.{f.name}'
        for module, p in MODULES.items()
        for f in functions(p)
        if not f.name.startswith('_') and size(f) > 6 and not ast.get_docstring(f)
    ] == []


@functools.cache
def tree(module):
    return ast.parse(MODULES[module].read_text(encoding='utf-8'))


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
    "The modules of the package that `module` imports, also inside functions if `everywhere`; a name of a layer's list is its module."
    package = module.split('.') if MODULES[module].name == '__init__.py' else module.split('.')[:-1]
    names = set()
    for node in ast.walk(tree(module)) if everywhere else tree(module).body:
        if isinstance(node, ast.Import):
            names |= {a.name for a in node.names}
        if isinstance(node, ast.ImportFrom):
            base = '.'.join(
                [*(package[: len(package) - node.level + 1] if node.level else []), *filter(None, [node.module])]
            )
            for a in node.names:
                names.add(f'{base}.{a.name}' if f'{base}.{a.name}' in MODULES else public_names(base).get(a.name, base))
    return {n for n in names if n in MODULES and n not in ('vaebook', module)}


def reached(module):
    "Every module that importing `module` loads."
    seen, todo = set(), [module]
    while todo:
        new = imported(todo.pop(), everywhere=False) - seen
        seen |= new
        todo += new
    return seen


room = lambda module: (
    'viz.tiles' if module == 'vaebook.viz.tiles' else module.split('.')[1]
)  # which draws arrays and knows no model


@pytest.mark.parametrize('module', [m for m in MODULES if m != 'vaebook'])
def test_imports_go_one_way(module):
    assert room(module) in RANK, 'a room of its own: say where it stands in ORDER'
    uses = imported(module) | reached(module)
    assert module not in reached(module), 'imports itself, in a circle'
    above = [m for m in uses if room(m) != room(module) and RANK[room(m)] >= RANK[room(module)]]
    assert above == [], f'{room(module)} stands below what it imports: ' + ' ← '.join(map('/'.join, ORDER))


def test_public_lists_are_true():
    "What a layer's list names is there, public, and made by the module that the list says."
    for stub in sorted((ROOT / 'vaebook').glob('*/__init__.pyi')):
        layer = f'vaebook.{stub.parent.name}'
        for name, module in public_names(layer).items():
            assert not name.startswith('_') and getattr(importlib.import_module(layer), name) is getattr(
                importlib.import_module(module), name
            ), f'{layer}.{name}'
