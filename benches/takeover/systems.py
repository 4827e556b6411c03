"""The laboratory (network namespaces and what runs in them) and the three systems that are measured in it.

Each system is a class with `rounds(count)`, which gives one `Round` after the other; it begins with a healthy
pair and ends with everything that it started dead.
"""

import contextlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field

PREFIX = "ipt-"
INTERFACE = "eth0"
CLIENTS = pathlib.Path(__file__).with_name("clients.py")
# Addresses inside the namespaces; nothing outside sees them.
HOSTS = {"alpha": "10.91.0.1", "bravo": "10.91.0.2", "client": "10.91.0.3", "etcd": "10.91.0.4"}
SHARED_ADDRESS = "10.91.0.100"
COMMAND_LIMIT = 60
# How long writers write before a kill, in seconds; a random part of the same length comes on top, so that kills
# fall anywhere between two heartbeats.
WARM_UP = 1.5
# What arrives at the standby after its first write is still counted for so long.
SETTLING = 0.5


class Unavailable(Exception):
    """Something cannot be installed or started here: the system is skipped."""


@dataclass
class Round:
    """What one kill cost. `lost` is None where there is no data."""

    seconds: float
    acknowledged: int = 0
    lost: int | None = None
    lost_for_good: int | None = None


@dataclass
class Lab:
    """Namespaces, processes and files of this run; `close` removes all of them."""

    stem: str = field(default_factory=lambda: f"{PREFIX}{os.getpid()}-")
    home: pathlib.Path = None
    namespaces: list = field(default_factory=list)
    children: list = field(default_factory=list)

    def __post_init__(self):
        sweep()
        self.home = pathlib.Path(tempfile.mkdtemp(prefix=self.stem))
        self.home.chmod(0o755)  # the user of PostgreSQL must get through

    def folder(self, name):
        """A new empty folder."""
        path = self.home / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path

    def add(self, machine):
        """A namespace for a machine."""
        name = self.stem + machine
        run(["ip", "netns", "add", name])
        self.namespaces.append(name)
        run(["ip", "-n", name, "link", "set", "lo", "up"])
        return name

    def bring_up(self, machine):
        """Its address, once its interface is there."""
        name = self.stem + machine
        run(["ip", "-n", name, "address", "add", f"{HOSTS[machine]}/24", "dev", INTERFACE])
        run(["ip", "-n", name, "link", "set", INTERFACE, "up"])

    def join_two(self, one, other):
        """Two machines and one cable."""
        a, b = self.add(one), self.add(other)
        run(f"ip link add {INTERFACE} netns {a} type veth peer name {INTERFACE} netns {b}".split())
        self.bring_up(one)
        self.bring_up(other)

    def join_all(self, machines):
        """Machines on a bridge, which is in a namespace of its own."""
        switch = self.add("switch")
        run(["ip", "-n", switch, "link", "add", "bridge", "type", "bridge"])
        run(["ip", "-n", switch, "link", "set", "bridge", "up"])
        for machine in machines:
            name = self.add(machine)
            port = f"to-{machine}"
            run(f"ip link add {port} netns {switch} type veth peer name {INTERFACE} netns {name}".split())
            # `mast` is as much of iproute's word for "belongs to that bridge" as it needs.
            run(["ip", "-n", switch, "link", "set", port, "mast", "bridge"])
            run(["ip", "-n", switch, "link", "set", port, "up"])
            self.bring_up(machine)

    def inside(self, machine, command, user=None):
        """The command line of a program on a machine; it dies with this one."""
        who = ["--reuid", user, "--regid", user, "--init-groups"] if user else []
        setpriv = ["setpriv", *who, "--pdeathsig", "KILL", "--"]
        return ["ip", "netns", "exec", self.stem + machine, *setpriv, *map(str, command)]

    def start(self, machine, command, log, user=None, environment=None):
        """Starts a program on a machine; what it says goes to a log."""
        with open(self.home / f"{log}.log", "ab") as output:
            child = subprocess.Popen(
                self.inside(machine, command, user),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                cwd=self.home,
            )
        self.children.append(child)
        return child

    def client(self, machine, *arguments, python=sys.executable):
        """Starts a program of clients.py on a machine."""
        with open(self.home / f"{arguments[0]}.log", "ab") as log:
            child = subprocess.Popen(
                self.inside(machine, [python, CLIENTS, *arguments]),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.children.append(child)
        return Client(child)

    def pids(self, machine):
        """Process ids of all that runs on a machine, oldest first: daemons before clients."""
        said = run(["ip", "netns", "pids", self.stem + machine])
        return sorted(map(int, said.split()))

    def kill_everything(self, machine):
        """`kill -9` of all that runs on a machine; gives the time just before."""
        begin = None
        while pids := self.pids(machine):
            begin = begin or time.monotonic()
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.reap()
        return begin or time.monotonic()

    def reap(self):
        """Children that have ended stop being zombies."""
        self.children = [child for child in self.children if child.poll() is None]

    def clear(self):
        """Ends all that runs, removes all namespaces and forgets all files."""
        for name in self.namespaces:
            self.kill_everything(name.removeprefix(self.stem))
        for child in self.children:
            child.kill()
            child.wait()
        self.children = []
        for name in self.namespaces:
            run(["ip", "netns", "del", name])
        self.namespaces = []

    def close(self):
        """Nothing is left."""
        self.clear()
        shutil.rmtree(self.home, ignore_errors=True)


class Client:
    """A running program of clients.py, whose lines are collected as they come."""

    def __init__(self, child):
        self.child = child
        self.lines = []
        self.thread = threading.Thread(target=self._collect, daemon=True)
        self.thread.start()

    def _collect(self):
        for line in self.child.stdout:
            self.lines.append(line.strip())

    def go(self):
        """Lets a client begin that waits for its go."""
        self.child.stdin.write("\n")
        self.child.stdin.flush()

    def all_lines(self):
        """What it said until its end. A last line that was cut off by the kill is dropped."""
        self.child.wait()
        self.thread.join()
        return self.lines

    def answer(self, limit):
        """The time that a prober tells."""
        wait_for("the first success of the client", lambda: self.lines, limit, 0.01)
        return float(self.lines[0])


def run(command, limit=COMMAND_LIMIT, **more):
    """Runs a program to its end and gives what it printed; one that fails is an error."""
    ran = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=limit, **more)
    if ran.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: exit {ran.returncode}: {ran.stdout}{ran.stderr}")
    return ran.stdout


def wait_for(what, condition, limit=60.0, pause=0.05):
    """Waits until a condition gives something and gives that."""
    end = time.monotonic() + limit
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > end:
            raise RuntimeError(f"not within {limit:.0f} s: {what}")
        time.sleep(pause)


def sweep():
    """Removes what a run left that was itself killed: namespaces and folders of processes that are no more."""
    names = [line.split()[0] for line in run(["ip", "netns", "list"]).splitlines() if line]
    folders = [path.name for path in pathlib.Path(tempfile.gettempdir()).glob(f"{PREFIX}*")]
    for name in filter(is_left_over, names):
        for pid in run(["ip", "netns", "pids", name]).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        run(["ip", "netns", "del", name])
    for name in filter(is_left_over, folders):
        shutil.rmtree(pathlib.Path(tempfile.gettempdir()) / name, ignore_errors=True)


def is_left_over(name):
    """The name is one of ours and its process is gone."""
    ours = re.match(rf"{PREFIX}(\d+)-", name)
    return bool(ours) and not pathlib.Path(f"/proc/{ours[1]}").exists()


def ensure_debian(program, package):
    """Installs a Debian package unless its program is there; gives its version."""
    if not shutil.which(program):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        install = ["apt-get", "install", "--yes", "--no-install-recommends", package]
        try:
            run(install, 300, env=environment)
        except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
            raise Unavailable(f"{package} cannot be installed: {str(error)[-200:]}") from error
        if pathlib.Path("/run/systemd/system").exists():
            # What the package starts by itself would stay after the benchmark.
            subprocess.run(["systemctl", "disable", "--now", program], capture_output=True)
    return run(["dpkg-query", "--show", "--showformat", "${Version}", package])


def random_phase(length):
    """Kills must not always fall into the same moment of a heartbeat."""
    time.sleep(random.uniform(0, length))


class Ipicsha:
    """Two daemons, one protected SQLite database."""

    MACHINES = ("alpha", "bravo")
    FEATURES = {"alpha": ["base", "policy-engine-base"], "bravo": ["high-availability"]}
    PASSWORD = "correct horse battery"

    def __init__(self, lab, binary, interval, count):
        self.lab, self.binary, self.interval, self.count = lab, binary, interval, count
        self.versions = {"ipicsha": run([binary, "--version"]).strip().removeprefix("ipicsha ")}
        self.versions["SQLite of the client"] = sqlite3.sqlite_version
        self.homes = {}

    def rounds(self, count):
        """Kills the active `count` times."""
        self.lab.join_two(*self.MACHINES)
        self.make_ready()
        for number in range(count):
            yield self.round(number)

    def database(self, machine):
        """The file of the protected database."""
        return self.homes[machine] / "data.sqlite"

    def write_configuration(self, machine):
        """The file of one server."""
        home = self.homes[machine] = self.lab.folder(machine)
        (home / "ipicsha.toml").write_text(
            f'[server]\nname = "{machine}"\nlisten = "{HOSTS[machine]}:3444"\n'
            f'state_directory = "{home}/state"\nsocket = "{home}/ipicsha.sock"\n'
            '[pair]\nname = "takeover"\n'
            "takeover_window_seconds = 0.0\n"  # else the third takeover in ten minutes is held
            f'[heartbeat]\nprofile = "fast"\ninterval_seconds = {self.interval}\n'
            f'missed_count = {self.count}\n[time]\nsource = "assume-synced"\n'
        )

    def command(self, machine, *words):
        """The command line of a server."""
        return [self.binary, "--config", self.homes[machine] / "ipicsha.toml", *words]

    def ask(self, machine, *words):
        """A verb that must succeed."""
        return run(self.command(machine, "--yes", *words))

    def status(self, machine):
        """What the server says of the pair; nothing while it does not answer."""
        try:
            return json.loads(run(self.command(machine, "--json", "ha-status")))
        except (RuntimeError, ValueError):
            return None

    def start(self, machine):
        """Starts a daemon and waits until it answers."""
        self.lab.start(machine, self.command(machine, "daemon"), f"ipicsha-{machine}")
        wait_for(f"the daemon of {machine} answers", lambda: self.status(machine))

    def install_licenses(self, machine):
        """Those that decide the first roles."""
        files = []
        for feature in self.FEATURES[machine]:
            path = self.homes[machine] / f"{feature}.toml"
            path.write_text(
                f'feature = "{feature}"\nissued_to = "Benchmark"\nserial = "{machine}-{feature}"\n'
                'expires = "2099-12-31"\n'
            )
            files.append(path)
        self.ask(machine, "license", "install", *files)

    def make_ready(self):
        """Every step from empty folders to a standby that is Ready."""
        for machine in self.MACHINES:
            self.write_configuration(machine)
            self.start(machine)
            self.install_licenses(machine)
        password = self.lab.home / "password"
        password.write_text(self.PASSWORD)
        self.ask("bravo", "trust", "password", "--password-file", password)
        self.ask("alpha", "trust", "set", f"{HOSTS['bravo']}:3444", "--password-file", password)
        with contextlib.closing(sqlite3.connect(self.database("alpha"))) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("CREATE TABLE note (id TEXT PRIMARY KEY, body TEXT NOT NULL)")
        self.ask("alpha", "protect", "db", self.database("alpha"), "--name", "board")
        self.ask("bravo", "protect", "db", self.database("bravo"), "--name", "board", "--seed")
        for machine in self.MACHINES:
            wait_for(f"{machine} hears its partner", lambda: self.hears_partner(machine))
        self.ask("alpha", "configure")
        self.wait_roles("alpha")

    def hears_partner(self, machine):
        """Both the heartbeat and the comparison of the clocks."""
        partner = ((self.status(machine) or {}).get("servers") or [{}, {}])[1]
        return partner.get("reachable") and partner.get("clock_offset_seconds") is not None

    def wait_roles(self, active):
        """Waits until this server is active and the other one a standby that is Ready."""

        def settled():
            for machine in self.MACHINES:
                status = self.status(machine) or {"servers": [{}]}
                role = "active" if machine == active else "standby"
                if status.get("standby_status") != "Ready" or status["servers"][0].get("role") != role:
                    return False
            return True

        wait_for(f"{active} is active and the standby Ready", settled)

    def rows(self, machine):
        """Which rows a server has."""
        with contextlib.closing(sqlite3.connect(self.database(machine), timeout=5)) as connection:
            return {row for (row,) in connection.execute("SELECT id FROM note")}

    def round(self, number):
        """One kill, and everything back as it was."""
        prober = self.lab.client("bravo", "sqlite-prober", self.database("bravo"), f"after-{number}")
        writer = self.lab.client("alpha", "sqlite-writer", self.database("alpha"), f"before-{number}")
        time.sleep(WARM_UP)
        random_phase(WARM_UP)
        begin = self.lab.kill_everything("alpha")
        seconds = prober.answer(60) - begin
        if seconds < 0:
            raise RuntimeError("the standby took a row before the kill")
        acknowledged = set(writer.all_lines())
        time.sleep(SETTLING)
        lost = acknowledged - self.rows("bravo")
        self.start("alpha")
        self.wait_roles("bravo")
        lost_for_good = acknowledged - self.rows("bravo")
        self.ask("bravo", "failover")
        self.wait_roles("alpha")
        return Round(seconds, len(acknowledged), len(lost), len(lost_for_good))


class Keepalived:
    """An address that moves, and a service without data on both machines."""

    # As near to the largest as they go: the standby waits 3 advertisements and (256 - priority)/256 of one more.
    PRIORITIES = {"alpha": 254, "bravo": 253}

    def __init__(self, lab, version, advert):
        self.lab, self.version, self.advert = lab, version, advert
        self.versions = {"keepalived": ensure_debian("keepalived", "keepalived")}

    def rounds(self, count):
        """Kills the active `count` times."""
        self.lab.join_all(["alpha", "bravo", "client"])
        for machine in self.PRIORITIES:
            self.start(machine)
        for _ in range(count):
            yield self.round()

    def start(self, machine):
        """Service and keepalived of one machine."""
        home = self.lab.folder(machine)
        # Both begin as BACKUP: the higher priority decides.
        (home / "keepalived.conf").write_text(
            f"global_defs {{\n vrrp_version {self.version}\n script_user root\n}}\n"
            f"vrrp_instance service {{\n state BACKUP\n interface {INTERFACE}\n virtual_router_id 51\n"
            f" priority {self.PRIORITIES[machine]}\n advert_int {self.advert}\n"
            f" virtual_ipaddress {{\n  {SHARED_ADDRESS}/24 dev {INTERFACE}\n }}\n}}\n"
        )
        self.lab.start(machine, [sys.executable, CLIENTS, "tcp-server"], f"server-{machine}")
        files = ["--use-file", home / "keepalived.conf", "--pid", home / "pid", "--vrrp_pid", home / "vrrp"]
        command = ["keepalived", "--dont-fork", "--log-console", "--vrrp", *files]
        self.lab.start(machine, command, f"keepalived-{machine}")

    def has_address(self, machine):
        """The machine has the address that moves."""
        said = run(["ip", "-n", self.lab.stem + machine, "address", "show", "dev", INTERFACE])
        return SHARED_ADDRESS in said

    def is_settled(self):
        """alpha serves, and bravo does not."""
        return self.has_address("alpha") and not self.has_address("bravo")

    def round(self):
        """One kill, and everything back as it was."""
        wait_for("alpha has the address", self.is_settled, 30)
        first = self.lab.client("client", "tcp-prober", SHARED_ADDRESS)
        first.go()
        first.answer(30)
        prober = self.lab.client("client", "tcp-prober", SHARED_ADDRESS)
        time.sleep(2 * WARM_UP)
        random_phase(WARM_UP)
        begin = self.lab.kill_everything("alpha")
        # A dead machine does not keep the address, but a killed keepalived leaves it on the interface.
        address = [f"{SHARED_ADDRESS}/24", "dev", INTERFACE]
        run(["ip", "-n", self.lab.stem + "alpha", "address", "del", *address])
        prober.go()
        seconds = prober.answer(60) - begin
        self.start("alpha")
        return Round(seconds)


class Patroni:
    """Two PostgreSQL servers, asynchronous replication, one etcd that survives."""

    MACHINES = ("alpha", "bravo")
    BINARIES = pathlib.Path("/usr/lib/postgresql/15/bin")
    USER = "postgres"
    PACKAGES = ("patroni[etcd3]", "psycopg2-binary")

    def __init__(self, lab, fastest):
        self.lab = lab
        if not (self.BINARIES / "postgres").exists():
            raise Unavailable(f"there is no {self.BINARIES}/postgres (Debian: postgresql-15)")
        self.versions = {"etcd": ensure_debian("etcd", "etcd-server")}
        self.versions["PostgreSQL"] = run([self.BINARIES / "postgres", "--version"]).split()[2]
        self.venv = self.environment()
        self.versions["Patroni"] = run([self.venv / "bin/patroni", "--version"]).split()[1]
        self.timing = self.smallest() if fastest else {"ttl": 30, "loop_wait": 10, "retry_timeout": 10}

    def environment(self):
        """Patroni from PyPI, made by a Python that the user of PostgreSQL can run."""
        venv = self.lab.home / "venv"
        if venv.exists():
            return venv
        as_user = ["setpriv", "--reuid", self.USER, "--regid", self.USER, "--init-groups", "--"]
        found = None
        for python in [sys.executable, "/usr/bin/python3"]:
            # By way of a shell, as Patroni starts its Python once more by itself: one in a folder of root's passes
            # without the shell, and Patroni then waits for PostgreSQL forever.
            command = [*as_user, "sh", "-c", 'exec "$0" -c "import ensurepip"', python]
            tried = subprocess.run(command, capture_output=True, cwd="/")
            if tried.returncode == 0:
                found = found or python
        if not found:
            raise Unavailable(f"no Python with venv that user {self.USER} can run (Debian: python3-venv)")
        try:
            run([found, "-m", "venv", venv], 120)
            run([venv / "bin/pip", "install", "--quiet", "--disable-pip-version-check", *self.PACKAGES], 300)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            shutil.rmtree(venv, ignore_errors=True)
            raise Unavailable(f"Patroni cannot be installed: {str(error)[-200:]}") from error
        return venv

    def smallest(self):
        """The smallest values that the installed version takes, from its own validation."""
        source = next(self.venv.glob("lib/python3*/site-packages/patroni/validator.py")).read_text()
        names = ("ttl", "loop_wait", "retry_timeout")
        found = {name: re.search(rf'"{name}"\): IntValidator\(min=(\d+)', source) for name in names}
        if not all(found.values()):
            raise Unavailable("this version of Patroni does not say its smallest settings")
        return {name: int(match[1]) for name, match in found.items()}

    def rounds(self, count):
        """Kills the leader `count` times; the roles alternate."""
        self.lab.join_all([*self.MACHINES, "client", "etcd"])
        url = f"http://{HOSTS['etcd']}:2379"
        data = self.lab.folder("etcd-data")
        urls = ["--listen-client-urls", url, "--advertise-client-urls", url]
        self.lab.start("etcd", ["etcd", "--data-dir", data, *urls], "etcd")
        leader, standby = self.MACHINES
        self.start(leader)
        wait_for("the first leader", lambda: self.query(leader, "SELECT pg_is_in_recovery()") == "f", 120, 0.5)
        self.query(leader, "CREATE TABLE note (id TEXT PRIMARY KEY, body TEXT NOT NULL)")
        self.start(standby)
        for number in range(count):
            self.wait_streaming(leader)
            yield self.round(number, leader, standby)
            leader, standby = standby, leader
            if number + 1 < count:
                self.start(standby)  # with an empty folder: it is built anew from the leader

    def start(self, machine):
        """Patroni of one machine, with an empty data folder."""
        home = self.lab.folder(machine)
        shutil.chown(home, self.USER, self.USER)
        host = HOSTS[machine]
        secret = {"password": "none-is-asked"}
        trust = [f"host {what} all 10.91.0.0/24 trust" for what in ("all", "replication")]
        text = {
            "scope": "takeover",
            "name": machine,
            "restapi": {"listen": f"{host}:8008", "connect_address": f"{host}:8008"},
            "etcd3": {"host": f"{HOSTS['etcd']}:2379"},
            "bootstrap": {"dcs": self.timing, "initdb": [{"encoding": "UTF8"}, {"locale": "C"}]},
            "postgresql": {
                "listen": f"{host}:5432",
                "connect_address": f"{host}:5432",
                "data_dir": str(home / "data"),
                "bin_dir": str(self.BINARIES),
                "pgpass": str(home / "pgpass"),
                "pg_hba": [*trust, "local all all trust"],
                "parameters": {"unix_socket_directories": str(home)},
                "authentication": {
                    "superuser": {"username": "postgres", **secret},
                    "replication": {"username": "replicator", **secret},
                },
            },
        }
        (home / "patroni.yml").write_text(json.dumps(text))  # JSON is YAML
        command = [self.venv / "bin/patroni", home / "patroni.yml"]
        environment = {**os.environ, "HOME": str(home)}
        self.lab.start(machine, command, f"patroni-{machine}", self.USER, environment)

    def query(self, machine, statement):
        """An answer of a server; nothing while it does not answer."""
        psql = ["psql", "-X", "-q", "-A", "-t", "-h", HOSTS[machine], "-U", "postgres", "-c", statement]
        try:
            return run(self.lab.inside("client", psql), cwd="/").strip()
        except RuntimeError:
            return None

    def wait_streaming(self, leader):
        """The standby is there, and has been for two rounds of Patroni's loop."""
        streaming = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
        wait_for("the standby streams", lambda: self.query(leader, streaming) == "1", 120, 0.5)
        time.sleep(2 * self.timing["loop_wait"])

    def round(self, number, leader, standby):
        """One kill."""
        python = self.venv / "bin/python"
        to_standby = ("postgres-prober", HOSTS[standby], f"after-{number}")
        prober = self.lab.client("client", *to_standby, python=python)
        to_leader = ("postgres-writer", HOSTS[leader], f"before-{number}")
        writer = self.lab.client(leader, *to_leader, python=python)
        time.sleep(WARM_UP)
        random_phase(self.timing["loop_wait"])
        begin = self.lab.kill_everything(leader)
        seconds = prober.answer(180) - begin
        acknowledged = set(writer.all_lines())
        time.sleep(SETTLING)
        rows = (self.query(standby, "SELECT id FROM note") or "").split()
        lost = len(acknowledged - set(rows))
        return Round(seconds, len(acknowledged), lost, lost)
