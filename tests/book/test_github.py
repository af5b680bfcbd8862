"What GitHub reads: workflows, forms and Dependabot follow their schemas; a release has its version as its tag."

import os, re, subprocess, sys
from pathlib import Path

import pytest
import yaml

HERE = Path(__file__).resolve().parents[2] / '.github'
if not HERE.is_dir():
    pytest.skip('the wheel and the source distribution carry no .github', allow_module_level=True)
SCHEMAS = {
    'workflows/*.y*ml': 'github-workflows',
    'ISSUE_TEMPLATE/[0-9]*.yml': 'github-issue-forms',
    'ISSUE_TEMPLATE/config.yml': 'github-issue-config',
    'dependabot.yml': 'dependabot',
}
WORKFLOWS = {p.name: yaml.safe_load(p.read_text(encoding='utf-8')) for p in sorted(HERE.glob('workflows/*'))}
jobs = [
    (f'{name}: {job}', WORKFLOWS[name], body) for name in WORKFLOWS for job, body in WORKFLOWS[name]['jobs'].items()
]


@pytest.mark.parametrize('pattern', SCHEMAS)
def test_files_follow_their_schema(pattern):
    pytest.importorskip('check_jsonschema')
    found = sorted(HERE.glob(pattern))
    done = subprocess.run(
        [sys.executable, '-m', 'check_jsonschema', '--builtin-schema', f'vendor.{SCHEMAS[pattern]}', *map(str, found)],
        capture_output=True,
        text=True,
    )
    assert found and done.returncode == 0, done.stdout + done.stderr


def test_every_file_has_a_schema():
    known = {p for pattern in SCHEMAS for p in HERE.glob(pattern)} | {HERE / 'pull_request_template.md'}
    assert {p for p in HERE.rglob('*') if p.is_file()} == known


def test_actions_are_pinned_by_commit_and_named_by_version():
    "A tag can be moved to other code; a commit cannot. One version of each, everywhere."
    text = '\n'.join(p.read_text(encoding='utf-8') for p in HERE.glob('workflows/*'))
    used = re.findall(r'uses: *(\S+?)@(\S+)(.*)', text)
    assert used
    for action, commit, comment in used:
        assert re.fullmatch(r'[0-9a-f]{40}', commit) and re.fullmatch(r' # v\d+\.\d+\.\d+', comment), action
    assert len({action for action, _, _ in used}) == len(set(used))


@pytest.mark.parametrize('name, workflow, job', jobs, ids=[j[0] for j in jobs])
def test_jobs_may_do_little_and_end(name, workflow, job):
    assert workflow['permissions'] == {'contents': 'read'} and job['timeout-minutes'] <= 90
    allowed = {'book.yaml: deploy': {'pages', 'id-token'}, 'release.yaml: publish': {'id-token'}}
    assert {k for k, v in job.get('permissions', {}).items() if v == 'write'} == allowed.get(name, set())
    for step in job['steps']:  # text of others never becomes part of a script, and a checkout leaves no token behind
        assert '${{' not in step.get('run', '')
        if step.get('uses', '').startswith('actions/checkout@'):
            assert step['with']['persist-credentials'] is False


def test_the_scripts_that_workflows_run_are_there():
    named = {s for _, _, job in jobs for step in job['steps'] for s in re.findall(r'\.ci/[\w/]+', step.get('run', ''))}
    assert named and [s for s in named if not (HERE.parent / s).is_file()] == []


@pytest.mark.parametrize(
    'tag, fine', [('v{version}', True), ('{version}', False), ('v9.9.9', False), ('', False), ('$(false)', False)]
)
def test_a_release_is_tagged_with_its_version(tag, fine, tmp_path):
    step = next(s for s in WORKFLOWS['release.yaml']['jobs']['build']['steps'] if 'TAG' in s.get('env', {}))
    (tmp_path / 'settings.ini').write_text((HERE.parent / 'settings.ini').read_text(encoding='utf-8'), encoding='utf-8')
    version = re.search(r'^version = (\S+)$', (tmp_path / 'settings.ini').read_text(encoding='utf-8'), re.M)[1]
    (tmp_path / 'CHANGELOG.md').write_text(f'## [{version}]\n', encoding='utf-8')
    env = os.environ | dict(TAG=tag.format(version=version))

    def run():
        line = ['bash', '-e', '-c', step['run']]
        return subprocess.run(line, cwd=tmp_path, env=env, capture_output=True, text=True)

    done = run()
    assert (done.returncode == 0) == fine and ('settings.ini says' in done.stdout) == (not fine)
    (tmp_path / 'CHANGELOG.md').write_text('## [Unreleased]\n', encoding='utf-8')
    assert run().returncode
