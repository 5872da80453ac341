"""Seeds by name."""

from __future__ import annotations

from pathlib import Path

from tests.net.lab import Lab


def test_a_name_stands_for_all_its_addresses_and_is_looked_up_again_while_nobody_answers(
    lab: Lab, tmp_path: Path
) -> None:
    machine = lab.machine()
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.99 seed.test\n")
    a = lab.start(machine, "a", "--listen", "127.0.0.2:7946")
    b = lab.start(
        machine,
        "b",
        "--join",
        "seed.test:7946",
        prefix=["unshare", "-m", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', hosts],
    )
    b.says("no answer from 127.0.0.99:7946")
    hosts.write_text("127.0.0.77 seed.test\n127.0.0.2 seed.test\n")
    a.reaches("exchanges", 1)
    b.says("no answer from 127.0.0.77:7946")
