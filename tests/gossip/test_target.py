"""`gossip.target` finds learners, and says what is wrong where it cannot."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Literal, Optional

import pytest

from gossip.errors import TargetError
from gossip.target import build, load
from models import partition

if TYPE_CHECKING:
    from fractions import Fraction

ROOT = Path(__file__).parents[2]


class Recorder:
    """Looks like a learner and remembers what it was made with."""

    layout = None

    def __init__(self, *given: object, **named: object) -> None:
        self.given = given
        self.named = named

    def parameters(self) -> None: ...
    def load(self, parameters: object) -> None: ...
    def train(self) -> None: ...
    def evaluate(self) -> None: ...


LEARNER = """
    class Learner:
        layout = None
        def parameters(self): ...
        def load(self, parameters): ...
        def train(self): ...
        def evaluate(self): ...
"""


@pytest.fixture(autouse=True)
def _leave_no_trace(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        home = getattr(sys.modules[name], "__file__", None)
        if home is None or not Path(home).is_relative_to(ROOT):
            del sys.modules[name]


def write(directory: Path, name: str, *texts: str) -> Path:
    file = directory / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(dedent(text) for text in texts))
    return file


def called(target: str) -> object:
    return load(target)()


def refusal(target: str) -> str:
    with pytest.raises(TargetError) as caught:
        load(target)
    return str(caught.value)


def built(function: object, options: dict[str, str] | None = None) -> Recorder:
    learner = build(function, 1, 4, 7, options or {})  # type: ignore[arg-type]
    assert isinstance(learner, Recorder)
    return learner


def refusal_to_build(function: object, **options: str) -> str:
    with pytest.raises(TargetError) as caught:
        build(function, 1, 4, 7, options)  # type: ignore[arg-type]
    return str(caught.value)


# finding -----------------------------------------------------------------------------------------


def test_a_function_in_a_file_is_found_whatever_the_directory(tmp_path: Path) -> None:
    file = write(tmp_path, "some where/found_it.py", "def learner(): return 'it'")
    assert called(f"{file}:learner") == "it"


def test_a_relative_path_is_seen_from_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "relative_one.py", "def learner(): return 'it'")
    monkeypatch.chdir(tmp_path)
    assert called("relative_one.py:learner") == "it"
    assert called("./relative_one.py:learner") == "it"


def test_a_function_in_a_module_is_found() -> None:
    found: object = load("models.partition:iid")
    assert found is partition.iid


def test_modules_in_the_current_directory_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "my_project/inner.py", "def learner(): return 'it'")
    monkeypatch.chdir(tmp_path)
    assert called("my_project.inner:learner") == "it"


def test_the_siblings_of_a_file_can_be_imported(tmp_path: Path) -> None:
    write(tmp_path, "my_sibling.py", "answer = 42")
    file = write(tmp_path, "with_sibling.py", "import my_sibling as s\ndef f(): return s.answer")
    assert called(f"{file}:f") == 42


def test_a_sibling_called_models_is_the_one_that_its_neighbour_imports(tmp_path: Path) -> None:
    """In a process of its own: here our `models` is imported already."""
    write(tmp_path, "models.py", "answer = 42")
    file = write(tmp_path, "train.py", "from models import answer\ndef f(): return answer")
    script = f"from gossip.target import load; print(load({f'{file}:f'!r})())"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment
    )
    assert (done.stdout, done.stderr) == ("42\n", "")


@pytest.mark.parametrize("name", ["models.py", "random.py", "gossip.py", "digits.py"])
def test_a_file_whose_name_is_taken_neither_hides_the_owner_nor_is_hidden(
    tmp_path: Path, name: str
) -> None:
    file = write(tmp_path, name, "from models import partition\ndef f(): return partition.iid")
    assert called(f"{file}:f") is partition.iid
    found: object = load("models.partition:iid")
    assert found is partition.iid


def test_files_of_one_name_in_two_directories_are_two_modules(tmp_path: Path) -> None:
    one = write(tmp_path, "one/twin_file.py", "def f(): return 1")
    two = write(tmp_path, "two/twin_file.py", "def f(): return 2")
    assert [called(f"{one}:f"), called(f"{two}:f")] == [1, 2]


def test_a_file_is_run_only_once(tmp_path: Path) -> None:
    file = write(tmp_path, "run_once.py", "def f(): ...")
    assert load(f"{file}:f") is load(f"{file}:f")


@pytest.mark.parametrize("name", ["has_values.py", "models.py", "has-dashes.py"])
def test_what_a_file_defines_can_be_pickled(tmp_path: Path, name: str) -> None:
    text = """
        from __future__ import annotations
        from dataclasses import dataclass

        @dataclass(frozen=True)
        class Value:
            number: int

        def f(): return Value(3)
    """
    value: object = called(f"{write(tmp_path, name, text)}:f")
    assert pickle.loads(pickle.dumps(value)) == value


# not finding -------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["train.py", "train", "train.py:", ":learner", ""])
def test_a_target_without_both_halves_is_refused_with_an_example(target: str) -> None:
    assert repr(target) in refusal(target)
    assert "train.py:learner" in refusal(target)


def test_a_missing_file_is_named_with_the_one_that_was_meant(tmp_path: Path) -> None:
    write(tmp_path, "training.py")
    told = refusal(f"{tmp_path / 'trainin.py'}:learner")
    assert str(tmp_path / "trainin.py") in told
    assert "did you mean training.py?" in told


def test_a_missing_module_is_named() -> None:
    assert "there is no module no_such_thing" in refusal("no_such_thing:learner")
    assert "there is no module models.no_such_thing" in refusal("models.no_such_thing:learner")


def test_a_file_given_as_a_module_that_cannot_be_imported_is_recognised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "models/mine.py")
    monkeypatch.chdir(tmp_path)
    assert "did you mean the file models/mine.py?" in refusal("models.mine:learner")


def test_what_is_neither_a_file_nor_a_module_is_refused() -> None:
    assert "'my train' is neither" in refusal("my train:learner")
    assert "'.train' is neither" in refusal(".train:learner")


def test_a_missing_import_inside_a_file_is_told_from_a_missing_file(tmp_path: Path) -> None:
    file = write(tmp_path, "needs_more.py", "import os\nimport not_installed\ndef f(): ...")
    told = refusal(f"{file}:f")
    assert "needs the module 'not_installed'" in told
    assert f"{file}:2" in told


def test_a_missing_import_inside_a_module_is_told_from_a_missing_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path, "needy_package/inner.py", "\nfrom not_installed import it")
    monkeypatch.chdir(tmp_path)
    told = refusal("needy_package.inner:f")
    assert "needs the module 'not_installed'" in told
    assert f"{file}:2" in told


def test_a_missing_import_inside_a_sibling_names_the_line_of_the_sibling(tmp_path: Path) -> None:
    sibling = write(tmp_path, "needy_sibling.py", "import not_installed")
    file = write(tmp_path, "fine_itself.py", "import needy_sibling\ndef f(): ...")
    assert f"{sibling}:1" in refusal(f"{file}:f")


def test_an_exception_during_import_is_told_with_its_line(tmp_path: Path) -> None:
    file = write(tmp_path, "fails.py", "import json\n\nnumbers = json.loads('[1,')\ndef f(): ...")
    told = refusal(f"{file}:f")
    assert f"JSONDecodeError at {file}:3: Expecting value" in told


def test_a_syntax_error_is_told_with_its_line(tmp_path: Path) -> None:
    file = write(tmp_path, "no_syntax.py", "\ndef f(:")
    assert f"SyntaxError at {file}:2" in refusal(f"{file}:f")


def test_a_script_that_exits_on_import_is_told_about_main(tmp_path: Path) -> None:
    file = write(tmp_path, "a_script.py", "raise SystemExit(2)")
    told = refusal(f"{file}:f")
    assert f"{file}:1 ends the program" in told
    assert "__main__" in told


def test_a_file_that_failed_can_be_loaded_once_it_is_mended(tmp_path: Path) -> None:
    file = write(tmp_path, "mended.py", "1 / 0")
    refusal(f"{file}:f")
    write(tmp_path, "mended.py", "def f(): return 'mended, and of another length'")
    assert called(f"{file}:f") == "mended, and of another length"


def test_a_missing_function_is_named_with_those_that_there_are(tmp_path: Path) -> None:
    text = "from json import loads\ndef learner(): ...\ndef other(): ...\ndef _own(): ..."
    file = write(tmp_path, "functions.py", text)
    told = refusal(f"{file}:learn")
    assert f"no function learn in {file}, did you mean learner?" in told
    assert told.endswith("there are learner, other")


def test_a_file_without_functions_says_so(tmp_path: Path) -> None:
    file = write(tmp_path, "empty_file.py", "x = 1")
    assert "it defines no function" in refusal(f"{file}:learner")


def test_what_is_not_callable_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path, "not_callable.py", "learner = 3.5")
    assert "learner in" in refusal(f"{file}:learner")
    assert "is a float, not a function" in refusal(f"{file}:learner")


# calling -----------------------------------------------------------------------------------------


def test_only_what_the_function_takes_of_shard_and_seed_is_passed() -> None:
    def all_of_it(shard: int, shards: int, seed: int) -> Recorder:
        return Recorder(shard, shards, seed)

    def positional(seed: int = 0, shard: int = 0, /) -> Recorder:
        return Recorder(seed, shard)

    def one(*, shards: int) -> Recorder:
        return Recorder(shards)

    assert built(all_of_it).given == (1, 4, 7)
    assert built(positional).given == (7, 1)
    assert built(one).given == (4,)
    assert built(lambda: Recorder()).given == ()
    assert built(lambda **rest: Recorder(**rest)).named == {"shard": 1, "shards": 4, "seed": 7}


def test_a_class_and_a_partial_function_are_functions_too() -> None:
    class Special(Recorder):
        def __init__(self, shard: int, lr: float = 0.1) -> None:
            super().__init__(shard, lr)

    def function(shard: int, lr: float, steps: int = 1) -> Recorder:
        return Recorder(shard, lr, steps)

    assert built(Special, {"lr": "0.5"}).given == (1, 0.5)
    assert built(partial(function, lr=0.25), {"steps": "3"}).given == (1, 0.25, 3)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (int, "-3", -3),
        (float, "1e-3", 0.001),
        (float, "2", 2.0),
        (str, "3", "3"),
        (bool, "Yes", True),
        (bool, "1", True),
        (bool, "no", False),
        (bool, "FALSE", False),
        (Path, "a/b", Path("a/b")),
        (Literal["mlp", "cnn"], "cnn", "cnn"),
        (Literal[1, 2], "2", 2),
        (int | None, "3", 3),
        (int | None, "none", None),
        (Optional[float], "0.5", 0.5),  # noqa: UP045
        (str | int, "3", 3),
        (str | int, "three", "three"),
        (Literal["auto"] | int, "auto", "auto"),
        (list[int] | int, "4", 4),
        ("int", "5", 5),
        ("int | None", "5", 5),
        ("Literal['a', 'b']", "b", "b"),
    ],
)
def test_options_are_converted_to_the_annotated_type(
    kind: object, text: str, value: object
) -> None:
    def function(option):  # type: ignore[no-untyped-def]
        return Recorder(option)

    function.__annotations__ = {"option": kind}
    (given,) = built(function, {"option": text}).given
    assert given == value
    assert type(given) is type(value)


def test_options_without_annotation_take_the_type_of_their_default() -> None:
    def function(count=1, lr=0.1, deep=False, name="a", home=Path(), other=None):  # type: ignore[no-untyped-def]
        return Recorder(count, lr, deep, name, home, other)

    options = {"count": "2", "lr": "3", "deep": "yes", "name": "4", "home": "x", "other": "5"}
    assert built(function, options).given == (2, 3.0, True, "4", Path("x"), "5")


def test_an_annotation_for_type_checkers_only_does_not_spoil_the_others() -> None:
    def function(half: Fraction = 0.5, steps: int = 1) -> Fraction:  # type: ignore[assignment]
        return Recorder(half, steps)  # type: ignore[return-value]

    assert built(function, {"half": "0.25", "steps": "2"}).given == (0.25, 2)


def test_extra_options_go_to_a_function_that_takes_any() -> None:
    def anything(shard: int, **rest: float) -> Recorder:
        return Recorder(**rest)

    assert built(anything, {"lr": "0.5"}).named == {"shards": 4, "seed": 7, "lr": 0.5}


def test_an_unknown_option_is_named_with_those_that_there_are() -> None:
    def function(shard: int, classes: int = 2, split: str = "iid") -> Recorder:
        return Recorder()

    told = refusal_to_build(function, clases="2")
    assert "has no option clases, did you mean classes?; there are classes, split" in told
    assert "it takes none" in refusal_to_build(lambda shard: Recorder(), lr="1")


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        (int, "two", "a whole number"),
        (int, "2.0", "a whole number"),
        (float, "fast", "a number"),
        (bool, "maybe", "true or false"),
        (Literal["mlp", "cnn"], "mpl", "one of mlp, cnn"),
        (int | None, "two", "a whole number (int) or none"),
    ],
)
def test_a_bad_value_is_told_with_what_was_expected(kind: object, text: str, expected: str) -> None:
    def function(size):  # type: ignore[no-untyped-def]
        return Recorder(size)

    function.__annotations__ = {"size": kind}
    told = refusal_to_build(function, size=text)
    assert f"size={text!r}" in told
    assert expected in told


def test_a_type_that_no_text_can_give_is_refused() -> None:
    def function(sizes: list[int] = []) -> Recorder:  # noqa: B006
        return Recorder()

    assert "sizes" in refusal_to_build(function, sizes="1,2")
    assert "which no option can give" in refusal_to_build(function, sizes="1,2")


def test_missing_options_are_all_named() -> None:
    def function(shard: int, size: int, data: Path, lr: float = 0.1) -> Recorder:
        return Recorder()

    told = refusal_to_build(function)
    assert "needs size, data: give --option size=VALUE --option data=VALUE" in told


@pytest.mark.parametrize(("key", "flag"), [("seed", "--seed"), ("shards", "--shard")])
def test_shard_and_seed_are_not_options(key: str, flag: str) -> None:
    assert flag in refusal_to_build(lambda **rest: Recorder(), **{key: "1"})


def test_an_exception_in_the_function_is_told_with_its_line_and_kept(tmp_path: Path) -> None:
    file = write(tmp_path, "raises.py", "def f(lr: float):\n    raise ValueError('lr is too big')")
    with pytest.raises(TargetError) as caught:
        build(load(f"{file}:f"), 0, 1, 0, {"lr": "9"})
    assert f"lr is too big (ValueError at {file}:2)" in str(caught.value)
    assert isinstance(caught.value.__cause__, ValueError)


def test_the_line_at_fault_is_the_users_not_that_of_a_library(tmp_path: Path) -> None:
    file = write(tmp_path, "misuses.py", "import json\n\ndef f():\n    json.loads('[')")
    with pytest.raises(TargetError, match=r"misuses\.py:4\)"):
        build(load(f"{file}:f"), 0, 1, 0, {})


def test_a_text_that_tells_what_to_install_is_preserved() -> None:
    def function() -> Recorder:
        raise ModuleNotFoundError("needs scikit-learn: pip install 'gossip-learning[models]'")

    assert "pip install 'gossip-learning[models]'" in refusal_to_build(function)


def test_a_learner_of_the_users_own_making_is_accepted(tmp_path: Path) -> None:
    file = write(tmp_path, "own_learner.py", LEARNER, "def f(shard): return Learner()")
    assert type(build(load(f"{file}:f"), 0, 1, 0, {})).__name__ == "Learner"


def test_what_is_not_a_learner_is_refused_with_the_way_to_make_one() -> None:
    class Network:
        def parameters(self) -> None: ...
        def train(self) -> None: ...

    told = refusal_to_build(lambda: Network())
    assert "returned a Network, not a learner: it lacks layout, load, evaluate" in told
    assert "gossip.TorchLearner(" in told
    assert "returned None" in refusal_to_build(lambda: None)
