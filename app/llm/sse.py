"""An incremental parser of Server-Sent Events over raw bytes: the ``data`` of each event, as soon as it is complete.

Follows the WHATWG's rules (HTML, 9.2.6) for line ends (LF, CR LF, CR), comments, several ``data`` lines and a leading
byte order mark. Event names, ids and retry times are of no use to a caller that talks to a model and are dropped.
Nothing is decoded, so a read may end anywhere, inside a character too.
"""

from __future__ import annotations

from app.llm.failures import failed

MAX_EVENT_BYTES = 8_000_000
_BOM = b"\xef\xbb\xbf"


class SseParser:
    """``feed`` takes what was read; ``finish`` gives the last event of a stream that ends without its blank line."""

    def __init__(self) -> None:
        self._rest = b""
        self._after_cr = False
        self._begun = False

    def feed(self, data: bytes) -> list[bytes]:
        """The data of every event that ``data`` completes. Raises UpstreamFailed past 8 MB without an event's end."""
        if self._after_cr or b"\r" in data:
            data = self._with_line_feeds(data)
        rest = self._rest
        buffer = rest + data if rest else data
        end = buffer.rfind(b"\n\n", max(0, len(rest) - 1))
        if end < 0:
            if len(buffer) > MAX_EVENT_BYTES:
                raise failed("the upstream sent an event of more than 8 MB")
            self._rest = buffer
            return []
        self._rest = buffer[end + 2 :]
        return self._events(buffer[:end])

    def finish(self) -> list[bytes]:
        """What a stream left behind that ended without a blank line."""
        rest, self._rest = self._rest, b""
        return self._events(rest)

    def _with_line_feeds(self, data: bytes) -> bytes:
        if not data:
            return data
        if self._after_cr and data.startswith(b"\n"):
            data = data[1:]
            self._after_cr = False
            if not data:
                return data
        self._after_cr = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _events(self, block: bytes) -> list[bytes]:
        if not self._begun:
            self._begun = True
            block = block.removeprefix(_BOM)
        found = []
        for event in block.split(b"\n\n"):
            if event.startswith(b"data: ") and b"\n" not in event:
                found.append(event[6:])
            elif event:
                lines = [_value(line) for line in event.split(b"\n") if line == b"data" or line.startswith(b"data:")]
                if lines:
                    found.append(b"\n".join(lines))
        return found


def _value(line: bytes) -> bytes:
    value = line[5:]
    return value[1:] if value.startswith(b" ") else value
