"The smoke runs of video, audio and world follow their stored curves; the other two are in their chapters' tests."

import pytest

from helpers import follows_golden
from vaebook.core.config import compose
from vaebook.train import experiment


@pytest.mark.slow
@pytest.mark.parametrize(
    'kind, name', [('causal_video', 'train_causal_video'), ('audio', 'train_audio'), ('world', 'train_world_model')]
)
def test_golden_curve(kind, name, tmp_path):
    words = 'trainer.progress_bar=false logger=csv trainer.num_threads=1'
    run = experiment(compose(kind, words, smoke=True, run_dir=str(tmp_path / 'run')))
    run.fit()
    follows_golden(run.folder(), f'{name}_smoke')
