"""What an exact flow would say as a network of another convention."""

import torch

DDPM = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)


def cast(c, x):
    return c.to(x).reshape(-1, 1, 1, 1)


def clean_of(flow, state, alpha, sigma):
    """E[clean | state] for state = alpha clean + sigma noise: by the linear path of a mixture, at the same ratio."""
    scale = alpha + sigma
    return flow.ends(state / cast(scale, state), (alpha / scale).double()).clean


def levels(table):
    """alpha, sigma at a fractional index: straight lines in log(alpha / sigma)."""

    def level(label):
        log = torch.logit(table) / 2
        low = label.double().floor().long().clamp(0, 998)
        between = torch.lerp(log[low], log[low + 1], label.double() - low)
        return torch.sigmoid(2 * between).sqrt(), torch.sigmoid(-2 * between).sqrt()

    return level


def predictor(kind, level, flow):
    def net(x, label):
        alpha, sigma = level(label)
        clean, a, s = clean_of(flow, x, alpha, sigma), cast(alpha, x), cast(sigma, x)
        source = (x - a * clean) / s
        return {"noise": source, "clean": clean, "v": a * source - s * clean, "score": -source / s}[kind]

    return net
