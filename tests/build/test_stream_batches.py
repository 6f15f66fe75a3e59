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

from mmcontrast import distributed
from mmcontrast.build.stream_batches import StreamBatches
from mmcontrast.data import StreamDataset, StreamLoader, mix_streams, open_stream, train_transform
from mmcontrast.errors import TrainingError
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
    return StreamBatches(StreamLoader(dataset, 4, tokenize, workers), dataset), transform


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
    again, transform = batches_of(data, 0)
    again.load_state_dict({})
    assert [content(b) for b in itertools.islice(again.epoch(0, 10), 2)] == expected[10:12]
    assert transform.calls >= 40


def test_a_run_goes_on_with_other_workers(data: Path) -> None:
    """Its readers are those of its checkpoint, and so is their order."""
    whole, _ = batches_of(data, 2)
    batches = whole.epoch(0, 0)
    list(itertools.islice(batches, 10))
    again, transform = batches_of(data, 0)
    again.load_state_dict(whole.state_dict())
    assert again.dataset.readers == 2
    expected = [content(batch) for batch in itertools.islice(batches, 2)]
    assert [content(batch) for batch in itertools.islice(again.epoch(0, 10), 2)] == expected
    assert transform.calls <= 2 * 4 + 4


def mixture_of(path: Path, workers: int = 0, readers: int | None = None) -> tuple[StreamBatches, Counted]:
    small = path.with_name("small.parquet")
    if not small.exists():
        table = pq.read_table(path).slice(0, 7)
        pq.write_table(table, small, row_group_size=3)
    transform = Counted()
    streams = [open_stream(path), open_stream(small, first_file=1)]
    dataset = StreamDataset(
        mix_streams(streams, [3, 1], 3), transform, seed=3, shuffle_buffer=12, repeat=True, readers=readers
    )
    return StreamBatches(StreamLoader(dataset, 8, tokenize, workers), dataset), transform


@pytest.mark.parametrize(("workers", "readers"), [(0, 4), (2, 4), (2, 8)])
def test_a_mixture_goes_on_in_its_middle(data: Path, workers: int, readers: int) -> None:
    whole, _ = mixture_of(data, workers, readers)
    states, expected, pairs = [whole.state_dict()], [], []
    for batch in itertools.islice(whole.epoch(0, 0), 24):
        expected.append(content(batch))
        states.append(whole.state_dict())
        pairs.append([whole.diagnostics[f"pairs_of_source_{source}"] for source in range(2)])
    for number, (batch, counts) in enumerate(zip(expected, pairs, strict=True), 1):
        small = sum(index >> 32 for index in batch[0])
        assert 1 <= small <= 3  # of 8, a quarter of them on average
        assert sum(counts) == 8 * number
        assert abs(counts[1] - 2 * number) < 1
    assert sum(index >> 32 for batch in expected for index in batch[0]) == pairs[-1][1]
    for start in (1, 9, 21) if workers else range(1, 22, 4):
        again, transform = mixture_of(data, workers, readers)
        again.load_state_dict(states[start])
        assert [content(batch) for batch in itertools.islice(again.epoch(0, start), 3)] == expected[start : start + 3]
        assert transform.calls <= 3 * 8 + 4 * readers  # what is decoded is used, but for a little ahead of it


def test_readers_that_cannot_be_shared(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = mixture_of(data, 0, 4)
    list(itertools.islice(whole.epoch(0, 0), 2))
    state = whole.state_dict()
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    with pytest.raises(TrainingError, match=r"dealt out to 4 readers, which 3 processes cannot share: .* 1, 2 or 4 "):
        whole.load_state_dict(state)
