from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from abcfx.data import Dataset
from abcfx.train.augment import Batches, Draws, augment, augmented_batches, draw_patches, paste
from abcfx.train.recipe import Recipe


def draws_of(images: int, augment: str = "crop", seed: int = 0, epoch: int = 0) -> Draws:
    return Draws.of_epoch(images, Recipe(1, 0.1, augment=augment), seed, epoch)


def test_each_image_is_cropped_and_mirrored_by_its_own_draw():
    images = torch.randint(0, 256, (50, 3, 9, 7), dtype=torch.uint8)
    draws = draws_of(50)
    out = augment(images, draws, 4)
    assert out.dtype == torch.uint8
    for i, image in enumerate(images):
        top, left = int(draws.top[i]), int(draws.left[i])
        expected = F.pad(image, [4] * 4)[:, top : top + 9, left : left + 7]
        assert torch.equal(out[i], expected.flip(-1) if draws.mirror[i] else expected)


def test_the_draws_are_spread():
    draws = draws_of(20_000)
    for offset in (draws.top, draws.left):
        shares = torch.bincount(offset, minlength=9) / 20_000
        assert len(shares) == 9
        assert (shares - 1 / 9).abs().max() < 5 * (1 / 9 / 20_000) ** 0.5  # five standard deviations
    assert abs(float(draws.mirror.float().mean()) - 0.5) < 5 * 0.5 / 20_000**0.5
    assert len(set(zip(draws.top.tolist(), draws.left.tolist(), strict=True))) == 81
    assert draws.order.sort().values.equal(torch.arange(20_000))


def test_epochs_and_seeds_differ_and_repeat():
    same, again = draws_of(100, seed=2, epoch=3), draws_of(100, seed=2, epoch=3)
    assert all(getattr(same, name).equal(getattr(again, name)) for name in ("order", "top", "left", "mirror"))
    for other in (draws_of(100, seed=2, epoch=4), draws_of(100, seed=3, epoch=3)):
        assert not same.order.equal(other.order)
        assert not same.top.equal(other.top)


@pytest.mark.parametrize("kind", ["flip", "none"])
def test_less_augmentation(kind: str):
    images = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8)
    draws = draws_of(40, kind)
    for pad in (0, 4):  # an offset of `pad` leaves the image where it is
        out = augment(images, draws, pad)
        mirrored = [i for i in range(40) if not torch.equal(out[i], images[i])]
        assert (0 < len(mirrored) < 40) if kind == "flip" else not mirrored
        assert all(torch.equal(out[i], images[i].flip(-1)) for i in mirrored)


def test_a_batch_is_a_part_of_the_epoch():
    draws = draws_of(30)
    parts = [draws.batch(slice(start, start + 10)) for start in (0, 10, 20)]
    assert torch.cat([part.order for part in parts]).equal(draws.order)
    assert torch.cat([part.mirror for part in parts]).equal(draws.mirror)


def test_views_come_again_in_another_order():
    recipe = Recipe(1, 0.1, views=2)
    epochs = [Draws.of_epoch(40, recipe, 3, epoch) for epoch in range(4)]
    assert len({tuple(draws.order.tolist()) for draws in epochs}) == 4

    def by_image(draws: Draws) -> list[tuple]:
        done = zip(draws.order.tolist(), draws.top.tolist(), draws.left.tolist(), draws.mirror.tolist(), strict=True)
        return sorted(done)

    views = [by_image(draws) for draws in epochs]
    assert views[0] == views[2] != views[1] == views[3]


def test_batches_are_those_that_training_sees(data: Dataset):
    """The first ones of the first epoch, pixel for pixel."""
    recipe = Recipe(1, 0.1, batch=24)
    batches = list(augmented_batches(data, recipe, 5, 40))
    assert [len(batch) for batch in batches] == [24, 24]
    assert torch.equal(batches[0], Batches(data, recipe, 5).at(0).images)
    assert not torch.equal(batches[0], next(augmented_batches(data, recipe, 6, 40)))


def test_patches_are_pasted_pixel_for_pixel():
    images, others = torch.zeros(3, 2, 4, 6), torch.ones(3, 2, 4, 6)
    boxes = torch.tensor([[1, 3, 2, 6], [0, 4, 0, 6], [2, 2, 0, 6]])
    out = paste(images, others, boxes)
    expected = images.clone()
    expected[0, :, 1:3, 2:6] = 1
    expected[1] = 1
    assert torch.equal(out, expected)


def test_patches_have_the_areas_of_cutmix():
    """Uniform before what lies outside is cut off; as often as asked for."""
    patch = draw_patches(40_000, 0.25, torch.Generator().manual_seed(0))
    top, bottom, left, right = patch.unbind(1)
    mixed = bottom > top
    assert abs(float(mixed.float().mean()) - 0.25) < 5 * (0.25 * 0.75 / 40_000) ** 0.5
    whole = mixed & (patch > 0).all(1) & (patch < 1).all(1)
    assert torch.allclose((bottom - top)[whole], (right - left)[whole], atol=1e-6)
    assert ((patch >= 0) & (patch <= 1)).all()
    side = (bottom - top)[mixed]
    assert float(side.mean()) == pytest.approx(2 / 3 - 1 / 8, abs=0.01)  # E[s - s²/4], s = √u


def test_labels_of_patched_images_are_parts_of_both(data: Dataset):
    recipe = Recipe(1, 0.1, batch=24, cutmix=1.0, augment="none")
    batch, plain = Batches(data, recipe, 5).at(0), Batches(data, Recipe(1, 0.1, batch=24, augment="none"), 5).at(0)
    assert torch.equal(batch.order, plain.order)
    assert torch.equal(plain.targets, plain.labels)
    assert torch.allclose(batch.targets.sum(1), torch.ones(24))
    draws = Draws.of_epoch(len(data.train_y), recipe, 5, 0).batch(slice(0, 24))
    for i, (top, bottom, left, right) in enumerate(draws.boxes(*data.train_x.shape[-2:]).tolist()):
        other = data.prepare(data.train_x[draws.partner[i]][None])[0]
        expected = plain.images[i].clone()
        expected[:, top:bottom, left:right] = other[:, top:bottom, left:right]
        assert torch.equal(batch.images[i], expected)
        share = (bottom - top) * (right - left) / expected[0].numel()
        target = torch.zeros(batch.targets.shape[1])
        target[batch.labels[i]] += 1 - share
        target[data.train_y[draws.partner[i]]] += share
        assert torch.allclose(batch.targets[i], target)


def test_mixed_labels_have_every_class_of_the_data(data: Dataset):
    """Also if the first training images show only some."""
    some = replace(data, train_x=data.train_x[:8], train_y=torch.zeros(8, dtype=torch.int64))
    assert Batches(some, Recipe(1, 0.1, batch=4, cutmix=1.0), 0).at(0).targets.shape == (4, len(data.classes))


def test_patches_come_again_with_their_view():
    recipe = Recipe(1, 0.1, views=2, cutmix=0.5)
    epochs = [Draws.of_epoch(40, recipe, 3, epoch) for epoch in range(3)]

    def by_image(draws: Draws) -> list[tuple]:
        return sorted(zip(draws.order.tolist(), draws.partner.tolist(), map(tuple, draws.patch.tolist()), strict=True))

    assert by_image(epochs[0]) == by_image(epochs[2]) != by_image(epochs[1])


def test_without_patches_the_draws_are_as_before():
    plain, mixed = draws_of(50), Draws.of_epoch(50, Recipe(1, 0.1, cutmix=0.5), 0, 0)
    assert all(getattr(plain, name).equal(getattr(mixed, name)) for name in ("order", "top", "left", "mirror"))
    assert plain.partner is None
    assert mixed.partner is not None
