import json

import pytest
from click.testing import CliRunner

from sims.cli import main


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(
        main, ["run", "steady", "--nodes", "3", "--seconds", "3", *arguments]
    )
    return result.exit_code, result.stdout, result.stderr


def test_an_algorithm_and_its_settings_can_be_chosen() -> None:
    sent = {}
    for share in ("0.1", "0.5"):
        code, out, _ = run("--algorithm", "choco", "--set", f"settings.density={share}", "--json")
        assert code == 0
        sent[share] = json.loads(out)["bytes_per_node"]
    assert sent["0.5"] > 1.3 * sent["0.1"]


def test_attackers_are_not_in_the_report() -> None:
    code, out, _ = run("--attack", "noise", "--attackers", "0.4", "--option", "split=iid", "--json")
    assert code == 0
    honest = json.loads(run("--option", "split=iid", "--json")[1])
    assert json.loads(out)["accuracy_mean"] < honest["accuracy_mean"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ("--set", "settings.gamma=1"),
            "shared-reference has no setting gamma; there are density, bits",
        ),
        (("--algorithm", "choco", "--set", "settings.gamma=x"), "settings.gamma"),
    ],
)
def test_settings_that_make_no_sense_are_refused(arguments: tuple[str, ...], text: str) -> None:
    code, _, errors = run(*arguments)
    assert code == 3
    assert text in errors
