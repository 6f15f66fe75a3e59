"""The batch of all ranks: what it holds, and what it says of pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from making_batches import random_batch, seen

from mmcontrast.negatives.batch import GlobalBatch, gather_batch
from mmcontrast.types import NO_KEY, Features, PairBatch


def test_one_process_sees_its_own_rows_without_gradient() -> None:
    features, batch, sibling_text = random_batch(10, siblings=4)
    whole = gather_batch(features, batch, sibling_text)
    assert (len(whole), whole.local) == (10, slice(0, 10))
    assert torch.equal(whole.image, features.image)
    assert not any(t.requires_grad for t in (whole.image, whole.text, whole.scale))
    assert whole.siblings is not None
    assert whole.siblings.rows.tolist() == [0, 2, 4]  # the fourth place is empty
    assert sibling_text is not None
    assert torch.equal(whole.siblings.text, sibling_text[:3])
    assert len(whole.siblings.input_ids) == len(whole.siblings.attention_mask) == 3
    assert gather_batch(features, batch).siblings is None


def test_own_columns_and_known_pairs_of_some_rows() -> None:
    features, batch, _ = random_batch(12)
    whole = seen(batch, features)
    rows = torch.tensor([3, 1, 2])
    assert whole.own(rows).nonzero().tolist() == [[0, 3], [1, 1], [2, 2]]
    image, text = whole.known(rows)
    keys = whole.keys
    for r, i in enumerate(rows.tolist()):
        for j in range(12):
            assert bool(image[r, j]) == (i == j or int(keys.caption_key[j]) in keys.caption_keys[i].tolist())
            assert bool(text[r, j]) == (i == j or int(keys.caption_key[i]) in keys.caption_keys[j].tolist())
    assert image[1, 2]  # the same caption was drawn for both
    assert not torch.equal(image, text)


def test_truth_of_labels_and_groups() -> None:
    features, batch, _ = random_batch(6)
    label, group = torch.tensor([3, 3, -1, -1, 0, 3]), torch.tensor([8, NO_KEY, NO_KEY, 8, 9, 9])
    batch.group_key = group
    whole = seen(batch, features, label=label)
    rows = torch.arange(6)
    for by, values, none in (("label", label, -1), ("group", group, NO_KEY)):
        truth = whole.truth(by, rows, slice(0, 6))
        for i in range(6):
            for j in range(6):
                assert bool(truth[i, j]) == (values[i] == values[j] and int(values[i]) != none)


def half(rank: int) -> tuple[Features, PairBatch, torch.Tensor]:
    features, batch, sibling_text = random_batch(6, seed=rank, first_index=6 * rank, siblings=3)
    assert sibling_text is not None
    if rank:  # captions of other lengths, and more of them a picture, than on the other rank
        batch.input_ids, batch.attention_mask = batch.input_ids[:, :3], batch.attention_mask[:, :3]
        batch.caption_keys = torch.column_stack([batch.caption_keys, torch.arange(6) + 77])
        assert batch.sibling_ids is not None
        batch.sibling_ids = torch.nn.functional.pad(batch.sibling_ids, (0, 2), value=1)
        batch.sibling_mask = torch.ones_like(batch.sibling_ids)
    return features, batch, sibling_text


def _gather(rank: int, file: str, results: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    results[rank] = gather_batch(*half(rank))
    dist.destroy_process_group()


def test_two_processes_see_one_batch(tmp_path: Path) -> None:
    with mp.Manager() as manager:  # type: ignore[attr-defined]
        results = manager.dict()
        mp.spawn(_gather, (str(tmp_path / "rendezvous"), results), nprocs=2)  # type: ignore[attr-defined]
        wholes: list[GlobalBatch] = [results[0], results[1]]
    halves = [half(0), half(1)]
    assert [whole.local for whole in wholes] == [slice(0, 6), slice(6, 12)]
    for whole in wholes:
        assert torch.equal(whole.image, torch.cat([f.image for f, _, _ in halves]))
        assert torch.equal(whole.text, torch.cat([f.text for f, _, _ in halves]))
        assert whole.keys.index.tolist() == list(range(12))
        assert whole.keys.caption_keys.shape == (12, 4)
        assert whole.keys.caption_keys[:6, 3].tolist() == [NO_KEY] * 6
        assert whole.input_ids.shape == (12, 6)
        assert not whole.attention_mask[6:, 3:].any()
        assert whole.siblings is not None
        assert whole.siblings.rows.tolist() == [0, 2, 6, 8]  # counted in the whole batch
        assert torch.equal(whole.siblings.text, torch.cat([t[:2] for _, _, t in halves]))
        assert whole.siblings.input_ids.shape == whole.siblings.attention_mask.shape == (4, 8)
        assert not whole.siblings.attention_mask[:2, 6:].any()
