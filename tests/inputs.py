"""Images and labels of no meaning, for the whole network."""

import torch

IGNORE = 255


def random_images(count, height=64, width=64):
    """Images in 0…255 that differ in more than noise, so that the gate finds other classes in each."""
    generator = torch.Generator().manual_seed(7)
    coarse = 255 * torch.rand(count, 3, 4, 4, generator=generator)
    return torch.nn.functional.interpolate(coarse, size=(height, width), mode="nearest")


def labeled(count=2, size=64):
    """Labelled inputs: left half of class 1, right half of another class, the last row of pixels without a label."""
    items = []
    for index, image in enumerate(random_images(count, size, size)):
        sem_seg = torch.full((size, size), 1)
        sem_seg[:, size // 2 :] = 2 + index % 4
        sem_seg[-1] = IGNORE
        items.append({"image": image.to(torch.uint8), "sem_seg": sem_seg})
    return items
