"Images of your own in every form: the same data set from each, and pixels of another scale from none."

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from vaebook.core import BadInput
from vaebook.data.images import ImageData, as_bytes
from vaebook.data.own_images import as_image_data
from vaebook.models import CVAE

Image = pytest.importorskip('PIL.Image')
X = (torch.arange(40 * 3 * 6 * 9).view(40, 3, 6, 9) * 37 % 256).byte()
Y = torch.arange(40) % 2
LAST = X.movedim(1, 3).numpy()
PICTURES = [Image.fromarray(image) for image in LAST]


class Items(Dataset):
    "A data set of one image after another, changed on its way."

    def __init__(self, change=lambda image: image, images=X):
        self.change, self.images = change, images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.change(self.images[i]), int(Y[i])


class Rows(Items):
    "As a data set of Hugging Face."

    features = dict(img=None, label=type('ClassLabel', (), dict(names=['cat', 'dog'])))
    column_names = ['img', 'label']

    def __getitem__(self, i):
        return dict(img=PICTURES[i], label=int(Y[i]))


FORMS = dict(
    bytes=(X, Y),
    floats=(X / 255, Y),
    doubles=(X.numpy() / 255.0, Y.tolist()),
    channels_last=(LAST, Y.numpy()),
    backwards=(np.flip(np.flip(LAST, 1).copy(), 1), Y.numpy()),
    list_of_pictures=(PICTURES, Y.tolist()),
    tensors=TensorDataset(X / 255, Y),
    to_tensor=Items(lambda image: image / 255),
    pil=Items(images=PICTURES),
    backward_items=Items(lambda image: image[::-1], np.ascontiguousarray(LAST[:, ::-1])),
    rows=Rows(),
    dictionary=dict(train=Rows()),
    generator=((image, label) for image, label in zip(LAST, Y)),
    image_data=ImageData.from_tensors(X, Y, test=(X, Y), val=(X, Y)),
)


@pytest.mark.parametrize('form', FORMS)
def test_every_form_is_the_same(form):
    wanted = as_image_data((X, Y))
    found = as_image_data(FORMS[form])
    if form == 'image_data':
        assert found.train.x.equal(X) and found.val.x.equal(X)
        return
    for name in ('train', 'val', 'test'):
        assert getattr(found, name).x.equal(getattr(wanted, name).x), name
        assert getattr(found, name).y.equal(getattr(wanted, name).y), name
    assert found.classes == (['cat', 'dog'] if form in ('rows', 'dictionary') else ['0', '1'])


def test_given_splits_are_kept_and_others_held_out_by_class():
    rare = torch.tensor([0] * 34 + [1] * 6)
    data = as_image_data(dict(train=(X, rare), validation=(X[:5], Y[:5])))
    assert data.val.x.equal(X[:5]) and data.test.y.bincount().tolist() == [3, 1]
    assert len(data.train) == 36
    data = as_image_data(dict(train=(X, rare), test=Items(images=X[:7])), val_fraction=0.2)
    assert data.test.x.equal(X[:7]) and data.val.y.bincount().tolist() == [7, 1]


@pytest.mark.parametrize('image, mode', [(PICTURES[0].convert('L'), 1), (PICTURES[0], 3)])
def test_channels_are_those_of_the_mode(image, mode):
    assert as_image_data(Items(images=[image] * 8)).shape == (mode, 6, 9)


UNSCALED = dict(
    bytes_as_floats=(X.float(), 'Divide them'),
    normalised=((X / 255 - 0.5) / 0.5, 'Leave out their normalisation'),
    integers=(X.long(), "pixels='int64'"),
    not_a_number=(X / 255 * torch.nan, 'nan'),
)


@pytest.mark.parametrize('kind', UNSCALED)
@pytest.mark.parametrize('recon', ['sse', 'bce'])
def test_unscaled_pixels_are_refused_at_every_door(kind, recon):
    x, message = UNSCALED[kind]
    model = CVAE(channels=3, image_size=[6, 9], width=4, recon=recon)
    doors = (
        lambda: as_image_data((x, Y)),
        lambda: as_image_data(TensorDataset(x, Y)),
        lambda: ImageData.from_tensors(x, Y),
        lambda: model.encode(x),
        lambda: model.compute_loss(dict(x=x)),
    )
    for door in doors:
        with pytest.raises(BadInput) as error:
            door()
        assert message in str(error.value)
    assert model.compute_loss(dict(x=X)).total > 0


def test_bits_as_bytes_are_refused():
    with pytest.raises(BadInput, match='Multiply them by 255'):
        as_image_data(((X > 99).byte(), Y))
    assert as_bytes(np.zeros((2, 6, 9, 3), 'uint8')).shape == (2, 3, 6, 9)
