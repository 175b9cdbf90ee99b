"""Interprets pickles without running code: it builds plain values, and what its caller gives for names.

Every global name and persistent id in a pickle is handed to the caller, who answers with a value or refuses; nothing
is imported. A pickle can call only a `Constructor` that it was given so. Whatever it holds, the work and memory of a
run are bounded, and nothing recurses into its structure.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import error as StructError

from denseport.errors import FormatError
from denseport.formats.pth.pickle_instructions import INSTRUCTIONS, STOP
from denseport.formats.pth.pickle_state import MAX_INSTRUCTIONS, MalformedPickleError, PickleState


def run(
    data: bytes,
    position: int,
    source: str,
    find_global: Callable[[str, str], object],
    load_persistent: Callable[[object], object],
) -> tuple[object, int]:
    """The value of the pickle at `position`, and the position after it; `source` says in messages which pickle it is.

    Values are None, bool, int, float, str, bytes, list, tuple, dict, set, and whatever `find_global(module, name)` and
    `load_persistent(id)` answered or their constructors built.

    Raises:
        FormatError: The pickle is cut off, malformed, over a bound or uses instructions that plain values do not need;
            and what the two callables raise.
    """
    instructions = INSTRUCTIONS
    state = PickleState(data, position, find_global, load_persistent)
    try:
        for _ in range(MAX_INSTRUCTIONS):
            opcode = data[position]
            if opcode == STOP:
                return state.result(), position + 1
            position = instructions[opcode](state, position + 1)
    except MalformedPickleError as error:
        reason = str(error)
    except (IndexError, StructError):
        reason = "it ends too early, or takes values where there are none"
    except KeyError:
        reason = "it recalls a value that it never stored"
    except UnicodeDecodeError:
        reason = "a text in it is not UTF-8"
    else:
        reason = f"it has more than {MAX_INSTRUCTIONS} instructions"
    raise FormatError(f"{source} is malformed near byte {position}: {reason}; copy or download the file again")
