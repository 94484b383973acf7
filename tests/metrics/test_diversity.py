"""Selectors: clusters hit once each, nothing depends on the order, and what is drawn evenly is drawn evenly."""

from functools import partial
from itertools import combinations

import pytest
import torch

from flowhelm.metrics import euclidean, farthest, kmeans, uniformised
from flowhelm.metrics.diversity import log_rarity

CENTRES = 10 * torch.tensor([[0.0, 0.0], [1.0, 0.2], [0.1, 1.0], [1.2, 1.3], [-1.0, 0.7]]).double()


def clusters(sizes):
    points = torch.cat([c + torch.randn(n, 2).double() * 0.4 for c, n in zip(CENTRES, sizes, strict=True)])
    return points, torch.arange(5).repeat_interleave(torch.tensor(sizes))


def test_distances_are_those_of_the_features():
    x = torch.randn(4, 3, 2)
    expected = torch.stack([torch.stack([(a - b).double().norm() for b in x]) for a in x])
    torch.testing.assert_close(euclidean(x), expected)


@pytest.mark.parametrize("seed", range(5))
def test_clusters_are_hit_once_each(seed):
    points, label = clusters([60, 3, 8, 25, 4])
    assert sorted(label[kmeans(points, 5, seed=seed)].tolist()) == [0, 1, 2, 3, 4]
    assert sorted(label[farthest(euclidean(points), 5, seed=seed)].tolist()) == [0, 1, 2, 3, 4]


def test_kmeans_takes_the_sample_nearest_to_each_mean_and_the_largest_cluster_first():
    points, label = clusters([60, 3, 8, 25, 4])
    chosen = kmeans(points, 5)
    assert label[chosen].tolist() == [0, 3, 2, 4, 1]
    for i in chosen:
        own = points[label == label[i]]
        torch.testing.assert_close(points[i], own[(own - own.mean(0)).norm(dim=1).argmin()])


def within(x, parts):
    return float(sum((x[part] - x[part].mean(0)).square().sum() for part in parts))


def test_kmeans_is_the_best_partition_of_a_few():
    """Against all partitions into two of eight points, none of them clear."""
    for seed in range(10):
        x = torch.randn(8, 2, generator=torch.Generator().manual_seed(seed)).double()
        parts = [
            (list(some), [i for i in range(8) if i not in some])
            for size in range(1, 5)
            for some in combinations(range(8), size)
        ]
        best = min(parts, key=partial(within, x))
        expected = {part[int((x[part] - x[part].mean(0)).norm(dim=1).argmin())] for part in best}
        assert set(kmeans(x, 2, starts=30).tolist()) == expected


def test_kmeans_of_copies_has_no_empty_cluster():
    x = torch.zeros(6, 2)
    x[5] = 1
    for seed in range(5):
        assert len(set(kmeans(x, 4, seed=seed).tolist())) == 4


def test_farthest_covers_at_most_twice_as_wide_as_can_be():
    """Gonzalez 1985: its covering radius is below twice the least of all choices."""
    x = torch.randn(12, 2).double()
    d = euclidean(x)
    radius = lambda chosen: float(d[list(chosen)].min(0)[0].max())  # noqa: E731
    best = min(radius(some) for some in combinations(range(12), 3))
    for first in range(12):
        assert radius(farthest(d, 3, first=first).tolist()) <= 2 * best


def test_farthest_by_hand():
    d = euclidean(torch.tensor([[0.0], [1.0], [4.0], [10.0], [6.0]]))
    assert farthest(d, 5, first=1).tolist() == [1, 3, 2, 4, 0] or farthest(d, 5, first=1).tolist() == [1, 3, 4, 2, 0]
    assert farthest(d, 4, first=0).tolist() == [0, 3, 2, 4] or farthest(d, 4, first=0).tolist() == [0, 3, 4, 2]
    assert farthest(euclidean(torch.tensor([[0.0], [1.0], [4.5], [10.0]])), 3, first=0).tolist() == [0, 3, 2]
    assert farthest(torch.zeros(3, 3), 3, first=2).tolist()[0] == 2
    assert sorted(farthest(torch.zeros(3, 3), 3).tolist()) == [0, 1, 2]  # copies are not chosen twice


def test_nothing_depends_on_the_order_of_the_samples():
    points, _ = clusters([20, 3, 8, 12, 4])
    order = torch.randperm(len(points))
    back = order.argsort()
    shuffled = points[order]
    chosen = farthest(euclidean(points), 8, first=7)
    assert torch.equal(order[farthest(euclidean(shuffled), 8, first=int(back[7]))], chosen)
    assert torch.equal(order[kmeans(shuffled, 5)], kmeans(points, 5))
    rarity = log_rarity(euclidean(points), dimension=2)
    torch.testing.assert_close(log_rarity(euclidean(shuffled), dimension=2), rarity[order])


@pytest.mark.parametrize("dimension", [1, 2])
def test_what_is_drawn_evenly_is_drawn_evenly(dimension):
    """Two grids of equal size, one 4 times as dense: equally likely, where plain draws would see the dense one."""
    side = {1: 30, 2: 9}[dimension]
    coarse, fine = torch.linspace(0, 1, side).double(), torch.linspace(0, 1, 4 // dimension * side).double()
    grid = lambda line: line[:, None] if dimension == 1 else torch.cartesian_prod(line, line)  # noqa: E731
    points = torch.cat([grid(coarse), grid(fine) + 5])
    d, dense = euclidean(points), torch.arange(len(points)) >= len(grid(coarse))
    weights = log_rarity(d, dimension=dimension).softmax(0)
    share, plain = float(weights[dense].sum()), float(dense.double().mean())
    print(f"dimension {dimension}: weight of the dense part {share:.3f}, its share of the samples {plain:.3f}")
    assert 0.4 < share < 0.52
    assert plain == 0.8
    drawn = torch.cat([uniformised(d, 1, dimension=dimension, seed=seed) for seed in range(300)])
    assert abs(float(dense[drawn].double().mean()) - share) < 0.09


def test_draws_follow_the_weights_without_replacement():
    """Two of three: the probability of each pair in closed form, w_i w_j (1 / (1 - w_i) + 1 / (1 - w_j))."""
    x = torch.tensor([[0.0], [1.0], [4.0]])
    d = euclidean(x)
    w = torch.tensor([1.0, 1.0, 3.0]) ** 1.5  # the nearest other one
    w = w / w.sum()
    torch.testing.assert_close(log_rarity(d, dimension=1.5, neighbour=2).softmax(0).float(), w)
    n = 1500
    pairs = [tuple(sorted(uniformised(d, 2, dimension=1.5, neighbour=2, seed=s).tolist())) for s in range(n)]
    for i, j in combinations(range(3), 2):
        expected = float(w[i] * w[j] * (1 / (1 - w[i]) + 1 / (1 - w[j])))
        assert pairs.count((i, j)) / n == pytest.approx(expected, abs=0.04)


def test_outliers_are_dropped_and_copies_come_last():
    x = torch.cat([torch.randn(50, 2), torch.tensor([[100.0, 0.0], [0.0, 100.0]])])
    for seed in range(20):
        assert max(uniformised(euclidean(x), 40, dimension=25, drop=0.05, seed=seed).tolist()) < 50
        assert {50, 51} <= set(uniformised(euclidean(x), 2, dimension=25, seed=seed).tolist())
    copies = torch.cat([torch.zeros(8, 2), torch.randn(10, 2)])
    assert min(uniformised(euclidean(copies), 10, dimension=5).tolist()) >= 8
    assert sorted(uniformised(euclidean(copies), 18, dimension=5).tolist()) == list(range(18))


def test_a_seed_is_a_result():
    d = euclidean(torch.randn(30, 2))
    for select in (farthest, lambda d, n, seed: uniformised(d, n, dimension=2, seed=seed)):
        assert torch.equal(select(d, 3, seed=1), select(d, 3, seed=1))
        assert len({tuple(select(d, 3, seed=s).tolist()) for s in range(10)}) > 1


@pytest.mark.parametrize(
    "wrong",
    [
        lambda d: farthest(d[:3], 2),
        lambda d: farthest(d, 11),
        lambda d: kmeans(d, 0),
        lambda d: uniformised(d, 2, dimension=0),
        lambda d: uniformised(d, 2, dimension=2, neighbour=1),
        lambda d: uniformised(d, 9, dimension=2, drop=0.5),
    ],
)
def test_mistakes_are_told(wrong):
    with pytest.raises(ValueError, match="expected"):
        wrong(euclidean(torch.randn(10, 2)))
