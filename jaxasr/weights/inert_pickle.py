"""Reads the part of pickle that a torch checkpoint needs, as plain data.

Imports nothing and calls nothing that the file names. `pickletools` of the standard library decodes
the opcodes, and `_Machine` executes the few that are allowed. `pickle.Unpickler` with a list of
allowed names is not enough, because it allocates tens of gigabytes for a damaged memo index.
"""

import dataclasses
import pickletools
from typing import Any


@dataclasses.dataclass(frozen=True)
class Global:
    """The name of a class or function in the file. It is never imported.

    Example:
        >>> str(Global("torch", "FloatStorage"))
        'torch.FloatStorage'
    """

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


# `Call` and `Persistent` leave out their arguments in the repr, because nested arguments may have a
# huge repr.
@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Call:
    """A call in the file: a function and its arguments. The function is never called.

    Example:
        >>> Call(Global("torch._utils", "_rebuild_tensor_v2"), ())
        <call of torch._utils._rebuild_tensor_v2>
    """

    function: Global
    args: tuple[Any, ...]

    def __repr__(self) -> str:
        return f"<call of {self.function}>"


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Persistent:
    """A reference to data outside of the pickle, such as a storage of numbers.

    Example:
        >>> Persistent(("storage", "0"))
        <persistent id>
    """

    key: Any

    def __repr__(self) -> str:
        return "<persistent id>"


_ORDERED_DICT = Global("collections", "OrderedDict")
# Torch's classes of storages with floating-point numbers.
_STORAGES = ("FloatStorage", "HalfStorage", "BFloat16Storage", "DoubleStorage")
_ALLOWED_GLOBALS = {
    _ORDERED_DICT,
    Global("torch._utils", "_rebuild_tensor_v2"),
    Global("torch._utils", "_rebuild_parameter"),
}
_ALLOWED_GLOBALS |= {Global("torch", name) for name in _STORAGES}

# Opcodes of four kinds. They push a constant, push their argument, push an empty container, or
# replace the last n items with a tuple.
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_ARGUMENT_OPCODES = {
    "BININT",
    "BININT1",
    "BININT2",
    "LONG1",
    "BINFLOAT",
    "BINUNICODE",
    "SHORT_BINUNICODE",
}
_EMPTY_CONTAINERS = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_TUPLE_LENGTHS = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MARK = object()  # separates the items of an open container from earlier items on the stack


class _Machine:
    """Executes opcodes of the pickle format on its stack and memo."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def pop_to_mark(self) -> list[Any]:
        # The search visits only items that are then removed, so all searches together take linear
        # time.
        indices = range(len(self.stack) - 1, -1, -1)
        mark = next((i for i in indices if self.stack[i] is _MARK), None)
        if mark is None:
            raise ValueError("no mark on the stack")
        items = self.stack[mark + 1 :]
        del self.stack[mark:]
        return items

    def pop(self, n: int) -> list[Any]:
        if len(self.stack) < n:
            raise ValueError("the stack ran empty")
        items = self.stack[len(self.stack) - n :]
        del self.stack[len(self.stack) - n :]
        return items

    def set_items(self, items: list[Any]) -> None:
        target, keys = self.stack[-1], items[::2]  # `items` alternates keys and values
        if (
            type(target) is not dict
            or len(items) % 2
            or not all(type(key) in (str, int) for key in keys)
        ):
            raise ValueError("items that do not belong to a dictionary")
        target.update(zip(keys, items[1::2]))

    def append(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise ValueError("items that do not belong to a list")
        self.stack[-1].extend(items)

    def reduce(self) -> Any:
        function, args = self.pop(2)
        if type(function) is not Global or type(args) is not tuple:
            raise ValueError("a call of something that is not a function")
        if function == _ORDERED_DICT and not args:
            return {}
        return Call(function, args)

    def drop_state(self) -> None:
        # The opcode BUILD sets attributes, such as torch's `_metadata`. No attribute is needed.
        (state,) = self.pop(1)
        if type(state) is not dict or type(self.stack[-1]) is not dict:
            raise ValueError("a state for something that has no state")

    def execute(self, op: str, arg: Any) -> None:
        if op in _CONSTANTS:
            self.stack.append(_CONSTANTS[op])
        elif op in _ARGUMENT_OPCODES:
            self.stack.append(arg)
        elif op in _EMPTY_CONTAINERS:
            self.stack.append(_EMPTY_CONTAINERS[op]())
        elif op in _TUPLE_LENGTHS:
            self.stack.append(tuple(self.pop(_TUPLE_LENGTHS[op])))
        elif op in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[arg])
        elif op in ("BINPUT", "LONG_BINPUT"):
            self.memo[arg] = self.stack[-1]
        elif op == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif op not in ("PROTO", "FRAME"):
            self.execute_container_or_call(op, arg)

    def execute_container_or_call(self, op: str, arg: Any) -> None:
        match op:
            case "MARK":
                self.stack.append(_MARK)
            case "TUPLE":
                self.stack.append(tuple(self.pop_to_mark()))
            case "SETITEM":
                self.set_items(self.pop(2))
            case "SETITEMS":
                self.set_items(self.pop_to_mark())
            case "APPEND":
                self.append(self.pop(1))
            case "APPENDS":
                self.append(self.pop_to_mark())
            case "GLOBAL":
                self.stack.append(_check_global(*arg.split(" ", 1)))
            case "STACK_GLOBAL":
                self.stack.append(_check_global(*self.pop(2)))
            case "REDUCE":
                self.stack.append(self.reduce())
            case "BINPERSID":
                self.stack.append(Persistent(*self.pop(1)))
            case "BUILD":
                self.drop_state()
            case _:
                raise ValueError(f"the opcode {op}, which no checkpoint of tensors needs")


def _check_global(module: Any, name: Any) -> Global:
    # Types are checked before the look-up in the set, because nested tuples may hash very slowly.
    if type(module) is not str or type(name) is not str:
        raise ValueError("a reference whose name is not text")
    reference = Global(module, name)
    if reference not in _ALLOWED_GLOBALS:
        raise ValueError(
            f"a reference to {module[:60]}.{name[:60]}, which a checkpoint of tensors does not need"
        )
    return reference


def loads(data: bytes) -> Any:
    """Returns the value that a pickle describes, as plain data.

    Args:
        data: the bytes of the pickle.

    Returns:
        Values of dict, list, tuple, str, int, float, bool, None, `Global`, `Call` and `Persistent`.

    Raises:
        ValueError: the pickle holds anything else, or is damaged.
        IndexError: the pickle is damaged.
        KeyError: the pickle is damaged.

    Example:
        >>> import pickle
        >>> loads(pickle.dumps({"layers": 4}))
        {'layers': 4}
    """
    machine = _Machine()
    for op, arg, _ in pickletools.genops(data):
        if op.name == "STOP":
            (value,) = machine.pop(1)
            return value
        machine.execute(op.name, arg)
    raise ValueError("no end")
