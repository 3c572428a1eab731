"""Where a text is cut does not depend on how it arrives."""

from hypothesis import given, settings
from hypothesis import strategies as st

from inferplane.tokenization.stop_strings import StopFinder


def cut(text, stops, sizes=(1,), include=False):
    finder = StopFinder(stops, include)
    out, place, turn = "", 0, 0
    while place < len(text) and finder.found is None:
        size = sizes[turn % len(sizes)]
        out += finder.feed(text[place : place + size])
        place, turn = place + size, turn + 1
    if finder.found is None:
        out += finder.flush()
    return out, finder.found


def by_definition(text, stops):
    """First end wins; of equal ends the longer string."""
    ends = [(e, -len(s), s) for s in stops for e in range(len(text) + 1) if text[:e].endswith(s)]
    if not ends:
        return text, None
    end, _, stop = min(ends)
    return text[: end - len(stop)], stop


@settings(max_examples=500, deadline=None)
@given(
    text=st.text("ab\n é", max_size=40),
    stops=st.lists(st.text("ab\n é", min_size=1, max_size=5), min_size=1, max_size=4),
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=5),
)
def test_the_cut_is_the_defined_one_under_any_split(text, stops, sizes):
    assert cut(text, stops, sizes) == by_definition(text, stops)


def test_only_a_possible_beginning_is_held_back():
    finder = StopFinder(["END"])
    assert finder.feed("the E") == "the "
    assert finder.feed("N") == ""
    assert finder.feed("T") == "ENT"
    assert finder.feed(" x") == " x"


def test_held_text_comes_out_at_the_end():
    finder = StopFinder(["STOP"])
    assert finder.feed("now ST") == "now "
    assert finder.flush() == "ST"


def test_the_stop_string_stays_when_it_is_wanted():
    assert cut("one END two", ["END"], include=True) == ("one END", "END")


def test_of_two_that_end_together_the_longer_is_reported():
    assert cut("xabc", ["bc", "abc"], (4,)) == ("x", "abc")


def test_nothing_follows_a_found_stop_string():
    finder = StopFinder(["."])
    assert finder.feed("a.b") == "a"
    assert finder.feed("c") == ""
    assert finder.found == "."
