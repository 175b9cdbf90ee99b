"""The reference of layouts says what the code does, and its example is a layout that works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from densenets import SMALL, canonical_weights, equal
from layout_reference import README, SECTION, TABLES, filled

from denseport import LayoutError, translate
from denseport.checkpoint import Checkpoint, Tensor
from denseport.layouts import find_layout, known_layouts
from denseport.layouts.derive import derive
from denseport.layouts.parse import KEYS, SECTIONS, parse
from denseport.layouts.spec import PAPERS
from denseport.net.config import TRAIT_NAMES

TEXT = README.read_text(encoding="utf-8")
EXAMPLE = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)[0]
PLAIN = SMALL["four blocks"][0]


def named(table: str) -> set[str]:
    """The names in the first column of a table of the page."""
    (text,) = (body for name, body in SECTION.findall(TEXT) if name == table)
    return set(re.findall(r"^\| `\[*([\w.-]+)\]*`", text, re.MULTILINE))


def test_the_tables_are_made_from_the_code() -> None:
    assert filled(TEXT) == TEXT, "run python -m tests.layout_reference"
    assert [name for name, _ in SECTION.findall(TEXT)] == list(TABLES)


def test_every_key_trait_and_layout_has_a_row() -> None:
    assert named("keys") == KEYS.keys() - {"extends"}
    assert "`extends`" in TEXT
    assert named("traits") == TRAIT_NAMES
    assert named("architecture") == SECTIONS["architecture"]
    assert named("builds") == SECTIONS["builds"] - SECTIONS["architecture"]
    assert named("layouts") == known_layouts().keys()


@pytest.fixture
def example(tmp_path: Path) -> Path:
    path = tmp_path / "example.toml"
    path.write_text(EXAMPLE)
    return path


def test_the_example_reads_and_writes_names_with_an_index_twice(example: Path) -> None:
    canonical = translate(canonical_weights(PLAIN))
    arrays = translate(canonical, "denseport", example)
    assert "features.stage2.trans2.conv.bn.weight" in arrays
    assert equal(translate(arrays, example), canonical)
    wrong = {name.replace("stage3.trans3", "stage3.trans2"): array for name, array in arrays.items()}
    with pytest.raises(LayoutError, match=r"unexpected keys features\.stage3\.trans2\.conv\.bn\.weight"):
        translate(wrong, example)


def test_the_example_can_be_derived_but_for_what_no_shape_shows(example: Path) -> None:
    arrays = translate(canonical_weights(PLAIN), "denseport", example)
    derived = parse(derive(Checkpoint({name: Tensor.of(array) for name, array in arrays.items()})), "derived.toml")
    written = find_layout(example)
    assert (derived.names, derived.architecture) == (written.names, written.architecture)


def test_the_example_states_every_trait_that_is_computed(example: Path) -> None:
    assert find_layout(example).traits.keys() == TRAIT_NAMES - {"head_activation", *PAPERS}


def test_paths_on_the_page_are_there() -> None:
    for path in re.findall(r"\]\((\w+\.py)\)", TEXT):
        assert (README.parent / path).is_file()
    for path in re.findall(r"`(tests/\w+\.py)`", TEXT):
        assert (README.parents[2] / path).is_file()
