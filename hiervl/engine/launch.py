"""The processes of a training: one, several that are started here, or those that torchrun started.

On CUDA every process has a GPU and NCCL connects them; on the CPU they are connected by gloo.
"""

import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

import torch
from detectron2.utils import comm

from hiervl.utils.errors import UserError

# When a process has failed, the others have this many seconds to end; then they are killed.
GRACE_SECONDS = 20.0
# How long processes wait for each other, mainly for the first one's evaluation and pictures.
TIMEOUT = timedelta(minutes=30)
TORCHRUN_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")


class PeerFailure(UserError):
    """This process cannot continue because another one ended. The other one's message gives the cause."""


class Place(NamedTuple):
    """The rank of a process among the others."""

    rank: int
    world_size: int
    local_rank: int
    local_size: int  # number of processes on its machine


def launch(work: Callable[[Any], Any], args: Any, device: str) -> None:
    """Run ``work(args)`` in all processes that the command line or torchrun asks for.

    Args:
        work: importable, because new processes find it by name.
        args: of Detectron2's argument parser; ``num_gpus`` also counts processes on the CPU.
        device: MODEL.DEVICE.

    Raises:
        UserError: ``work`` raised one in some process; or the processes cannot be started or connected; or one of them
            ended in another way. The others are ended within a minute.
    """
    uses_cuda = device.startswith("cuda") and torch.cuda.is_available()
    torchrun = _place_by_torchrun()
    if torchrun is not None:
        _run_connected(work, args, torchrun, "env://", uses_cuda)
    elif args.num_gpus * args.num_machines > 1:
        _start_processes(work, args, device, uses_cuda)
    else:
        work(args)


def is_under_torchrun() -> bool:
    """Whether torchrun started this process as one of several."""
    return _place_by_torchrun() is not None


def is_lost_connection(error: BaseException) -> bool:
    """Whether a collective operation failed because another process is gone."""
    if comm.get_world_size() == 1 or not isinstance(error, RuntimeError):
        return False
    text = str(error)
    return isinstance(error, torch.distributed.DistError) or any(
        sign in text for sign in ("gloo", "NCCL", "onnection closed by peer", "onnection reset by peer")
    )


def peer_failure() -> PeerFailure:
    """The error for a process that lost its connection to another one."""
    return PeerFailure(
        f"process {comm.get_rank()} stopped because another process ended; see the message of that process."
    )


def _place_by_torchrun() -> Place | None:
    if any(name not in os.environ for name in TORCHRUN_VARIABLES) or int(os.environ["WORLD_SIZE"]) == 1:
        return None
    rank, world_size, local_rank = (int(os.environ[name]) for name in TORCHRUN_VARIABLES[:3])
    return Place(rank, world_size, local_rank, int(os.environ.get("LOCAL_WORLD_SIZE", world_size)))


# ---------------------------------------------------------------------------- one process


def _run_connected(work, args, place: Place, url: str, uses_cuda: bool) -> None:
    """Connect this process with the others, do the work, disconnect."""
    if uses_cuda and place.local_size > torch.cuda.device_count():
        raise UserError(
            f"{place.local_size} processes were started, but this machine has {torch.cuda.device_count()} CUDA "
            "devices: start as many as there are, or add MODEL.DEVICE cpu."
        )
    if uses_cuda:
        torch.cuda.set_device(place.local_rank)
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // place.local_size))
    try:
        torch.distributed.init_process_group(
            "nccl" if uses_cuda else "gloo", url, TIMEOUT, place.world_size, place.rank
        )
        _form_local_groups(place)
        comm.synchronize()
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"process {place.rank} of {place.world_size} cannot reach the others ({url}: {reason}); "
            "check --dist-url, --num-machines and --machine-rank."
        ) from error
    try:
        work(args)
    except RuntimeError as error:
        if not is_lost_connection(error):
            raise
        raise peer_failure() from error
    torch.distributed.destroy_process_group()


def _form_local_groups(place: Place) -> None:
    """Tell Detectron2 which processes share a machine. Every process takes part in forming every group."""
    for machine in range(place.world_size // place.local_size):
        first = machine * place.local_size
        group = torch.distributed.new_group(list(range(first, first + place.local_size)))
        if machine == place.rank // place.local_size:
            comm._LOCAL_PROCESS_GROUP = group


# ---------------------------------------------------------------------------- several processes


def _start_processes(work, args, device: str, uses_cuda: bool) -> None:
    """Start the processes of this machine and wait until the last one has ended."""
    if device.startswith("cuda") and args.num_gpus > torch.cuda.device_count():
        raise UserError(
            f"--num-gpus {args.num_gpus}, but this machine has {torch.cuda.device_count()} CUDA devices; "
            "add MODEL.DEVICE cpu to run that many processes on the CPU."
        )
    url = args.dist_url
    if args.num_machines == 1:
        url = f"tcp://127.0.0.1:{_free_port()}"  # so that two trainings on one machine do not collide
    # Not forked: CUDA and threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    processes, messages = [], []
    for local_rank in range(args.num_gpus):
        place = Place(
            args.machine_rank * args.num_gpus + local_rank, args.num_machines * args.num_gpus, local_rank, args.num_gpus
        )
        receiving, sending = context.Pipe(duplex=False)
        process = context.Process(target=_child, args=(work, args, place, url, uses_cuda, sending))
        process.start()
        sending.close()
        processes.append(process)
        messages.append(receiving)
    first_failed = _stay_with(processes)
    if first_failed is not None:
        rank = args.machine_rank * args.num_gpus + first_failed
        raise UserError(_cause(rank, processes[first_failed].exitcode or 0, [_read(message) for message in messages]))


def _child(work, args, place: Place, url: str, uses_cuda: bool, messages) -> None:
    """A started process. Its error goes to the process that started it, which ends with one sentence."""
    try:
        _run_connected(work, args, place, url, uses_cuda)
    except UserError as error:
        messages.send((isinstance(error, PeerFailure), str(error)))
        sys.exit(1)
    except Exception as error:  # a bug in HierVL: show the traceback
        traceback.print_exc()
        messages.send((False, f"process {place.rank} failed with {type(error).__name__}; its traceback is above."))
        sys.exit(1)


def _stay_with(processes: Sequence[BaseProcess]) -> int | None:
    """Wait for all and pass signals on. If one fails, kill the others some time later; return its index."""

    def hand_on(number, frame) -> None:
        for process in processes:
            if process.is_alive() and process.pid is not None:
                os.kill(process.pid, number)

    previous = {number: signal.signal(number, hand_on) for number in (signal.SIGTERM, signal.SIGINT)}
    first_failed, deadline = None, None
    try:
        while any(process.is_alive() for process in processes):
            waited_for = [process.sentinel for process in processes if process.is_alive()]
            multiprocessing.connection.wait(waited_for, timeout=1.0)
            first_failed = _failed(processes) if first_failed is None else first_failed
            if first_failed is not None and deadline is None:
                deadline = time.monotonic() + GRACE_SECONDS
            if deadline is not None and time.monotonic() > deadline:
                for process in processes:
                    process.kill()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return _failed(processes) if first_failed is None else first_failed


def _failed(processes: Sequence[BaseProcess]) -> int | None:
    """The index of a failed process. Prefers one that was killed to one that then lost its connection."""
    failed = [index for index, process in enumerate(processes) if process.exitcode]
    return min(failed, key=lambda index: processes[index].exitcode or 0) if failed else None


def _read(messages) -> tuple | None:
    """The message of a process; None if it ended without one."""
    try:
        return messages.recv() if messages.poll() else None
    except EOFError:
        return None


def _cause(rank: int, exit_code: int, messages: list[tuple | None]) -> str:
    """The most likely cause: first an error of its own, then a sudden end, then a lost connection."""
    own = [text for is_consequence, text in filter(None, messages) if not is_consequence]
    if own:
        return own[0]
    if exit_code < 0:
        hint = " (perhaps because memory ran out)" if exit_code == -signal.SIGKILL else ""
        return (
            f"process {rank} was killed by signal {-exit_code}{hint}, so the others were ended; continue with --resume."
        )
    lost = [text for _, text in filter(None, messages)]
    return lost[0] if lost else f"process {rank} exited with {exit_code}, so the others were ended."


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
