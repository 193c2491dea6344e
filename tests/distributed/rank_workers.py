"""Processes that are the ranks of a gloo group on this machine, kept for many tests: starting one takes seconds."""

import datetime
import os
import pickle
import traceback

import torch.distributed as dist
import torch.multiprocessing as mp

TIMEOUT = 20


def _serve(rank, size, store, timeout, pipe):
    import torch

    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    limit = datetime.timedelta(seconds=timeout)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=limit)
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:  # the tests are over
            return
        try:
            answer = (True, function(rank, dist.group.WORLD, *arguments))
        except BaseException as error:
            traceback.clear_frames(error.__traceback__)
            answer = (False, error)
        try:
            pipe.send(answer)
        except (pickle.PicklingError, TypeError):
            pipe.send((False, RuntimeError(f"{type(answer[1]).__name__}: {answer[1]}")))


class Workers:
    """``size`` ranks; ``run(function, *arguments)`` calls ``function(rank, group, *arguments)`` on each of them."""

    def __init__(self, size, store, timeout=TIMEOUT):
        context = mp.get_context("spawn")
        self.size = size
        self._pipes, self._processes = [], []
        for rank in range(size):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(rank, size, store, timeout, there), daemon=True)
            process.start()
            there.close()
            self._pipes.append(here)
            self._processes.append(process)

    def run(self, function, *arguments):
        """The ranks' results, in rank order; the first rank's error is raised."""
        answers = self.answers(function, *arguments)
        for fine, value in answers:
            if not fine:
                raise value
        return [value for _, value in answers]

    def errors(self, function, *arguments):
        """The ranks' errors, in rank order: all must have one."""
        answers = self.answers(function, *arguments)
        assert not any(fine for fine, _ in answers), answers
        return [value for _, value in answers]

    def answers(self, function, *arguments):
        for pipe in self._pipes:
            pipe.send((function, arguments))
        return [self._answer(pipe) for pipe in self._pipes]

    def _answer(self, pipe):
        try:
            return pipe.recv() if pipe.poll(120) else (False, TimeoutError("no answer"))
        except EOFError:
            return False, EOFError("the rank died")

    def close(self):
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(10)  # to its end, so that it is counted in the coverage
            process.kill()
            process.join()
