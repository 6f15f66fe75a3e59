"""A stream that goes on in its middle gives the batches that would have come, bit for bit."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from mmcontrast.build.stream_batches import StreamBatches
from mmcontrast.data import StreamDataset, open_stream, stream_loader, train_transform
from mmcontrast.preprocess import ImagePreprocess
from mmcontrast.types import PairBatch, Tokens


def tokenize(captions: list[str]) -> Tokens:
    ids = torch.tensor([[int(caption.split()[1])] for caption in captions])
    return Tokens(ids, torch.ones_like(ids))


def picture(seed: int) -> bytes:
    if seed % 9 == 5:
        return b"no picture"
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("stream") / "a.parquet"
    captions = [f"number {i}" if i % 11 else "" for i in range(90)]
    table = pa.table({"image": [picture(i) for i in range(90)], "caption": captions})
    pq.write_table(table, path, row_group_size=6)
    return path


class Counted:
    """A transform that counts its calls."""

    def __init__(self) -> None:
        self.calls, self.transform = 0, train_transform(ImagePreprocess(8), "strong")

    def __call__(self, image: Any) -> torch.Tensor:
        self.calls += 1
        return self.transform(image)


def batches_of(path: Path, workers: int, buffer: int = 8) -> tuple[StreamBatches, Counted]:
    transform = Counted()
    dataset = StreamDataset(open_stream(path), transform, seed=3, shuffle_buffer=buffer, repeat=True)
    return StreamBatches(stream_loader(dataset, 4, tokenize, workers), dataset), transform


def content(batch: PairBatch) -> tuple[Any, ...]:
    return batch.index.tolist(), batch.image.numpy().tobytes(), batch.input_ids.tolist(), batch.bad_rows


@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_batches_come_after_an_interruption(data: Path, workers: int) -> None:
    whole, _ = batches_of(data, workers)
    steps = 50  # of 18 an epoch
    states, expected = [whole.state_dict()], []
    for batch in itertools.islice(whole.epoch(0, 0), steps):
        expected.append(content(batch))
        states.append(whole.state_dict())
    for start in (0, 1, 2, 7, 18, 19, 33, 46) if workers else range(47):
        again, transform = batches_of(data, workers)
        again.load_state_dict(states[start])
        found = []
        for batch in itertools.islice(again.epoch(0, start), 4):
            found.append(content(batch))
        assert found == expected[start : start + 4], start
        assert transform.calls <= 4 * 4 + 4  # nothing is decoded for nothing


@pytest.mark.parametrize("workers", [0, 2])
def test_two_interruptions_and_a_checkpoint_of_what_was_read_too_far(data: Path, workers: int) -> None:
    whole, _ = batches_of(data, workers)
    expected = [content(batch) for batch in itertools.islice(whole.epoch(0, 0), 30)]
    first, _ = batches_of(data, workers)
    list(itertools.islice(first.epoch(0, 0), 13))
    second, _ = batches_of(data, workers)
    second.load_state_dict(first.state_dict())
    assert [content(b) for b in itertools.islice(second.epoch(0, 9), 12)] == expected[9:21]  # 4 were read, not used
    third, _ = batches_of(data, workers)
    third.load_state_dict(second.state_dict())
    assert [content(b) for b in itertools.islice(third.epoch(0, 20), 10)] == expected[20:30]


def test_without_positions_all_is_read_again(data: Path) -> None:
    whole, _ = batches_of(data, 0)
    expected = [content(batch) for batch in itertools.islice(whole.epoch(0, 0), 12)]
    other, _ = batches_of(data, 2)
    list(itertools.islice(other.epoch(0, 0), 10))
    for state in ({}, other.state_dict()):  # none, or of another number of workers
        again, transform = batches_of(data, 0)
        again.load_state_dict(state)
        assert [content(b) for b in itertools.islice(again.epoch(0, 10), 2)] == expected[10:12]
        assert transform.calls >= 40
