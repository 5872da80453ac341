"""Seeds by name."""

from __future__ import annotations

from pathlib import Path

from tests.net.lab import Lab


def test_a_name_stands_for_all_its_addresses_and_is_looked_up_again_while_nobody_answers(
    lab: Lab, key: Path, tmp_path: Path
) -> None:
    machines = [lab.machine() for _ in range(3)]
    lab.switch(*machines)
    common = ["--network-key", key, "--no-lan", "--listen", "0.0.0.0:7946"]
    a = lab.start(machines[0], "a", *common)
    b = lab.start(machines[1], "b", *common)
    for node in (a, b):
        node.status()
    hosts = tmp_path / "hosts"
    hosts.write_text("10.0.1.99 seed.test\n")
    with_hosts = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"']
    c = lab.start(
        machines[2], "c", *common, "--join", "seed.test:7946", prefix=[*with_hosts, str(hosts)]
    )
    c.says("no answer from 10.0.1.99:7946")
    hosts.write_text("10.0.1.1 seed.test\n10.0.1.2 seed.test\n10.0.1.3 seed.test\n")
    c.reaches("peers", 2)
    assert "linked with" in a.said
    assert "linked with" in b.said
