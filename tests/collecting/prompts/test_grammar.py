import random

import pytest

from unprompt.collecting.prompts.grammar import Grammar, fix_articles, load_grammar, parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a apple and a pear", "an apple and a pear"),
        ("a unicorn, a ukulele and a university", "a unicorn, a ukulele and a university"),
        ("a uniformly lit a umbrella", "a uniformly lit an umbrella"),
        ("a one-eyed a octopus", "a one-eyed an octopus"),
        ("a hourglass on a house", "an hourglass on a house"),
        ("a photo of a red ~sushi", "a photo of red sushi"),
        ("a bowl, a ~rice and ~peas", "a bowl, rice and peas"),
        ("~oil on canvas of a cat", "oil on canvas of a cat"),
    ],
)
def test_articles_are_put_right(text: str, expected: str) -> None:
    assert fix_articles(text) == expected


def test_weights_decide_how_often_a_form_is_drawn() -> None:
    grammar = Grammar({"start": ["3* often", "rarely"]})
    rng = random.Random(0)
    drawn = [grammar.sample("start", rng) for _ in range(4000)]
    assert 0.72 < drawn.count("often") / 4000 < 0.78


def test_optional_parts_come_half_the_time() -> None:
    grammar = Grammar({"start": ["a {noun}[ in {place}]"], "noun": ["cat"], "place": ["town"]})
    rng = random.Random(0)
    drawn = [grammar.sample("start", rng) for _ in range(2000)]
    assert set(drawn) == {"a cat", "a cat in town"}
    assert 0.45 < drawn.count("a cat") / 2000 < 0.55


def test_derivations_are_counted() -> None:
    grammar = Grammar({"start": ["{x} {x}[ {y}]", "z"], "x": ["1", "2", "3"], "y": ["4"]})
    assert grammar.count("start") == 3 * 3 * 2 + 1
    rng = random.Random(0)
    assert len({grammar.sample("start", rng) for _ in range(2000)}) == 19


def test_a_symbol_without_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="'start' refers to 'nothing'"):
        Grammar({"start": ["{nothing}"]})


@pytest.mark.parametrize("text", ["    form\n", "a:\n    x\na:\n    y\n", "no colon\n"])
def test_a_broken_file_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="line"):
        parse(text)


def test_comments_and_blank_lines_are_passed_over() -> None:
    assert parse("# why\n\na:\n    2* x\n\n    y\n") == {"a": ["2* x", "y"]}


def test_the_word_lists_are_clean() -> None:
    rules = load_grammar().rules
    assert len(rules) > 40
    for symbol, rule in rules.items():
        assert len(set(rule.forms)) == len(rule.forms), f"{symbol} holds a form twice"
        for form in rule.forms:
            for part in form.parts:
                assert not isinstance(part, str) or part == " ".join(part.split(" "))
                assert not isinstance(part, str) or "\t" not in part
