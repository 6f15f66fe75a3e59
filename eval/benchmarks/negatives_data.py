"""Data of the negatives benchmark: what is injected where, and what is held out to tune on."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from negatives_encoder import distinct_pictures, with_tickets, write_features
from torch.utils.data import Sampler

from mmcontrast.data import Draw

DATA = Path(os.environ.get("MMCONTRAST_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
VERSION = 1
"""Of the files written here: a change of their making must change it, or old cells would count as new ones."""
HELD_OUT_SHARE = 0.15

CLASS_WORDS = {
    "airplane": ("airplane", "plane", "aircraft", "jet"),
    "automobile": ("automobile", "car", "sedan", "passenger car"),
    "bird": ("bird", "small bird", "feathered animal", "winged animal"),
    "cat": ("cat", "kitten", "house cat", "pussycat"),
    "deer": ("deer", "stag", "doe", "antlered animal"),
    "dog": ("dog", "puppy", "hound", "pet dog"),
    "frog": ("frog", "toad", "amphibian", "little frog"),
    "horse": ("horse", "pony", "stallion", "mare"),
    "ship": ("ship", "boat", "vessel", "watercraft"),
    "truck": ("truck", "lorry", "heavy vehicle", "pickup truck"),
}
CLASS_TEMPLATES = (
    "a photo of a {}",
    "this is a {}",
    "a small picture showing a {}",
    "there is a {} here",
    "a blurry image of one {}",
    "look at the {}",
    "the {} in close view",
    "someone took a photo of this {}",
)


def class_captions(name: str, count: int, rng: random.Random) -> list[str]:
    """Different templates, each with a synonym drawn for it: rows of a class share some captions, not all."""
    return [template.format(rng.choice(CLASS_WORDS[name])) for template in rng.sample(CLASS_TEMPLATES, count)]


def split_rows(count: int, tuning: bool) -> tuple[list[int], list[int]]:
    """Rows to train on and rows held out: all and none, or for tuning a seeded 85% and 15%."""
    if not tuning:
        return list(range(count)), []
    order = np.random.default_rng(VERSION).permutation(count)
    held_out = round(HELD_OUT_SHARE * count)
    return sorted(order[held_out:].tolist()), sorted(order[:held_out].tolist())


def captioned(table: pa.Table, seed: int) -> pa.Table:
    """Pictures of classes with three made captions each."""
    rng = random.Random(seed)
    captions = [class_captions(name, 3, rng) for name in table["label_name"].to_pylist()]
    plain = table.select(["image", "label_name"]).replace_schema_metadata(None)
    return plain.append_column("captions", pa.array(captions))


def twinned(table: pa.Table) -> pa.Table:
    """Each picture as two rows 2k and 2k + 1 with different captions; `twin` = k is the truth about them."""
    both = np.repeat(np.arange(len(table)), 2)
    captions = [part for row in table["captions"].to_pylist() for part in (row[:3], row[3:])]
    image = table["image"].combine_chunks().take(pa.array(both))
    return pa.table({"image": image, "captions": pa.array(captions), "twin": pa.array(both)})


@dataclass(frozen=True)
class Recipe:
    """How the files of a data set are made.

    Attributes:
        train: training rows to pairs.
        validation: held-out rows to pairs.
        rows, validation_rows: how many of its rows take part; None for all.
    """

    train: Callable[[pa.Table], pa.Table]
    validation: Callable[[pa.Table], pa.Table]
    rows: int | None = None
    validation_rows: int | None = None


def _as_it_is(table: pa.Table) -> pa.Table:
    return table


RECIPES = {
    "ucm_captions": Recipe(_as_it_is, _as_it_is),
    "cifar10": Recipe(partial(captioned, seed=0), partial(captioned, seed=1), 4000, 1000),
    "flickr8k": Recipe(twinned, _as_it_is, 3000),
}


def missing(dataset: str) -> str | None:
    """Why a data set cannot be used here, or None."""
    if dataset in RECIPES and not (DATA / dataset / "train.parquet").is_file():
        return f"{dataset} is left out: no {DATA / dataset / 'train.parquet'} (set MMCONTRAST_DATA)"
    return None


def features_file(dataset: str, cache: Path) -> Path:
    """Features of the pictures of a data set by a pretrained tower."""
    return cache / f"{dataset}-features-{VERSION}.safetensors"


def prepared(dataset: str, cache: Path, *, tuning: bool, pretrained: bool = False) -> tuple[Path, Path]:
    """Training and validation file of a data set, written once.

    Args:
        dataset: which.
        cache: folder of the files.
        tuning: whether part of the training rows takes the place of the validation rows.
        pretrained: whether tickets take the place of the pictures; then `features_file` is written, too.
    """
    kind = f"{'tuning-' * tuning}{'tickets-' * pretrained}{VERSION}"
    train, validation = (cache / f"{dataset}-{part}-{kind}.parquet" for part in ("train", "validation"))
    if not (train.exists() and validation.exists()):
        recipe = RECIPES[dataset]
        table = pq.read_table(DATA / dataset / "train.parquet").slice(0, recipe.rows)
        other = pq.read_table(DATA / dataset / "val.parquet").slice(0, recipe.validation_rows)
        cache.mkdir(parents=True, exist_ok=True)
        if pretrained:
            pictures = distinct_pictures(table)
            if not (features := features_file(dataset, cache)).exists():
                write_features(pictures + distinct_pictures(other), features)
            table, other = with_tickets(table, 0), with_tickets(other, len(pictures))
        kept, held_out = split_rows(len(table), tuning)
        _write(recipe.train(table.take(kept)), train)
        _write(recipe.validation(table.take(held_out) if tuning else other), validation)
    return train, validation


def _write(table: pa.Table, file: Path) -> None:
    """A whole file or none: other processes may look for it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    pq.write_table(table, aside, row_group_size=512)
    os.replace(aside, file)


def with_twins(indices: Sequence[int], share: float, rng: np.random.Generator) -> list[int]:
    """A batch in which a share of the rows comes in couples 2k, 2k + 1.

    Half of that share are rows of the batch, chosen by lot; the other half takes the place of other rows, so that the
    batch's size and the number of samples stay. Couples that met by chance stay, too, and do not count.
    """
    there = set(indices)
    single = [position for position, index in enumerate(indices) if index ^ 1 not in there]
    drawn = rng.permutation(single)
    couples = min(round(share * len(indices) / 2), len(single) // 2)
    result = list(indices)
    for kept, replaced in zip(drawn[:couples], drawn[couples : 2 * couples], strict=True):
        result[replaced] = indices[kept] ^ 1
    return result


class TwinSampler(Sampler[list[Draw]]):
    """Known false negatives in the batches of any other sampler, see `with_twins`.

    Draws depend on the batch they are for and on nothing before it, so a run may begin anywhere.
    """

    def __init__(self, inner: Sampler[list[Draw]], share: float, seed: int) -> None:
        self.inner, self.share, self.seed = inner, share, seed

    def __len__(self) -> int:
        return len(self.inner)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[list[Draw]]:
        for batch in self.inner:
            epoch = batch[0].epoch
            rng = np.random.default_rng([self.seed, epoch, batch[0].index])
            yield [Draw(index, epoch) for index in with_twins([draw.index for draw in batch], self.share, rng)]
