"""Known positives: same row, same caption, same group; and nothing else."""

from __future__ import annotations

import torch

from mmcontrast.negatives.known import MatchKeys, known_positives, mask_log_weights
from mmcontrast.types import NO_KEY


def literal(keys: MatchKeys) -> list[list[bool]]:
    n = len(keys.index)
    return [
        [
            keys.index[i].item() == keys.index[j].item()
            or keys.caption_key[j].item() in [k for k in keys.caption_keys[i].tolist() if k != NO_KEY]
            or (keys.group_key[i].item() == keys.group_key[j].item() != NO_KEY)
            for j in range(n)
        ]
        for i in range(n)
    ]


def keys() -> MatchKeys:
    return MatchKeys(
        index=torch.tensor([0, 1, 2, 3, 0]),
        caption_key=torch.tensor([11, 21, 31, 41, 12]),
        # image 1 also has caption 31, which was drawn for image 2
        caption_keys=torch.tensor([[11, 12], [21, 31], [31, NO_KEY], [41, NO_KEY], [11, 12]]),
        group_key=torch.tensor([NO_KEY, NO_KEY, 7, 7, NO_KEY]),
    )


def test_every_way_of_matching() -> None:
    known = known_positives(keys(), keys())
    assert known.tolist() == literal(keys())
    assert known[0, 4]  # two captions of one image
    assert known[1, 2]  # caption of image 2 is also one of image 1's
    assert not known[2, 1]  # but not the other way round
    assert known[2, 3]  # same group
    assert not known[0, 1]


def test_absent_groups_and_padding_never_match() -> None:
    absent = MatchKeys(
        index=torch.tensor([0, 1]),
        caption_key=torch.tensor([5, 6]),
        caption_keys=torch.tensor([[5, NO_KEY], [6, NO_KEY]]),
        group_key=torch.tensor([NO_KEY, NO_KEY]),
    )
    assert torch.equal(known_positives(absent, absent), torch.eye(2, dtype=torch.bool))


def test_random_keys_match_the_literal_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        caption_keys = torch.randint(0, 12, (9, 3), generator=generator)
        caption_keys[:, 0] += caption_keys[:, 0] == NO_KEY  # the drawn caption always has a key
        random = MatchKeys(
            torch.randint(0, 6, (9,), generator=generator),
            caption_keys[:, 0],
            caption_keys,
            torch.randint(0, 4, (9,), generator=generator),
        )
        assert known_positives(random, random).tolist() == literal(random)


def test_mask_is_minus_infinity_where_known() -> None:
    known = torch.tensor([[True, False], [False, True]])
    assert mask_log_weights(known).tolist() == [[-torch.inf, 0.0], [0.0, -torch.inf]]
