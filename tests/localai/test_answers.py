"""Events and bodies to outcomes."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from inference_mcp.backend import Usage
from inference_mcp.errors import (
    BackendBusyError,
    BackendError,
    BackendFailedError,
    BackendUnreachableError,
    BadResultError,
    InvalidInputError,
)
from inference_mcp.localai.answers import TextCollector, Thoughts, read_picture
from inference_mcp.localai.rules import Asked
from tests.localai.scripted import PNG, said

ASKED = Asked("m")


def collected(*events: Any) -> TextCollector:
    """A collector that took these events."""
    collector = TextCollector(ASKED)
    for event in events:
        collector.take(event if isinstance(event, str) else json.dumps(event))
    return collector


def test_pieces_become_the_text_with_reason_and_usage() -> None:
    """The plain case; events without choices and null content bring nothing."""
    usage = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
    outcome = collected(
        said(None, role="assistant"),
        said("w0 "),
        {"type": "mcp_tool_result", "name": "x"},
        {"choices": None},
        said("w1"),
        said(None, "length"),
        {"choices": [], "usage": usage},
        "[DONE]",
    ).outcome(simulated=True)
    assert (outcome.text, outcome.finish_reason, outcome.simulated) == ("w0 w1", "length", True)
    assert outcome.usage == Usage(7, 5, 12)


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_reasoning_is_never_part_of_the_text(name: str) -> None:
    """Whichever of its two names it has; tags inside the content stay."""
    outcome = collected(said(None, **{name: "hmm"}), said("<think>a</think>b", "stop"))
    assert outcome.outcome(simulated=False).text == "<think>a</think>b"


def test_an_error_event_discards_the_content_before_it() -> None:
    """llama.cpp sends its error as content first (trap 5)."""
    text = "rpc error: code = Internal desc = request (9 tokens) exceeds the available context"
    with pytest.raises(InvalidInputError):
        collected(said("request exceeds"), {"error": {"message": text, "type": "server_error"}})


@pytest.mark.parametrize("error", ["load is in cooldown", {"message": "load is in cooldown"}])
def test_an_error_event_is_seen_in_any_form(error: object) -> None:
    """A 200 and its headers say nothing (trap 3)."""
    with pytest.raises(BackendBusyError):
        collected({"error": error})


def test_a_stream_that_just_ends_is_no_answer() -> None:
    """Not even with text in it: it broke off, and may be whole next time."""
    with pytest.raises(BackendUnreachableError, match="broke off") as failure:
        collected(said("half an ans")).outcome(simulated=False)
    assert failure.value.transient


@pytest.mark.parametrize("end", ["[DONE]", said(None, "stop")])
def test_either_end_mark_makes_the_answer_whole(end: Any) -> None:
    """A finish reason, or [DONE]."""
    assert collected(said("ok"), end).outcome(simulated=False).text == "ok"


@pytest.mark.parametrize("text", ["", None, "  \n"])
def test_an_empty_answer_is_a_bad_result_with_a_hint(text: str | None) -> None:
    """LocalAI has already tried it several times (trap 16)."""
    with pytest.raises(BadResultError) as failure:
        collected(said(text, "stop"), "[DONE]").outcome(simulated=False)
    assert "max_tokens" in failure.value.next_step
    assert not failure.value.transient


def test_an_answer_of_reasoning_alone_says_so() -> None:
    """The usual cause is max_tokens (trap 16)."""
    with pytest.raises(BadResultError, match="before it wrote") as failure:
        collected(said(None, reasoning="hmm"), said(None, "length")).outcome(simulated=False)
    assert "Raise max_tokens" in failure.value.next_step


@pytest.mark.parametrize("event", ["{", "[]", "null", '"x"', '{"choices": 1}', "[" * 9999])
def test_an_event_that_cannot_be_read_fails_the_answer(event: str) -> None:
    """Leaving it out could drop a part of the text; nothing of it is quoted (trap 22)."""
    with pytest.raises(BadResultError) as failure:
        collected(event)
    assert failure.value.__cause__ is None


@pytest.mark.parametrize("usage", [1, [], {}, {"prompt_tokens": "7"}, {"prompt_tokens": True}])
def test_a_usage_that_makes_no_sense_is_left_out(usage: object) -> None:
    """It is no reason to lose an answer."""
    outcome = collected(said("ok", "stop"), {"usage": usage}).outcome(simulated=False)
    assert outcome.usage is None


@pytest.mark.parametrize("reason", [7, "x" * 99, "a\nb", {}])
def test_a_finish_reason_is_one_short_word_or_none(reason: Any) -> None:
    """It is shown to people, so it is not taken on trust."""
    outcome = collected(said("ok", reason), "[DONE]").outcome(simulated=False)
    assert outcome.finish_reason == "unknown"


def test_text_beyond_the_limit_is_refused() -> None:
    """An endless answer ends."""
    collector = collected(said("é" * 2_000_000))
    with pytest.raises(BadResultError, match="4 MB"):
        collector.take(json.dumps(said("é")))


def picture(**item: Any) -> bytes:
    """The body of a picture answer with this item."""
    return json.dumps({"data": [{"index": 0, "embedding": None, **item}]}).encode()


def test_a_picture_is_decoded() -> None:
    """Base64 to bytes, and nothing else."""
    found = read_picture(picture(b64_json=base64.b64encode(PNG).decode()), ASKED, simulated=True)
    assert (found.data, found.simulated) == (PNG, True)


@pytest.mark.parametrize("data", [b"a", b"ab", PNG, bytes(range(256))])
def test_base64_with_line_breaks_or_without_padding_is_a_picture_all_the_same(data: bytes) -> None:
    """Encoders differ; only what cannot be meant is refused."""
    encoded = base64.b64encode(data).decode()
    broken = base64.encodebytes(data).decode()
    for form in (encoded.rstrip("="), broken, broken.replace("\n", "\r\n "), encoded + "=="):
        assert read_picture(picture(b64_json=form), ASKED, simulated=False).data == data


@pytest.mark.parametrize(
    "body",
    [
        b'{"created": 1}',
        b'{"data": null}',
        b'{"data": []}',
        picture(),
        picture(url="http://x/y.png"),
        picture(b64_json=None),
        picture(b64_json=""),
        picture(b64_json="@@@@"),
        picture(b64_json="abcde"),
        picture(b64_json=" \n="),
        picture(b64_json="ab=cdef"),
        picture(b64_json="é"),
        picture(b64_json=7),
        b"[]",
        b"{",
    ],
)
def test_a_success_without_a_usable_picture_is_a_bad_result(body: bytes) -> None:
    """200 is no promise (trap 7)."""
    with pytest.raises(BadResultError) as failure:
        read_picture(body, ASKED, simulated=False)
    assert not failure.value.transient


@pytest.mark.parametrize("read", [lambda b: read_picture(b, ASKED, simulated=False), collected])
def test_an_error_inside_a_200_is_that_error(read: Any) -> None:
    """Other servers and proxies do that with plain JSON."""
    body = json.dumps({"error": {"message": "CUDA out of memory"}})
    with pytest.raises(BackendFailedError, match="memory") as failure:
        read(body)
    assert isinstance(failure.value, BackendError)


@pytest.mark.parametrize(
    ("pieces", "text", "reasoned"),
    [
        (["<think>let me see</think>\n\nYes."], "Yes.", True),
        (["\n<th", "ink>let ", "me see</", "thi", "nk>", "\n", " Ye", "s."], "Yes.", True),
        (list("<think></think>Yes."), "Yes.", True),
        (["<think>a < b</thin", "g></think>Yes. </think>"], "Yes. </think>", True),
        (["Yes: <think>no</think>"], "Yes: <think>no</think>", False),
        (["<thin", "g>"], "<thing>", False),
        (["  <th"], "  <th", False),
        (["<", "3"], "<3", False),
        (["", "Yes."], "Yes.", False),
    ],
)
def test_thoughts_before_the_answer_are_no_part_of_it(
    pieces: list[str], text: str, reasoned: bool
) -> None:
    """Older versions of LocalAI leave them in, in whatever pieces; behind it they may be meant."""
    thoughts = Thoughts()
    told = "".join(thoughts.taken_out(piece) for piece in pieces) + thoughts.held_back()
    assert (told, thoughts.found) == (text, reasoned)


def test_thoughts_alone_are_an_empty_answer_of_a_model_that_reasons() -> None:
    """Trap 16: with the hint that it needs tokens to think first."""
    collector = TextCollector(Asked("m"))
    assert collector.take(json.dumps(said("<think>hm, hm"))) == ""
    collector.take(json.dumps(said(None, "stop")))
    with pytest.raises(BadResultError, match="thought, and then wrote"):
        collector.outcome(simulated=False)


@pytest.mark.parametrize(
    ("said_so", "text"),
    [
        ("Hm, 2 + 2.\n</think>\n\nFour.", "Four."),
        ("</think>\nFour.", "Four."),
        ("The tag </think> ends it.", "The tag </think> ends it."),
        ("<b>\n</think>\n<think>", "<think>"),
        ("Write <think>\nx\n</think>\nso.", "Write <think>\nx\n</think>\nso."),
    ],
)
def test_thoughts_that_only_end_are_cut_off_too(said_so: str, text: str) -> None:
    """Some templates write the opening tag themselves; a tag in a sentence is the answer's own."""
    assert collected(said(said_so, "stop")).outcome(simulated=False).text == text


@pytest.mark.parametrize("reason", ["error", "abort"])
def test_an_answer_that_its_backend_gave_up_is_none(reason: str) -> None:
    """Though it was told as if it were whole."""
    with pytest.raises(BackendUnreachableError, match="broke off"):
        collected(said("half", reason)).outcome(simulated=False)


def test_only_the_first_of_several_answers_is_taken() -> None:
    """One was asked for; a second one must not be mixed into it."""
    second = said("B")
    second["choices"][0]["index"] = 1
    both = {"choices": [None, second["choices"][0], said("C", "stop")["choices"][0]]}
    assert collected(said("A"), second, both).outcome(simulated=False).text == "AC"


def test_an_error_written_flat_is_an_error() -> None:
    """As vLLM's server does; what came before it does not count (trap 5)."""
    with pytest.raises(BackendFailedError):
        collected(said("half"), {"object": "error", "message": "no", "code": 500})


def test_an_event_without_data_is_nothing() -> None:
    """Some proxies keep connections alive so."""
    collector = TextCollector(Asked("m"))
    assert [collector.take(""), collector.take(b" ")] == ["", ""]


@pytest.mark.parametrize(
    ("escaped", "text"),
    [
        (r"a\ud83d", "a\ufffd"),
        (r"\ude00b", "\ufffdb"),
        (r"\ud83d\ude00", "\U0001f600"),
        (r"\ud83d\ud83d\ude00", "\ufffd\U0001f600"),
        (r"\\ud83d \ud83d", "\\ud83d \ufffd"),
    ],
)
def test_half_a_character_does_not_cost_the_answer(escaped: str, text: str) -> None:
    """A model's tokens may cut one in two."""
    collector = TextCollector(Asked("m"))
    data = f'{{"choices":[{{"finish_reason":"stop","delta":{{"content":"{escaped}"}}}}]}}'
    assert collector.take(data) == text


@pytest.mark.parametrize(
    "written", ["data:image/png;base64,{}", "{}", "\n{}\n"], ids=["uri", "bare", "lines"]
)
def test_a_picture_is_taken_however_its_base64_is_written(written: str) -> None:
    """It took the GPU a minute."""
    data = bytes(range(256))
    encoded = written.format(base64.urlsafe_b64encode(data).decode().rstrip("="))
    body = json.dumps({"data": [{"b64_json": encoded}]}).encode()
    assert read_picture(body, Asked("m"), simulated=False).data == data


def test_an_address_in_place_of_a_picture_is_told_as_that() -> None:
    """Trap 12: it was not asked for."""
    body = json.dumps({"data": [{"url": "http://x/y.png"}]}).encode()
    with pytest.raises(BadResultError, match="an address in its place"):
        read_picture(body, Asked("m"), simulated=False)
