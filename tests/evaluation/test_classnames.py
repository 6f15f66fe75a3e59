from __future__ import annotations

import pytest

from mmcontrast.errors import DataError
from mmcontrast.evaluation.classnames import prompt_classnames, spelled_classnames

VOCABULARY = """
golf course storage tank tanks tennis court mobile home park baseball diamond dense residential dog port of call
airplane sand an the top shirt building car pet carpet red bull dogs in door step doorstep
spar se cha par ral sea lion
"""
WORDS = set(VOCABULARY.split())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("golf_course", "golf course"),
        ("golf course", "golf course"),
        ("storageTanks", "storage tanks"),
        ("StorageTanks", "storage tanks"),
        ("tenniscourt", "tennis court"),
        ("mobilehomepark", "mobile home park"),
        ("baseballdiamonds", "baseball diamonds"),  # the plural of a known word
        ("Denseresidential", "dense residential"),
        ("portofcall", "port of call"),  # a preposition between others
        ("carpet", "carpet"),  # known, so not "car pet"
        ("doorsteps", "doorsteps"),  # so is its singular
        ("sandal", "sandal"),  # "al" is no word
        ("indoor", "indoor"),  # "in" at an end does not count
        ("agricultural", "agricultural"),
        ("sparseresidential", "sparseresidential"),  # "se" is no preposition
        ("chaparral", "chaparral"),  # parts this short are chance
        ("dogparkgolfcourse", "dogparkgolfcourse"),  # so are this many
        ("sealion", "sea lion"),
        ("golfcoursexyz", "golfcoursexyz"),  # all or nothing
        ("T-shirt/top", "T-shirt/top"),
        ("n02084071", "n02084071"),
        ("USAToday", "USA today"),
        ("海滩", "海滩"),
        ("Straße", "Straße"),
        ("İzmir", "İzmir"),  # longer in lower case
        ("_", "_"),
        ("", ""),
    ],
)
def test_spelling(name: str, expected: str) -> None:
    assert spelled_classnames([name], WORDS) == [expected]


def test_fewest_words_win() -> None:
    assert spelled_classnames(["redbulldogs"], WORDS | {"bulldogs"}) == ["red bulldogs"]


def test_of_equally_many_words_the_most_even_win() -> None:
    assert spelled_classnames(["abcdefgh"], {"abc", "defgh", "abcd", "efgh"}) == ["abcd efgh"]


def test_without_vocabulary_only_the_visible_seams_are_split() -> None:
    assert spelled_classnames(["golf_course", "parkingLot", "tenniscourt"], set()) == [
        "golf course",
        "parking lot",
        "tenniscourt",
    ]


def test_given_names_go_first() -> None:
    names = ["tenniscourt", "golf_course"]
    assert prompt_classnames(names, None, WORDS) == ["tennis court", "golf course"]
    assert prompt_classnames(names, {"golf_course": "golf links"}, WORDS) == ["tennis court", "golf links"]
    assert prompt_classnames(names, ["court_a", "links"], WORDS) == ["court_a", "links"]


def test_wrong_given_names_are_errors() -> None:
    with pytest.raises(DataError, match="the data set has no class 'golfcourse', but golf_course"):
        prompt_classnames(["tenniscourt", "golf_course"], {"golfcourse": "golf links"}, WORDS)
    with pytest.raises(DataError, match="lists 1 names, the data set has 2 classes"):
        prompt_classnames(["a", "b"], ["a"], WORDS)
