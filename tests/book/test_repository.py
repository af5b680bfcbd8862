"The generated files are what their sources make: modules, README, clean notebooks."

import configparser, re, shutil, subprocess, sys
from pathlib import Path

import pytest

hidden = shutil.ignore_patterns('.*', '__pycache__')


def tool(name):
    return str(Path(sys.executable).with_name(name))


def texts(root, folder, suffix):
    found = sorted((root / folder).rglob(f'*{suffix}'))
    return {p.relative_to(root).as_posix(): p.read_text(encoding='utf-8') for p in found}


def modules(root):
    return texts(root, 'vaebook', '.py')


def notebooks(root):
    return {name: text for name, text in texts(root, 'nbs', '.ipynb').items() if '.ipynb_checkpoints' not in name}


def differ(a, b):
    return sorted(k for k in a.keys() | b.keys() if a.get(k) != b.get(k))


@pytest.fixture(scope='module')
def regenerated(root, tmp_path_factory):
    "A copy of the tree whose modules are exported anew and whose notebooks are cleaned."
    copy = tmp_path_factory.mktemp('copy')
    shutil.copy(root / 'pyproject.toml', copy)
    shutil.copytree(root / 'nbs', copy / 'nbs', ignore=hidden)
    (copy / 'vaebook').mkdir()
    for name in ('nbdev-export', 'nbdev-clean'):
        subprocess.run([tool(name)], cwd=copy, check=True, capture_output=True)
    return copy


def test_modules_are_exported(root, regenerated):
    assert differ(modules(root), modules(regenerated)) == [], 'run nbdev-export; a module without a notebook must go'


def test_notebooks_are_clean(root, regenerated):
    assert differ(notebooks(root), notebooks(regenerated)) == [], 'run nbdev-clean'


def test_readme_is_made_from_the_index(root, tmp_path):
    subprocess.run([sys.executable, root / '.ci/readme', tmp_path / 'README.md'], check=True)
    kept, made = ((folder / 'README.md').read_text(encoding='utf-8') for folder in (root, tmp_path))
    assert kept == made, 'run .ci/readme'


def test_no_merge_markers(root):
    kinds = 'nbs/**/*.ipynb vaebook/**/*.py vaebook/**/*.yaml tests/**/*.py *.md *.ini *.toml *.py'.split()
    files = [p for kind in kinds for p in root.glob(kind)]
    assert [str(p) for p in files if re.search(r'(<{7}|>{7}) ', p.read_text(encoding='utf-8'))] == []


def test_one_version(root):
    import vaebook

    ini = configparser.ConfigParser(delimiters=['='])
    ini.read(root / 'settings.ini', encoding='utf-8')
    assert vaebook.__version__ == ini['DEFAULT']['version']


def test_top_level(root):
    "Nothing is configured in a place where nobody looks."
    allowed = set('nbs vaebook tests settings.ini pyproject.toml setup.py constraints.txt MANIFEST.in'.split())
    allowed |= set('README.md LICENSE CHANGELOG.md CONTRIBUTING.md'.split())
    if not (root / '.git').exists():
        pytest.skip('not a clone')
    listed = subprocess.run(['git', 'ls-files'], cwd=root, check=True, capture_output=True, text=True)
    top = {line.split('/')[0].strip('"') for line in listed.stdout.split('\n') if line}
    assert {t for t in top if not t.startswith('.')} <= allowed
