"""What several tests of methods look at laws with."""

from itertools import pairwise

import torch

from flowhelm import GaussianFlow, Linear, Measurement, Noise

TIMES = torch.tensor([0.3, 0.42, 1.0], dtype=torch.float64)
EYE = torch.eye(2, dtype=torch.float64)
A = torch.tensor([[1.0, 0.5]], dtype=torch.float64)


def measured(rows, std=0.5, matrix=A, kind=Linear):
    """y = matrix clean + N(0, std^2), and 2 in every row."""
    forward = lambda x: x @ matrix.T  # noqa: E731
    operator = Linear(forward, (2,), tolerance=1e-14) if kind is Linear else kind(forward)
    return Measurement(torch.full((rows, 1), 2.0, dtype=torch.float64), operator, std)


def chain(flow, times, moments):
    """The law of a chain of moves that are affine in a normal prior's state, as a prior of its own."""
    mean, covariance = torch.zeros(2).double(), EYE
    for s, t in pairwise(times):
        points = torch.cat([torch.zeros_like(EYE[:1]), EYE])
        moved, std = moments(flow, points, s, t, flow.ends(points, s))
        f = (moved[1:] - moved[:1]).T
        mean, covariance = f @ mean + moved[0], f @ covariance @ f.T + std**2 * EYE
    return GaussianFlow(mean, (covariance + covariance.T) / 2)


def moments_of(flow):
    return (flow.mean, flow.covariance) if isinstance(flow, GaussianFlow) else flow.moments()


def rows(matrix, x):
    """matrix x for rows x; one matrix, or one per row."""
    return (matrix @ x[..., None])[..., 0]


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
