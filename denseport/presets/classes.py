"""What the outputs of a net are called."""

from __future__ import annotations

from pathlib import Path

from denseport.errors import UsageError

KNOWN = ("imagenet-1k",)
MAX_BYTES = 1 << 26


def class_names(source: str | Path, count: int) -> tuple[str, ...]:
    """The names of `count` outputs, in their order.

    Args:
        source: `imagenet-1k`, or a text file with one name a line.
        count: How many outputs there are.

    Raises:
        UsageError: There is no such file, it is no text, or it has another number of names.
    """
    if str(source) in KNOWN:
        # Without the number of the WordNet synset, by which the file also tells apart two that have the same name.
        text = Path(__file__).with_name(f"{source}.txt").read_text(encoding="utf-8")
        names = [line.partition(" ")[2] for line in text.splitlines() if not line.startswith("#")]
    else:
        names = _read(Path(source))
    if len(names) != count:
        raise UsageError(f"{source}: names {len(names):,} classes, and the net has {count:,}; give a file of its own")
    return tuple(names)


def _read(file: Path) -> list[str]:
    try:
        if file.stat().st_size > MAX_BYTES:
            raise UsageError(f"{file}: is too large to be a list of names; check the path")
        return [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text in UTF-8"
        raise UsageError(f"{file}: cannot be read ({why}); give a text file with one name a line") from None
