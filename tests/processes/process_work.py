"""The work of the processes that the tests of this folder start. New processes import it by name."""

import json
import os
import signal
from pathlib import Path
from unittest import mock

import torch
from detectron2.utils import comm


def fail(args):
    """The last process ends as asked for; the others wait for it."""
    if comm.get_rank() == comm.get_world_size() - 1:
        if args.how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if args.how == "user error":
            from hiervl.utils.errors import UserError

            raise UserError("the file b.png is broken.")
        raise ZeroDivisionError("a fault")
    torch.distributed.all_reduce(torch.ones(1))


def train(args):
    """Ten steps on the given world, an evaluation of given weights, and a step with next to nothing in one process."""
    from hiervl.losses import criterion

    # The same points for every mask: drawn at random, processes would draw other ones than one process does.
    grid = (torch.cartesian_prod(torch.arange(8), torch.arange(8)) + 0.5) / 8
    with (  # put back afterwards: a single process is that of the tests
        mock.patch.object(criterion, "random_points", lambda count, device: grid),
        mock.patch.object(criterion, "uncertain_points", lambda masks, *_: grid.expand(len(masks), -1, -1)),
    ):
        _train(args)


def _train(args):
    from hiervl.engine.run_config import load_config, prepare_config
    from hiervl.engine.trainer import SemiSupervisedTrainer
    from hiervl.utils.checkpoint_file import load_network

    class Trainer(SemiSupervisedTrainer):
        """With plain gradient descent: AdamW turns the rounding errors of gradients that are 0 into full steps."""

        @classmethod
        def build_optimizer(cls, cfg, model):
            return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.02)

    torch.set_num_threads(1)
    torch.manual_seed(comm.get_rank())  # the main process's weights have to win
    cfg = prepare_config(load_config("", args.options))
    trainer = Trainer(cfg)
    losses = []
    log = trainer._trainer._log

    def record(values, data_time):
        gathered = comm.gather(values)
        mean = {name: sum(each[name] for each in gathered) / len(gathered) for name in values} if gathered else {}
        losses.append(mean)
        log(values, data_time)

    trainer._trainer._log = record
    trainer.resume_or_load(resume=False)
    trainer.train()
    state = {"student": trainer.student.state_dict(), "teacher": trainer.step.teacher.state_dict(), "losses": losses}
    torch.save(state, Path(cfg.OUTPUT_DIR) / f"rank{comm.get_rank()}.pth")

    if args.weights:
        load_network(trainer.student, args.weights, "student")
        trainer.test(cfg, trainer.student.eval())
        trainer.student.train()
    norms = steps_with_nothing(trainer)
    Path(cfg.OUTPUT_DIR, f"norms{comm.get_rank()}.json").write_text(json.dumps(norms))


def steps_with_nothing(trainer):
    """In the last process no pixel has a label, or no class is active: the gradients' norm of either step."""
    is_last = comm.get_rank() == comm.get_world_size() - 1
    norms = []
    loop = trainer._trainer
    loop._log = lambda *_: None
    for what in ("no label", "no class"):
        loader = iter(trainer.build_train_loader(trainer.cfg))
        batch = next(loader)
        if what == "no label" and is_last:
            for item in batch["labeled"]:
                item["sem_seg"].fill_(255)
        if what == "no class":
            trainer.student.query_generator.min_active = 0
            trainer.student.query_generator.threshold.fill_(1.1 if is_last else 0.0)
        loop.read_from([batch])
        loop.run_step()
        norms.append(float(trainer.step.statistics["gradient_norm"]))
    return norms
