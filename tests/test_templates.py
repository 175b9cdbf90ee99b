"""Templates of names with indices: they read exactly what they write, and take no time over what they do not."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from denseport.layouts.template import Template, outline


def test_templates_take_names_of_any_length_in_no_time() -> None:
    template, twice = Template("a{b}.{l}_{t}-{s}"), Template("a{b}." * 50)
    assert template.indices("a1.2_3-4") == {"b": 1, "l": 2, "t": 3, "s": 4}
    assert twice.indices("a7." * 50) == {"b": 7}
    begun = time.process_time()
    for name in ("a" + "1" * 10**6, "a1." * 10**5, "a1.1_" * 10**5, "1.1_1-" * 10**5, "a1." * 49 + "a2."):
        assert template.indices(name) is None
        assert twice.indices(name) is None
        outline(name)
    assert time.process_time() - begun < 2


@st.composite
def templates(draw: st.DrawFn) -> Template:
    """Any valid template of up to five indices, each letter as often as may be."""
    text, count = draw(st.text("a.1_0", max_size=3)), draw(st.integers(0, 5))
    for n in range(count):
        text += f"{{{draw(st.sampled_from('blts'))}{draw(st.sampled_from(['', '-1', '+1', '+9']))}}}"
        if n < count - 1:
            text += draw(st.sampled_from("a._")) + draw(st.text("a.1_0", max_size=2))
    return Template(text + draw(st.text("a.1_0", max_size=3)))


@given(templates(), st.fixed_dictionaries({letter: st.integers(1, 4096) for letter in "blts"}), st.data())
def test_a_template_reads_exactly_what_it_writes(
    template: Template, indices: dict[str, int], data: st.DataObject
) -> None:
    name = template.format(indices)
    assert template.indices(name) == {letter: indices[letter] for letter in template.letters}
    assert template.outline == outline(name)
    at = data.draw(st.integers(0, len(name)))
    edited = name[:at] + data.draw(st.text("a.10_", max_size=2)) + name[at + data.draw(st.integers(0, 2)) :]
    found = template.indices(edited)
    assert found is None or template.format(found) == edited


def test_indices_that_stand_twice_must_agree() -> None:
    template = Template("features.stage{t+1}.trans{t+1}.conv.bn")
    assert template.indices("features.stage2.trans2.conv.bn") == {"t": 1}
    assert template.indices("features.stage2.trans3.conv.bn") is None
    assert Template("a{b}.b{b-1}").indices("a2.b1") == {"b": 2}
