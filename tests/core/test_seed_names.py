"Every name that one of the five documents imports, from the layer that its reader would look in."

import importlib

import pytest
import torch

NAMES = [  # document, its module, names, our layer, our module
    ('video', 'trainers', 'TrainingArguments set_seed load_callbacks_and_logger train', 'trainers', 'trainers.video'),
    ('actions', 'vqvae_latent_actions.models', 'FSQVQVAE', 'models', 'models.fsq_vqvae'),
    ('world', 'training', 'DMCVBDataset', 'data', 'data.dmc'),
    ('world', 'training', 'DMCVBTrainer', 'trainers', 'trainers.world'),
    ('world', 'world_model', 'DPGMMVariationalRecurrentAutoencoder', 'models', 'models.world'),
    ('world', 'multi_task_learning', 'LossAggregator RGB', 'losses', None),
]


@pytest.mark.parametrize('document, theirs, names, layer, module', NAMES)
def test_imports(document, theirs, names, layer, module):
    found = importlib.import_module(f'vaebook.{layer}')
    for name in names.split():
        assert name in found.__all__, f'{document}: {theirs}.{name} is not in the list of vaebook.{layer}'
        if module:
            assert getattr(found, name) is getattr(importlib.import_module(f'vaebook.{module}'), name)


def test_video(tmp_path):
    "The document's lines: arguments, seed, callbacks and logger."
    from vaebook.trainers import TrainingArguments, load_callbacks_and_logger, set_seed

    args = TrainingArguments()
    assert args.output_dir == 'results/causalvae'
    set_seed(42)
    first = torch.rand(3)
    set_seed(42)
    assert torch.equal(torch.rand(3), first)
    callbacks, logger = load_callbacks_and_logger(TrainingArguments(output_dir=str(tmp_path / 'run')))
    model_checkpoint_callback, lr_monitor = callbacks
    assert type(lr_monitor).__name__ == 'LearningRateMonitor' and logger is not None


def test_actions(tmp_path):
    "A checkpoint's folder gives the model back."
    from vaebook.models import FSQVQVAE

    model = FSQVQVAE(
        action_dim=2, horizon=4, hidden_dim=8, num_heads=1, num_encoder_layers=1, num_decoder_layers=1
    ).eval()
    model.save_pretrained(tmp_path / 'best_step_10000')
    again = FSQVQVAE.from_pretrained(tmp_path / 'best_step_10000').eval()
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values()))


def test_world():
    "A balancer that is set up as the document does it, over the tasks of one shared layer."
    from vaebook.losses import RGB, LossAggregator

    assert callable(LossAggregator().compute_losses)
    shared = torch.nn.Linear(3, 1)
    rgb = RGB()
    rgb.task_num = 2
    rgb.device = 'cpu'
    rgb.rep_grad = False
    rgb.get_share_params = lambda: shared.parameters()
    out = shared(torch.ones(4, 3))
    rgb.backward([out.mean(), out.square().mean()])
    assert shared.weight.grad.isfinite().all() and shared.weight.grad.abs().sum() > 0
