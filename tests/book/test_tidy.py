"Nothing is left lying about: code that nobody uses, code that stands twice, keys that nobody reads."

import ast, dataclasses, json, re
from collections import defaultdict
from pathlib import Path

import vulture
from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / 'vaebook/conf'


def lessons(notebook):
    "The code cells of a notebook that are not exported, magics left out."
    cells = [''.join(c['source']) for c in json.loads(notebook)['cells'] if c['cell_type'] == 'code']
    told = [c for c in cells if not re.search(r'^#\|\s*export', c, re.M)]
    return '\n'.join(re.sub(r'^\s*[%!].*', 'pass', c, flags=re.M) for c in told)


def read(path):
    "The source; what nbdev lists in `__all__` is not thereby used."
    text = path.read_text(encoding='utf-8')
    if path.suffix == '.ipynb':
        return lessons(text)
    return re.sub(r'^__all__ = \[.*?\]', '', text, flags=re.M | re.S)


def is_code(path):
    if path.name == '_modidx.py' or '.ipynb_checkpoints' in path.parts:
        return False
    return path.suffix in ('.py', '.ipynb')


def code(*folders):
    "path → source."
    paths = [p for f in folders for p in sorted((ROOT / f).rglob('*')) if is_code(p)]
    return {p.relative_to(ROOT).as_posix(): read(p) for p in paths}


SOURCES = code('vaebook', 'tests', 'nbs')
PACKAGE = {n: t for n, t in SOURCES.items() if n.startswith('vaebook/')}


# Code that nobody uses

# Called by Python, IPython, torch, Lightning; `metaworld` is a data set, found by its name
CALLED = '''
    __*__ _repr_* extra_repr on_* configure_* training_step validation_step log_hyperparams log_graph
    after_save_checkpoint metaworld
'''.split()
# Read by Lightning, PyAV, MuJoCo, ClearML, transformers
READ = '''
    automatic_optimization group_separator should_stop _batches_that_stepped pix_fmt offwidth offheight
    seeded_rand_vec _freeze_rand_vec SESSION_CACHE_FOLDER register_for_auto_class
'''.split()
# Arguments of deepcopy, of transformers, of hooks of Lightning, of a loader's workers
GIVEN = 'memo ignored exception input_array checkpoint_callback worker'.split()


def unused(sources):
    "What vulture finds in the package; tests and lessons count as users."
    from vaebook.trainers.lightning import _PASSED
    from vaebook.trainers.video import TrainingArguments

    fields = [f.name for f in dataclasses.fields(TrainingArguments)]  # read through its table of keys
    finder = vulture.Vulture(ignore_names=CALLED + READ + GIVEN + _PASSED + fields)
    for name, text in sources.items():
        finder.scan(text, filename=name)
    found = [i for i in finder.get_unused_code(min_confidence=60) if str(i.filename).startswith('vaebook/')]
    return sorted(f'{i.filename}: {i.typ} {i.name}' for i in found)


def test_no_code_is_dead():
    planted = {'vaebook/planted.py': 'def left_over(): return 1'}
    assert unused(SOURCES | planted) == ['vaebook/planted.py: function left_over']


# Code that stands twice


def lines(text):
    "(number, line) of what is code: no imports, comments or lone punctuation."
    found = ((i, ' '.join(l.split())) for i, l in enumerate(text.splitlines(), 1))
    return [(i, l) for i, l in found if len(re.sub(r'\W', '', l)) > 3 and not l.startswith(('#', 'import ', 'from '))]


def twice(sources, count=6):
    "Places of the first of `count` lines that stand elsewhere too."
    places = defaultdict(list)
    for name, found in ((n, lines(t)) for n, t in sources.items()):
        for k in range(len(found) - count + 1):
            places[tuple(l for _, l in found[k : k + count])].append(f'{name}:{found[k][0]}')
    return [p for p in places.values() if len(p) > 1]


class Shape(ast.NodeTransformer):
    "Names and plain values are all the same."

    def visit_Name(self, node):
        return ast.Name('name', ast.Load())

    def visit_arg(self, node):
        return ast.arg('name')

    def visit_Constant(self, node):
        return ast.Constant(0)


def is_docstring(statement):
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def alike(sources, size=80):
    "Functions of the same shape, of `size` nodes or more; in modules, also small ones that have the same name."
    shapes, named = defaultdict(list), defaultdict(list)
    for name, text in sources.items():
        tree = ast.parse(text)
        for f in (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)):
            body = ast.Module([s for s in f.body if not is_docstring(s)], [])
            nodes = sum(1 for _ in ast.walk(body))
            if f in tree.body and nodes > 12 and name.startswith('vaebook/'):
                named[f.name, ast.dump(body)].append(f'{name}:{f.name}')
            if nodes >= size:
                shapes[ast.dump(Shape().visit(body))].append(f'{name}:{f.name}')
    return [p for p in [*shapes.values(), *named.values()] if len(p) > 1]


def test_no_code_stands_twice():
    "Six lines in package and tests; a function in lessons and bench too."
    assert twice({n: t for n, t in SOURCES.items() if not n.startswith('nbs/')}) == []
    assert alike(SOURCES) == []


def test_copies_are_found():
    name, text = max(PACKAGE.items(), key=lambda item: len(item[1]))
    assert twice({name: text, 'vaebook/copy.py': text})
    renamed = re.sub(r'\bself\b', 'this', text)
    assert ['vaebook/renamed.py' in p[1] for p in alike({name: text, 'vaebook/renamed.py': renamed}) if p]


# Keys that nobody reads

BLOCKS = dict(  # block → where it is read
    trainer='trainers/* experiments/* losses/terms.py',
    dataset='data/* data/*/* experiments/*',
    model='models/* layers/* bottlenecks/* experiments/*',
    loss='losses/* bottlenecks/* models/* experiments/*',
    eval_loss='losses/*',
    logger='trainers/loggers.py',
)
ELSEWHERE = 'experiments/* config.py facade.py runs.py train.py'


def names(place):
    "What modules name: attributes, arguments, fields, words of strings that are no docstring."
    found = set()
    for path in (p for pattern in place.split() for p in (ROOT / 'vaebook').glob(pattern) if p.suffix == '.py'):
        tree = ast.parse(PACKAGE[path.relative_to(ROOT).as_posix()])
        said = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
        for n in ast.walk(tree):
            if isinstance(n, ast.Attribute):
                found.add(n.attr)
            elif isinstance(n, ast.arg | ast.keyword):
                found.add(n.arg)
            elif isinstance(n, ast.AnnAssign):
                found.add(getattr(n.target, 'id', ''))
            elif isinstance(n, ast.Constant) and isinstance(n.value, str) and id(n) not in said:
                found |= set(re.split(r'[.\s]', n.value))
    return found


def keys(values, block=''):
    "(block, key) of every key of a file, at any depth."
    for key, value in values.items():
        if key in ('defaults', 'hydra'):
            continue
        if key not in BLOCKS:
            yield block, key
        if isinstance(value, dict):
            yield from keys(value, key if key in BLOCKS else block)


def unread(**planted):
    "block.key of what the modules of its block never name."
    tables = 'experiments', 'published'  # not configuration: read by their own names
    files = [p for p in CONF.rglob('*.yaml') if p.stem not in tables and not {'hydra', 'facade'} & set(p.parts)]
    found = set(keys(planted))
    for p in files:
        block = p.parent.name if p.parent.name in BLOCKS else ''
        found |= set(keys(OmegaConf.to_container(OmegaConf.load(p)), block))
    known = {b: names(place) for b, place in (BLOCKS | {'': ELSEWHERE}).items()}
    return sorted(f'{b}.{k}' for b, k in found if k not in known[b])


def test_every_key_is_read():
    assert unread() == []
    assert unread(trainer=dict(warp_factor=9), stray=1) == ['.stray', 'trainer.warp_factor']
