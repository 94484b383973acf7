"""What several tests of methods look at laws with."""

import torch

from flowhelm.rng import Noise


class Basis:
    """In row 0 all noise is 0; in row j the j-th number ever drawn is 1. A method that is affine in its noise shows its law."""

    drawn = 0

    def __call__(self, like):
        noise = torch.zeros_like(like)
        numbers = like[0].numel()
        assert 1 + self.drawn + numbers <= len(like)
        for j in range(numbers):
            noise[1 + self.drawn + j].view(-1)[j] = 1
        self.drawn += numbers
        return noise


def law(states):
    """Mean and covariance of a state that is affine in standard normal noise."""
    columns = states[1:] - states[0]
    return states[0], columns.T @ columns


class Draws(Noise):
    """One stream for all rows: quick."""

    def __init__(self, seed, rows):
        super().__init__(seed, [])
        self.keys = [(0,)] * rows
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, like):
        return torch.randn(like.shape, generator=self.generator, dtype=like.dtype)

    def uniform(self):
        return torch.rand(len(self), generator=self.generator, dtype=torch.float64)


def errors(x, log_w, mean, covariance):
    """z-scores of the weighted mean and second moment about the true mean; one independent estimate per row."""
    b, k = log_w.shape
    w, e = log_w.softmax(1), x.view(b, k, -1) - mean
    seconds = torch.einsum("bk,bki,bkj->bij", w, e, e) - covariance
    estimates = torch.cat([torch.einsum("bk,bki->bi", w, e), seconds.flatten(1)[:, [0, 1, 3]]], 1)
    return estimates.mean(0) / (estimates.std(0) / b**0.5)


def first(steps):
    return next(iter(steps))
