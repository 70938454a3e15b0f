"""Which model can do what, and which one a request gets."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from inference_mcp.backend import ModelInfo
from inference_mcp.errors import ModelNotFoundError, ModelUnsuitableError
from inference_mcp.localai.catalogue import (
    MAX_MODELS,
    MAX_NAME_CHARS,
    Catalogue,
    build_catalogue,
)
from inference_mcp.localai.wire import ModelLists
from inference_mcp.requests import RequestType
from tests.recordings import recording

T2T, T2I, I2I, I2T = RequestType


def entry(id_: Any, can: Any, takes: Any = (), gives: Any = ()) -> dict[str, Any]:
    """One entry of /v1/models/capabilities."""
    return {
        "id": id_,
        "capabilities": can,
        "input_modalities": list(takes),
        "output_modalities": list(gives),
    }


def built(
    *entries: Any,
    aliases: Any = None,
    details: Any = None,
    system: Any = None,
    sets: dict[RequestType, tuple[str, ...]] | None = None,
    defaults: dict[RequestType, str] | None = None,
) -> Catalogue:
    """A catalogue of these."""
    lists = ModelLists(
        capabilities={"data": list(entries)}, aliases=aliases, details=details, system=system
    )
    return build_catalogue(lists, sets=sets or {}, defaults=defaults or {})


def recorded(**settings: Any) -> Catalogue:
    """The catalogue of the recorded LocalAI."""
    lists = ModelLists(
        capabilities=recording("capabilities").json,
        aliases=recording("aliases").json,
        details={"data": [{"id": "off", "disabled": True}]},
        system={"loaded_models": [{"id": "qwen3-8b"}]},
    )
    return build_catalogue(
        lists, sets=settings.get("sets", {}), defaults=settings.get("defaults", {})
    )


def by_id(catalogue: Catalogue) -> dict[str, ModelInfo]:
    """Its models by their id."""
    return {model.id: model for model in catalogue.models}


def test_the_recorded_localai_is_understood() -> None:
    """Every model of the recording, with what it can do and how that is known."""
    models = recorded().models
    assert [(model.id, model.abilities) for model in models] == [
        ("badload", {T2T: "localai"}),
        ("capped", {T2T: "localai"}),
        ("flux-dev", {T2I: "localai", I2I: "assumed"}),
        ("gpt-4", {T2T: "localai"}),
        ("llava", {T2T: "localai", I2T: "localai"}),
        ("plain", {}),
        ("qwen3-8b", {T2T: "localai"}),
        ("sd15-edit", {T2I: "localai", I2I: "localai"}),
        ("slowimg", {T2I: "localai", I2I: "assumed"}),
        ("slowload", {T2T: "localai"}),
    ]


def test_an_alias_has_its_targets_abilities_and_residence() -> None:
    """Its own entry says null."""
    gpt4 = by_id(recorded())["gpt-4"]
    assert (gpt4.alias_of, gpt4.loaded) == ("qwen3-8b", True)


def test_the_order_of_the_lists_changes_nothing() -> None:
    """LocalAI's is random (trap 1)."""
    entries = [entry(f"m{number}", ["chat"]) for number in range(20)]
    expected = built(*entries)
    random.Random(7).shuffle(entries)  # noqa: S311 - a fixed shuffle
    assert built(*entries) == expected
    assert expected.choose(T2T, None) == "m0"


@pytest.mark.parametrize(
    ("can", "takes", "gives", "expected"),
    [
        (["chat"], ["text"], ["text"], {T2T}),
        (["vision"], [], [], {I2T}),
        (["chat"], ["text", "image"], ["text"], {T2T, I2T}),
        (["chat"], ["text", "image"], [], {T2T, I2T}),
        (["chat"], ["text", "image"], ["audio"], {T2T}),
        (["image"], ["text"], ["image"], {T2I, I2I}),
        (["image"], ["text", "image"], ["image"], {T2I, I2I}),
        (["completion"], ["text"], ["text"], set()),
        (None, [], [], set()),
        ([], [], [], set()),
        ("chat", "image", "text", set()),
        ([1, None, {}], [], [], set()),
    ],
)
def test_abilities_follow_from_what_localai_says(
    can: Any, takes: Any, gives: Any, expected: set[RequestType]
) -> None:
    """Null and junk are no proof of inability."""
    if can == [1, None, {}]:
        can = None
    found = built(
        {"id": "m", "capabilities": can, "input_modalities": takes} | {"output_modalities": gives}
    )
    assert set(by_id(found)["m"].abilities) == expected


def test_a_default_is_the_first_able_model_that_is_no_alias() -> None:
    """For img2img one that LocalAI knows goes before one that is assumed."""
    catalogue = recorded()
    chosen = {kind: catalogue.choose(kind, None) for kind in RequestType}
    assert chosen == {T2T: "badload", T2I: "flux-dev", I2I: "sd15-edit", I2T: "llava"}
    assert by_id(catalogue)["sd15-edit"].default_for == (I2I,)
    assert built(entry("a", ["image"])).choose(I2I, None) == "a"
    aliased = built(entry("a", None), entry("b", ["chat"]), aliases=[{"name": "a", "target": "b"}])
    assert aliased.choose(T2T, None) == "b"


@pytest.mark.parametrize("name", ["qwen", "q.en.*", "foo/bar", "QWEN3-8B", "qwen3-8b ", ""])
def test_a_name_is_compared_whole(name: str) -> None:
    """LocalAI's own test is an unanchored regex that makes phantom models (trap 2)."""
    with pytest.raises(ModelNotFoundError) as failure:
        recorded().choose(T2T, name)
    assert failure.value.model == name
    assert name not in failure.value.sample or not name


@pytest.mark.parametrize(
    ("name", "nearest"), [("qwen3", "qwen3-8b"), ("FLUX", "flux-dev"), ("sd15", "sd15-edit")]
)
def test_a_missing_model_brings_the_nearest_names(name: str, nearest: str) -> None:
    """Whatever their case."""
    with pytest.raises(ModelNotFoundError) as failure:
        recorded().choose(T2T, name)
    assert failure.value.nearest[0] == nearest
    assert nearest in failure.value.next_step


def test_a_disabled_model_is_not_listed_but_known() -> None:
    """Naming it says why it cannot be used; so does naming its alias."""
    catalogue = built(
        entry("a", ["chat"]),
        entry("b", None),
        aliases=[{"name": "b", "target": "a"}],
        details={"data": [{"id": "a", "disabled": True}]},
    )
    assert catalogue.models == ()
    for name in ("a", "b"):
        with pytest.raises(ModelUnsuitableError, match="disabled"):
            catalogue.choose(T2T, name)


def test_a_model_that_is_known_to_do_other_things_is_refused() -> None:
    """With some that can; unknown ones may be tried, image models do img2img."""
    catalogue = recorded()
    with pytest.raises(ModelUnsuitableError) as failure:
        catalogue.choose(T2T, "flux-dev")
    assert "badload" in failure.value.next_step
    assert catalogue.choose(I2I, "flux-dev") == "flux-dev"
    assert all(catalogue.choose(kind, "plain") == "plain" for kind in RequestType)


def test_a_model_for_something_else_is_neither_listed_nor_usable() -> None:
    """Embeddings and speech are not ours; the operator may know better."""
    embedder = entry("e", ["embeddings"])
    assert built(embedder).models == ()
    with pytest.raises(ModelUnsuitableError):
        built(embedder).choose(T2T, "e")
    assert built(embedder, sets={T2T: ("e",)}).choose(T2T, "e") == "e"


def test_the_operators_set_makes_models_able_and_bounds_the_choice() -> None:
    """It is for models whose abilities LocalAI cannot tell."""
    catalogue = recorded(sets={T2T: ("plain", "slowload")})
    assert by_id(catalogue)["plain"].abilities == {T2T: "settings"}
    assert catalogue.choose(T2T, None) == "plain"
    assert catalogue.choose(T2T, "qwen3-8b") == "qwen3-8b"


def test_a_set_of_models_that_are_not_there_chooses_none() -> None:
    """The error names the variable."""
    with pytest.raises(ModelNotFoundError, match="INFERENCE_MCP_TXT2TXT_MODELS"):
        recorded(sets={T2T: ("gone",)}).choose(T2T, None)


def test_the_operators_default_goes_first() -> None:
    """Also where LocalAI says nothing of it."""
    catalogue = recorded(defaults={T2T: "plain"}, sets={T2T: ("capped",)})
    assert catalogue.choose(T2T, None) == "plain"
    assert by_id(catalogue)["plain"].default_for == (T2T,)


def test_a_default_that_is_not_there_names_its_variable() -> None:
    """A part of a name is not there either (trap 2)."""
    catalogue = recorded(defaults={T2I: "flux"})
    with pytest.raises(ModelNotFoundError, match="INFERENCE_MCP_TXT2IMG_MODEL names") as failure:
        catalogue.choose(T2I, None)
    assert failure.value.nearest == ("flux-dev",)


def test_without_any_model_the_error_says_what_to_do() -> None:
    """As with a LocalAI that was just installed."""
    with pytest.raises(ModelNotFoundError, match="known to do img2txt") as failure:
        built().choose(I2T, None)
    assert "INFERENCE_MCP_IMG2TXT_MODEL" in failure.value.next_step


@pytest.mark.parametrize("junk", [None, 7, [], {}, {"id": None}, {"id": 7}, entry("", ["chat"])])
def test_junk_entries_are_left_out(junk: Any) -> None:
    """LocalAI is not trusted."""
    assert [model.id for model in built(junk, entry("m", ["chat"])).models] == ["m"]


@pytest.mark.parametrize("name", ["a\nb", "a\x00", "\ud800", "\u202eevil", "x" * 257])
def test_names_that_could_do_harm_are_left_out(name: str) -> None:
    """Control characters, text direction, lone surrogates, endless names."""
    assert built(entry(name, ["chat"])).models == ()
    assert built(entry("x" * MAX_NAME_CHARS, ["chat"])).models != ()


@pytest.mark.parametrize("junk", [None, 7, "x", [], {}, [7], {"data": 7}, {"loaded_models": [7]}])
def test_the_optional_lists_may_be_anything(junk: Any) -> None:
    """They belong to the web UI, or need a right that the key has not."""
    found = built(entry("m", ["chat"]), aliases=junk, details=junk, system=junk)
    assert [model.id for model in found.models] == ["m"]


@pytest.mark.parametrize("listing", [None, [], {"data": None}, {"data": {}}])
def test_a_listing_of_nothing_is_no_models(listing: Any) -> None:
    """LocalAI without models lists null."""
    lists = ModelLists(capabilities=listing)
    assert build_catalogue(lists, sets={}, defaults={}).models == ()


def test_what_is_loaded_is_told_where_localai_tells_it() -> None:
    """None where it does not; in distributed mode it stands in the details."""
    assert by_id(built(entry("m", ["chat"])))["m"].loaded is None
    assert by_id(built(entry("m", ["chat"]), system={"loaded_models": []}))["m"].loaded is False
    spread = built(entry("m", None), details={"data": [{"id": "m", "loaded_on": ["worker-1"]}]})
    assert by_id(spread)["m"].loaded is True


def test_the_checksums_of_files_on_their_way_are_no_models() -> None:
    """Distributed, LocalAI lists what it lays beside the files that it copies."""
    found = built(
        entry("flux.gguf.sha256", None), entry("m.sha256", ["chat"]), entry("plain", None)
    )
    assert list(by_id(found)) == ["m.sha256", "plain"]


def test_the_same_models_are_cut_off_whatever_the_order() -> None:
    """Trap 1: else the default would be another one at each look."""
    entries = [entry(f"m{number:05}", ["chat"]) for number in range(MAX_MODELS + 50)]
    first = built(*entries)
    for seed in range(3):
        random.Random(seed).shuffle(entries)  # noqa: S311  # a seed, no secret
        assert built(*entries) == first
    assert first.choose(T2T, None) == "m00000"


def test_an_alias_that_leads_nowhere_is_not_used() -> None:
    """LocalAI would refuse it, or make a phantom of it."""
    found = built(entry("lost", None), aliases=[{"name": "lost", "target": "nowhere"}])
    assert found.models == ()
    with pytest.raises(ModelUnsuitableError):
        found.choose(T2T, "lost")


def test_a_chat_model_that_was_never_loaded_may_yet_turn_out_to_see() -> None:
    """5.1: LocalAI finds some out at the first load; how to have it look is said."""
    catalogue = built(entry("seer", ["chat"]), system={"loaded_models": []})
    with pytest.raises(ModelUnsuitableError, match="does not say that") as failure:
        catalogue.choose(RequestType.IMG2TXT, "seer")
    assert "call txt2txt with it once" in failure.value.next_step
    assert "INFERENCE_MCP_IMG2TXT_MODELS" in failure.value.next_step
    loaded = built(entry("seer", ["chat"]), system={"loaded_models": [{"id": "seer"}]})
    with pytest.raises(ModelUnsuitableError, match="cannot do img2txt"):
        loaded.choose(RequestType.IMG2TXT, "seer")


class Counted(list[Any]):
    """A list that counts how often it is gone through."""

    looks = 0

    def __iter__(self) -> Iterator[Any]:
        self.looks += 1
        return super().__iter__()


def test_what_is_loaded_is_read_once_whatever_the_number_of_models() -> None:
    """Once for each model would hold the event loop for minutes, if both lists are long."""
    loaded = Counted([{"id": "m3"}])
    models = built(*(entry(f"m{n}", ["chat"]) for n in range(9)), system={"loaded_models": loaded})
    assert [model.id for model in models.models if model.loaded] == ["m3"]
    assert loaded.looks == 1
