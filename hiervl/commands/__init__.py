"""The commands of ``python -m hiervl``.

A command is a module with ``HELP`` (one line, a literal), ``add_arguments(parser)`` and ``run(args) -> int``,
the exit status. It is imported only when it is called, so that one which cannot be imported breaks no other.
"""

COMMANDS = {
    "init": "hiervl.commands.init",
    "check-data": "hiervl.commands.check_data",
    "split": "hiervl.commands.split",
    "prompts": "hiervl.commands.prompts",
    "demo": "hiervl.commands.demo",
    "doctor": "hiervl.commands.doctor",
    "predict": "hiervl.commands.predict",
    "suggest-labels": "hiervl.commands.suggest_labels",
    "export": "hiervl.commands.export",
    "serve": "hiervl.commands.serve",
    "report": "hiervl.commands.report",
}
