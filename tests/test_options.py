"""The table of options: what a value may be, what a mistake is told, and what the command line makes of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from denseport.cli import cli
from denseport.errors import UsageError
from denseport.options import (
    Comparing,
    Converting,
    Predicting,
    among,
    checked,
    files_named,
    needing_verify,
    options_of,
    parsed,
    valid,
    without_defaults,
)
from denseport.preprocessing import PREPROCESSING
from denseport.requirements import BACKENDS
from denseport.running.libraries import LIBRARIES


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, {}),
        ({"from_layout": Path("mine.toml"), "inputs": Path("a")}, {"from_layout": "mine.toml", "inputs": "a"}),
        ({"against": ["timm", "keras-hub"]}, {"against": ("timm", "keras-hub")}),
        ({"tolerance": 0, "classes": None}, {"tolerance": 0, "classes": None}),
        ({"device": "cuda:12"}, {"device": "cuda:12"}),
        ({"traits": {"epsilon": "1e-3", "stem_stride": 1}}, {"traits": {"epsilon": 1e-3, "stem_stride": 1}}),
        ({"traits": ["padding=same", "stem_stride=1"]}, {"traits": {"padding": "same", "stem_stride": 1}}),
        ({"classes": np.int64(7), "tolerance": np.float32(0.5)}, {"classes": 7, "tolerance": 0.5}),
    ],
)
def test_values_that_an_option_can_have(given: dict[str, Any], found: dict[str, Any]) -> None:
    assert valid(Converting, given) == found
    complete = checked(Converting, given)
    assert complete == {name: option.default for name, option in options_of(Converting).items()} | found
    assert among(Comparing, complete).keys() == options_of(Comparing).keys()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"nonsense\n": 1}, r"nonsense\\n is no option; known: traits, from_format, .*, train_steps"),
        ({"dtype": "float8"}, "dtype must be one of keep, float32, float16, bfloat16, not 'float8'"),
        ({"dtype": None}, "dtype must be one of .*, not None"),
        ({"to_format": Path("h5")}, "to_format must be one of pth, h5, safetensors, keras, not "),
        ({"verify": "no"}, "verify must be true or false, not 'no'"),
        ({"verify": 1}, "verify must be true or false, not 1"),
        ({"classes": True}, "classes must be a whole number from 1 to 1,000,000, not True"),
        ({"classes": 1.0}, "classes must be a whole number from 1 to 1,000,000, not 1.0"),
        ({"classes": 10**10_000}, "classes must be a whole number .*, not a number of thousands of digits"),
        ({"tolerance": math.nan}, "tolerance must be a number from 0 to 1, not nan"),
        ({"tolerance": "1"}, "tolerance must be a number from 0 to 1, not '1'"),
        ({"against": "timm"}, "against must be a list of names, each one of torchvision, .*, not 'timm'"),
        ({"against": ["timm", 1]}, "against must be a list of names"),
        ({"against": ["caffe"]}, "against must be a list of names"),
        ({"device": "cuda:\n"}, r"device must be auto\|cpu\|cuda\|cuda:N, not 'cuda:"),
        ({"inputs": 7}, "inputs must be FILE|FOLDER, not 7"),
        ({"from_layout": b"x"}, "from_layout must be NAME|FILE.toml, not b'x'"),
        ({"traits": ["epsilon"]}, "traits must be a table of traits, or a list of NAME=VALUE, not "),
        ({"traits": ["eps\n=1"]}, r"--trait: eps\\n is no trait; known: activation, .*, transition_activation"),
        ({"traits": ["epsilon=small"]}, "--trait: trait epsilon must be a positive float, not small"),
        ({"traits": {"padding": 3}}, "--trait: trait padding must be one of symmetric, same, not 3"),
        ({"traits": {"epsilon": 10**400}}, "--trait: trait epsilon must be a positive float, not 1000"),
        ({"traits": ["epsilon=1", "epsilon=2"]}, "--trait epsilon is given twice"),
        ({"preprocess": "x" * 1000}, "preprocess must be one of .{,400}$"),
    ],
)
def test_a_value_that_it_cannot_have_is_one_line_that_says_what_it_can(given: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=f"^here: {told}") as caught:
        valid(Converting, given, "here")
    assert "\n" not in str(caught.value)


def test_texts_of_a_spreadsheet() -> None:
    texts = {
        "verify": "FALSE",
        "classes": "7",
        "traits": "epsilon=1e-3 padding=same",
        "against": "timm keras-hub",
        "tolerance": "1e-4",
        "dtype": "",
    }
    assert parsed(Converting, texts) == {
        "verify": False,
        "classes": 7,
        "against": ("timm", "keras-hub"),
        "traits": {"epsilon": 1e-3, "padding": "same"},
        "tolerance": 1e-4,
    }
    with pytest.raises(UsageError, match="verify must be true or false, not 'maybe'"):
        parsed(Converting, {"verify": "maybe"})
    with pytest.raises(UsageError, match="nonsense is no option"):
        parsed(Converting, {"nonsense": ""})


def test_what_an_option_is_known_for() -> None:
    given = {"to_layout": "mine.toml", "from_layout": "timm", "inputs": "a", "device": "cpu", "exact": True}
    assert files_named(Converting, given) == {"to_layout": "mine.toml", "inputs": "a"}
    assert needing_verify(given) == ["inputs", "exact"]
    assert needing_verify({"exact": False, "against": (), "train_steps": 0}) == []
    assert without_defaults(Converting, {"verify": True, "head": "drop"}) == {"head": "drop"}
    assert valid(Predicting, {"preprocess": PREPROCESSING["torch"]}) == {"preprocess": PREPROCESSING["torch"]}


def test_choices_are_those_of_the_rooms_that_they_belong_to() -> None:
    options = options_of(Converting)
    assert options["preprocess"].choices == tuple(PREPROCESSING)
    assert options["against"].choices == tuple(LIBRARIES)
    assert options["keras_backend"].choices == BACKENDS


def test_the_command_line_has_every_option_with_its_default() -> None:
    for name, table in (("convert", Converting), ("predict", Predicting)):
        parameters = {parameter.name: parameter for parameter in cli.commands[name].params}
        for option in options_of(table).values():
            parameter = parameters[option.name]
            assert parameter.default == option.default
            assert set(option.spelled.split("/")) <= {*parameter.opts, *parameter.secondary_opts}
