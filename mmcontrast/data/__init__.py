"""Pairs: from files of any format to batches."""

from mmcontrast.data.collate import collate
from mmcontrast.data.columns import Columns
from mmcontrast.data.dataset import PairDataset, PairItem
from mmcontrast.data.kept_pictures import KeptPictures
from mmcontrast.data.keys import caption_key, normalise_caption, text_key
from mmcontrast.data.loader import ImageBatch, image_loader, train_loader
from mmcontrast.data.rows import PairSource, Row
from mmcontrast.data.sampler import Draw, GlobalBatchSampler, epoch_order
from mmcontrast.data.sources import open_source
from mmcontrast.data.stream import PairStream, mix_streams
from mmcontrast.data.stream_dataset import StreamDataset
from mmcontrast.data.stream_loader import StreamLoader
from mmcontrast.data.streams import open_stream
from mmcontrast.data.transforms import train_transform

__all__ = [
    "Columns",
    "Draw",
    "GlobalBatchSampler",
    "ImageBatch",
    "KeptPictures",
    "PairDataset",
    "PairItem",
    "PairSource",
    "PairStream",
    "Row",
    "StreamDataset",
    "StreamLoader",
    "caption_key",
    "collate",
    "epoch_order",
    "image_loader",
    "mix_streams",
    "normalise_caption",
    "open_source",
    "open_stream",
    "text_key",
    "train_loader",
    "train_transform",
]
