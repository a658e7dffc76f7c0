"""The commands of ``python -m hiervl``.

A command is a module with ``HELP`` (one line, a literal), ``add_arguments(parser)`` and ``run(args) -> int``,
the exit status. In place of ``add_arguments`` it may have ``argument_parser() -> ArgumentParser``.
A command is imported only when it is called, so a command that cannot be imported does not break the others.
"""

COMMANDS = {
    "init": "hiervl.commands.init",
    "check-data": "hiervl.commands.check_data",
    "split": "hiervl.commands.split",
    "prompts": "hiervl.commands.prompts",
    "train": "hiervl.commands.train",
    "demo": "hiervl.commands.demo",
    "doctor": "hiervl.commands.doctor",
    "install-detectron2": "hiervl.commands.install_detectron2",
    "predict": "hiervl.commands.predict",
    "suggest-labels": "hiervl.commands.suggest_labels",
    "export": "hiervl.commands.export",
    "serve": "hiervl.commands.serve",
    "report": "hiervl.commands.report",
}
