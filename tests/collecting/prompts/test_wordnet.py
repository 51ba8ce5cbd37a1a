import zipfile
from pathlib import Path

import pytest

from unprompt.collecting.compose import compose
from unprompt.collecting.prompts import wordnet
from unprompt.collecting.prompts.wordnet import nouns, wordnet_grammar
from unprompt.errors import UnpromptError

# Lines of WordNet 3.0 in its own format, wndb(5WN), shortened after the pointers. WordNet 3.0
# Copyright 2006 by Princeton University, used under the WordNet licence.
DATA = """\
  1 This software and database is being provided to you, the LICENSEE, by
02083346 05 n 02 canine 0 canid 0 001 @ 02075296 n 0000 | any of various fissiped mammals
02084071 05 n 03 dog 0 domestic_dog 0 Canis_familiaris 0 001 @ 02083346 n 0000 | a member of
02710044 06 n 01 andiron 0 001 @ 04495843 n 0000 | metal supports for logs in a fireplace
03901548 06 n 01 pawl 0 001 @ 02852523 n 0000 | a hinged catch that fits into a notch
07676602 13 n 03 frank 0 hotdog 0 dog 0 001 @ 07675627 n 0000 | a smooth-textured sausage
07739125 13 n 01 apple 0 001 @ 07705931 n 0000 | fruit with red or yellow or green skin
10114209 18 n 02 frump 0 dog 0 001 @ 10787470 n 0000 | a dull unattractive unpleasant girl
12633638 20 n 02 apple 0 orchard_apple_tree 0 001 @ 12651611 n 0000 | native Eurasian tree
"""
INDEX = """\
  1 This software and database is being provided to you, the LICENSEE, by
andiron n 1 1 @ 1 0 02710044
apple n 2 1 @ 2 1 07739125 12633638
canid n 1 1 @ 1 0 02083346
canine n 1 1 @ 1 0 02083346
canis_familiaris n 1 1 @ 1 0 02084071
dog n 3 1 @ 3 1 02084071 10114209 07676602
domestic_dog n 1 1 @ 1 0 02084071
frank n 1 1 @ 1 0 07676602
frump n 1 1 @ 1 0 10114209
hotdog n 1 1 @ 1 0 07676602
orchard_apple_tree n 1 1 @ 1 0 12633638
pawl n 1 1 @ 1 0 03901548
"""


@pytest.fixture(params=["folder", "zip"])
def installed(request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """WordNet as NLTK's downloader lays it out, unpacked or not."""
    corpora = tmp_path / "nltk_data" / "corpora"
    if request.param == "folder":
        (corpora / "wordnet").mkdir(parents=True)
        (corpora / "wordnet" / "data.noun").write_text(DATA)
        (corpora / "wordnet" / "index.noun").write_text(INDEX)
    else:
        corpora.mkdir(parents=True)
        with zipfile.ZipFile(corpora / "wordnet.zip", "w") as archive:
            archive.writestr("wordnet/data.noun", DATA)
            archive.writestr("wordnet/index.noun", INDEX)
    monkeypatch.setenv("NLTK_DATA", str(tmp_path / "nltk_data"))
    wordnet_grammar.cache_clear()
    yield
    wordnet_grammar.cache_clear()


def test_nouns_stand_where_their_commonest_sense_belongs(installed) -> None:
    assert nouns() == {
        "animal": ["canid", "canine", "dog", "domestic dog"],
        "food": ["~apple", "~frank", "~hotdog"],
        "object": ["andiron", "pawl"],
        "plant": ["orchard apple tree"],
    }


def test_prompts_hold_them_beside_our_own(installed) -> None:
    prompts = list(compose(3000, style="caption", wordnet=True))
    assert len(set(prompts)) == 3000
    assert prompts[:50] == list(compose(50, style="caption", wordnet=True))
    assert prompts[:50] != list(compose(50, style="caption"))
    assert sum("pawl" in prompt or "andiron" in prompt for prompt in prompts) > 100
    assert sum("armchair" in prompt or "sofa" in prompt for prompt in prompts) > 2
    assert not any(set(prompt) & set("{}[]~*_") for prompt in prompts)
    assert not any("an pawl" in prompt or "a andiron" in prompt for prompt in prompts)
    assert not any("a hotdog" in prompt for prompt in prompts)


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wordnet, "_places", lambda: [tmp_path])
    wordnet_grammar.cache_clear()
    with pytest.raises(UnpromptError, match="python -m nltk"):
        compose(1, wordnet=True)
    with pytest.raises(UnpromptError, match="leave out WordNet"):
        compose(1, style="sketch", wordnet=True)
