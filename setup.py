"""What pyproject.toml cannot say: `configs/` at the top of the checkout is `hiervl/configs/` in the wheel."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["hiervl", "hiervl.*"]), "hiervl.configs"],
    package_dir={"hiervl.configs": "configs"},
    package_data={"hiervl": ["py.typed", "assets/**/*"], "hiervl.configs": ["**/*.yaml", "*.sha256"]},
)
