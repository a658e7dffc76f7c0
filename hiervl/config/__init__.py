"""The configuration: keys, defaults, layers of files, checks of values."""

from .defaults import add_hiervl_config, get_hiervl_cfg, register_keys

__all__ = ["add_hiervl_config", "get_hiervl_cfg", "register_keys"]
