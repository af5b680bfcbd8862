"Picture files of every kind, folders of every layout: the right pixels, or a refusal that names the file."

import warnings

import numpy as np
import pytest
import torch

from vaebook.core import BadInput
from vaebook.data.images import load_images
from vaebook.data.pictures import as_rgb, read_folder

Image = pytest.importorskip('PIL.Image')
RAMP = np.arange(256).repeat(8).reshape(256, 8).T  # bytes
DISC = np.hypot(*np.mgrid[-8:8, -8:8]) < 6


def save(array, path, mode=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(array)
    (picture.convert(mode) if mode else picture).save(path, **options)


def read(root, **options):
    "The images of a folder with one class, [N, H, W]."
    x, _ = read_folder(root, **options).parts['train']
    return x[:, 0].numpy()


@pytest.mark.parametrize(
    'kind, suffix', [('uint16', 'png'), ('uint16', 'tif'), ('int32', 'tif'), ('uint16', 'pgm'), ('float32', 'tif')]
)
def test_a_deep_ramp_keeps_its_ramp(kind, suffix, tmp_path):
    scale = 1 / 255 if kind == 'float32' else 257
    save((RAMP * scale).astype(kind), tmp_path / f'a/deep.{suffix}')
    assert (read(tmp_path)[0] == RAMP).all()


def transparent(kind):
    "A black disc on nothing, as an array of PIL's mode or a palette."
    if kind == '16 bits':
        return Image.fromarray(np.where(DISC, 0, 500).astype('uint16')), dict(transparency=500)
    alpha = np.where(DISC, 255, 0).astype('uint8')
    black = Image.merge('LA', [Image.fromarray(alpha * 0), Image.fromarray(alpha)])
    if kind in ('P', 'gif'):
        palette = Image.fromarray(np.where(DISC, 1, 0).astype('uint8'))
        palette.putpalette([9, 9, 9, 0, 0, 0])
        return palette, dict(transparency=0)
    return black.convert(kind), {}


@pytest.mark.parametrize('kind', ['RGBA', 'LA', 'P', 'gif', '16 bits'])
def test_a_black_disc_on_nothing_is_a_black_disc_on_white(kind, tmp_path):
    picture, options = transparent(kind)
    (tmp_path / 'a').mkdir()
    picture.save(tmp_path / f'a/disc.{"gif" if kind == "gif" else "png"}', **options)
    assert (read(tmp_path)[0] == np.where(DISC, 0, 255)).all()
    assert (read(tmp_path, background='#808080')[0] == np.where(DISC, 0, 128)).all()


def test_print_colours_and_bits():
    red = Image.new('CMYK', (2, 2), (0, 255, 255, 0))
    assert as_rgb(red).getpixel((0, 0)) == (255, 0, 0)
    assert as_rgb(Image.new('1', (2, 2), 1)).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    'array, mode, message',
    [
        (np.float32(RAMP), None, 'values from 0 to 1; they go from 0 to 255'),
        (np.full((8, 8), np.nan, 'float32'), None, 'values from 0 to 1'),
        (np.int32(RAMP) - 5, None, 'values from 0 to 65535; they go from -5'),
        (np.uint8(RAMP[..., None].repeat(3, 2)), 'LAB', 'its mode is LAB. Save it as RGB'),
    ],
)
def test_what_has_no_meaning_is_left_out_by_name(array, mode, message, tmp_path):
    if mode:
        (tmp_path / 'a').mkdir()
        Image.new(mode, (8, 8)).save(tmp_path / 'a/odd.tif')
    else:
        save(array, tmp_path / 'a/odd.tif')
    with pytest.raises(BadInput, match='readable pictures') as error:
        read_folder(tmp_path)
    assert "file='a/odd.tif'" in str(error.value) and message in str(error.value)
    save(np.uint8(RAMP), tmp_path / 'a/fine.png')
    with pytest.warns(UserWarning, match="1 of 2 pictures are left out: file='a/odd.tif'"):
        assert len(read(tmp_path, size=[8, 256])) == 1


def fill(root, **folders):
    "Folders with so many pictures each; `__` for a slash."
    for name, count in folders.items():
        for i in range(count):
            save(np.full((6, 9), 9 * i, 'uint8'), root / name.replace('__', '/') / f'{i}.png')


def test_layouts(tmp_path):
    fill(tmp_path / 'rail', train=3, plane=2)
    x, y = read_folder(tmp_path / 'rail').parts['train']
    assert y.bincount().tolist() == [2, 3], 'a single folder called train, beside others, is a class'
    given = dict(Train__b__deep__er=12, Train__a=3, Validation__b=2, Validation__a=4, test__a=1)
    fill(tmp_path / 'given', **given)
    data = load_images('folder', root=tmp_path / 'given')
    assert [s.y.bincount(minlength=2).tolist() for s in (data.train, data.val, data.test)] == [[3, 12], [4, 2], [1, 0]]
    assert data.shape == (1, 6, 9) and data.classes == ['a', 'b']
    fill(tmp_path / 'part', train__a=20, train__b=10, test__a=2, test__b=2)
    data = load_images('folder', root=tmp_path / 'part', image_size=[8, 4])
    assert [len(s) for s in (data.train, data.val, data.test)] == [27, 3, 4] and data.shape == (1, 8, 4)


@pytest.mark.parametrize(
    'folders, message',
    [
        (dict(train__a=1, test__a=1, raw=1), 'It has raw, test, train'),
        (dict(val__a=1, test__a=1), 'train and perhaps val and test'),
        (dict(train__a=1, val__a=1, valid__a=1), 'It has train, val, valid'),
        (dict(train__a=1, test__b=1), "It has ['b']"),
        (dict(train__a=1, test=2), 'It has []'),
    ],
)
def test_layouts_that_are_none(folders, message, tmp_path):
    fill(tmp_path, **folders)
    with pytest.raises(BadInput) as error:
        read_folder(tmp_path)
    assert message in str(error.value)


def test_pictures_of_several_sizes_want_one(tmp_path):
    fill(tmp_path, a=2)
    save(np.zeros((5, 5), 'uint8'), tmp_path / 'a/z.png')
    with pytest.raises(BadInput, match='There are 6×9 .a/0.png., 5×5 .a/z.png.. Give image_size'):
        read_folder(tmp_path)
    with warnings.catch_warnings(action='error'):
        assert read(tmp_path, size=4).shape == (3, 4, 4)
    assert torch.is_tensor(read_folder(tmp_path, 4).parts['train'][1])
