"""Parts by their names in the registries: an unknown name is one sentence."""

from typing import Any

from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, build_model
from detectron2.utils.registry import Registry

from hiervl.utils.errors import UserError


def registered(registry: Registry, name: str, key: str, what: str) -> Any:
    """The entry of a registry.

    Args:
        name: of the entry.
        key: the config key that holds the name, for the error message.
        what: the kind of part, for the error message.

    Raises:
        UserError: there is no such entry.
    """
    if name not in registry:
        raise UserError(
            f"{key}: no {what} is registered as '{name}'. A part of your own must be imported first, also by commands "
            "that read its checkpoint (docs/extending.md)."
        )
    return registry.get(name)


def build_network(cfg) -> Any:
    """The network of ``MODEL.META_ARCHITECTURE``, on ``MODEL.DEVICE``: :class:`HierVL` or another.

    Raises:
        UserError: a part is not registered, or its settings are wrong.
    """
    registered(META_ARCH_REGISTRY, cfg.MODEL.META_ARCHITECTURE, "MODEL.META_ARCHITECTURE", "network")
    registered(BACKBONE_REGISTRY, cfg.MODEL.BACKBONE.NAME, "MODEL.BACKBONE.NAME", "image encoder")
    return build_model(cfg)
