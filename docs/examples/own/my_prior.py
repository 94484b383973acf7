"""A prior of smooth colour pictures, 16 x 16: every pair of pixels is correlated as their distance says."""

import torch

from flowhelm import Flow, GaussianFlow


def smooth(device: str = "cpu") -> Flow:
    """Normal pictures around grey, smooth over three pixels; the three channels go together by half."""
    axis = torch.arange(16.0)
    places = torch.cartesian_prod(axis, axis)
    space = torch.exp(-(torch.cdist(places, places) ** 2) / (2 * 3.0**2))
    colour = 0.5 + 0.5 * torch.eye(3)
    covariance = 0.16 * torch.kron(colour, space) + 1e-3 * torch.eye(3 * 16 * 16)
    return GaussianFlow(torch.zeros(3 * 16 * 16).to(device), covariance.to(device), shape=(3, 16, 16))
