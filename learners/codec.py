"""River objects <-> plain state, without pickle: an allow-list of types, no constructor is run.

An object becomes a node of a table, and the table JSON; what is shared stays shared. Numbers of
arrays, and what River's compiled parts say of themselves, lie together in one array of bytes.
"""

from __future__ import annotations

import copy
import functools
import importlib
import json
import math
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterator
from random import Random
from types import BuiltinMethodType, FunctionType, MethodType
from typing import Any

import numpy as np

from learners.ids import State

_COMPILED = "river._river_rust."
_ARRAY_KINDS = "biuf"
_BUILTINS = {c.__name__: c for c in (bool, int, float, str, list, dict, set, tuple)}
_CONTAINERS: dict[str, type] = {
    c.__name__: c for c in (list, dict, OrderedDict, Counter, defaultdict, deque, set)
}
_NAMES = {c: name for name, c in _CONTAINERS.items()}
_LARGEST = 2**63
_UNSEEDED = Random(0)  # noqa: S311  # only its identity counts
# Never shared by identity: whether two equal ones are one object says nothing.
_IMMUTABLE = (tuple, frozenset, bytes, np.generic, type)
_FUNCTIONS: dict[str, Any] = {"copy:deepcopy": copy.deepcopy}


class CannotKeep(TypeError):
    """Something in an object that has no plain form."""


def encode(value: Any) -> State:
    """Return a value as plain state; raise CannotKeep, naming what is in the way."""
    return _Encoder().encode(value)


def decode(state: State) -> Any:
    """Return what `encode` was given; raise ValueError for what is not on the allow-list."""
    return _Decoder(state).decode()


def canonical(state: State) -> bytes:
    """Return the bytes that stand for a state in a hash."""
    nodes = json.dumps([state["root"], state["nodes"]], separators=(",", ":"))
    return nodes.encode() + np.asarray(state["bytes"]).tobytes()


def parts(value: Any) -> Iterator[Any]:
    """Yield an object and what it is made of: River's objects, but not what containers hold."""
    seen, todo = set(), [value]
    while todo:
        part = todo.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        if _is_ours(type(part)):
            todo += getattr(part, "__dict__", {}).values()
            todo += (inner for _, inner in _slots(part))


def chances(value: Any) -> list[Random]:
    """Return the sources of chance that an object holds."""
    return [part for part in parts(value) if isinstance(part, Random)]


def _slots(value: Any) -> Iterator[tuple[str, Any]]:
    for base in type(value).__mro__:
        names = base.__dict__.get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                yield name, getattr(value, name)


def _is_ours(of: Any) -> bool:
    return str(getattr(of, "__module__", "")).startswith("river.")


def _has_methods(value: Any) -> bool:
    return type(value) is Random or _is_ours(type(value))


class _Encoder:
    """Walks an object without recursion, so that a deep tree is no problem."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.body = bytearray()
        self.numbers: dict[int, int] = {}
        self.todo: list[tuple[int, Any, str]] = []
        self.kept: list[Any] = []  # an id must not be given out again while we are at it

    def encode(self, value: Any) -> State:
        """Return the table that a value becomes."""
        root = self.reference(value, type(value).__name__)
        while self.todo:
            number, inner, path = self.todo.pop()
            self.nodes[number] = self.node(inner, path)
        bytes_ = np.frombuffer(bytes(self.body), np.uint8)
        return {"root": root, "nodes": self.nodes, "bytes": bytes_}

    def reference(self, value: Any, path: str) -> Any:
        """Return a plain value as it is, a float that JSON has not, or a node's number."""
        if value is None or type(value) in (bool, str):
            return value
        if type(value) is int:
            return value if -_LARGEST <= value < _LARGEST else ["int", str(value)]
        if type(value) is float:
            return value if math.isfinite(value) else ["float", repr(value)]
        number = self.numbers.get(id(value))
        if number is None or isinstance(value, _IMMUTABLE):
            number = self.numbers[id(value)] = len(self.nodes)
            self.nodes.append(None)
            self.kept.append(value)
            self.todo.append((number, value, path))
        return [number]

    def node(self, value: Any, path: str) -> list[Any]:
        """Return what an object consists of."""
        of = type(value)
        if of in (tuple, frozenset):
            return [of.__name__, self.elements(value, path)]
        if of in _NAMES:
            return self.container(value, path)
        if of is bytes:
            return ["bytes", *self.put(value)]
        if isinstance(value, np.ndarray | np.generic):
            if value.dtype.kind not in _ARRAY_KINDS:
                raise CannotKeep(f"{path} is an array of {value.dtype}")
            little = np.asarray(value, value.dtype.newbyteorder("<"), order="C")
            kind = "array" if isinstance(value, np.ndarray) else "scalar"
            return [kind, little.dtype.str, list(little.shape), *self.put(little.tobytes())]
        if value is _UNSEEDED:
            return ["unseeded"]
        if of is Random:
            return ["random", self.reference(value.getstate(), path)]
        if of is np.random.RandomState:
            return ["numpy_random", self.reference(value.get_state(legacy=False), path)]
        if of is functools.partial:
            inner = (value.func, value.args, value.keywords)
            return ["partial", [self.reference(part, path) for part in inner]]
        if isinstance(value, type | FunctionType):
            return ["name", self.name(value, path)]
        if isinstance(value, MethodType | BuiltinMethodType) and _has_methods(value.__self__):
            return ["method", self.reference(value.__self__, path), value.__name__]
        if of.__module__.startswith(_COMPILED):
            return self.compiled(value, path)
        if _is_ours(of):
            held = dict(getattr(value, "__dict__", {})) | dict(_slots(value))
            if held.get("seed", 0) is None and isinstance(held.get("_rng"), Random):
                # Chance that nobody seeded: River's distributions have some, to sample from.
                held["_rng"] = _UNSEEDED
            pairs = [[n, self.reference(v, f"{path}.{n}")] for n, v in held.items()]
            return ["object", f"{of.__module__}:{of.__qualname__}", pairs]
        raise CannotKeep(f"{path} is a {of.__module__}.{of.__qualname__}")

    def elements(self, values: Any, path: str) -> list[Any]:
        """Return references to the elements of a sequence, or a set, whose order says nothing."""
        if not isinstance(values, set | frozenset):
            return [self.reference(inner, f"{path}[{i}]") for i, inner in enumerate(values)]
        if not all(type(inner) in (bool, int, float, str) for inner in values):
            raise CannotKeep(f"{path} is a set of other things than names and numbers")
        return sorted((self.reference(inner, path) for inner in values), key=repr)

    def container(self, value: Any, path: str) -> list[Any]:
        """Return a list, deque, set or dictionary."""
        name = _NAMES[type(value)]
        if isinstance(value, dict):
            pairs = [
                [self.reference(key, path), self.reference(inner, f"{path}[{key!r}]")]
                for key, inner in value.items()
            ]
            factory = value.default_factory if isinstance(value, defaultdict) else None
            return [name, pairs, self.reference(factory, f"{path}'s default")]
        most = value.maxlen if isinstance(value, deque) else None
        return [name, self.elements(value, path), most]

    def name(self, value: Any, path: str) -> str:
        """Return the name of a class or function."""
        if value in _BUILTINS.values():
            return str(value.__name__)
        name = f"{value.__module__}:{value.__qualname__}"
        if "<" in name:
            raise CannotKeep(f"{path} is a lambda, or made inside of a function")
        if not (_is_ours(value) or value in _NAMES or name in _FUNCTIONS):
            raise CannotKeep(f"{path} is {name}")
        return name

    def compiled(self, value: Any, path: str) -> list[Any]:
        """Return one of River's compiled objects, by what it says of itself."""
        _, args, *rest = value.__reduce_ex__(2)
        inner = rest[0] if rest else None
        args = args[1:] if args and args[0] is type(value) else args
        parts = [self.reference(args, path), self.reference(inner, path)]
        return ["compiled", f"{type(value).__module__}:{type(value).__qualname__}", parts]

    def put(self, data: bytes) -> list[int]:
        """Append bytes; return where they begin, and how many."""
        self.body += data
        return [len(self.body) - len(data), len(data)]


class _Decoder:
    """Makes every object empty first, then fills them: they may hold each other."""

    def __init__(self, state: State) -> None:
        self.nodes = state["nodes"]
        self.root = state["root"]
        self.body = np.asarray(state["bytes"], np.uint8).tobytes()
        self.made: dict[int, Any] = {}
        self.to_fill: list[tuple[Any, list[Any]]] = []

    def decode(self) -> Any:
        """Return the value."""
        root = self.value(self.root)
        self.fill_all()
        return root

    def value(self, reference: Any) -> Any:
        """Return what a reference stands for."""
        if not isinstance(reference, list):
            return reference
        if len(reference) == 2:
            kind, text = reference
            return {"int": int, "float": float}[kind](text)
        number = reference[0]
        if number not in self.made:
            self.made[number] = self.make(self.nodes[number])
        return self.made[number]

    def make(self, node: list[Any]) -> Any:
        """Return an object: whole if it cannot change, else to be filled."""
        kind, *rest = node
        if kind in ("tuple", "frozenset"):
            values = map(self.value, rest[0])
            return tuple(values) if kind == "tuple" else frozenset(values)
        if kind in ("array", "scalar", "bytes"):
            return self.data(kind, rest)
        if kind == "name":
            return _named(rest[0])
        if kind == "method":
            return self.method(self.value(rest[0]), rest[1])
        if kind == "partial":
            func, args, keywords = map(self.value, rest[0])
            self.fill_all()
            return functools.partial(func, *args, **keywords)
        if kind == "unseeded":
            return Random(0)  # noqa: S311  # stands for any
        if kind == "random":
            made = Random()  # noqa: S311  # becomes the one that was kept
            made.setstate(self.value(rest[0]))
            return made
        if kind == "numpy_random":
            numpy_random = np.random.RandomState()
            state = self.value(rest[0])
            self.fill_all()
            numpy_random.set_state(state)
            return numpy_random
        if kind == "compiled":
            return self.compiled(*rest)
        return self.empty(node)

    def empty(self, node: list[Any]) -> Any:
        """Return an object that `fill` will fill."""
        kind, content = node[0], node[2]
        if kind == "object":
            of = _named(node[1])
            if not (isinstance(of, type) and _is_ours(of)):
                raise ValueError(f"{node[1]} is no class of River's")
            made: Any = object.__new__(of)
        elif kind == "defaultdict":
            made = defaultdict(self.value(content))
        else:
            made = deque(maxlen=content) if kind == "deque" else _CONTAINERS[kind]()
        self.to_fill.append((made, node))
        return made

    def fill_all(self) -> None:
        """Fill what has been made so far, for those that need it whole."""
        while self.to_fill:
            self.fill(*self.to_fill.pop())

    def fill(self, made: Any, node: list[Any]) -> None:
        """Give an object its content."""
        kind = node[0]
        if kind == "object":
            for name, inner in node[2]:
                object.__setattr__(made, name, self.value(inner))
        elif isinstance(made, dict):
            for key, inner in node[1]:
                made[self.value(key)] = self.value(inner)
        elif isinstance(made, set):
            made.update(map(self.value, node[1]))
        else:
            made.extend(map(self.value, node[1]))

    def data(self, kind: str, rest: list[Any]) -> Any:
        """Return bytes, an array of its own, or one number."""
        start, length = rest[-2:]
        data = self.body[start : start + length]
        if kind == "bytes":
            return data
        dtype = np.dtype(rest[0])
        if dtype.kind not in _ARRAY_KINDS:
            raise ValueError(f"an array of {dtype}")
        array = np.frombuffer(data, dtype).reshape(rest[1]).copy()
        return array if kind == "array" else array[()]

    def method(self, of: Any, name: str) -> Any:
        """Return a method, bound to its object."""
        if not _has_methods(of):
            raise ValueError(f"a method of a {type(of).__name__}")
        method = getattr(type(of), name).__get__(of)
        if not isinstance(method, MethodType | BuiltinMethodType):
            raise ValueError(f"{name} is no method of a {type(of).__name__}")
        return method

    def compiled(self, name: str, parts: list[Any]) -> Any:
        """Return one of River's compiled objects."""
        if not name.startswith(_COMPILED):
            raise ValueError(f"{name} is none of River's compiled classes")
        args, inner = map(self.value, parts)
        self.fill_all()
        of = _named(name)
        made = of.__new__(of, *args)
        if inner is not None:
            made.__setstate__(inner)
        return made


def _named(name: str) -> Any:
    """Return the class or function that has this name, if it is on the list."""
    if name in _BUILTINS or name in _FUNCTIONS:
        return _BUILTINS.get(name) or _FUNCTIONS[name]
    module, _, path = name.partition(":")
    if not (module.startswith("river.") or module == "collections") or "<" in path:
        raise ValueError(f"{name} is not on the list of what may be loaded")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    if not (_is_ours(found) or found in _NAMES):
        raise ValueError(f"{name} is not on the list of what may be loaded")
    return found
