"""Rewards whose tilted laws p(clean) exp(reward) are known, and a move without any error in time."""

import torch

from flowhelm.flow import MixtureFlow, Wrapped
from flowhelm.path import at


class Quadratic:
    """reward(x) = offset + b.x - x.A x / 2, `(n, d) -> (n,)`."""

    def __init__(self, a, b, offset=0.0):
        self.a, self.b, self.offset = (torch.as_tensor(v, dtype=torch.float64) for v in (a, b, offset))

    def __call__(self, x):
        return self.offset + x @ self.b - ((x @ self.a) * x).sum(1) / 2

    def normal(self, mean, covariance):
        """Mean, covariance and log Z of N(mean, covariance) exp(reward), in batches."""
        inverse = torch.linalg.inv(covariance)
        precision, h = inverse + self.a, (inverse @ mean[..., None])[..., 0] + self.b
        centre = torch.linalg.solve(precision, h)
        log_z = self.offset + ((h * centre).sum(-1) - (mean * (inverse @ mean[..., None])[..., 0]).sum(-1)) / 2
        log_z = log_z - (torch.logdet(precision) + torch.logdet(covariance)) / 2
        return centre, torch.linalg.inv(precision), log_z

    def tilted(self, flow):
        """The mixture times exp(reward), and log Z."""
        means, covariances, log_z = self.normal(flow.means, flow.covariances)
        log_w = flow.weights.log() + log_z
        return MixtureFlow(log_w.softmax(0), means, covariances, flow.path), log_w.logsumexp(0)

    def value(self, flow, x, t):
        """log E[exp(reward(clean)) | x_t = x] for a mixture: `(n,)`."""
        log_r, means, covariances = posterior(flow, x, t)
        return (log_r.log_softmax(1) + self.normal(means, covariances)[2]).logsumexp(1)


def posterior(flow, x, t):
    """Of clean given x_t: log-weights `(n, k)`, means `(n, k, d)`, covariances `(n, k, d, d)`, by conditioning."""
    c = at(flow.path, t, x)
    eye = torch.eye(x.shape[1]).double()
    marginal = c.alpha**2 * flow.covariances + c.sigma**2 * eye
    gain = c.alpha * torch.linalg.solve(marginal, flow.covariances).mT
    e = x[:, None] - c.alpha * flow.means
    log_r = torch.distributions.MultivariateNormal(c.alpha * flow.means, marginal).log_prob(x[:, None])
    covariances = flow.covariances - c.alpha * gain @ flow.covariances
    return (
        flow.weights.log() + log_r,
        flow.means + (gain @ e[..., None])[..., 0],
        (covariances + covariances.mT)[None].expand(len(x), -1, -1, -1) / 2,
    )


def drawn(flow, x, t, noise):
    """Exact samples of p(clean | x_t), one per row."""
    log_r, means, covariances = posterior(flow, x, t)
    edges = log_r.softmax(1).cumsum(1)
    pick = torch.searchsorted(edges, noise.uniform()[:, None]).clamp(max=edges.shape[1] - 1)[:, 0]
    roots = torch.linalg.cholesky(covariances[0])  # they do not depend on x
    return means[torch.arange(len(x)), pick] + (roots[pick] * noise(x)[:, None]).sum(-1)


def exact(flow, x, s, t, noise, ends=None):
    """x_t given x_s under the noising process, in law: a transition whose only error is that of a finite sample."""
    while isinstance(flow, Wrapped):
        flow = flow.flow
    a, b = at(flow.path, s, x), at(flow.path, t, x)
    rho = a.alpha * b.sigma / (a.sigma * b.alpha)
    gamma = rho * b.sigma / a.sigma
    clean = drawn(flow, x, s, noise)
    return gamma * x + (b.alpha - gamma * a.alpha) * clean + b.sigma * (1 - rho**2).sqrt() * noise(x)


TOY = MixtureFlow(
    torch.tensor([0.5, 0.3, 0.2]).double(),
    torch.tensor([[-2.0, 0.0], [1.5, 1.5], [1.0, -2.0]]).double(),
    torch.tensor([[[0.25, 0.1], [0.1, 0.2]], [[0.1, 0.0], [0.0, 0.4]], [[0.3, -0.1], [-0.1, 0.15]]]).double(),
)
REWARD = Quadratic([[0.6, 0.0], [0.0, 0.3]], [1.0, 0.8])
