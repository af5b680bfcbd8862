"The package; everything about it is in settings.ini: edit there, not here."

import re, shlex, shutil
from configparser import ConfigParser
from pathlib import Path

import setuptools
from setuptools.command.build_py import build_py

ini = ConfigParser(delimiters=['='])
ini.read('settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']
lib, minor = cfg['lib_path'], int(cfg['min_python'].split('.')[1])
readme = Path('README.md')
runnable = ('train_*', 'explore_*', 'bottleneck_shootout')  # as in nbs/core/cli.ipynb
experiments = [nb for name in runnable for nb in sorted(Path(cfg['nbs_path']).glob(f'{name}.ipynb'))]


def listed(key):
    return shlex.split(cfg.get(key, ''))


def described():
    "README.md for the package index, where links relative to the repository lead nowhere."
    if not readme.exists():
        return cfg['description']
    raw = f"https://raw.githubusercontent.com/{cfg['user']}/{cfg['repo']}/{cfg['branch']}/"
    text = re.sub(r'!\[([^\]]*)\]\((?=nbs/)', rf'![\1]({raw}', readme.read_text(encoding='utf-8'))
    return re.sub(r'\]\((?=nbs/)', f"]({cfg['git_url']}/blob/{cfg['branch']}/", text)


extras = {key.removesuffix('_requirements'): listed(key) for key in cfg if key.endswith('_requirements')}
extras['all'] = sorted(
    {need for name, needs in extras.items() if name not in ('dev', 'book', 'trackers') for need in needs}
)


class BuildWithNotebooks(build_py):
    "The modules, and the experiment notebooks beside them, so that papermill can run them from an installed package."

    def run(self):
        built = Path(self.build_lib, lib).resolve()
        fresh = not self.editable_mode and built != Path(lib).resolve()
        if fresh:
            shutil.rmtree(built, ignore_errors=True)  # modules that an older build left
        super().run()
        if not fresh:
            return
        self.mkpath(str(built / 'notebooks'))
        for nb in experiments:
            self.copy_file(str(nb), str(built / 'notebooks' / nb.name))
        self.mkpath(str(built / 'notebooks' / 'results'))  # what bottleneck_shootout shows
        self.copy_file(
            str(Path(cfg['nbs_path'], 'results', 'bottlenecks.csv')),
            str(built / 'notebooks' / 'results' / 'bottlenecks.csv'),
        )


setuptools.setup(
    options={
        'editable_wheel': {'mode': 'compat'}
    },  # on sys.path, so that a folder called vaebook beside it cannot hide it
    name=cfg['lib_name'],
    version=cfg['version'],
    description=cfg['description'],
    keywords=cfg['keywords'].split(),
    author=cfg['author'],
    author_email=cfg['author_email'],
    license='Apache-2.0',
    url=cfg['git_url'],
    project_urls={'Documentation': cfg['doc_host'] + cfg['doc_baseurl']},
    classifiers=[
        'Development Status :: 3 - Alpha',
        'Intended Audience :: Developers',
        'Intended Audience :: Science/Research',
        *(f'Programming Language :: Python :: 3.{i}' for i in range(minor, 14)),
    ],
    long_description=described(),
    long_description_content_type='text/markdown',
    zip_safe=False,
    include_package_data=False,
    packages=setuptools.find_packages(include=[lib, f'{lib}.*']),
    cmdclass={'build_py': BuildWithNotebooks},
    package_data={lib: ['conf/**/*.yaml', 'viz/static/*', '**/*.pyi', 'py.typed', 'data/*.npz', 'data/*.csv.gz']},
    python_requires='>=' + cfg['min_python'],
    install_requires=listed('requirements'),
    extras_require=extras,
    entry_points={'nbdev': [f'{lib}={lib}._modidx:d'], 'console_scripts': listed('console_scripts')},
)
