"""A real mosquitto on 127.0.0.1, and a subscriber to it."""

import contextlib
import datetime
import ipaddress
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Condition
from typing import Any, Self

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

MOSQUITTO = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
PATIENCE = 90.0
"""Seconds to wait for what should come at once: the machine may be slow, and busy with other things."""

_ours: list[socket.socket] = []


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens, and nobody will until its taker does.

    The system may give a port that it chose itself to anybody's next connection, before its taker listens. So it
    is one from below those; and while this process lives no other one that asks here, such as another run of
    these tests, gets it: each port is held by a name of its own.
    """
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for port in random.SystemRandom().sample(range(10_000, max(first, 12_000)), 1000):
        name = socket.socket(socket.AF_UNIX)
        try:
            name.bind(f"\0a port for a test of onelook: {port}")
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            name.close()
            continue
        _ours.append(name)
        return port
    raise AssertionError("no port is free")


def wait_until(true: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.01)


class Certificates:
    """A certificate authority of a minute's age, and files it signed: server and client, .pem and .key."""

    def __init__(self, folder: Path) -> None:
        self.ca = folder / "ca.pem"
        self.server, self.server_key = folder / "server.pem", folder / "server.key"
        self.client, self.client_key = folder / "client.pem", folder / "client.key"
        folder.mkdir(parents=True, exist_ok=True)
        ca_key = ec.generate_private_key(ec.SECP256R1())
        ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "an authority of one minute")])
        usage = x509.KeyUsage(
            digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False,
            key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False,
            decipher_only=False,
        )
        ca = (
            self._dated(ca_name, ca_name, ca_key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
            .sign(ca_key, hashes.SHA256())
        )
        self.ca.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
        for name, purpose, file, key_file in (
            ("server", ExtendedKeyUsageOID.SERVER_AUTH, self.server, self.server_key),
            ("client", ExtendedKeyUsageOID.CLIENT_AUTH, self.client, self.client_key),
        ):
            key = ec.generate_private_key(ec.SECP256R1())
            subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
            address = x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))
            signed = (
                self._dated(subject, ca_name, key.public_key())
                .add_extension(x509.SubjectAlternativeName([address]), critical=False)
                .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
                .add_extension(
                    x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
                )
                .sign(ca_key, hashes.SHA256())
            )
            file.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
            key_file.write_bytes(
                key.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.NoEncryption(),
                )
            )

    @staticmethod
    def _dated(
        subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
        )


@dataclass
class Broker:
    """mosquitto in `folder`, from `start` to `stop`; the port and what it stored outlive a restart.

    `users`: name -> password; none lets anybody in. `acl`: text of the ACL file. `tls`: speak
    TLS only, and with `client_certificates` only to who shows one.
    """

    folder: Path
    users: dict[str, str] | None = None
    acl: str | None = None
    tls: Certificates | None = None
    client_certificates: bool = False
    port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        assert self.process is None
        if MOSQUITTO is None:
            pytest.skip("mosquitto is not installed (apt install mosquitto)")
        lines = [
            f"listener {self.port} 127.0.0.1",
            f"allow_anonymous {'true' if self.users is None else 'false'}",
            "user root",  # only where it is started by root: else it could not read its own folder
            "persistence true",
            f"persistence_location {self.folder}/",
            "max_queued_messages 100000",  # 0 for no limit, and 2.0.11 hangs up on whom it denies a topic
            "connection_messages true",
            "log_type all",
        ]
        if self.users is not None:
            self.set_passwords(self.users)
            lines.append(f"password_file {self.folder / 'passwords'}")
        if self.acl is not None:
            (self.folder / "acl").write_text(self.acl)
            lines.append(f"acl_file {self.folder / 'acl'}")
        if self.tls is not None:
            lines += [
                f"cafile {self.tls.ca}",
                f"certfile {self.tls.server}",
                f"keyfile {self.tls.server_key}",
                f"require_certificate {'true' if self.client_certificates else 'false'}",
            ]
        (self.folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")
        with (self.folder / "mosquitto.log").open("ab") as output:
            command = [MOSQUITTO, "-c", str(self.folder / "mosquitto.conf")]
            self.process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
        wait_until(self._listens, f"mosquitto to listen (see {self.folder / 'mosquitto.log'})")

    def _listens(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "mosquitto.log").read_text()
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self.process is None:
            return
        self.process.send_signal(how)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def set_passwords(self, users: dict[str, str]) -> None:
        """Write the password file; a running broker reads it at `reload`."""
        self.users = users
        file = self.folder / "passwords"
        file.unlink(missing_ok=True)
        file.touch(mode=0o600)
        for name, word in users.items():
            subprocess.run(["mosquitto_passwd", "-b", str(file), name, word], check=True, capture_output=True)

    def reload(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)

    @property
    def log(self) -> str:
        return (self.folder / "mosquitto.log").read_text(errors="replace")

    @contextlib.contextmanager
    def subscribe(
        self, topic: str = "#", *, user: tuple[str, str] | None = None, name: str = "reader"
    ) -> "Iterator[Subscriber]":
        """All that arrives on `topic`; what is sent while the broker or the subscriber is away, too."""
        subscriber = Subscriber(self, topic, user, name)
        try:
            yield subscriber
        finally:
            subscriber.close()


@dataclass(frozen=True)
class Received:
    """One message as it arrived."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    """It was retained: stored by the broker, or published as such."""
    expiry: int | None
    content_type: str | None
    at: float
    """Seconds since the epoch."""

    @property
    def event(self) -> dict[str, Any]:
        event = json.loads(self.payload)
        assert isinstance(event, dict)
        return event


class Subscriber:
    """A list of what arrived, that can be waited for."""

    def __init__(self, broker: Broker, topic: str, user: tuple[str, str] | None, name: str) -> None:
        self.received: list[Received] = []
        self._arrived = Condition()
        self._subscribed = False
        self._topic = topic
        self._client = Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=MQTTv5)
        if user is not None:
            self._client.username_pw_set(*user)
        if broker.tls is not None:
            self._client.tls_set(str(broker.tls.ca), str(broker.tls.client), str(broker.tls.client_key))
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message
        session = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        session.SessionExpiryInterval = 600
        self._client.connect_async("127.0.0.1", broker.port, clean_start=False, properties=session)
        self._client.loop_start()
        wait_until(lambda: self._subscribed, "the subscriber to be subscribed")

    def _on_connect(self, client: Client, *_: object) -> None:
        once = SubscribeOptions.RETAIN_SEND_IF_NEW_SUB  # what is retained comes at first, not at each return
        options = SubscribeOptions(1, retainAsPublished=True, retainHandling=once)
        client.subscribe(self._topic, options=options)

    def _on_subscribe(self, *_: object) -> None:
        self._subscribed = True

    def _on_message(self, _client: Client, _userdata: object, message: MQTTMessage) -> None:
        received = Received(
            message.topic,
            bytes(message.payload),
            message.qos,
            message.retain,
            getattr(message.properties, "MessageExpiryInterval", None),
            getattr(message.properties, "ContentType", None),
            time.time(),
        )
        with self._arrived:
            if message.dup and any(r.payload == received.payload for r in self.received):
                return  # the broker was stopped before it heard that we have it: not the publisher's doing
            self.received.append(received)
            self._arrived.notify_all()

    def on(self, ending: str) -> list[Received]:
        """What arrived on topics that end so."""
        with self._arrived:
            return [r for r in self.received if r.topic.endswith(ending)]

    def wait(self, ending: str, count: int = 1, seconds: float = PATIENCE) -> list[Received]:
        """What arrived on topics that end so, as soon as there are `count`."""
        with self._arrived:
            enough = self._arrived.wait_for(
                lambda: sum(r.topic.endswith(ending) for r in self.received) >= count, seconds
            )
            topics = [r.topic for r in self.received]
            assert enough, f"not {count} on …{ending} within {seconds} s; there are {topics}"
            return [r for r in self.received if r.topic.endswith(ending)]

    def wait_for(self, ending: str, state: str, seconds: float = PATIENCE) -> Received:
        """The first message on a topic that ends so whose data has that state."""
        end = time.monotonic() + seconds
        with self._arrived:
            while True:
                for r in self.received:
                    if r.topic.endswith(ending) and r.event["data"].get("state") == state:
                        return r
                left = end - time.monotonic()
                assert left > 0, f"no {state!r} on …{ending} within {seconds} s"
                self._arrived.wait(left)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
