"What a user writes, as a type checker sees it: tests/book/test_types.py runs pyright over this file; it is never run."

from pathlib import Path
from typing import assert_type

from torch import Tensor, zeros

from vaebook.bottlenecks import FSQ, VQ
from vaebook.core import Latent, LossTerms
from vaebook.models import CVAE, AudioAutoencoder, CausalVAE, FSQVQVAE, WorldModel

clip = zeros(1, 3, 5, 32, 32)
video = CausalVAE()
assert_type(video.encode(clip), Latent)
assert_type(video.decode(video.encode(clip).z), Tensor)
assert_type(video.compute_loss(dict(video=clip)), LossTerms)
assert_type(CausalVAE.from_pretrained('outputs/run/model'), CausalVAE)
assert_type(video.save_pretrained('outputs/run/model'), Path)

images = CVAE(1, 2)
assert_type(images.encode(zeros(1, 1, 28, 28)), Latent)
assert_type(images.decode(zeros(1, 3)), Tensor)

actions = FSQVQVAE(action_dim=4)
assert_type(actions.encode(zeros(1, 32, 4)), Latent)

sound = AudioAutoencoder()
assert_type(sound.encode(zeros(1, 1, 16_000)), Latent)
assert_type(sound.decode(sound.encode(zeros(1, 1, 16_000)).z), Tensor)

world = WorldModel(max_components=2, latent_dim=4, hidden_dim=8, action_dim=1)
assert_type(world.encode(zeros(1, 4, 3, 64, 64), zeros(1, 4, 1)), Latent)

for quantizer in (FSQ([8, 5, 5]), VQ(codebook_size=16, dim=3)):
    latent = quantizer.forward(zeros(1, 3, 10))  # torch types the call of any module as Any
    assert_type(latent, Latent)
    assert_type(quantizer.indices_to_codes(latent.info['indices']), Tensor)
