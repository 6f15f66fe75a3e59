from __future__ import annotations

import pytest
import torch
from sklearn.decomposition import PCA
from torch.nn import functional

from mmcontrast.evaluation.cluster_map import joint_features, map_clusters, project


def three_heaps(each: int = 40) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    centres = torch.eye(3, 8).repeat_interleave(each, 0)
    return functional.normalize(centres + 0.1 * torch.randn(3 * each, 8, generator=generator), dim=1)


def test_heaps_become_clusters_the_largest_first() -> None:
    features = torch.cat([three_heaps(), three_heaps()[:10]])
    labels: list[int | None] = [0] * 40 + [1] * 40 + [2] * 39 + [0] + [None] * 10
    found = map_clusters(features, labels, seed=0, clusters=3)
    assert [len(cluster.members) for cluster in found.clusters] == [50, 40, 40]
    first = found.clusters[0]
    assert set(first.members) == {*range(40), *range(120, 130)}
    assert (first.label, first.purity) == (0, 1.0)  # those without label do not count
    assert found.clusters[2].purity == 39 / 40
    assert found.purity == pytest.approx(119 / 120)
    for number, cluster in enumerate(found.clusters):
        assert (found.ids[cluster.members] == number).all()
        centroid = functional.normalize(features[cluster.members].mean(0), dim=0)
        cosines = features[cluster.members] @ centroid
        assert cluster.within == pytest.approx(cosines.mean().item(), abs=1e-3)
        assert cosines[0] >= cosines[-1]  # the most typical one first


def test_without_labels_there_is_no_purity() -> None:
    found = map_clusters(three_heaps(), [None] * 120, seed=0, clusters=3)
    assert found.purity is None
    assert {cluster.label for cluster in found.clusters} == {None}


def test_projection_is_that_of_scikit_learn_but_for_signs() -> None:
    features = three_heaps()
    points, explained = project(features)
    reference = PCA(2).fit(features.numpy())
    expected = torch.tensor(reference.transform(features.numpy()))
    assert torch.allclose(points.abs(), expected.abs(), atol=1e-4)
    assert explained == pytest.approx(reference.explained_variance_ratio_.sum(), abs=1e-4)


def test_equal_features_and_a_single_dimension_have_a_map() -> None:
    points, explained = project(torch.ones(4, 3))
    assert points.isfinite().all()
    assert explained == 0
    assert project(torch.rand(5, 1))[0].shape == (5, 2)


def test_joint_features_do_not_see_the_gap_between_modalities() -> None:
    image, text = three_heaps(), three_heaps().flip(1)
    shifted = joint_features(image + torch.tensor([5.0] + [0.0] * 7), text - 3)
    assert torch.allclose(shifted, joint_features(image, text), atol=1e-5)
    assert torch.allclose(shifted.norm(dim=1), torch.ones(120))
