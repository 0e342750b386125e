"""Redis as it is run where hosts die: a primary with replicas that Sentinels watch, and a cluster."""

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

from redis import Redis, RedisError
from redis.crc import key_slot

from launcher.redis_server import find_redis
from tests.waiting import wait_until
from tritonserver.process import HOST, start_server, stop_server

NAME = "icestream"
DOWN_MS = 1000  # without an answer, after which a Sentinel takes a server for dead


class Server:
    """One process, with a folder of its own; may be killed, hang, and be started again on its port."""

    def __init__(self, folder: Path, *options: str, sentinel: str = "", cluster: bool = False):
        folder.mkdir(parents=True)
        self._folder, self._options, self._sentinel, self._cluster = folder, options, sentinel, cluster
        if sentinel:
            (folder / "sentinel.conf").write_text(sentinel)
        self._process, self._ports = start_server(
            self._command, 1 + cluster, ready=lambda ports: answers(ports[0]), log=folder / "log", environment={}
        )
        self.port, self.bus_port = self._ports[0], self._ports[-1]

    def _command(self, ports: Any) -> list[str]:
        server = find_redis()
        if self._sentinel:
            config = str(self._folder / "sentinel.conf")
            return [server.binary, config, "--port", str(ports[0]), "--bind", HOST, "--sentinel"]
        nodes = ["--cluster-enabled", "yes", "--cluster-port", str(ports[1])] if self._cluster else []
        return [*server.command(self._folder, HOST, ports[0]), *self._options, *nodes]

    def start(self) -> None:
        with open(self._folder / "log", "ab") as log:
            command = self._command(self._ports)
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        wait_until(lambda: answers(self.port), "it answers")

    def kill(self) -> None:
        stop_server(self._process)

    def pause(self) -> None:
        os.killpg(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.killpg(self._process.pid, signal.SIGCONT)

    def ask(self, *command: str) -> Any:
        with Redis(host=HOST, port=self.port, protocol=2, socket_timeout=2) as client:
            return client.execute_command(*command)


def answers(port: int) -> bool:
    with Redis(host=HOST, port=port, protocol=2, socket_timeout=1) as client, suppress(RedisError):
        return bool(client.ping())
    return False


class Watched:
    """A primary, two replicas and three Sentinels."""

    def __init__(self, folder: Path, *options: str):
        self.servers = [Server(folder / "redis-0", *options)]
        first = self.servers[0].port
        for number in (1, 2):
            self.servers.append(Server(folder / f"redis-{number}", *options, "--replicaof", f"{HOST} {first}"))
        wait_until(lambda: self._replicas(self.servers[0]) == 2, "both replicate")
        config = (
            f"sentinel monitor {NAME} {HOST} {first} 2\nsentinel down-after-milliseconds {NAME} {DOWN_MS}\n"
            f"sentinel failover-timeout {NAME} 3000\nsentinel parallel-syncs {NAME} 2\n"
        )
        self.sentinels = [Server(folder / f"sentinel-{number}", sentinel=config) for number in range(3)]
        wait_until(lambda: all(self._knows(sentinel) for sentinel in self.sentinels), "they know each other")
        hosts = ",".join(f"{HOST}:{sentinel.port}" for sentinel in self.sentinels)
        self.url = f"redis+sentinel://{hosts}/{NAME}"

    @staticmethod
    def _replicas(server: Server) -> int:
        with Redis(host=HOST, port=server.port, protocol=2, socket_timeout=2) as client:
            found: Any = client.info("replication")
        return sum(
            found[name]["state"] == "online" for name in found if name.startswith("slave") and name[5:].isdigit()
        )

    @staticmethod
    def _knows(sentinel: Server) -> bool:
        with Redis(host=HOST, port=sentinel.port, protocol=2) as client:
            master = client.sentinel_master(NAME)
        return bool(master["num-other-sentinels"] == 2 and master["num-slaves"] == 2)

    @property
    def primary(self) -> Server:
        """That of which most Sentinels say so."""
        said = []
        for sentinel in self.sentinels:
            with Redis(host=HOST, port=sentinel.port, protocol=2) as client:
                address: Any = client.sentinel_get_master_addr_by_name(NAME)
                said.append(int(address[1]))
        port = max(set(said), key=said.count)
        return next(server for server in self.servers if server.port == port)

    def whole(self) -> bool:
        """A primary that two replicas follow."""
        with suppress(RedisError, StopIteration):
            return self._replicas(self.primary) == 2
        return False

    def close(self) -> None:
        for server in (*self.sentinels, *self.servers):
            server.resume()
            server.kill()


class Cluster:
    """Three primaries that share the slots."""

    def __init__(self, folder: Path):
        self.servers = [
            Server(folder / f"node-{number}", "--cluster-node-timeout", "2000", cluster=True) for number in range(3)
        ]
        try:
            self._join()
        except BaseException:
            self.close()
            raise
        self.url = "redis+cluster://" + ",".join(f"{HOST}:{server.port}" for server in self.servers)

    def _join(self) -> None:
        for number, server in enumerate(self.servers):
            first, last = number * 16384 // 3, (number + 1) * 16384 // 3 - 1
            server.ask("CLUSTER", "ADDSLOTSRANGE", str(first), str(last))
            server.ask("CLUSTER", "SET-CONFIG-EPOCH", str(number + 1))
        for server in self.servers[1:]:
            server.ask("CLUSTER", "MEET", HOST, str(self.servers[0].port), str(self.servers[0].bus_port))
        wait_until(self.well, "the cluster is well")

    def well(self) -> bool:
        """Every node sees all slots."""
        return all(self._state(server) == "ok" for server in self.servers)

    def move(self, key: str) -> None:
        """Give the slot of a key to another node, with all that is in it."""
        slot = str(key_slot(key.encode()))
        [owner] = [server for server in self.servers if server.ask("CLUSTER", "COUNTKEYSINSLOT", slot)]
        other = next(server for server in self.servers if server is not owner)
        source, target = (server.ask("CLUSTER", "MYID").decode() for server in (owner, other))
        other.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source)
        owner.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target)
        while names := owner.ask("CLUSTER", "GETKEYSINSLOT", slot, "100"):
            owner.ask("MIGRATE", HOST, str(other.port), "", "0", "5000", "KEYS", *(name.decode() for name in names))
        for server in (other, owner, *self.servers):
            server.ask("CLUSTER", "SETSLOT", slot, "NODE", target)

    @staticmethod
    def _state(server: Server) -> str:
        return str(server.ask("CLUSTER", "INFO").decode().split("cluster_state:")[1].split()[0])

    def close(self) -> None:
        for server in self.servers:
            server.kill()
