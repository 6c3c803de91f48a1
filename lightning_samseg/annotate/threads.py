"""How many threads of the processor the server's own threads compute with."""

import torch


def as_many_threads() -> None:
    """Let the thread that calls compute with as many threads as ``torch.set_num_threads`` has said.

    OpenMP starts every thread of a program with ``OMP_NUM_THREADS``, or all cores, and PyTorch tells it better only at
    its own first operation: a convolution of oneDNN before that would take more threads than the rest, and end in other
    last bits than ``fit``.
    """
    torch.set_num_threads(torch.get_num_threads())
