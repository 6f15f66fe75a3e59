"""Search a collection of pictures by words or by a picture, over an index that is kept and brought up to date."""

from .collection import Collection, open_collection
from .query import Query, read_queries, read_query
from .searcher import Hit, Searcher, different_captions
from .store import Store
from .update import update_captions, update_pictures

__all__ = [
    "Collection",
    "Hit",
    "Query",
    "Searcher",
    "Store",
    "different_captions",
    "open_collection",
    "read_queries",
    "read_query",
    "update_captions",
    "update_pictures",
]
