"""What tells a data set from any other, and from itself before it was changed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from mmcontrast.data.identity import Hash, file_state, identify_pictures
from mmcontrast.data.map_source import RowSource
from mmcontrast.data.rows import PairSource
from mmcontrast.data.stream import PairStream


def data_digest(data: PairSource | PairStream) -> str:
    """Hexadecimal digest of all that features of the data depend on: rows, pictures, captions, labels, groups.

    Files count by path, size and time, not by content; pictures that are in no file by content. Of a stream, rows are
    not read: its files and columns must do, and of one from the Hub its name.
    """
    key = hashlib.blake2b(digest_size=16)
    if isinstance(data, PairStream):
        columns = data.columns
        chosen = [columns.image, columns.captions, columns.label, columns.group]
        key.update(json.dumps(["stream", chosen, data.label_names, len(data.units), data.rows]).encode())
        if data.source is not None:
            _identify(data.source, key)
        else:
            key.update("".join(file_state(Path(file)) for file in data.files).encode() or data.name.encode())
    else:
        _identify(data, key)
    return key.hexdigest()


def _identify(source: PairSource, key: Hash) -> None:
    key.update(json.dumps([len(source), source.label_names]).encode())
    identify_pictures(source, key)
    if isinstance(source, RowSource):
        source.identify_texts(key.update)
        return
    for row in range(len(source)):
        texts = [source.row_number(row), source.captions(row), source.label(row), source.group(row)]
        key.update(json.dumps(texts).encode())
