"""The readers of files, each with its seeds: what it is given, and what is done with what it returns."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from fuzz_mutations import Files
from fuzz_seeds import (
    CAPTIONS,
    configs,
    folder_files,
    folders,
    json_lines,
    lines,
    parquet,
    picture,
    pictures,
    tars,
    text_tables,
)

from mmcontrast import embedding_index, embedding_shards
from mmcontrast.config import dump_config, load_config, load_suite
from mmcontrast.data import open_source, open_stream, train_transform
from mmcontrast.data.image_cache import CacheSettings, ImageCache
from mmcontrast.data.image_cache_build import open_image_cache
from mmcontrast.embedding_reading import load_features
from mmcontrast.embedding_rows import Entry, Place
from mmcontrast.errors import DataError, MMContrastError
from mmcontrast.models import (
    DualEncoder,
    ImageTowerSpec,
    ModelSpec,
    SentencePieceTokenizer,
    TextTowerSpec,
    build_dual_encoder,
    load_tokenizer,
    save_tokenizer,
    train_sentencepiece,
)
from mmcontrast.preprocess import ImagePreprocess, decode_image, header_size
from mmcontrast.training.checkpoint import Checkpointer
from mmcontrast.training.lines import LineFile
from mmcontrast.training.log import BadRowLog

ROOT = Path(__file__).parents[2]
_PREPROCESS = ImagePreprocess(16)
_VARIED = train_transform(_PREPROCESS, "strong")


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
        seeds: valid samples; the folder is for what has to be written to be made.
        read: opens the sample in a folder, and looks at all of it.
        share: of all inputs.
        damaged: names of the files that are changed; all by default.
        finish: changes made after the damage, as an attacker would who knows the format.
    """

    seeds: Callable[[Path], list[Files]]
    read: Callable[[Path], None]
    share: float
    damaged: Callable[[str], bool] = lambda name: True
    finish: Callable[[Files, random.Random], Files] = lambda files, rng: files


def _read_picture(folder: Path) -> None:
    data = (folder / "picture").read_bytes()
    image = decode_image(data)
    header_size(data)
    _PREPROCESS.pixels(image)
    _VARIED(decode_image(data, least_side=20))


def _read_rows(path: Path) -> None:
    """By position and as a stream: what one refuses the other may not stumble over."""
    refusal: MMContrastError | None = None
    try:
        source = open_source(path)
        for i in islice(range(len(source)), 20):
            texts = [*source.captions(i), source.group(i) or ""]
            assert all(source.captions(i))
            "".join(texts).encode()
            source.label(i), source.row_number(i)
            _decode(lambda i=i: source.image(i))  # type: ignore[misc]
    except MMContrastError as error:
        refusal = error
    for row in islice(open_stream(path), 20):
        if hasattr(row, "image"):
            _decode(lambda row=row: row.image)  # type: ignore[misc]
    if refusal is not None:
        raise refusal


def _decode(read: Callable[[], bytes | Path]) -> None:
    try:
        decode_image(read())
    except DataError:
        return  # a bad row, which a run lists and replaces


def _only_file(folder: Path) -> Path:
    return next(path for path in folder.iterdir() if _is_table(path.name))


def _is_table(name: str) -> bool:
    return not name.endswith(".png")


def _read_table(folder: Path) -> None:
    _read_rows(_only_file(folder))


def _read_config(folder: Path) -> None:
    path = _only_file(folder)
    if path.name == "suite.yaml":
        load_suite(path)
    else:
        text = dump_config(load_config(path))
        path.write_text(text, encoding="utf-8")
        assert dump_config(load_config(path)) == text


def _model_seeds(folder: Path) -> list[Files]:
    vocabulary = SentencePieceTokenizer(train_sentencepiece(CAPTIONS * 3, 330), 16)
    image = ImageTowerSpec("timm", "test_vit", image_size=16, kwargs={"patch_size": 8})
    text = TextTowerSpec("bag_of_words", context_length=16, kwargs={"width": 8})
    open_clip = TextTowerSpec("open_clip", context_length=16, kwargs={"width": 8, "heads": 2, "layers": 1})
    for name, tower in (("a", text), ("b", open_clip)):
        model = build_dual_encoder(ModelSpec(8, image, tower), vocabulary, seed=0)
        model.templates = ["a photo of {}"]
        model.save_pretrained(folder / name)
    return [folder_files(folder / "a"), folder_files(folder / "b")]


def _read_model(folder: Path) -> None:
    model = DualEncoder.from_pretrained(folder)
    model.encode_image(picture())


def _tokenizer_seeds(folder: Path) -> list[Files]:
    save_tokenizer(SentencePieceTokenizer(train_sentencepiece(CAPTIONS * 3, 330), 16), folder / "a")
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted({word for text in CAPTIONS for word in text.split()})]
    words += ["a", "brown", "dog", "runs", "over", "the", "grass"]
    bert = Tokenizer(models.WordPiece({word: i for i, word in enumerate(dict.fromkeys(words))}, unk_token="[UNK]"))
    bert.normalizer, bert.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    bert.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    marks = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=bert, **marks).save_pretrained(folder / "b")
    values = {"kind": "transformers", "context_length": 16}
    (folder / "b" / "mmcontrast_tokenizer.json").write_text(json.dumps(values))
    return [folder_files(folder / "a"), folder_files(folder / "b")]


def _read_tokenizer(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    ids = tokenizer(CAPTIONS).input_ids
    assert int(ids.min()) >= 0
    assert int(ids.max()) < tokenizer.vocab_size
    tokenizer.words()


def _feature_seeds(folder: Path) -> list[Files]:
    rng = np.random.default_rng(0)
    for form in ("npy", "parquet"):
        place = folder / form
        place.mkdir(parents=True)
        manifest = {"format_version": 1, "source": "x", "format": form, "dtype": "float32", "embed_dim": 4}
        embedding_shards.write_json(place / embedding_shards.MANIFEST, manifest)
        for number in range(2):
            entries = [Entry(row, "x.csv", None, None, CAPTIONS[row : row + 2]) for row in range(3)]
            images, texts = (rng.normal(size=(count, 4)).astype("<f4") for count in (3, 6))
            content = embedding_shards.ShardContent(images, texts, entries, 3 * number, 6 * number)
            files = embedding_shards.write_shard(place, number, form, content)
            shard = embedding_shards.Shard(number, 3, 6, Place(0, 3, 3), files, [])
            embedding_shards.append_shard(place, shard)
        embedding_shards.write_json(place / embedding_shards.SUMMARY, {"images": 6, "texts": 12})
        embedding_index.build_index(load_features(place))
    return [folder_files(folder / form) for form in ("npy", "parquet")]


def _sized(files: Files, rng: random.Random) -> Files:
    """Sizes in shards.jsonl as they are, so that damage gets past the first check."""
    if rng.random() < 0.3:
        return files
    found = []
    for line in files.get("shards.jsonl", b"").splitlines():
        try:
            shard = json.loads(line)
            shard["files"] = {name: len(files.get(name, b"")) for name in shard["files"]}
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            return files
        found.append(json.dumps(shard).encode() + b"\n")
    return {**files, "shards.jsonl": b"".join(found)}


def _read_features(folder: Path) -> None:
    features = load_features(folder)
    np.asarray(features.image), np.asarray(features.text)
    assert len(features.text_image) >= 0
    features.search(np.ones((1, features.image.shape[1]), np.float32), 3)
    list(features.rows)


def _checkpoint_seeds(folder: Path) -> list[Files]:
    shared = {"model": {"w": torch.ones(3, 4)}, "step": 3, "world_size": 1, "losses": [0.5]}
    Checkpointer(folder).save(3, shared, {"rng": torch.arange(5)})
    return [folder_files(folder)]


def _signed(files: Files, rng: random.Random) -> Files:
    """A manifest that fits the damaged states: its author is the attacker."""
    if rng.random() < 0.4:
        return files
    manifest = {}
    for name, data in files.items():
        if name.endswith(".pt"):
            manifest[Path(name).name] = {"size": len(data), "sha256": sha256(data).hexdigest()}
    name = next(name for name in files if name.endswith("manifest.json"))
    return {**files, name: json.dumps({"files": manifest}).encode()}


def _read_checkpoint(folder: Path) -> None:
    checkpointer = Checkpointer(folder)
    newest, _ = checkpointer.newest()
    assert newest is not None
    checkpointer.load(newest)


def _cache_seeds(folder: Path) -> list[Files]:
    for name, data in folders()[0].items():
        (folder / name).write_bytes(data)
    (folder / "0.png").write_bytes(b"no picture")
    settings = CacheSettings(5, "bilinear", 10_000)
    cache = open_image_cache(folder / "cache", open_source(folder), settings, say=lambda _: None)
    return [folder_files(cache.folder)]


def _read_cache(folder: Path) -> None:
    cache = ImageCache(folder)
    for row in range(len(cache)):
        try:
            cache.get(row)
        except DataError as error:
            if error.__class__ is not DataError:
                raise


def _read_lines(folder: Path) -> None:
    path = folder / "lines.jsonl"
    LineFile(path).read()
    BadRowLog(path, 0.5, 10)  # of metrics.jsonl, too: lines that say something else are no bad rows
    LineFile(path).append([{"global_step": 9}])
    assert LineFile(path).read()[-1] == {"global_step": 9}


TARGETS: dict[str, Target] = {
    "picture": Target(lambda _: pictures(), _read_picture, 0.3),
    "csv": Target(lambda _: text_tables(",", "data.csv"), _read_table, 0.08, _is_table),
    "tsv": Target(lambda _: text_tables("\t", "data.tsv"), _read_table, 0.05, _is_table),
    "jsonl": Target(lambda _: json_lines("data.jsonl") + json_lines("data.json"), _read_table, 0.1, _is_table),
    "parquet": Target(lambda _: parquet(), _read_table, 0.1, _is_table),
    "tar": Target(lambda _: tars(), _read_table, 0.1),
    "folder": Target(lambda _: folders(), _read_rows, 0.05),
    "config": Target(lambda _: configs(ROOT), _read_config, 0.05),
    "model": Target(_model_seeds, _read_model, 0.01, lambda name: not name.startswith("tokenizer/")),
    "tokenizer": Target(_tokenizer_seeds, _read_tokenizer, 0.03),
    "features": Target(_feature_seeds, _read_features, 0.05, lambda name: "faiss" not in name, _sized),
    "index": Target(_feature_seeds, _read_features, 0.02, lambda name: "faiss" in name or name == "index.json"),
    "checkpoint": Target(_checkpoint_seeds, _read_checkpoint, 0.04, finish=_signed),
    "image_cache": Target(_cache_seeds, _read_cache, 0.01),
    "lines": Target(lambda _: lines(), _read_lines, 0.01),
}
