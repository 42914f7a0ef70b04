"""The ctypes face against the C header: every function, structure and constant."""

import ctypes
import ctypes.util
import re
from ctypes import POINTER, c_bool, c_char_p, c_int, c_int32, c_size_t, c_uint32, c_uint64, c_void_p

import pytest

from conftest import ROOT, alone
from mempool import _native, errors, stats

HEADER = re.sub(r"///[^\n]*|/\*.*?\*/|//[^\n]*", "", (ROOT / "include" / "mempool.h").read_text(), flags=re.DOTALL)
CODE = re.sub(r"^#(?:[^\n]*\\\n)*[^\n]*", "", HEADER, flags=re.MULTILINE)  # without the preprocessor's lines

STRUCTURES = {
    "mempool_options": _native.Options,
    "mempool_stats": _native.Stats,
    "mempool_block": _native.Block,
    "mempool_owner": _native.Owner,
    "mempool_reaped": _native.Reaped,
}
SCALARS = {
    "size_t": c_size_t,
    "int": c_int,
    "int32_t": c_int32,
    "uint32_t": c_uint32,
    "uint64_t": c_uint64,
    "bool": c_bool,
    "mempool_status_t": c_int32,
    "const char *": c_char_p,
    "const mempool_visit_t": _native.Visit,
    "mempool_visit_t": _native.Visit,
    "mempool_reap_visit_t": _native.ReapVisit,
}
POINTERS = {"uint64_t *": POINTER(c_uint64), "bool *": POINTER(c_bool), "mempool_t **": POINTER(c_void_p)}
POINTERS.update({f"{name}_t *": POINTER(kind) for name, kind in STRUCTURES.items()})


def meaning(words):
    """The ctypes type of a C declaration such as `const mempool_options_t *options`."""
    if "(*" in words:
        return _native.NameVisit if "char *name" in words else None
    named = re.fullmatch(r"(.*?[\s*])(\w+)", words.strip())
    kind, name = (named[1].strip(), named[2]) if named else (words.strip(), "")
    kind = re.sub(r"\s*(\*+)$", r" \1", kind)
    if kind in SCALARS:
        return SCALARS[kind]
    if name == "slot":
        return c_void_p  # an address inside the pool, not a variable of ours
    return POINTERS.get(kind.replace("const ", ""), c_void_p if kind.endswith("*") else None)


def split(arguments):
    """At the commas outside parentheses, up to the end of the list: attributes may follow."""
    parts, depth = [""], 0
    for letter in arguments:
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if depth < 0:
            break
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part for part in map(str.strip, parts) if part not in ("", "void")]


def prototypes():
    for found in re.finditer(r"^([\w ]+?[ *]+)(mempool_\w+)\(([^;{]*)\)[^;{)]*;", CODE, re.MULTILINE):
        yield found[2], [meaning(found[1] + "result"), *map(meaning, split(found[3]))]


def functions():
    return dict(prototypes())


def test_every_function_of_the_header_has_its_signature():
    header = functions()
    assert len(header) >= 40
    for name, types in header.items():
        assert None not in types, f"{name}: a type of the header that this test does not know"
        assert list(_native.SIGNATURES[name]) == types, name
    assert set(header) == set(_native.SIGNATURES)


def test_every_export_is_declared_to_ctypes():
    for name in (ROOT / "tests" / "symbols.txt").read_text().split():
        function = getattr(_native.library, name)
        result, *arguments = _native.SIGNATURES[name]
        assert function.restype is result and list(function.argtypes) == arguments, name


@pytest.mark.parametrize("name", STRUCTURES)
def test_structures_have_the_headers_fields(name):
    body = re.search(rf"struct {name} \{{(.*?)\}};", CODE, re.DOTALL)[1]
    fields = []
    for kind, names in re.findall(r"(\w+) ([\w, ]+);", body):
        fields += [(field.strip(), SCALARS[kind]) for field in names.split(",")]
    assert STRUCTURES[name]._fields_ == fields
    assert ctypes.sizeof(STRUCTURES[name]) % 8 == 0


def test_constants_are_the_headers():
    values = {name: int(value) for name, value in re.findall(r"#define MEMPOOL_(\w+) (-?\d+)$", HEADER, re.MULTILINE)}
    statuses = {value for name, value in values.items() if name.startswith("ERR_")}
    assert statuses == {kind.status for kind in errors.Error.__subclasses__()} and len(statuses) == 12
    for kind in errors.Error.__subclasses__():
        name = "ERR_" + "_".join(re.findall("[A-Z][a-z]*", kind.__name__)).upper()
        assert values[name] == kind.status
    assert {state.name: int(state) for state in stats.State} == {
        name[6:]: value for name, value in values.items() if name.startswith("BLOCK_")
    }
    flags = {name: value for name, value in values.items() if value > 0 and not name.startswith(("VERSION", "BLOCK"))}
    assert {flag.name: int(flag) for flag in stats.Flag} == flags


@pytest.mark.parametrize(
    "place, words",
    [("/nonexistent/libmempool.so", "nonexistent"), (ctypes.util.find_library("c"), "not the mempool library")],
)
def test_a_wrong_library_is_refused(place, words):
    _, said = alone("import mempool", env={"MEMPOOL_LIBRARY": place}, status=1)
    assert "ImportError" in said and words in said


def test_the_version_is_cargos():
    cargo = re.search(r'^version = "(.+)"', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)[1]
    import mempool

    assert mempool.__version__ == cargo
    assert cargo.startswith("%d.%d." % _native.VERSION)
    assert _native.SONAME in (ROOT / "python" / "mempool" / "_native.py").read_text()
