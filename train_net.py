#!/usr/bin/env python3
"""Train or evaluate HierVL: ``train_net.py --config-file configs/quickstart.yaml [--eval-only] [KEY VALUE …]``.

``--with configs/baselines/unimatch.yaml`` lays a delta on the config: a baseline or an ablation on the same data.
"""

from hiervl.engine.main import argument_parser, run

if __name__ == "__main__":
    run(argument_parser().parse_args())
