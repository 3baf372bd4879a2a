"""Leftovers: retained states that an earlier config published and this one does not.

A broker keeps them for ever: a stream that was renamed would stay online, a crowd that is no longer
reported would go on standing there. At each connection what is retained under

    <prefix>/<device>/<stream>/status
                              /crowd
                              /mood

is read back, and what nobody will update any more is cleared by an empty retained message.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable

from onelook.event import STATES
from onelook.publish import Heard, Message

log = logging.getLogger(__name__)


class Leftovers:
    """Clears what is left of earlier configs: a correspondent of the publisher.

    `kinds` are the kinds of event that are published of each of `streams`.
    """

    def __init__(
        self, device: str, streams: Iterable[str], kinds: Collection[str], *, prefix: str = "onelook"
    ) -> None:
        self._device = device
        self._place = f"{prefix}/{device}/"
        self._published = {f"{self._place}{stream}/{kind}" for stream in streams for kind in STATES.intersection(kinds)}

    @property
    def topics(self) -> list[str]:
        """What it wants to hear; the device's own status is none of it."""
        return [f"{self._place}+/{kind}" for kind in sorted(STATES)]

    def greet(self) -> list[Message]:
        """Nothing: first it has to hear what is there."""
        return []

    def hear(self, heard: Heard) -> list[Message]:
        """Clear what is retained, was ours, and is not published any more."""
        if not heard.retained or not heard.payload or heard.topic in self._published:
            return []
        # What others asked to hear comes by the same way.
        stream, _, kind = heard.topic.removeprefix(self._place).partition("/")
        if heard.topic != f"{self._place}{stream}/{kind}" or kind not in STATES:
            return []
        if not self._is_ours(heard.payload, stream, kind):
            return []
        log.info("Clearing what an earlier config left on %s.", heard.topic)
        return [Message(heard.topic, b"", retain=True, content_type=None)]

    def _is_ours(self, payload: bytes, stream: str, kind: str) -> bool:
        """Whether it is an event of this device: what others keep below our topics is not ours to destroy."""
        try:
            envelope = json.loads(payload)
            said = envelope["source"], envelope["type"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return False
        return said == (f"onelook/{self._device}/{stream}", f"onelook.{kind}")
