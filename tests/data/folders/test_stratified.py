import numpy as np

from hiervl.data.folders.stratified import choose_validation, stratified_order


def presence_of(*rows, classes=3):
    presence = np.zeros((len(rows), classes), dtype=bool)
    for row, shown in zip(presence, rows):
        row[list(shown)] = True
    return presence


def test_the_rarest_class_chooses_first():
    """Class 2 is only in image 4; of the two that show the next rarest, image 1 shows both missing classes."""
    order = stratified_order(presence_of([0], [0, 1], [0], [1], [2]))
    assert order[:2] == [4, 1]
    assert sorted(order) == [0, 1, 2, 3, 4]


def test_every_class_is_in_a_small_beginning_whatever_the_seed():
    rng = np.random.default_rng(0)
    presence = rng.random((200, 12)) < 0.08
    presence[:12] |= np.eye(12, dtype=bool)
    for seed in range(5):
        assert presence[stratified_order(presence, seed)[:12]].any(axis=0).all()


def test_shares_of_classes_stay_close():
    rng = np.random.default_rng(1)
    presence = np.stack([rng.random(400) < 0.5, rng.random(400) < 0.1], axis=1)
    half = presence[stratified_order(presence)[:200]].sum(axis=0) / presence.sum(axis=0)
    assert (np.abs(half - half.mean()) < 0.06).all()


def test_order_depends_on_the_seed_alone():
    presence = np.ones((30, 2), dtype=bool)
    assert stratified_order(presence, 3) == stratified_order(presence, 3)
    assert stratified_order(presence, 3) != stratified_order(presence, 4)


def test_images_that_show_nothing_come_last():
    assert stratified_order(presence_of([], [1], [], [0]))[:2] in ([1, 3], [3, 1])


def test_validation_leaves_training_an_image_of_every_class():
    presence = presence_of([0], [0], [0, 1], [0, 1], [2], [0])
    for seed in range(10):
        chosen = choose_validation(presence, 3, seed)
        assert chosen == sorted(chosen) and len(chosen) == 3
        rest = np.delete(presence, chosen, axis=0)
        assert rest.any(axis=0).all()
        assert presence[chosen].any(axis=0).tolist() == [True, True, False]  # the one image of class 2 stays


def test_validation_may_find_fewer_than_wanted():
    assert choose_validation(np.eye(3, dtype=bool), 2) == []
