"""Reads the part of pickle that a torch checkpoint needs, as plain data: nothing is imported, and nothing is called.

`pickletools` of the standard library decodes the opcodes; this file gives each of the few allowed ones its meaning on a stack.
An unpickler with an allow-list would still run its own machinery on the bytes of a stranger (a damaged memo index alone can
make it allocate tens of gigabytes).
"""

import dataclasses
import pickletools
from typing import Any


@dataclasses.dataclass(frozen=True)
class Global:
    """A name that the file refers to: never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


# The reprs leave out arguments, which may share parts so often that nothing could hold them.
@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Call:
    """What the file would have called, and with what: never called."""

    function: Global
    args: tuple[Any, ...]

    def __repr__(self) -> str:
        return f"<call of {self.function}>"


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Persistent:
    """A reference to something outside the pickle."""

    key: Any

    def __repr__(self) -> str:
        return "<persistent id>"


_ORDERED_DICT = Global("collections", "OrderedDict")
_STORAGES = ("FloatStorage", "HalfStorage", "BFloat16Storage", "DoubleStorage")
_ALLOWED = {
    _ORDERED_DICT,
    Global("torch._utils", "_rebuild_tensor_v2"),
    Global("torch._utils", "_rebuild_parameter"),
}
_ALLOWED |= {Global("torch", name) for name in _STORAGES}

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"}
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MARK = object()


class _Machine:
    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def since_mark(self) -> list[Any]:
        # Searching costs no more than removing what was passed: linear over the whole file.
        at = next((i for i in range(len(self.stack) - 1, -1, -1) if self.stack[i] is _MARK), None)
        if at is None:
            raise ValueError("no mark on the stack")
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items

    def pop(self, n: int) -> list[Any]:
        if len(self.stack) < n:
            raise ValueError("the stack ran empty")
        items = self.stack[len(self.stack) - n :]
        del self.stack[len(self.stack) - n :]
        return items

    def set_items(self, items: list[Any]) -> None:
        target, keys = self.stack[-1], items[::2]
        if (
            type(target) is not dict
            or len(items) % 2
            or not all(type(key) in (str, int) for key in keys)
        ):
            raise ValueError("items that are no dictionary's")
        target.update(zip(keys, items[1::2]))

    def append(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise ValueError("items that are no list's")
        self.stack[-1].extend(items)

    def reduce(self) -> Any:
        function, args = self.pop(2)
        if type(function) is not Global or type(args) is not tuple:
            raise ValueError("a call of something that is no function")
        if function == _ORDERED_DICT and not args:
            return {}
        return Call(function, args)

    def build(self) -> None:
        (state,) = self.pop(
            1
        )  # attributes of the dictionary (torch's `_metadata`), which nobody needs
        if type(state) is not dict or type(self.stack[-1]) is not dict:
            raise ValueError("a state for something that has none")

    def step(self, op: str, arg: Any) -> None:
        if op in _CONSTANTS:
            self.stack.append(_CONSTANTS[op])
        elif op in _LITERALS:
            self.stack.append(arg)
        elif op in _EMPTY:
            self.stack.append(_EMPTY[op]())
        elif op in _TUPLES:
            self.stack.append(tuple(self.pop(_TUPLES[op])))
        elif op in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[arg])
        elif op in ("BINPUT", "LONG_BINPUT"):
            self.memo[arg] = self.stack[-1]
        elif op == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif op not in ("PROTO", "FRAME"):
            self.structure(op, arg)

    def structure(self, op: str, arg: Any) -> None:
        match op:
            case "MARK":
                self.stack.append(_MARK)
            case "TUPLE":
                self.stack.append(tuple(self.since_mark()))
            case "SETITEM":
                self.set_items(self.pop(2))
            case "SETITEMS":
                self.set_items(self.since_mark())
            case "APPEND":
                self.append(self.pop(1))
            case "APPENDS":
                self.append(self.since_mark())
            case "GLOBAL":
                self.stack.append(_allowed(*arg.split(" ", 1)))
            case "STACK_GLOBAL":
                self.stack.append(_allowed(*self.pop(2)))
            case "REDUCE":
                self.stack.append(self.reduce())
            case "BINPERSID":
                self.stack.append(Persistent(*self.pop(1)))
            case "BUILD":
                self.build()
            case _:
                raise ValueError(f"the opcode {op}, which no checkpoint of tensors needs")


def _allowed(module: Any, name: Any) -> Global:
    if (
        type(module) is not str or type(name) is not str
    ):  # before hashing: nested tuples may take for ever
        raise ValueError("a reference whose name is no text")
    found = Global(module, name)
    if found not in _ALLOWED:
        raise ValueError(
            f"a reference to {module[:60]}.{name[:60]}, which no checkpoint of tensors needs"
        )
    return found


def loads(data: bytes) -> Any:
    """The value that `data` describes, of dict, list, tuple, str, int, float, bool, None, `Global`, `Call` and `Persistent`.

    Raises ValueError, IndexError or KeyError for anything else.
    """
    machine = _Machine()
    for op, arg, _ in pickletools.genops(data):
        if op.name == "STOP":
            (value,) = machine.pop(1)
            return value
        machine.step(op.name, arg)
    raise ValueError("no end")
