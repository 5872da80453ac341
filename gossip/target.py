"""I/O: finds the user's learner.

    train.py:learner            a function in a file
    models.digits:learner       a function in an importable module

The function returns a `Learner`. Those of `shard`, `shards` and `seed` that it has parameters for
are passed to it, and its other parameters are what `--option NAME=VALUE` sets, converted to the
annotated type.

A file is imported as Python itself would import it from its own directory, so its siblings can be
imported and what it defines can be pickled. If its name belongs to something else already (a
`models.py` beside our `models`), it gets a name of its own, and so neither hides the other.
"""

from __future__ import annotations

import difflib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from hashlib import sha256
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from inspect import Parameter
from pathlib import Path
from types import ModuleType, NoneType, SimpleNamespace, UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from gossip.errors import TargetError

if TYPE_CHECKING:
    from gossip.learner import Learner

EXAMPLE = "for example train.py:learner or models.digits:learner"
LEARNER = ("layout", "parameters", "load", "train", "evaluate")
TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def load(target: str) -> Callable[..., Learner]:
    """Find `path/to/file.py:function` or `package.module:function`.

    Raises TargetError, which says what is missing or failed, where, and what to do.
    """
    place, colon, name = target.rpartition(":")
    if not (place and colon and name):
        raise TargetError(f"{target!r} is not a target: give file.py:function, {EXAMPLE}")
    if place.endswith(".py") or "/" in place or "\\" in place:
        module = _import_file(Path(place))
    elif all(part.isidentifier() for part in place.split(".")):
        module = _import_module(place)
    else:
        raise TargetError(f"{place!r} is neither a .py file nor the name of a module: {EXAMPLE}")
    return _function(module, name)


def build(
    function: Callable[..., Learner], shard: int, shards: int, seed: int, options: Mapping[str, str]
) -> Learner:
    """Call `function` for one shard, with options as text.

    Raises TargetError: an option that does not exist, has a bad value or is missing; an exception
    in the function (kept as `__cause__`); a result that is not a learner.
    """
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError) as error:
        raise TargetError(f"the parameters of {_name(function)} are unknown: {error}") from error
    ours = {"shard": shard, "shards": shards, "seed": seed}
    values: dict[str, object] = {key: ours[key] for key in ours if _accepts(parameters, key)}
    values |= _options(function, parameters, options, ours)
    missing = [key for key in _named(parameters, required=True) if key not in values]
    if missing:
        remedy = " ".join(f"--option {key}=VALUE" for key in missing)
        raise TargetError(f"{_name(function)} needs {', '.join(missing)}: give {remedy}")
    learner = _call(function, parameters, values)
    lacking = [attribute for attribute in LEARNER if not hasattr(learner, attribute)]
    if lacking:
        raise TargetError(
            f"{_name(function)} returned {_described(learner)}, not a learner: it lacks "
            f"{', '.join(lacking)}; gossip.TorchLearner(model, batches, loss) makes a learner from "
            "an nn.Module"
        )
    return learner


# finding -----------------------------------------------------------------------------------------


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        beside = path.parent.glob("*.py") if path.parent.is_dir() else ()
        near = _suggestion(path.name, [sibling.name for sibling in beside])
        raise TargetError(f"there is no file {path} (seen from {Path.cwd()}){near}")
    path = path.resolve()
    free = _is_free(path)
    name = path.stem if free else f"{path.stem}_{sha256(str(path).encode()).hexdigest()[:8]}"
    loaded = sys.modules.get(name)
    if loaded is not None:
        return loaded
    if str(path.parent) not in sys.path:
        # In front, as for `python train.py`; but behind what its own name would hide from it.
        sys.path.insert(0 if free else len(sys.path), str(path.parent))
    spec = spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _import_failed(str(path), path.parent, error) from error
    return module


def _is_free(path: Path) -> bool:
    """Whether `import stem` finds this file, or nothing."""
    if not path.stem.isidentifier():
        return False
    try:
        found = find_spec(path.stem)
    except ValueError:  # a module without a spec has the name: __main__
        return False
    return found is None or (found.origin is not None and Path(found.origin).resolve() == path)


def _import_module(name: str) -> ModuleType:
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        return import_module(name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            file = Path(f"{name.replace('.', '/')}.py")
            hint = f"did you mean the file {file}" if file.is_file() else "is it installed"
            raise TargetError(
                f"there is no module {name} ({error}): {hint}? A file is named with its "
                f"ending, {EXAMPLE}"
            ) from error
        top = find_spec(name.partition(".")[0])
        home = Path(top.origin).parent if top is not None and top.origin else Path.cwd()
        raise _import_failed(name, home, error) from error


def _import_failed(what: str, home: Path, error: BaseException) -> TargetError:
    where = _where(error, home)
    match error:
        case ModuleNotFoundError():
            return TargetError(
                f"{what} cannot be imported: {where} needs the module {error.name!r}, which is not "
                f"there ({error}); install it, or put it beside the file"
            )
        case SystemExit():
            return TargetError(
                f"{what} cannot be imported: {where} ends the program; put what runs as a script "
                'under: if __name__ == "__main__":'
            )
    return TargetError(f"{what} cannot be imported: {type(error).__name__} at {where}: {error}")


def _function(module: ModuleType, name: str) -> Callable[..., Learner]:
    found = getattr(module, name, None)
    if callable(found):
        return found  # type: ignore[no-any-return]
    file = getattr(module, "__file__", None) or module.__name__
    if found is not None:
        raise TargetError(
            f"{name} in {file} is {_described(found)}, not a function that returns a learner"
        )
    functions = [
        key
        for key, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", "") == module.__name__ and key[0] != "_"
    ]
    there = f"there are {', '.join(functions)}" if functions else "it defines no function at all"
    raise TargetError(f"no function {name} in {file}{_suggestion(name, functions)}; {there}")


# calling -----------------------------------------------------------------------------------------


def _named(parameters: Mapping[str, Parameter], *, required: bool = False) -> dict[str, Parameter]:
    """All but `*these` and `**those`."""
    return {
        key: parameter
        for key, parameter in parameters.items()
        if parameter.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
        and not (required and parameter.default is not Parameter.empty)
    }


def _accepts(parameters: Mapping[str, Parameter], key: str) -> bool:
    return key in _named(parameters) or _rest(parameters) is not None


def _rest(parameters: Mapping[str, Parameter]) -> Parameter | None:
    """The `**options` parameter, if there is one."""
    for parameter in parameters.values():
        if parameter.kind is Parameter.VAR_KEYWORD:
            return parameter
    return None


def _options(
    function: Callable[..., Learner],
    parameters: Mapping[str, Parameter],
    options: Mapping[str, str],
    ours: Iterable[str],
) -> dict[str, object]:
    name = _name(function)
    named = _named(parameters)
    values: dict[str, object] = {}
    for key, text in options.items():
        if key in ours:
            flag = "--seed" if key == "seed" else "--shard I/N"
            raise TargetError(f"{key} is not an option of {name}: it is set by {flag}")
        parameter = named.get(key) or _rest(parameters)
        if parameter is None:
            known = [key for key in named if key not in ours]
            there = f"there are {', '.join(known)}" if known else "it takes none"
            raise TargetError(f"{name} has no option {key}{_suggestion(key, known)}; {there}")
        kind = _kind(function, parameter)
        try:
            values[key] = _convert(text, kind)
        except ValueError:
            raise TargetError(
                f"{key}={text!r} does not fit {name}: {key} is {_expected(kind)}"
            ) from None
        except TypeError:
            raise TargetError(
                f"{key} of {name} is of type {_expected(kind)}, which no option can give; "
                "annotate it as int, float, bool, str, Path or Literal, or wrap the function"
            ) from None
    return values


def _call(
    function: Callable[..., Learner],
    parameters: Mapping[str, Parameter],
    values: Mapping[str, object],
) -> Learner:
    positional = [
        values.get(key, parameter.default)
        for key, parameter in parameters.items()
        if parameter.kind is Parameter.POSITIONAL_ONLY
    ]
    named = {
        key: value
        for key, value in values.items()
        if key not in parameters or parameters[key].kind is not Parameter.POSITIONAL_ONLY
    }
    try:
        return function(*positional, **named)
    except (Exception, SystemExit) as error:
        file = getattr(_module(function), "__file__", None) or "."
        where = _where(error, Path(file).parent)
        raise TargetError(
            f"{_name(function)} failed: {error} ({type(error).__name__} at {where})"
        ) from error


# converting --------------------------------------------------------------------------------------


def _kind(function: Callable[..., Learner], parameter: Parameter) -> Any:
    """The type of a parameter: as annotated, else that of its default, else str."""
    if parameter.annotation is not Parameter.empty:
        # One by one: a type that exists for type checkers only must not spoil the others.
        annotated = SimpleNamespace(__annotations__={"it": parameter.annotation})
        try:
            return get_type_hints(annotated, globalns=vars(_module(function)))["it"]
        except (NameError, AttributeError, TypeError, SyntaxError):
            pass  # then the default tells
    if isinstance(parameter.default, Path):
        return Path
    kind = type(parameter.default)
    return kind if kind in (bool, int, float) else str


def _convert(text: str, kind: Any) -> object:
    """ValueError: the text is not of this type. TypeError: no text is."""
    if kind in (str, Any, object):
        return text
    if kind in (int, float, Path):
        return kind(text)
    if kind is bool:
        if text.lower() not in TRUTH:
            raise ValueError(text)
        return TRUTH[text.lower()]
    if kind is NoneType:
        if text.lower() != "none":
            raise ValueError(text)
        return None
    if get_origin(kind) is Literal:
        for value in get_args(kind):
            if text == str(value):
                return value
        raise ValueError(text)
    if get_origin(kind) in (Union, UnionType):
        return _convert_to_any(text, get_args(kind))
    raise TypeError(kind)


def _convert_to_any(text: str, kinds: Iterable[Any]) -> object:
    understood = False
    for kind in sorted(kinds, key=lambda kind: kind in (str, Path)):  # these take every text
        try:
            return _convert(text, kind)
        except ValueError:
            understood = True
        except TypeError:
            continue
    raise ValueError(text) if understood else TypeError(text)


def _expected(kind: Any) -> str:
    known = {
        int: "a whole number (int)",
        float: "a number (float)",
        bool: "true or false (bool)",
        NoneType: "none",
    }
    if kind in known:
        return known[kind]
    if get_origin(kind) is Literal:
        return f"one of {', '.join(str(value) for value in get_args(kind))}"
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(_expected(each) for each in get_args(kind))
    return getattr(kind, "__name__", None) or str(kind)


# words -------------------------------------------------------------------------------------------


def _plain(function: Callable[..., object]) -> Callable[..., object]:
    """What is called in the end, under decorators and partial arguments."""
    function = inspect.unwrap(function)
    return _plain(function.func) if isinstance(function, partial) else function


def _module(function: Callable[..., object]) -> ModuleType:
    plain = _plain(function)
    return sys.modules[getattr(plain, "__module__", type(plain).__module__)]


def _name(function: Callable[..., object]) -> str:
    plain = _plain(function)
    return (
        f"{_module(function).__name__}:{getattr(plain, '__qualname__', type(plain).__qualname__)}"
    )


def _described(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def _suggestion(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f", did you mean {near[0]}?" if near else ""


def _where(error: BaseException, home: Path) -> str:
    """FILE:LINE of the user's line at fault: the innermost one below `home`."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f"{error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [
        frame
        for frame in frames
        if Path(frame.filename).is_relative_to(home) and "site-packages" not in frame.filename
    ]
    frame = (theirs or frames)[-1]
    return f"{frame.filename}:{frame.lineno}"
