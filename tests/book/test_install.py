"""The package imports with torch, numpy, einops, lazy_loader and pydantic alone, and lightly.

As a script (`python tests/book/test_install.py`) it imports every module that promises so, with all other libraries
blocked; `.ci/run` runs it against the wheel in an otherwise empty environment."""

import importlib, os, pkgutil, subprocess, sys

PYDANTIC = {'pydantic', 'pydantic_core', 'annotated_types', 'typing_inspection'}
PLAIN = {'torch', 'numpy', 'einops', 'lazy_loader'} | PYDANTIC  # and what torch itself imports:
PLAIN |= set('torchgen functorch sympy mpmath networkx jinja2 markupsafe fsspec filelock'.split())
PLAIN |= set('typing_extensions setuptools triton nvidia cuda'.split())
HEAVY = ('trainers', 'experiments', 'train', 'cli')  # the modules that may need more


class Blocked:
    "Finds no library but those of `PLAIN` and Python's own."

    def find_spec(self, name, path=None, target=None):
        top = name.partition('.')[0]
        if top in PLAIN | sys.stdlib_module_names | {'vaebook'} or top.startswith('_sysconfigdata'):
            return None
        raise ModuleNotFoundError(
            f'{name} is blocked: import it inside the function that needs it, through optional_import({name!r})',
            name=name,
        )


def modules(heavy=True):
    "The names of all modules of the package."
    import vaebook

    names = [m.name for m in pkgutil.walk_packages(vaebook.__path__, 'vaebook.', onerror=lambda name: None)]
    return ['vaebook', *(n for n in names if heavy or n.split('.')[1] not in HEAVY)]


def import_plain():
    "Import every module that promises to need no library but those of `PLAIN`; return their names."
    sys.meta_path.insert(0, Blocked())
    names = modules(heavy=False)
    for name in names:
        importlib.import_module(name)
    return names


def python(*args):
    "Run Python as a user would, outside the tree; returns its output."
    done = subprocess.run([sys.executable, *args], capture_output=True, text=True, cwd=os.path.dirname(__file__))
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_imports_with_torch_numpy_einops_pydantic_alone():
    assert 'vaebook.core' in python(__file__)


def test_every_module_imports():
    python('-c', 'import importlib, test_install\nfor name in test_install.modules(): importlib.import_module(name)')


def test_the_package_is_light():
    loaded = python('-c', 'import sys, vaebook; print(*sys.modules)').split()
    assert not {'torch', 'pytorch_lightning', 'hydra', 'matplotlib', 'wandb', 'IPython'} & set(loaded)


def test_core_is_light():
    loaded = python('-c', 'import sys, vaebook.core; print(*sys.modules)').split()
    assert not {'pytorch_lightning', 'hydra', 'matplotlib', 'wandb', 'IPython', 'pandas'} & set(loaded)


def test_models_load_no_more_than_torch_einops_and_pydantic():
    "What costs time at import is other libraries: beside torch's own there is pydantic alone."
    loaded = python(
        '-c',
        'import sys, torch; before = {*sys.modules}; import importlib, test_install\n'
        'for name in test_install.modules(): name.startswith("vaebook.models") and importlib.import_module(name)\n'
        'print(*{m.partition(".")[0] for m in {*sys.modules} - before} - sys.stdlib_module_names)',
    ).split()
    others = {m for m in loaded if not m.startswith('_sysconfigdata')}
    assert others == {'vaebook', 'einops', 'lazy_loader', 'test_install'} | PYDANTIC


if __name__ == '__main__':
    print('imported with torch, numpy, einops and pydantic alone:', *import_plain())
