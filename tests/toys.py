"A model and data that are trained in a moment, for tests that train in processes of their own."

import torch
from torch import nn

from vaebook.core import LossTerms, set_seed
from vaebook.core.pretrained import Pretrained
from vaebook.data.images import Split


class Line(Pretrained):
    "A number from four pixels; one layer has no gradient."

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 1))
        self.unused = nn.Linear(3, 3)

    def compute_loss(self, batch, step=0, out=None):
        return LossTerms(mse=(self.net(batch['x'].float() / 255)[:, 0] - batch['y']).square().mean())


def pixels():
    "90 images of 2×2 pixels, and if they are bright."
    set_seed(0)
    x = torch.randint(0, 256, (90, 1, 2, 2), dtype=torch.uint8)
    return Split(x, (x.sum((1, 2, 3)) > 500).long())
