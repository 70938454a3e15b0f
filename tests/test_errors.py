"""The tree of failures: each code once, and drawn as it is."""

from __future__ import annotations

import re

import pytest

from inference_mcp import errors
from inference_mcp.errors import InferenceError, ModelNotFoundError

CODES = {
    "invalid_input",
    "image_rejected",
    "model_not_found",
    "model_unsuitable",
    "backend_unreachable",
    "backend_auth",
    "backend_busy",
    "backend_error",
    "bad_result",
    "queue_full",
    "deadline_exceeded",
    "cancelled",
    "job_not_found",
    "shutting_down",
}


def drawn() -> dict[str, tuple[int, str]]:
    """Each class in the docstring's tree: how deep it stands, and the code beside it."""
    found = {}
    for line in (errors.__doc__ or "").splitlines():
        match = re.fullmatch(r"    ([│ ]*)(?:[├└]── )?(\w+Error)\b *([a-z_ ]*).*", line)
        if match:
            depth = 0 if line.startswith("    Inf") else 1 + len(match[1]) // 4
            found[match[2]] = (depth, match[3].strip())
    return found


def real(kind: type[InferenceError], depth: int = 0) -> dict[str, tuple[int, str]]:
    """The same of the classes themselves."""
    # A room may tell its own kinds apart; what others see of them is the parent's.
    children = [each for each in kind.__subclasses__() if each.__module__ == errors.__name__]
    found = {kind.__name__: (depth, "" if children else kind.code)}
    for child in children:
        found |= real(child, depth + 1)
    return found


def leaves(tree: dict[str, tuple[int, str]]) -> list[str]:
    """The codes of those that are raised."""
    return [code for depth, code in tree.values() if depth == 2]


def test_every_code_exists_exactly_once() -> None:
    """A host can tell failures apart by their code."""
    assert sorted(leaves(real(InferenceError))) == sorted(CODES)


def test_the_tree_is_drawn_as_it_is() -> None:
    """The docstring's drawing is the real inheritance, in the same order."""
    shown = {name: (depth, code if depth == 2 else "") for name, (depth, code) in drawn().items()}
    assert list(shown.items()) == list(real(InferenceError).items())


def test_every_error_is_exported() -> None:
    """``__all__`` is the tree, those of a command line, and how any exception is told."""
    apart = {"HostError", "SettingsError", "StartError"}
    assert set(errors.__all__) == {*real(InferenceError), *apart, "place"}


def test_a_sample_is_the_sentence_unless_another_is_given() -> None:
    """Logs get ``sample``, which holds no word of the caller's where ``what`` does."""
    plain = InferenceError("It failed.")
    quoting = ModelNotFoundError("No model is named fox.", model="fox", sample="No such model.")
    assert (plain.sample, plain.next_step, str(plain)) == ("It failed.", "", "It failed.")
    assert quoting.sample == "No such model."


def test_settings_errors_never_reach_a_model() -> None:
    """They are for the person who started the program."""
    assert not issubclass(errors.SettingsError, InferenceError)


@pytest.mark.parametrize("name", sorted(set(errors.__all__) - {"SettingsError"}))
def test_every_error_says_when_it_is_raised(name: str) -> None:
    """One line each, for whoever must choose."""
    assert getattr(errors, name).__doc__
