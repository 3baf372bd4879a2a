"""Publish: events become CloudEvents on MQTT topics, or JSON lines.

The only file that knows topics and imports paho. Every MQTT 5 or 3.1.1 message is the
structured JSON form of a CloudEvent 1.0 (schema.py describes it):

    <prefix>/<device>/status                     retained; last will says offline
    <prefix>/<device>/<stream>/status            retained
    <prefix>/<device>/<stream>/crowd             retained
    <prefix>/<device>/<stream>/presence          never retained, expires, waits in the outbox;
                              /identity          `replayed: true` where it waited for the broker
                              /attributes
                              /emotion

The events of one stream come in the order in which they happened, whatever becomes of the
broker: what waited for it goes first, beside what happens on other streams, and what it refuses for
the moment holds back what follows. `id` is the same if an
event is delivered twice, and `time` is when it happened, whenever it arrives.

A stream is working when its own status and the device's are both online: MQTT has one last
will per connection, so after a kill only the device's says offline.
"""

from __future__ import annotations

import json
import logging
import math
import os
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache, partial
from io import TextIOWrapper
from typing import Any, Literal, Protocol, Self, TextIO

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage, MQTTv5, MQTTv311
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from onelook import config
from onelook.errors import OwnerError
from onelook.event import STATES, Event, Status
from onelook.outbox import Outbox, Waiting

log = logging.getLogger(__name__)

WINDOW = 20
"""Most messages on the wire without an acknowledgement."""
REPLAYS = WINDOW // 2
"""Most of them that waited for the broker: the rest is for what happens now."""
BACKOFF = (1, 10)
"""Seconds before the first new try to connect, doubled up to the last."""
SWEEP = 1.0
"""Seconds between looks at what expired, and between having the disk keep what waits."""
LATE = 1.0
"""Seconds in the outbox after which an event is no news any more, and says so as a replay."""
GOODBYE = 0.5
"""Seconds given at the end to what still waits, and as many to saying offline."""

QUIET = 60.0
"""Seconds before the same trouble is told again: two devices of one name push each other out every second."""

DENIED = 1000
"""Topics that are remembered as refused: more than ours are. Whoever asks for an answer may name another each time."""

TOO_LARGE = 0x95
FINAL = frozenset({0x87, 0x90, TOO_LARGE, 0x99})
"""Why a broker refuses a message for good: not authorized, topic name or payload invalid, too large."""

# mosquitto answers so to what is over its message_size_limit; to paho it would be a breach of the protocol.
ReasonCode.names = {
    **ReasonCode.names,
    TOO_LARGE: {"Packet too large": [PacketTypes.CONNACK, PacketTypes.PUBACK, PacketTypes.DISCONNECT]},
}

DIGITS = {"box": 1, "age": 1, "seconds": 2}
"""Decimals of a field's numbers; 3 where not named (ratios)."""


_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

CLOUDEVENT = "application/cloudevents+json; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Message:
    """What goes over the wire."""

    topic: str
    payload: bytes
    qos: Literal[0, 1] = 1
    retain: bool = False
    expiry: float | None = None
    """Seconds for which it may still be delivered; none: for ever."""
    content_type: str | None = CLOUDEVENT
    correlation: bytes | None = None
    """What the request that this answers had of its own."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What somebody published: our own words come back too, on topics that are asked for."""

    topic: str
    payload: bytes
    retained: bool = False
    """Not said just now: the broker kept it."""
    response_topic: str | None = None
    correlation: bytes | None = None


class Correspondent(Protocol):
    """Who hears what is published, and may answer; called on the delivering thread, and not to dawdle."""

    @property
    def topics(self) -> Sequence[str]:
        """What it wants to hear; topics, or with + and # as MQTT has them."""

    def greet(self) -> Sequence[Message]:
        """What to say at each connection."""

    def hear(self, heard: Heard) -> Sequence[Message]:
        """What to say to a message; to be passed over if it is on none of its topics."""


def message(
    event: Event, device: str, prefix: str = "onelook", expiry: float | None = None, replayed: bool = False
) -> Message:
    """The message that says `event`: a structured CloudEvent in UTF-8 JSON.

    `expiry` (seconds left) and `replayed` (it waited for the broker) do not touch states,
    which are retained and of which only the newest counts.
    """
    place = _place(event, device)
    state = event.kind in STATES
    envelope: dict[str, Any] = {
        "specversion": "1.0",
        "id": event.id,
        "source": f"onelook/{place}",
        "type": f"onelook.{event.kind}",
        "time": event.time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "datacontenttype": "application/json",
    }
    if replayed and not state:
        envelope["replayed"] = True
    envelope["data"] = _rounded(event.data.model_dump(mode="json"))
    return Message(
        topic=f"{prefix}/{place}/{event.kind}",
        payload=_json(envelope).encode(),
        qos=1,
        retain=state,
        expiry=None if state else expiry,
    )


def _place(event: Event, device: str) -> str:
    return device if event.stream is None else f"{device}/{event.stream}"


def _rounded(value: Any, digits: int = 3) -> Any:
    kind = type(value)
    if kind is float:
        return round(value, digits)
    if kind is list:
        return [_rounded(item, digits) for item in value]
    if kind is dict:
        return {key: _rounded(item, DIGITS.get(key, digits)) for key, item in value.items()}
    return value


class Publisher(Protocol):
    """Where events go. A context manager; `publish` may be called from any thread and does not wait."""

    def publish(self, *events: Event) -> None:
        """Send `events` on their way, in that order."""

    def forget(self, name: str) -> None:
        """Destroy what is still here about an enrolled person."""

    def send(self, said: Message) -> None:
        """Send what is no event."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


def lead_nowhere(file: TextIO) -> None:
    """Of a file that cannot be written: what the interpreter flushes at its end must have somewhere to go."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, file.fileno())
    os.close(nowhere)


class LinesPublisher:
    """The same CloudEvents as JSON lines, UTF-8, each flushed.

    When nobody reads any more (`onelook replay … | head`) it falls silent and calls
    `on_closed` once; nothing is raised. The same where it cannot be written (a full disk), and then its end raises
    OwnerError. `on_published(event, age)` hears of each line, `age` being seconds since its frame
    was captured, where known.
    """

    def __init__(
        self,
        file: TextIO,
        device: str = "onelook",
        on_closed: Callable[[], None] = lambda: None,
        on_published: Callable[[Event, float | None], None] = lambda _event, _age: None,
    ) -> None:
        self._file = file
        self._device = device
        self._on_closed = on_closed
        self._on_published = on_published
        self._lock = threading.Lock()
        self._closed = False
        self._trouble: OSError | None = None
        if isinstance(file, TextIOWrapper):
            file.reconfigure(encoding="utf-8")  # JSON is, whatever the locale

    def publish(self, *events: Event) -> None:
        """Write each of `events` as one line."""
        for event in events:
            self._write(event)

    def _write(self, event: Event) -> None:
        line = message(event, self._device).payload.decode() + "\n"
        with self._lock:
            if self._closed:
                return
            try:
                self._file.write(line)
                self._file.flush()
            except OSError as error:
                self._closed = True
                self._trouble = None if isinstance(error, BrokenPipeError) else error
                lead_nowhere(self._file)
            else:
                age = None if event.captured is None else time.monotonic() - event.captured
                self._on_published(event, age)
                return
        self._on_closed()

    def forget(self, name: str) -> None:
        """Nothing to do: what was written is gone from here."""

    def send(self, said: Message) -> None:
        """Nobody asked."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object = None, *_: object) -> None:
        """Leave the file to whoever opened it. Raises OwnerError where it could not be written."""
        if self._trouble is not None and kind is None:
            raise OwnerError(f"The events cannot be written: {self._trouble.strerror}.")


@dataclass(frozen=True, slots=True)
class _Wired:
    """A message that the broker has yet to acknowledge."""

    said: Message
    event: Event | None
    """None of a message that is none."""
    waiting: Waiting | None
    replayed: bool


class MqttPublisher:
    """Events to a broker that may be away: they wait in `outbox` until acknowledged.

    Events that waited for a connection go out at `mqtt.replay_rate` a second. Meanwhile other streams
    are told of at once, but what happens on a stream that has some left queues behind them: the
    events of one stream are never out of order. What would expire first goes first, of several streams.

    Entering the context starts to connect and returns at once; a missing broker never
    blocks and is tried again for ever. Leaving it says `offline` for the device and its
    streams within about a second.

    `streams` are said to be offline until they say otherwise, lest an earlier run's retained
    `online` stand. `on_connected(bool)` hears of each change; `on_published(event, age)` of
    each acknowledged message, `age` being seconds since its frame was captured, none where
    unknown or replayed. Both are called on the delivering thread.

    `correspondents` are subscribed for and may answer; what they say is not kept for a broker
    that is away.

    `mqtt` is as `config.load` returns it, its password in place. Raises OwnerError where the
    host or a certificate cannot be used.
    """

    # Threads: whoever publishes writes to the socket itself, so that no event waits for another
    # thread to wake; the delivering thread reads from it, sends what could not be sent at once, and
    # sweeps; a third lives for as long as a try to connect, which nobody can hurry. One lock guards the
    # state and paho; no socket under it ever blocks, and the outbox syncs outside of it. paho's
    # callbacks, called within it, leave mail, and the delivering thread does what the mail says.

    def __init__(
        self,
        mqtt: config.Mqtt,
        device: str,
        outbox: Outbox,
        *,
        streams: Iterable[str] = (),
        on_connected: Callable[[bool], None] = lambda _connected: None,
        on_published: Callable[[Event, float | None], None] = lambda _event, _age: None,
        correspondents: Sequence[Correspondent] = (),
    ) -> None:
        self._mqtt = mqtt
        self._device = device
        self._outbox = outbox
        self._on_connected = on_connected
        self._on_published = on_published
        self._correspondents = correspondents
        self._broker = f"{mqtt.host}:{mqtt.port}"
        self._tls: ssl.SSLContext | None = None
        self._client = self._make_client()

        self._lock = threading.Lock()
        self._bell: int | None = None  # wakes the delivering thread; there while the context lasts
        self._mail: deque[Callable[[], None]] = deque()
        self._thread = threading.Thread(target=self._run, name="deliver", daemon=True)
        self._bug: BaseException | None = None
        self._stopping = False
        self._said_offline = False

        self._connecting = False  # a thread is at it, and has paho for itself
        self._connected = False
        self._pause = 0.0  # seconds from the last try to connect to the next
        self._due = -math.inf  # when that is
        self._unanswered = 0  # tries to connect, in a row, that the broker took without an answer
        self._trouble: str | None = None  # what is wrong with the connection
        self._told = ("", -math.inf)  # the last sentence about it, and when
        self._quiet = False  # it was too soon to say it again
        self._window = WINDOW
        self._largest: int | None = None  # bytes of a packet that the broker takes; it hangs up on who sends more
        self._waited = 0  # number of the newest event that waited for this connection
        self._sent: dict[str | None, int] = {}  # number of the newest one sent on it, by stream
        self._behind = False  # some that waited are still to be sent
        self._allowance = 0.0  # how many of them may go out now
        self._counted = time.monotonic()  # when that was
        self._fresh: dict[int, Event] = {}  # those just put, by number: they need not be read again
        self._later: list[_Wired] = []  # what the broker had no room for just now, but events that wait
        self._held: dict[str | None, int | None] = {}  # streams of which it had none for an event, see `_try_again`
        self._swept = -math.inf
        self._on_wire: dict[int, _Wired] = {}  # by paho's message id
        self._said: deque[Message] = deque()  # by correspondents, and not yet given to the broker
        self._delivered: list[int] = []
        self._denied: set[str] = set()
        self._states: dict[str, Event] = {}  # newest by topic
        self._unsaid: dict[str, Event] = {}  # those of them that the broker has yet to hear, in order
        for stream in streams:
            self._state(_status(stream, "offline", "starting"))

    def publish(self, *events: Event) -> None:
        """Hand `events` over: on disk where the outbox has one, then to the broker as soon as it can be.

        Raises what killed the delivering thread, where a bug did.
        """
        if self._bug is not None:
            raise self._bug
        happened = [event for event in events if event.kind not in STATES]
        numbers = self._outbox.put(*((event, self._life(event)) for event in happened)) if happened else []
        for event in happened:
            log.debug("%s of %s is in the outbox: %s", event.kind, event.stream, event.id)
        with self._lock:
            for event in events:
                if event.kind in STATES:
                    self._state(event)
            self._fresh = dict(zip(numbers, happened, strict=True))
            self._send()
            self._fresh = {}

    def forget(self, name: str) -> None:
        """Destroy what waits about an enrolled person, without a byte of the name left on disk."""
        self._outbox.forget(name)

    def send(self, said: Message) -> None:
        """Send what is no event; it is lost where the broker is away. May be called from any thread."""
        with self._lock:
            if self._connected:
                self._said.append(said)
                self._send()

    def __enter__(self) -> Self:
        # Always a clean session: what must survive is in the outbox, not in the broker's memory of us.
        clean_start: dict[str, Any] = {"clean_start": True} if self._mqtt.protocol == "5" else {}
        self._client.connect_async(self._mqtt.host, self._mqtt.port, self._mqtt.keepalive, **clean_start)
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread.start()
        return self

    def __exit__(self, kind: object = None, *_: object) -> None:
        with self._lock:
            self._stopping = True
            self._ring()
        self._thread.join(2 * GOODBYE + 0.5)
        with self._lock:
            if not self._connecting:  # else that thread, if its try ever ends
                connection: Any = self._client.socket()
                if connection is not None and not self._said_offline:
                    with suppress(OSError):  # hang up, and take no leave: so the last will says it in our place
                        connection.shutdown(socket.SHUT_WR)
                self._client.disconnect()
            bell, self._bell = self._bell, None
        if bell is not None and not self._thread.is_alive():
            os.close(bell)
        if left := len(self._outbox):
            log.info("%d events still waited for the broker.", left)
        if self._bug is not None and kind is None:
            raise self._bug

    # The delivering thread.

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._turn(SWEEP)
            self._finish(lambda: not len(self._outbox))
            with self._lock:
                self._unsaid.clear()
                for stream in dict.fromkeys(event.stream for event in self._states.values() if event.stream):
                    self._state(_status(stream, "offline", "stopped"))
                self._state(_status(None, "offline", "stopped"))
                self._send()
            self._finish(lambda: not self._unsaid and not self._on_wire)
            self._said_offline = not self._unsaid and all(wired.event is None for wired in self._later)
        except BaseException as bug:  # noqa: BLE001 - handed over: publish() raises it in its caller's thread
            self._bug = bug

    def _finish(self, done: Callable[[], bool]) -> None:
        end = time.monotonic() + GOODBYE
        while self._trouble is None and not done() and (left := end - time.monotonic()) > 0:
            self._turn(left)

    def _turn(self, seconds: float) -> None:
        """Wait at most `seconds` for the broker, the bell, or what is due; then do what there is to do."""
        connection = self._listen(seconds)
        with self._lock:
            if connection is not None and connection is self._client.socket():
                self._client.loop_read()
                if self._client.want_write():  # what callbacks said, among others: they cannot write
                    self._client.loop_write()
                self._client.loop_misc()
            while self._mail:
                self._mail.popleft()()
            self._send()
            if not self._connecting and not self._stopping and self._client.socket() is None and self._left() <= 0:
                self._connecting = True
                threading.Thread(target=self._connect, name="connect", daemon=True).start()
            delivered, self._delivered = self._delivered, []
        if delivered:
            self._outbox.delete(delivered)
        if time.monotonic() >= self._swept + SWEEP:
            self._sweep()

    def _listen(self, seconds: float) -> Any:
        """Wait; the connection that may have something to say, if there is one."""
        poll = select.poll()
        with self._lock:
            bell = self._bell
            connection = None if self._connecting else self._client.socket()
            if bell is not None:
                poll.register(bell, select.POLLIN)
            if connection is not None:
                poll.register(connection, select.POLLIN | (select.POLLOUT if self._client.want_write() else 0))
                if isinstance(connection, ssl.SSLSocket) and connection.pending():
                    seconds = 0  # decrypted already
            if self._connected and self._behind and self._allowance < 1:
                seconds = min(seconds, (1 - self._allowance) / self._mqtt.replay_rate)
            if connection is None and not self._connecting:
                seconds = min(seconds, self._left())
        seconds = min(seconds, self._swept + SWEEP - time.monotonic())
        for ready, _ in poll.poll(max(seconds, 0) * 1000):
            if ready == bell:
                os.eventfd_read(ready)
        return connection

    def _left(self) -> float:
        """Seconds until the next try to connect."""
        return self._due - time.monotonic()

    def _sweep(self) -> None:
        self._swept = time.monotonic()
        unread = self._outbox.unread
        self._outbox.expire()
        self._outbox.sync()
        with self._lock:
            if unread and not self._outbox.unread:  # there may be older events now than were sent
                self._held.update(dict.fromkeys(self._sent, 0))
            later, self._later = self._later, []
            for wired in later:
                if wired.event is None:
                    self._said.append(wired.said)
                elif self._states.get(wired.said.topic) is wired.event:  # no newer state has gone out
                    self._unsaid.setdefault(wired.said.topic, wired.event)
            self._try_again()
            self._send()

    def _try_again(self) -> None:
        """Let one event of each stream on hold see whether the broker has room for it now, the oldest.

        What followed an event that was refused waits behind it, until one is taken. A stream is `_held` by the number
        of the one that tries, by 0 once it is refused, and by none when it may go.
        """
        on_wire = {wired.waiting.stream for wired in self._on_wire.values() if wired.waiting is not None}
        for stream in self._held.keys() - on_wire:  # what was taken of it is gone from the outbox, and the rest was not
            self._sent.pop(stream, None)
            self._held[stream] = None

    def _ring(self) -> None:
        """Wake the delivering thread."""
        if self._bell is not None:
            os.eventfd_write(self._bell, 1)

    def _connect(self) -> None:
        """One try, on a thread of its own: it takes as long as the network does."""
        cause: OSError | None = None
        try:
            self._client.reconnect()
        except OSError as error:
            cause = error.with_traceback(None)  # which would hold the socket open
        except BaseException as bug:  # noqa: BLE001 - handed over, as in _run
            self._bug = bug
        with self._lock:
            self._connecting = False
            if cause is not None:
                self._mail.append(partial(self._unreachable, cause))
            if self._bell is None:  # we were left meanwhile
                self._client.disconnect()
            self._ring()

    def _send(self) -> None:
        """Give the broker what it may have now: states first, then what others are to be answered, then events."""
        if not self._connected:
            return
        while self._unsaid and self._room() > 0:
            topic = next(iter(self._unsaid))
            self._give(self._unsaid.pop(topic))
        while self._said and self._room() > 0:
            self._put_on_wire(self._said.popleft())
        while self._room() > 0 and (waiting := self._next()) is not None:
            self._sent[waiting.stream] = waiting.number
            if waiting.stream in self._held:
                self._held[waiting.stream] = waiting.number
            self._give(self._fresh.get(waiting.number) or waiting.event, waiting)
        if self._mail or self._client.want_write():
            self._ring()

    def _next(self) -> Waiting | None:
        """Which event is next: what happens now, else of what waited what would expire first.

        Only the oldest event of each stream can be, so that none overtakes another.
        """
        heads = [head for head in self._outbox.heads(self._sent) if self._held.get(head.stream) is None]
        now = [head for head in heads if head.number > self._waited]
        self._behind = len(now) < len(heads)
        if now:
            return min(now, key=lambda head: head.number)
        if not heads or not self._may_replay():
            return None
        self._allowance -= 1
        return min(heads, key=lambda head: head.deadline)

    def _may_replay(self) -> bool:
        counted, self._counted = self._counted, time.monotonic()
        self._allowance = min(self._allowance + (self._counted - counted) * self._mqtt.replay_rate, max(1.0, REPLAYS))
        on_wire = sum(wired.waiting is not None and self._has_waited(wired.waiting) for wired in self._on_wire.values())
        return self._allowance >= 1 and on_wire < REPLAYS

    def _room(self) -> int:
        return max(self._window - len(self._on_wire), 0)

    def _has_waited(self, waiting: Waiting) -> bool:
        """Whether it was there before this connection."""
        return waiting.number <= self._waited

    def _give(self, event: Event, waiting: Waiting | None = None) -> None:
        """Give a message to the broker, unless it has less than a second left: MQTT counts in whole ones."""
        if waiting is None:
            self._put_on_wire(message(event, self._device, self._mqtt.prefix), event)
            return
        left = self._outbox.left(waiting)
        if left < 1:
            self._outbox.drop([waiting.number], "expired")
            return
        replayed = self._has_waited(waiting) or waiting.life - left > LATE
        said = message(event, self._device, self._mqtt.prefix, left, replayed)
        self._put_on_wire(said, event, waiting, replayed)

    def _put_on_wire(
        self, said: Message, event: Event | None = None, waiting: Waiting | None = None, replayed: bool = False
    ) -> None:
        wired = _Wired(said, event, waiting, replayed)
        properties = self._properties(PacketTypes.PUBLISH, said)
        if self._largest is not None and _size(said, properties) > self._largest:
            self._denial(wired, ReasonCode(PacketTypes.PUBACK, identifier=TOO_LARGE))
            return
        info = self._client.publish(said.topic, said.payload, said.qos, said.retain, properties)
        self._on_wire[info.mid] = wired

    def _hear(self, heard: Heard) -> None:
        for correspondent in self._correspondents:
            self._said.extend(correspondent.hear(heard))

    def _topic(self, event: Event) -> str:
        return f"{self._mqtt.prefix}/{_place(event, self._device)}/{event.kind}"

    def _state(self, event: Event) -> None:
        topic = self._topic(event)
        self._states[topic] = event
        self._unsaid.pop(topic, None)
        self._unsaid[topic] = event

    def _life(self, event: Event) -> float:
        """Seconds for which it is worth delivering."""
        bounds: config.Bounds = getattr(self._mqtt.waiting, event.kind)
        return bounds.expiry - _age(event)

    # What paho tells.

    def _trying(self) -> None:
        self._unanswered += 1

    def _up(self, properties: Properties | None) -> None:
        if not self._quiet:
            log.info("Connected to the broker at %s.", self._broker)
        self._trouble = None
        self._connected = True
        self._unanswered = 0
        self._pause = 0.0
        self._window = min(WINDOW, getattr(properties, "ReceiveMaximum", WINDOW))
        self._largest = getattr(properties, "MaximumPacketSize", None)
        # Whatever is unacknowledged goes out again, in order, as what it is: a replay.
        self._on_wire.clear()
        self._later.clear()
        self._held.clear()
        self._said.clear()
        for correspondent in self._correspondents:
            self._said.extend(correspondent.greet())
        self._sent, self._waited = {}, self._outbox.newest
        self._allowance, self._counted = 0.0, time.monotonic()
        # States first, then `online`: who reads it finds the rest in place.
        self._unsaid = dict(self._states)
        self._state(_status(None, "online"))
        self._on_connected(True)

    def _down(self, code: ReasonCode) -> None:
        self._wait_for_it()
        if self._connected:
            self._connected = False
            reason = "" if code == "Unspecified error" else f" ({code})"
            self._complain("away", f"Lost the broker at {self._broker}{reason}: events wait, trying again.")
            self._on_connected(False)
        elif self._unanswered >= 2:  # once may be a broker just going down
            match self._mqtt.tls:
                case None:
                    doubt = "does it expect TLS (mqtt.tls)"
                case config.Tls(cert_file=None):
                    doubt = "does it expect a client certificate (mqtt.tls)"
                case _:
                    doubt = "does it trust mqtt.tls.cert_file, and has that not expired"
            self._complain("mute", f"The broker at {self._broker} hangs up without an answer: {doubt}?")

    def _wait_for_it(self) -> None:
        """Try to connect again in a while, which grows from try to try."""
        shortest, longest = BACKOFF
        self._pause = min(2 * self._pause, longest) or shortest
        self._due = time.monotonic() + self._pause

    def _unreachable(self, cause: OSError) -> None:
        self._wait_for_it()
        self._unanswered = 0
        match cause:
            case ssl.SSLCertVerificationError():
                self._complain(
                    "tls",
                    f"The certificate of the broker at {self._broker} is not trusted:"
                    f" {cause.verify_message}; check mqtt.tls.ca_file, mqtt.host and this machine's clock.",
                )
            case ssl.SSLError():
                self._complain(
                    "tls",
                    f"No TLS with the broker at {self._broker} ({cause.reason}):"
                    " check that mqtt.port is its TLS port.",
                )
            case _:
                self._complain(
                    "away", f"Cannot reach the broker at {self._broker} ({cause}): events wait, trying again."
                )

    def _refused(self, code: ReasonCode) -> None:
        self._unanswered = 0
        match code.getName():
            case "Bad user name or password" | "Not authorized" | "Bad authentication method":
                advice = "check mqtt.username and its password"
            case "Unsupported protocol version":
                advice = f"set mqtt.protocol to {'3.1.1' if self._mqtt.protocol == '5' else '5'}"
            case "Client identifier not valid":
                advice = "give device a shorter name"
            case _:
                advice = "events wait, trying again"
        self._complain(str(code), f"The broker at {self._broker} refuses us ({code}): {advice}.")

    def _complain(self, trouble: str, sentence: str) -> None:
        """Say what is wrong, once, until something else is."""
        if trouble == self._trouble:
            return
        self._trouble = trouble
        now, (last, when) = time.monotonic(), self._told
        self._quiet = sentence == last and now < when + QUIET
        if not self._quiet:
            self._told = (sentence, now)
            log.warning("%s", sentence)

    def _acknowledged(self, mid: int, code: ReasonCode) -> None:
        wired = self._on_wire.pop(mid, None)
        if wired is None:  # of the connection before
            return
        if code.is_failure:
            self._denial(wired, code)
            return
        self._denied.discard(wired.said.topic)
        age = None
        if wired.waiting is not None:
            self._delivered.append(wired.waiting.number)
            if self._held.get(wired.waiting.stream) == wired.waiting.number:
                del self._held[wired.waiting.stream]
        if wired.event is None:
            return
        if wired.event.captured is not None and not wired.replayed:
            age = time.monotonic() - wired.event.captured
        self._on_published(wired.event, age)

    def _denial(self, wired: _Wired, code: ReasonCode) -> None:
        final = code.value in FINAL
        topic = wired.said.topic
        if topic not in self._denied:
            if len(self._denied) >= DENIED:
                self._denied.clear()
            self._denied.add(topic)
            advice = f"let {self._who()} write there" if final else "trying again"
            if code.value == TOO_LARGE:
                advice = "let it take larger ones"
            log.warning("The broker refuses messages on %s (%s): %s.", topic, code, advice)
        if not final and wired.waiting is not None:
            self._held[wired.waiting.stream] = 0
        elif not final:
            self._later.append(wired)
        elif wired.waiting is not None:
            self._outbox.drop([wired.waiting.number], "refused")

    def _who(self) -> str:
        """What the broker's owner knows us by."""
        if self._mqtt.username or self._mqtt.password is not None:
            return f"user {self._mqtt.username or self._device!r}"
        return "this device's certificate" if self._mqtt.tls and self._mqtt.tls.cert_file else "anonymous clients"

    def _make_client(self) -> Client:
        mqtt = self._mqtt
        try:
            usable = bool(mqtt.host.encode("idna"))
        except UnicodeError:  # and paho's thread would die of it
            usable = False
        if not usable:
            raise OwnerError(f"mqtt.host: {mqtt.host!r} is not the name of a host.")
        five = mqtt.protocol == "5"
        client = Client(
            CallbackAPIVersion.VERSION2,
            # Always the same: a broker that still holds our dead connection ends it, and says its
            # last will, before it takes the new one; not later, over our `online`.
            client_id=f"{mqtt.prefix}-{self._device}",
            protocol=MQTTv5 if five else MQTTv311,
            clean_session=None if five else True,
            reconnect_on_failure=False,  # that is for us to say
        )
        secret = mqtt.password.get_secret_value() if mqtt.password is not None else None
        if mqtt.commands and not secret and (mqtt.tls is None or mqtt.tls.cert_file is None):
            raise OwnerError(
                "mqtt.commands: a broker that does not ask who we are does not ask others either;"
                " give the password that it knows this device by, or mqtt.tls.cert_file, or let commands be []."
            )
        if mqtt.username is not None or secret is not None:
            client.username_pw_set(mqtt.username or self._device, secret)
        if mqtt.tls is not None:
            self._tls = tls_context(mqtt.tls)
            client.tls_set_context(self._tls)
        client.on_pre_connect = self._on_pre_connect
        client.on_connect = self._on_connect
        client.on_socket_open = _at_once
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        client.on_subscribe = self._on_subscribe
        return client

    def _on_pre_connect(self, client: Client, _userdata: object) -> None:
        self._mail.append(self._trying)
        self._renew(client)
        will = message(_status(None, "offline", "connection lost"), self._device, self._mqtt.prefix)
        properties = self._properties(PacketTypes.WILLMESSAGE, will)
        client.will_set(will.topic, will.payload, will.qos, will.retain, properties)

    def _renew(self, client: Client) -> None:
        """Take what was put in the place of password and certificates since: they are renewed, and nobody starts us."""
        file, tls = self._mqtt.password_file, self._mqtt.tls
        with suppress(OSError, UnicodeDecodeError):  # being written, or gone: as it was, until the next try
            if file is not None and (word := config.password_in(file)):
                client.username_pw_set(self._mqtt.username or self._device, word)
        with suppress(OSError, OwnerError):
            if self._tls is not None and tls is not None and tls.ca_file is not None:
                self._tls.load_verify_locations(tls.ca_file)
            if self._tls is not None and tls is not None and tls.cert_file is not None:
                self._tls.load_cert_chain(tls.cert_file, tls.key_file, password=_no_passphrase)

    def _on_connect(
        self,
        client: Client,
        _userdata: object,
        _flags: ConnectFlags,
        code: ReasonCode,
        properties: Properties | None,
    ) -> None:
        if code.is_failure:  # paho calls this a connection too
            self._mail.append(partial(self._refused, code))
        else:
            # paho would send what it held; the outbox knows better what is still worth it.
            client.drop_out_messages()
            self._subscribe(client)
            self._mail.append(partial(self._up, properties))

    def _on_disconnect(
        self,
        _client: Client,
        _userdata: object,
        _flags: DisconnectFlags,
        code: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        self._mail.append(partial(self._down, code))

    def _on_publish(
        self, _client: Client, _userdata: object, mid: int, code: ReasonCode, _properties: Properties
    ) -> None:
        self._mail.append(partial(self._acknowledged, mid, code))

    def _subscribe(self, client: Client) -> None:
        topics = [topic for correspondent in self._correspondents for topic in correspondent.topics]
        if not topics:
            return
        if self._mqtt.protocol == "5":
            # Not noLocal: what an earlier run retained had our client id, and some brokers would keep it from us.
            client.subscribe([(topic, SubscribeOptions(1)) for topic in topics])
        else:
            client.subscribe([(topic, 1) for topic in topics])

    def _on_subscribe(
        self, _client: Client, _userdata: object, _mid: int, codes: list[ReasonCode], _properties: Properties | None
    ) -> None:
        if any(code.is_failure for code in codes):
            log.warning("The broker at %s does not let us read all that we want to hear.", self._broker)

    def _on_message(self, _client: Client, _userdata: object, heard: MQTTMessage) -> None:
        properties = heard.properties
        self._mail.append(
            partial(
                self._hear,
                Heard(
                    heard.topic,
                    bytes(heard.payload),
                    heard.retain,
                    getattr(properties, "ResponseTopic", None),
                    getattr(properties, "CorrelationData", None),
                ),
            )
        )

    def _properties(self, packet: int, said: Message) -> Properties | None:
        if self._mqtt.protocol != "5":
            return None
        expiry = None if said.expiry is None else int(min(said.expiry, 0xFFFFFFFF))  # all that fits
        return _properties(packet, said.content_type, said.correlation, expiry)


@lru_cache(maxsize=64)  # paho takes as long to make them as to send the message, and most have the same
def _properties(packet: int, content_type: str | None, correlation: bytes | None, expiry: int | None) -> Properties:
    properties = Properties(packet)  # type: ignore[no-untyped-call]
    if content_type is not None:
        properties.ContentType = content_type
    if correlation is not None:
        properties.CorrelationData = correlation
    if expiry is not None:
        properties.MessageExpiryInterval = expiry
    return properties


def _size(said: Message, properties: Properties | None) -> int:
    """Bytes of the packet that brings it."""
    size = 2 + len(said.topic.encode()) + 2 + len(said.payload)  # the topic's length is told, and a number
    if properties is not None:
        size += len(properties.pack())  # type: ignore[no-untyped-call]
    return 1 + math.ceil(size.bit_length() / 7) + size  # before it its kind, and how long all this is


def tls_context(tls: config.Tls) -> ssl.SSLContext:
    """What `tls` asks for: TLS 1.2 or newer, the broker's name checked.

    Raises OwnerError naming the file that cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
    except ssl.SSLError:
        raise OwnerError(f"mqtt.tls.ca_file: {tls.ca_file} is not a certificate in PEM form.") from None
    except OSError as error:
        raise OwnerError(f"mqtt.tls.ca_file: cannot read {tls.ca_file}: {error.strerror}.") from None
    # Python 3.13 and newer would refuse what earlier ones and mosquitto's own tools take: an authority made as
    # mosquitto's manual says, which does not state what its key is for.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if tls.cert_file is not None:
        pair = " and ".join(str(file) for file in (tls.cert_file, tls.key_file) if file is not None)
        try:
            context.load_cert_chain(tls.cert_file, tls.key_file, password=_no_passphrase)
        except ssl.SSLError:
            raise OwnerError(f"mqtt.tls: {pair} must hold a certificate and its key, in PEM form.") from None
        except OSError as error:
            raise OwnerError(f"mqtt.tls: cannot read {pair}: {error.strerror}.") from None
    return context


def _no_passphrase() -> str:
    # Else OpenSSL asks for it at the terminal, which a daemon has not.
    raise OwnerError("mqtt.tls: the key is locked with a passphrase; a daemon needs one without.")


def _age(event: Event) -> float:
    """Seconds since its frame was captured, by a clock that nobody sets where it is known."""
    if event.captured is not None:
        return time.monotonic() - event.captured
    return time.time() - event.time.timestamp()


def _status(stream: str | None, state: Literal["online", "offline"], reason: str | None = None) -> Event:
    return Event(stream=stream, time=datetime.now(UTC), data=Status(state=state, reason=reason))


def _at_once(_client: Client, _userdata: object, opened: Any) -> None:
    """Have no event wait for the one before it to be acknowledged (Nagle's algorithm)."""
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
