"""The scanner and the strict parser read the same answer as the same numbers, and neither takes what is not valid."""

from __future__ import annotations

import json
import random
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalyd.block import Block
from anomalyd.prometheus.decode import (
    PAD,
    SMALL,
    Decoded,
    Histograms,
    Malformed,
    TooLarge,
    decode_grid,
    decode_vector,
    padded,
    strict_grid,
    strict_raw,
    strict_vector,
)
from anomalyd.prometheus.labelcache import LabelCache
from fakes.prometheus import go_float

T0, STEP, POINTS = 1_700_000_000_000, 15_000, 8
TIMES = T0 + STEP * np.arange(POINTS, dtype=np.int64)
FILL = "x" * SMALL


def answer(kind: str, result: str, *, fill: bool = True) -> bytearray:
    """A success; ``fill`` makes it large enough for the scanner by an info."""
    infos = f',"infos":["{FILL}"]' if fill else ""
    return padded(f'{{"status":"success","data":{{"resultType":"{kind}","result":[{result}]}}{infos}}}'.encode())


def size(body: bytearray) -> int:
    return len(body) - PAD


def grid(body: bytearray, cache: LabelCache | None = None) -> Decoded:
    return decode_grid(body, size(body), TIMES, STEP, cache or LabelCache(), "x")


def vector(body: bytearray, cache: LabelCache | None = None) -> Decoded:
    return decode_vector(body, size(body), T0, cache or LabelCache(), "x")


def numbers(texts: list[str]) -> Decoded:
    """Decode the texts as the values of a vector."""
    elements = [f'{{"metric":{{"i":"{i}"}},"value":[1700000000,"{text}"]}}' for i, text in enumerate(texts)]
    return vector(answer("vector", ",".join(elements)))


def bits(value: Any) -> list[int]:
    return np.asarray(value, np.float64).reshape(-1).view(np.int64).tolist()


def same(one: Decoded, other: Decoded) -> bool:
    return (
        bits(one.values) == bits(other.values)
        and one.values.shape == other.values.shape
        and one.sequence.labels == other.sequence.labels
        and one.envelope == other.envelope
        and (one.nonfinite, one.disordered) == (other.nonfinite, other.disordered)
    )


class TestNumbers:
    """Values are what ``float()`` makes of their text, to the last bit."""

    @given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=200))
    @settings(max_examples=60, deadline=None)
    def test_shortest_form(self, values: list[float]) -> None:
        """Any float in Go's shortest form comes back as itself."""
        assert bits(numbers([go_float(value) for value in values]).values) == bits(values)

    def test_random_bits(self) -> None:
        """Forty thousand random bit patterns survive in shortest form and in 17 digits."""
        chance = random.Random(7)
        values = [struct.unpack("<d", chance.randbytes(8))[0] for _ in range(20_000)]
        values = [value for value in values if np.isfinite(value)]
        texts = [repr(value) for value in values] + [f"{value:.17g}" for value in values]
        assert bits(numbers(texts).values) == bits(values + values)

    def test_everyday_numbers(self) -> None:
        """Rates, ratios and byte counts with up to 17 digits are exact and take the fast way."""
        chance = random.Random(3)
        values = [chance.random() * 10 ** chance.randint(-6, 15) for _ in range(10_000)]
        assert bits(numbers([go_float(value) for value in values]).values) == bits(values)

    @given(st.from_regex(r"\A[+-]?[0-9]{1,25}(\.[0-9]{0,25})?([eE][+-]?[0-9]{1,4})?\Z"))
    @settings(max_examples=150, deadline=None)
    def test_any_grammatical_number(self, text: str) -> None:
        """Any number the grammar allows is read as ``float()`` reads it; one too large is no number."""
        expected = float(text)
        found = numbers([text])
        if np.isinf(expected):
            assert np.isnan(found.values[0, 0])
            assert found.nonfinite == 1
        else:
            assert bits(found.values) == bits([expected])

    @pytest.mark.parametrize(
        "text",
        ["9007199254740993", "9007199254740992.5", "1e23", "8.5e22", "1e-22", "5e-324", "2.2250738585072011e-308",
         "1.7976931348623157e308", "0.1", "-0", "-0.0", "0e999", "123456789012345678", "00012.50",
         "0.000000000000000000000000000001234567890123456789"],
    )  # fmt: skip
    def test_edges(self, text: str) -> None:
        """Halves, the largest and smallest floats, zeros and leading zeros."""
        assert bits(numbers([text]).values) == bits([float(text)])

    def test_not_finite(self) -> None:
        """NaN and infinities are counted and become NaN."""
        found = numbers(["NaN", "+Inf", "-Inf", "Inf", "1e400", "1"])
        assert found.nonfinite == 5
        assert np.isnan(found.values[:5]).all()
        assert found.values[5, 0] == 1

    @pytest.mark.parametrize(
        "text", ["", " 1", "1 ", "1_0", "0x10", "nan", "inf", "Infinity", "1e", ".5", "1.2.3", "--1"]
    )
    def test_not_numbers(self, text: str) -> None:
        """What ``float()`` may take but the protocol does not is refused, by both ways."""
        with pytest.raises(Malformed):
            numbers([text])

    def test_many_slow_numbers(self) -> None:
        """More numbers than expected that need the exact way are still all exact."""
        texts = [f"0.{i:05d}12345678901234567890123" for i in range(10_000)]
        assert bits(numbers(texts).values) == bits([float(text) for text in texts])


labels = st.dictionaries(st.text(min_size=1, max_size=8), st.text(max_size=12), max_size=4).map(
    lambda d: {k: v for k, v in d.items() if _encodable(k + v)}
)
samples = st.lists(
    st.tuples(st.integers(0, POINTS - 1), st.floats() | st.sampled_from([0.1, 1 / 3, 1e300, 5e-324])), max_size=POINTS
)


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def element(metric: dict[str, str], values: list[tuple[int, float]]) -> dict[str, Any]:
    """A matrix element whose samples lie on the grid, in whatever order."""
    return {"metric": metric, "values": [[(T0 + STEP * i) / 1000, go_float(value)] for i, value in values]}


class TestSameReading:
    """The two ways agree on every answer."""

    @given(st.lists(st.builds(element, labels, samples.filter(len)), max_size=6), st.booleans())
    @settings(max_examples=80, deadline=None)
    def test_any_matrix(self, elements: list[dict[str, Any]], ascii_only: bool) -> None:
        """Labels of any text, gaps, repeated and unsorted times, special values, escapes or UTF-8."""
        text = json.dumps(elements, separators=(",", ":"), ensure_ascii=ascii_only)[1:-1]
        body = answer("matrix", text)
        assert same(grid(body), strict_grid(body, size(body), TIMES, STEP))

    @given(st.integers(0, 10_000_000), st.integers(0, 255))
    @settings(max_examples=250, deadline=None)
    def test_a_spoiled_byte(self, place: int, byte: int) -> None:
        """With any byte changed, both read the same or both refuse; nothing crashes."""
        elements = [element({"a": 'q"\\', "b": "é"}, [(i, i / 3) for i in range(POINTS)]) for _ in range(2)]
        body = answer("matrix", json.dumps(elements, separators=(",", ":"))[1:-1])
        inside = size(body) - SMALL - 20
        body[place % inside] = byte
        outcomes = []
        for read in (lambda: grid(body), lambda: strict_grid(body, size(body), TIMES, STEP)):
            try:
                outcomes.append(read())
            except (Malformed, Histograms) as error:
                outcomes.append(type(error))
        if isinstance(outcomes[0], Decoded):
            assert isinstance(outcomes[1], Decoded)
            assert same(*outcomes)
        else:
            assert outcomes[0] == outcomes[1]

    def test_a_body_cut_anywhere(self) -> None:
        """No prefix of an answer is taken for an answer."""
        result = json.dumps([element({"a": "b"}, [(i, i / 3) for i in range(POINTS)])] * 3, separators=(",", ":"))
        infos = f'"infos":["{FILL}"],'
        whole = f'{{"status":"success",{infos}"data":{{"resultType":"matrix","result":{result}}}}}'.encode()
        for end in range(len(whole) - len(result) - 30, len(whole)):
            with pytest.raises(Malformed):
                grid(padded(whole[:end]))

    def test_spaces_and_another_order(self) -> None:
        """JSON that is laid out otherwise is read all the same."""
        result = json.dumps([{"values": [[T0 / 1000, "1.5"]], "metric": {"a": "b"}}], indent=1)[1:-1]
        found = grid(answer("matrix", result))
        assert found.values[0, 0] == 1.5
        assert found.sequence.labels == ((("a", "b"),),)

    def test_result_named_elsewhere(self) -> None:
        """A key ``result`` outside the data does not mislead the scanner."""
        decoy = '{"metric":{"decoy":"1"},"value":[1700000000,"666"]}'
        real = '{"metric":{"real":"1"},"value":[1700000000,"1"]}'
        head = f'{{"stats":{{"result":[{decoy}]}},"status":"success","infos":["{FILL}"],'
        found = vector(padded(f'{head}"data":{{"resultType":"vector","result":[{real}]}}}}'.encode()))
        assert found.values.tolist() == [[1.0]]


class TestSeries:
    """Labels, and knowing them again."""

    def test_same_series_same_object(self) -> None:
        """The labels of an unchanged answer are the very same object, whatever the values."""
        cache = LabelCache()
        element = '{"metric":{"i":"%d"},"value":[1700000000,"%d"]}'
        first = vector(answer("vector", ",".join(element % (i, i) for i in range(50))), cache)
        second = vector(answer("vector", ",".join(element % (i, 7 * i) for i in range(50))), cache)
        assert second.sequence.labels is first.sequence.labels
        assert second.values[:, 0].tolist() == [7.0 * i for i in range(50)]

    @pytest.mark.parametrize("change", ["one more", "one less", "other order", "other label"])
    def test_changed_series(self, change: str) -> None:
        """A changed answer has its own labels, and each is right."""
        cache = LabelCache()
        ids = [f"{i:02d}" for i in range(50)]
        element = '{"metric":{"i":"%s"},"value":[1700000000,"1"]}'
        vector(answer("vector", ",".join(element % i for i in ids)), cache)
        changed = {
            "one more": [*ids, "50"],
            "one less": ids[:-1],
            "other order": ids[::-1],
            "other label": [*ids[:30], "xx", *ids[31:]],
        }[change]
        found = vector(answer("vector", ",".join(element % i for i in changed)), cache)
        assert found.sequence.labels == tuple((("i", i),) for i in changed)

    def test_memory_is_bounded(self) -> None:
        """The cache forgets what was not asked for, and still answers right."""
        cache = LabelCache(pieces=10, sequence_bytes=2000)
        for round_ in range(30):
            element = '{"metric":{"round":"%d","i":"%d"},"value":[1700000000,"1"]}'
            body = answer("vector", ",".join(element % (round_, i) for i in range(20)))
            found = decode_vector(body, size(body), T0, cache, f"query {round_}")
            assert found.sequence.labels[19] == (("i", "19"), ("round", str(round_)))
        assert len(cache._young) + len(cache._old) <= 10
        assert cache._held <= 2000

    def test_twice_the_same(self) -> None:
        """Series with equal labels are named, however they are written; an empty label counts as absent."""
        body = answer(
            "vector",
            '{"metric":{"a":"1"},"value":[1700000000,"1"]},{"metric":{"a":"1","b":""},"value":[1700000000,"2"]},'
            '{"metric":{"a":"2"},"value":[1700000000,"3"]}',
        )
        for found in (vector(body), strict_vector(body, size(body), T0)):
            assert found.sequence.keep is not None
            assert found.sequence.keep.tolist() == [2]
            assert found.sequence.ambiguous == ((("a", "1"),),)

    def test_no_labels(self) -> None:
        """A series without labels is a series."""
        found = vector(answer("vector", '{"metric":{},"value":[1700000000,"1"]}'))
        assert found.sequence.labels == ((),)

    def test_block_fits(self) -> None:
        """What is decoded makes a block."""
        found = grid(answer("matrix", '{"metric":{"a":"b"},"values":[[1700000015,"2"]]}'))
        block = Block(found.sequence.labels, TIMES, found.values)
        assert np.flatnonzero(np.isfinite(block.values[0])).tolist() == [1]


ELEMENTS = {
    "bare NaN": '{"metric":{},"value":[NaN,"1"]}',
    "key twice": '{"metric":{},"metric":{},"value":[1,"1"]}',
    "label twice": '{"metric":{"a":"1","a":"2"},"value":[1,"1"]}',
    "label not a string": '{"metric":{"a":1},"value":[1,"1"]}',
    "half a character": '{"metric":{"a":"\\ud800"},"value":[1,"1"]}',
    "value not a string": '{"metric":{},"value":[1,1]}',
    "time a string": '{"metric":{},"value":["1","1"]}',
    "time true": '{"metric":{},"value":[true,"1"]}',
    "time without end": '{"metric":{},"value":[1e999,"1"]}',
    "sample of three": '{"metric":{},"value":[1,"1",2]}',
    "no value": '{"metric":{}}',
    "no metric": '{"value":[1,"1"]}',
    "not an object": "1",
    "later than asked": '{"metric":{},"value":[1700000600,"1"]}',
}
REFUSED = {
    "not json": "{",
    "key twice": '{"status":"success","status":"success","data":{"resultType":"vector","result":[]}}',
    "nested": '{"status":"success","data":' + "[" * 100_000,
    "result an object": '{"status":"success","data":{"resultType":"vector","result":{}}}',
    "result null": '{"status":"success","data":{"resultType":"vector","result":null}}',
    "data missing": '{"status":"success"}',
    "status missing": '{"data":{"resultType":"vector","result":[]}}',
    "status other": '{"status":"fine","data":{"resultType":"vector","result":[]}}',
    "warnings a string": '{"status":"success","data":{"resultType":"vector","result":[]},"warnings":"oh"}',
    "an array": "[]",
} | {
    f"element with {what}": f'{{"status":"success","data":{{"resultType":"vector","result":[{text}]}}}}'
    for what, text in ELEMENTS.items()
}


@pytest.mark.parametrize("fill", [False, True], ids=["small", "large"])
@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, fill: bool) -> None:
    """What the protocol does not allow is refused with an error of its own, small or large."""
    text = REFUSED[name]
    if fill and text.startswith("{") and len(text) > 1:
        text = f'{{"infos":["{FILL}"],{text[1:]}'
    with pytest.raises(Malformed):
        vector(padded(text.encode()))


def test_not_utf8() -> None:
    """Bytes that are no UTF-8 are refused in labels and around them."""
    for text in (b'{"metric":{"a":"\xff"},"value":[1,"1"]}', b'{"metric":{},"value":[1,"1"]}],"x":["\xff"'):
        with pytest.raises(Malformed):
            vector(padded(b'{"status":"success","data":{"resultType":"vector","result":[' + text + b"]}}"))


def test_beside_the_grid() -> None:
    """A sample beside the grid that was asked for is refused: it could not be placed."""
    for at in ("1700000001", "1699999985", "1700000120", "1700000000.001"):
        for fill in (True, False):
            with pytest.raises(Malformed, match="grid"):
                grid(answer("matrix", f'{{"metric":{{}},"values":[[{at},"1"]]}}', fill=fill))


@pytest.mark.parametrize("fill", [False, True], ids=["small", "large"])
@pytest.mark.parametrize("kind", ["values and histograms", "histograms", "histogram"])
def test_native_histograms(kind: str, fill: bool) -> None:
    """Native histograms are recognised wherever they stand."""
    histogram = '{"count":"12","sum":"3.5","buckets":[[0,"0.25","0.5","7"]]}'
    result = {
        "values and histograms": '{"metric":{},"values":[[1700000000,"1"]],"histograms":[[1700000000,%s]]}',
        "histograms": '{"metric":{},"histograms":[[1700000000,%s]]}',
        "histogram": '{"metric":{},"histogram":[1700000000,%s]}',
    }[kind] % histogram
    read, form = (vector, "vector") if kind == "histogram" else (grid, "matrix")
    body = answer(form, result, fill=fill)
    with pytest.raises(Histograms):
        read(body)


def test_disorder() -> None:
    """Of two samples at one time the last one counts, and disorder is counted."""
    values = '[1700000015,"1"],[1700000000,"2"],[1700000015,"3"],[1700000030,"4"]'
    body = answer("matrix", f'{{"metric":{{}},"values":[{values}]}}')
    for found in (grid(body), strict_grid(body, size(body), TIMES, STEP)):
        assert found.values[0, :3].tolist() == [2, 3, 4]
        assert found.disordered == 1


def test_raw_samples() -> None:
    """Raw samples are sorted, the last one of a time wins, stale markers and the left edge go."""
    body = answer(
        "matrix",
        '{"metric":{"a":"1"},"values":[[0.5,"7"],[3,"3"],[1.005,"1"],[3,"4"],[2,"NaN"]]},{"metric":{"a":"2"},"values":[[7,"9"]]}',
    )
    found = strict_raw(body, size(body), 500)
    assert found.offsets.tolist() == [0, 2, 3]
    assert found.times.tolist() == [1005, 3000, 7000]
    assert found.values.tolist() == [1, 4, 9]
    assert (found.nonfinite, found.disordered) == (1, 2)


def test_scalar() -> None:
    """A scalar is a series without labels."""
    body = padded(b'{"status":"success","data":{"resultType":"scalar","result":[1700000000,"42"]}}')
    found = vector(body)
    assert (found.sequence.labels, found.values.tolist()) == (((),), [[42.0]])


def test_strict_parser_is_bounded() -> None:
    """An answer in an unusual form is not parsed in memory without limit."""
    body = padded(b" " * (64 * 1024 * 1024 + 1))
    with pytest.raises(TooLarge):
        vector(body)
