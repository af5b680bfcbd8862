"The pages that Sphinx reads: every notebook by nbdev's processors, and the API by its `show_doc`."

import ast, configparser, functools, importlib, inspect, json, posixpath, re, sys
from pathlib import Path

from fastcore.nbio import mk_cell, write_nb
from nbdev.doclinks import nbglob, patch_name
from nbdev.process import NBProcessor
from nbdev.processors import clean_magics, hide_line, rm_header_dash, strip_ansi
from nbdev.showdoc import show_doc

LAYERS = {
    'core': 'Core modules',
    'data': 'Data',
    'layers': 'Layers',
    'bottlenecks': 'Bottlenecks',
    'losses': 'Losses',
    'models': 'Models',
    'metrics': 'Metrics',
    'trainers': 'Trainers',
    'experiments': 'Experiments',
    'viz': 'Pictures and widgets',
    'export': 'Export',
    'hub': 'Hub',
    'cli': 'Command line',
}
DEFS = ast.FunctionDef, ast.ClassDef
ini = configparser.ConfigParser(delimiters=['='])
ini.read(Path(__file__).resolve().parents[2] / 'settings.ini', encoding='utf-8')
GIT = f"{ini['DEFAULT']['git_url']}/blob/{ini['DEFAULT']['branch']}/"


# Notebooks


def found(folder):
    "Every notebook that nbdev knows, as document → path."
    paths = [Path(p) for p in nbglob(folder)]
    return {p.relative_to(folder).with_suffix('').as_posix(): p for p in sorted(paths)}


def local(text, doc, extra):
    "Links to files of the repository that are pages here."
    for page, name in extra.items():
        text = text.replace(f']({GIT}{name})', f']({posixpath.relpath(page, posixpath.dirname(doc) or ".")}.md)')
    return text


def hidden(cell):
    "Cells for the machine are not for the reader; what is exported is."
    if cell.directives_ and cell.directives_.keys() & {'hide', 'default_exp'}:
        del cell['source']


def looks(cell):
    "Tags that the page is styled by: exported code, folded imports, output alone."
    if cell.cell_type == 'markdown':
        cell.source = re.sub(r'\A(# .+\n(?:.*\n)*?> .+)((?:\n|- *\w+: .*)*)', r'\1\n\n', cell.source)
    if cell.cell_type != 'code':
        return
    d, lines, tags = cell.directives_, cell.parsed_() or [], set(cell.metadata.get('tags', []))
    if d.get('echo:') == ['false']:
        tags.add('remove-input')
        cell.source = re.sub(r'^#\|.*\n', '', cell.source, flags=re.M)
    if 'export' in d:
        tags.add('export')
    if lines and all(isinstance(n, (ast.Import, ast.ImportFrom)) for n in lines):
        tags.add('hide-input')
        cell.metadata['mystnb'] = dict(code_prompt_show='imports', code_prompt_hide='imports')
    cell.metadata['tags'] = sorted(tags)


def names(tree):
    "What one statement of an exported cell defines: `f`, `Class` and its methods, `Class.method = f`."
    if isinstance(tree, ast.Assign) and isinstance(tree.targets[0], ast.Attribute):
        return [ast.unparse(tree.targets[0])]
    if isinstance(tree, ast.Assign):
        return [t.id for t in tree.targets if isinstance(t, ast.Name)]
    if not isinstance(tree, DEFS):
        return []
    inside = [n for n in tree.body if isinstance(n, DEFS)] if isinstance(tree, ast.ClassDef) else []
    return [patch_name(tree), *(f'{tree.name}.{n.name}' for n in inside)]


def contents(caption, docs):
    "A table of contents that is not shown on its page."
    head = f':caption: {caption}\n' if caption else ''
    lines = '\n'.join(f'/{doc}' for doc in docs)
    return f'```{{toctree}}\n:hidden:\n{head}\n{lines}\n```'


def notebook(path, to, doc, told, extra, below):
    "One notebook as a page, with its pages below it; `told` learns which cell tells which name."
    work = NBProcessor(path, procs=[strip_ansi, hide_line, rm_header_dash, clean_magics, looks, hidden])
    module = next((c.directives_['default_exp'][0] for c in work.nb.cells if 'default_exp' in c.directives_), None)
    work.process()
    cells = []
    for cell in work.nb.cells:
        trees = cell.parsed_() or [] if module and 'export' in cell.directives_ else []
        defined = [n for tree in trees for n in names(tree)]
        if defined:
            label = f'{doc.replace("/", "-")}-{cell.id}'
            cells.append(mk_cell(f'({label})=', 'markdown'))
            told.update({f'vaebook.{module}.{n}': (doc, label) for n in defined})
        if cell.cell_type == 'markdown':
            cell.source = local(cell.source, doc, extra)
        cells.append(cell)
    work.nb.cells = [*cells, *(mk_cell(contents(*part), 'markdown') for part in below)]
    to.parent.mkdir(parents=True, exist_ok=True)
    write_nb(work.nb, to)


# API


def prose(text):
    "A docstring as markdown: code stays code, signs of markdown stay signs."
    return ''.join(
        t if t.startswith('`') else re.sub(r'([\\*_<>$|\[\]#])', r'\\\1', t) for t in re.split(r'(`[^`]*`)', text or '')
    )


def docstring(sym):
    "A docstring of ours: not what Python writes by itself."
    doc = inspect.cleandoc(sym.__doc__ or '')
    return '' if doc.startswith((f'{getattr(sym, "__name__", "")}(', 'Call self as a function')) else doc


def annotation(note, ours):
    "A type: those of others by their short name, ours in full, so that they become links."
    text = inspect.formatannotation(note)
    if text == 'torch.device':
        return text  # properties of ours are called `device`
    if 'Literal' in text:
        return text

    def known(match):
        short = match[0].rpartition('.')[2]
        return ours.get(short, short)

    return re.sub(r'[A-Za-z_][\w.]*', known, text.replace("'", ''))


def default(value):
    "A default as it would be typed, if it can be."
    text = repr(value)
    return text if '<' not in text else getattr(value, '__name__', '...').strip('<>')


def signature(e, ours):
    "What `show_doc` found, without the docments: they are in the table."
    try:
        sig = e.sig or inspect.signature(e.sym)
    except (TypeError, ValueError):
        return '()'
    params = [p for p in sig.parameters.values() if p.name != 'self']
    if [(p.name, p.kind) for p in params] == [('args', 2), ('kwargs', 4)] and inspect.isclass(e.sym):
        params = []  # Module's own: no __init__ of ours
    star, out = any(p.kind == p.VAR_POSITIONAL for p in params), []
    for p in params:
        if p.kind == p.KEYWORD_ONLY and not star:
            out.append('*')
            star = True
        note = '' if p.annotation is p.empty else f': {annotation(p.annotation, ours)}'
        value = '' if p.default is p.empty else f'{" = " if note else "="}{default(p.default)}'
        out.append({p.VAR_POSITIONAL: '*', p.VAR_KEYWORD: '**'}.get(p.kind, '') + p.name + note + value)
    silent = sig.return_annotation is sig.empty or inspect.isclass(e.sym)
    back = '' if silent else f' -> {annotation(sig.return_annotation, ours)}'
    return f'({", ".join(out)}){back}'


def table(e):
    "The docments: a row for each parameter that has one, with its unit or shape."
    rows = {n: v['docment'] for n, v in e.dm.dm.items() if n != 'self' and isinstance(v.get('docment'), str)}
    lines = []
    for name, docment in rows.items():
        shown = '*returns*' if name == 'return' else f'`{name}`{{.argument}}'
        lines.append(f'| {shown} | {prose(" ".join(docment.split()))} |')
    return '\n'.join(['| argument | |', '|---|---|', *lines]) if lines else ''


def entry(sym, name, kind, at, ours, inside=''):
    "A public name as a directive of Sphinx's Python domain: what `show_doc` finds, and the cell that tells it."
    link = f'told in {{ref}}`{at[0]} <{at[1]}>`' if at else ''
    sig, text = '', [prose(docstring(sym))] if kind != 'data' else []
    if kind not in ('data', 'property'):
        e = show_doc(sym)
        sig = signature(e, ours)
        text.append(table(e))
    kind, flag = ('method', f':{kind}:\n') if kind in ('classmethod', 'staticmethod') else (kind, '')
    fence = ':' * (4 if inside else 3)
    return '\n\n'.join(filter(None, [f'{fence}{{py:{kind}}} {name}{sig}\n{flag}', *text, link, inside, fence]))


def methods(cls):
    "Public methods that this book gave to a class: name, function, kind."
    for name, m in vars(cls).items():
        kind = 'method' if inspect.isfunction(m) else type(m).__name__
        if isinstance(m, functools.cached_property):
            kind, f = 'property', m.func
        elif isinstance(m, property):
            f = m.fget
        else:
            f = getattr(m, '__func__', m)
        f = inspect.unwrap(f) if callable(f) else f
        if name[0] != '_' and inspect.isfunction(f) and f.__module__.startswith('vaebook'):
            yield name, f, kind


def import_for_types(mod):
    "What a module imports for type checkers alone is needed to read its annotations."
    for name in re.findall(r'^if TYPE_CHECKING: import (\w+)', inspect.getsource(mod), re.M):
        setattr(mod, name, importlib.import_module(name))


def module(name, told, ours):
    "A module: its public names in the order of the notebook."
    mod = importlib.import_module(name)
    import_for_types(mod)
    public = {n: getattr(mod, n) for n in dict.fromkeys(mod.__all__) if n[0] != '_'}
    given, parts = {f for c in public.values() if inspect.isclass(c) for m, f, _ in methods(c) if m == f.__name__}, []
    for n, sym in public.items():
        at = told.get(f'{name}.{n}')
        if inspect.isclass(sym):
            inside = []
            for m, f, kind in methods(sym):
                places = told.get(f'{name}.{n}.{m}'), told.get(f'{name}.{f.__name__}')
                inside.append(entry(f, m, kind, next((p for p in places if p != at), None), ours))
            parts.append(entry(sym, n, 'class', at, ours, '\n\n'.join(inside)))
        elif not callable(sym) or not inspect.isfunction(f := inspect.unwrap(sym)):
            parts.append(entry(sym, n, 'data', at, ours))
        elif f not in given:
            parts.append(entry(f, n, 'function', at, ours))
    about = prose((mod.__doc__ or '').strip().split('\n')[0])
    return '\n\n'.join([f'## {name}', about, f'```{{py:module}} {name}\n```', *parts])


def api(src):
    "One page a layer; `told.json` says which cell tells which name."
    folder, told = src / 'api', json.loads((src / 'told.json').read_text())
    syms = importlib.import_module('vaebook._modidx').d['syms']
    folder.mkdir()
    found = ((full[len(mod) + 1 :], full) for mod, names in syms.items() for full in names)
    ours = {name: full for name, full in found if name[0].isupper() and '.' not in name}
    for layer, title in LAYERS.items():
        mods = [m for m in syms if m.startswith(f'vaebook.{layer}.') or layer == 'core' and m.count('.') == 1]
        mods.sort(key=lambda m: (m != 'vaebook.core.latent', m))
        text = '\n\n'.join([f'# {title}', *(module(m, told, ours) for m in mods)])
        (folder / f'{layer}.md').write_text(text, encoding='utf-8')


if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    api(Path(sys.argv[1]))
