"Sphinx's settings for the book, and its two extensions: names in backticks become links, MathJax comes along."

import ast, configparser, json, shutil
from collections import defaultdict
from functools import cache
from importlib.metadata import files
from pathlib import Path

from docutils import nodes
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.nodes import make_refnode

root = Path(__file__).resolve().parents[2]
settings = configparser.ConfigParser(delimiters=['='])
settings.read(root / 'settings.ini', encoding='utf-8')
settings = settings['DEFAULT']
project, author, copyright, release = (
    settings['lib_name'],
    settings['author'],
    settings['copyright'],
    settings['version'],
)
git = f'{settings["git_url"]}/blob/{settings["branch"]}'

extensions = ['myst_nb', 'sphinx.ext.linkcode']
nb_execution_mode, nb_merge_streams, nb_ipywidgets_js = 'off', True, {}
nb_render_markdown_format = 'myst'
nb_mime_priority_overrides = [('html', 'image/gif', 15)]
myst_enable_extensions = ['dollarmath', 'amsmath', 'colon_fence', 'attrs_inline']
myst_heading_anchors = 3
add_module_names, toc_object_entries_show_parents = False, 'hide'
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
mathjax_path = 'mathjax/tex-chtml.js'

html_theme, html_title, html_favicon, html_copy_source, html_static_path = (
    'sphinx_book_theme',
    project,
    'book.svg',
    False,
    ['book.css'],
)
html_css_files, html_show_sphinx, html_last_updated_fmt = ['book.css'], False, None
html_theme_options = dict(
    repository_url=settings['git_url'],
    repository_branch=settings['branch'],
    path_to_docs='nbs',
    use_repository_button=True,
    use_source_button=True,
    use_download_button=False,
    show_toc_level=2,
    max_navbar_depth=2,
    collapse_navbar=True,
    home_page_in_toc=True,
)
html_context, templates_path = dict(default_mode='auto'), ['templates']


@cache
def lines(path):
    "The line of every function and class of a module."
    found = {}
    for n in ast.parse((root / path).read_text(encoding='utf-8')).body:
        if isinstance(n, (ast.FunctionDef, ast.ClassDef)):
            found[n.name] = n.lineno
        if isinstance(n, ast.ClassDef):
            found |= {f'{n.name}.{m.name}': m.lineno for m in n.body if isinstance(m, ast.FunctionDef)}
    return found


def linkcode_resolve(domain, info):
    "[source]: the line on GitHub."
    path, name = info['module'].replace('.', '/') + '.py', info['fullname']
    if not (root / path).exists():
        path = path.replace('.py', '/__init__.py')
    line = next(
        (lines(path)[n] for n in (name, name.rpartition('.')[2], name.partition('.')[0]) if n in lines(path)), 1
    )
    return f'{git}/{path}#L{line}'


class Names(SphinxPostTransform):
    "A name in backticks is a link to its API entry: that of this page's own module, or the only one there is."

    default_priority = 5

    def run(self):
        objects, told = self.env.domains.python_domain.objects, self.app.vaebook_names
        here = self.env.current_document.docname
        for code in list(self.document.findall(nodes.literal)):
            if (
                isinstance(code.parent, nodes.reference)
                or 'argument' in code['classes']
                or isinstance(code.parent, nodes.title)
            ):
                continue
            fits = told.get(code.astext().removesuffix('()'), {})
            full = next((n for n, doc in fits.items() if doc == here), next(iter(fits)) if len(fits) == 1 else None)
            if full not in objects:
                continue
            entry = objects[full]
            code.replace_self(make_refnode(self.app.builder, here, entry.docname, entry.node_id, code.deepcopy(), full))


def names(app, env):
    "Short and full names → {full name: the page that tells it}."
    told, app.vaebook_names = json.loads((Path(app.srcdir) / 'told.json').read_text()), defaultdict(dict)
    for full in env.domains.python_domain.objects:
        parts = full.split('.')
        for i in range(len(parts)):
            app.vaebook_names['.'.join(parts[i:])][full] = told.get(full, [''])[0]


def mathjax(app):
    "MathJax 3 from its Python package: the renderer, its extensions and fonts."
    for file in files('sphinx-mathjax-offline'):
        _, _, name = file.as_posix().partition('/static/mathjax/')
        if name == 'tex-chtml.js' or name.startswith(('input/tex/extensions/', 'output/chtml/fonts/')):
            to = Path(app.outdir) / '_static/mathjax' / name
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file.locate(), to)


def source_button(app, pagename, templatename, context, doctree):
    "Only what is a notebook of the repository has a link to it."
    if not (root / f'nbs/{pagename}.ipynb').exists():
        context['page_source_suffix'] = ''


def setup(app):
    app.add_post_transform(Names)
    app.connect('builder-inited', mathjax)
    app.connect('env-updated', names)
    app.connect('html-page-context', source_button, priority=100)
    return dict(parallel_read_safe=True, parallel_write_safe=True)
