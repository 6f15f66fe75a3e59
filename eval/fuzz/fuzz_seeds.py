"""Small valid files of every kind that mmcontrast reads, as bytes by name."""

import csv
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from fuzz_mutations import Files
from PIL import Image, features

CAPTIONS = ["a red dog on the grass", "zwei grüne Autos", "一只狗在草地上跑", "smiling face 🙂", "كلب أحمر على العشب"]


def picture(seed: int = 0, size: tuple[int, int] = (24, 16), mode: str = "RGB") -> Image.Image:
    """A smooth picture."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (3, 3, 3), dtype=np.uint8))
    return coarse.resize(size, Image.Resampling.BILINEAR).convert(mode)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The bytes of its file."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def pictures() -> list[Files]:
    """All formats, with what tends to go wrong in each."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a text"
    frames = [picture(k, mode="P") for k in (1, 2)]
    found = [
        encoded(picture(), "JPEG", exif=exif),
        encoded(picture(size=(70, 60)), "JPEG", progressive=True),
        encoded(picture(mode="CMYK"), "JPEG"),
        encoded(picture(mode="L"), "JPEG"),
        encoded(picture(mode="RGBA"), "PNG", exif=exif),
        encoded(picture(mode="P"), "PNG", transparency=3),
        encoded(picture(mode="LA"), "PNG"),
        encoded(Image.fromarray(np.arange(300, dtype=np.uint16).reshape(15, 20)), "PNG"),
        encoded(picture(mode="1"), "PNG"),
        encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        encoded(picture(), "BMP"),
        encoded(picture(mode="P"), "BMP"),
        encoded(picture(), "TIFF"),
        encoded(picture(), "TIFF", compression="tiff_lzw"),
        encoded(picture(mode="F"), "TIFF"),
        encoded(picture(), "PPM"),
        encoded(picture(size=(32, 32)), "ICO", sizes=[(16, 16), (32, 32)]),
        encoded(picture(), "MPO", save_all=True, append_images=[picture(4)]),
    ]
    for name, kind in (("webp", "WEBP"), ("jpg_2000", "JPEG2000"), ("avif", "AVIF")):
        if features.check(name):
            found.append(encoded(picture(), kind))
    return [{"picture": data} for data in found]


def named_pictures() -> Files:
    """The pictures that the tables name."""
    return {f"{i}.png": encoded(picture(i, (6, 5)), "PNG") for i in range(4)}


def table_rows(count: int = 4) -> list[dict[str, Any]]:
    """Records with every column that is known."""
    return [
        {"image": f"{i}.png", "caption": CAPTIONS[i % 5], "label": ["cat", "dog"][i % 2], "group_id": f"g{i // 2}"}
        for i in range(count)
    ]


def text_tables(separator: str, name: str) -> list[Files]:
    """CSV and the like, with quotes, lists and line breaks in fields."""
    rows = table_rows()
    lists = [{**row, "caption": str([row["caption"], "it's"])} for row in rows]
    broken = [{**row, "caption": f'said "{row["caption"]}",\nand left'} for row in rows]
    found = []
    # Where tabs separate, quotes are plain text, and no field reaches over a line's end.
    for some in (rows, lists) if separator == "\t" else (rows, lists, broken):
        stream = io.StringIO()
        writer = csv.DictWriter(stream, list(some[0]), delimiter=separator)
        writer.writeheader()
        writer.writerows(some)
        found.append({**named_pictures(), name: stream.getvalue().encode()})
    return found


def json_lines(name: str) -> list[Files]:
    """JSON lines, and a list of records."""
    rows = [{**row, "caption": [row["caption"], {"raw": "second"}]} for row in table_rows()]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    return [{**named_pictures(), name: lines if name.endswith("l") else json.dumps(rows).encode()}]


def parquet() -> list[Files]:
    """Pictures as bytes, structs and names; small pages and row groups."""
    rows = table_rows()
    data = [encoded(picture(i, (6, 5)), "PNG") for i in range(4)]
    names = json.dumps({"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}})
    tables = [
        pa.table({"image": data, "captions": [[row["caption"], "second"] for row in rows], "label": [0, 1, 0, 1]}),
        pa.table({"image": [{"bytes": b, "path": "x"} for b in data], "caption": [row["caption"] for row in rows]}),
        pa.Table.from_pylist(rows),
    ]
    tables[0] = tables[0].replace_schema_metadata({"huggingface": names})
    found = []
    for table in tables:
        for options in ({"compression": "snappy"}, {"compression": "none", "use_dictionary": False}):
            stream = io.BytesIO()
            pq.write_table(table, stream, row_group_size=2, **options)
            found.append({**named_pictures(), "data.parquet": stream.getvalue()})
    return found


def tars() -> list[Files]:
    """The three formats of headers, with names that are long, absolute or lead upwards, and links."""
    found = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w", format=form) as tar:
            for i, prefix in enumerate(("", "/abs/", "../../up/", "n" * 60 + "/" + "m" * 60 + "/")):
                fields = json.dumps({"caption": CAPTIONS[i], "key": f"{i}"}).encode()
                members = [("json", fields), ("txt", CAPTIONS[i].encode()), ("cls", b"1")]
                for extension, data in [*members, ("png", encoded(picture(i, (6, 5)), "PNG"))]:
                    info = tarfile.TarInfo(f"{prefix}{i:03}.{extension}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
            for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                info = tarfile.TarInfo(f"link{kind.decode()}.png")
                info.type, info.linkname = kind, "/etc/passwd"
                tar.addfile(info)
        found.append({"data.tar": stream.getvalue()})
    return found


def folders() -> list[Files]:
    """Pictures with texts beside them, and with a table."""
    texts = {f"{i}.txt": "\n".join(CAPTIONS[i : i + 2]).encode() for i in range(3)}
    return [{**named_pictures(), **texts}, json_lines("metadata.jsonl")[0]]


def configs(root: Path) -> list[Files]:
    """All shipped configs and suites, and one with anchors."""
    found = [{path.name: path.read_bytes()} for path in sorted(root.glob("configs/*.yaml"))]
    found += [{"suite.yaml": path.read_bytes()} for path in sorted(root.glob("eval/suites/*.yaml"))]
    tasks = [{"name": "one", "task": "retrieval", "data": "x.csv"}, {"name": "two", "task": "zero_shot", "data": "y"}]
    found.append({"suite.yaml": yaml.safe_dump({"tasks": tasks}).encode()})
    found.append({"anchors.yaml": b"data: &d {train: {path: x}}\nmodel: &m {embed_dim: 8}\nother: [*d, *m]\n"})
    return found


def lines() -> list[Files]:
    """The files of a run that grow by lines."""
    metrics = "".join(json.dumps({"global_step": step, "loss": 1.5}) + "\n" for step in range(1, 6))
    bad = "".join(json.dumps({"source": "x.csv", "row": row, "reason": "empty"}) + "\n" for row in range(3))
    return [{"lines.jsonl": metrics.encode()}, {"lines.jsonl": bad.encode()}]


def folder_files(folder: Path) -> Files:
    """What lies in a folder and below."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }
