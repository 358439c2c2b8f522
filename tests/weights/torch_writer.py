"""PyTorch checkpoint files written without torch, well-formed or hostile, for the reader's tests."""

import io
import struct
import zipfile

MAGIC = 0x1950A86A20F9469CFC6C
STOP, MARK, EMPTY, NONE, FALSE = b".", b"(", b")", b"N", b"\x89"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    if 0 <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    size = (value.bit_length() // 8) + 1
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def tuple_of(*items: bytes) -> bytes:
    return MARK + b"".join(items) + b"t"


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + tuple_of(*arguments) + b"R"


def storage(key: str, count: int, kind: str = "FloatStorage", *, old: bool = False) -> bytes:
    tail = [NONE] if old else []
    parts = [text("storage"), name("torch", kind), text(key), text("cpu"), number(count), *tail]
    return tuple_of(*parts) + b"Q"


def ordered(items: dict[str, bytes]) -> bytes:
    filled = b"".join(text(k) + v for k, v in items.items())
    return name("collections", "OrderedDict") + EMPTY + b"R" + MARK + filled + b"u"


def tensor(stored: bytes, shape: tuple, strides: tuple, offset: int = 0) -> bytes:
    sizes = [tuple_of(*(number(x) for x in part)) for part in (shape, strides)]
    rebuild = name("torch._utils", "_rebuild_tensor_v2")
    return call(rebuild, stored, number(offset), *sizes, FALSE, ordered({}))


def module(kind: str, attributes: dict[str, bytes]) -> bytes:
    """An object of a class that TorchScript compiled."""
    state = b"}" + MARK + b"".join(text(k) + v for k, v in attributes.items()) + b"u"
    return name(f"__torch__.{kind}", "Net") + EMPTY + b"\x81" + state + b"b"


def pickled(body: bytes) -> bytes:
    return b"\x80\x02" + body + STOP


def archive(pickle: bytes, storages: dict[str, bytes], *, compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        file.writestr("archive/data.pkl", pickle)
        file.writestr("archive/byteorder", b"little")
        for key, raw in storages.items():
            file.writestr(f"archive/data/{key}", raw)
    return buffer.getvalue()


def stream(pickle: bytes, storages: dict[str, tuple[int, bytes]]) -> bytes:
    system = MARK + text("little_endian") + b"\x88" + b"d"
    keys = MARK + b"".join(text(key) for key in storages) + b"l"
    head = [pickled(number(MAGIC)), pickled(number(1001)), pickled(system), pickle, pickled(keys)]
    return b"".join(head) + b"".join(struct.pack("<q", count) + raw for count, raw in storages.values())
