"""Reads every use of TensorRT's Python API from the syntax tree and holds it against each version's names.

What it follows: ``trt.X.Y``; a parameter ``config``, which is an IBuilderConfig; what TensorRT makes
(``self.raw.add_shuffle(...)`` is an IShuffleLayer, by the signature in the data), through local variables, attributes of
``self`` and ``self.layer(...)``; ``getattr(trt.X, name)`` where ``name`` is a parameter, through the literal names that
callers pass; the reference executor's ``layer.option("...")``.

A use is fine when every version that can reach it has the name. ``if net.capabilities.gelu:`` and ``hasattr(trt.X, "Y")``
narrow the versions, in the branches and after one that leaves the function.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from support.trt_versions import API, CAPABILITIES, FIELDS, VERSIONS, has

MODULE = ("module", "")
CONSTANT = ast.Constant
Kind = tuple[str, str]  # ("module", ""), ("class", "X"), ("object", "X"), ("method", "X.add_y")


@dataclass(frozen=True)
class Lack:
    """A name that versions which can reach it do not have."""

    file: str
    line: int
    name: str
    versions: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.name} is not in {', '.join(self.versions)}"


@dataclass
class Function:
    """A function of ours at hand."""

    name: str
    parameters: list[str]
    is_method: bool
    file: str
    known: dict[str, Kind] = field(default_factory=dict)  # local variable -> what it holds
    tests: dict[str, ast.expr] = field(default_factory=dict)  # local variable -> the condition it holds
    asked: set[tuple[str, str]] = field(default_factory=set)  # hasattr(trt.E, variable) was asked
    among: dict[str, list[ast.expr]] = field(default_factory=dict)  # variable -> its values, inside "if variable in NAMES"


class Checker:
    """Feed it files with ``read``, then ask ``finish`` for the lacks."""

    def __init__(self, classes: dict[str, str] | None = None) -> None:
        self.lacks: list[Lack] = []
        self.uses = 0
        self.names: dict[tuple[str, str], set[str]] = {}  # (our function, parameter) -> enums that it names
        self.functions: dict[tuple[str, str], Function] = {}
        self._calls: list[tuple[ast.Call, Function, frozenset[str], dict[str, list[ast.expr]]]] = []
        self._attributes: dict[str, dict[str, Kind]] = {"BuildSession": {}}  # of self, by class
        self._strings: dict[str, set[str]] = {}
        self._layer_classes = classes or {}
        self._file = self._class = ""

    # ---- files, statements --------------------------------------------------------------------------------------------

    def read(self, source: str, file: str) -> None:
        """Check a file."""
        tree = ast.parse(source)
        self._file = file
        self._strings[file] = {n.value for n in ast.walk(tree) if isinstance(n, CONSTANT) and isinstance(n.value, str)}
        self._block(tree.body, VERSIONS, Function("", [], False, file))

    def _block(self, statements: Iterable[ast.stmt], versions: frozenset[str], at: Function) -> None:
        for statement in statements:
            versions = self._statement(statement, versions, at)

    def _statement(self, node: ast.stmt, versions: frozenset[str], at: Function) -> frozenset[str]:
        """The versions that reach what comes after."""
        if isinstance(node, ast.If):
            self._kind(node.test, versions, at)
            true, false = self._split(node.test, versions, at)
            outer, at.among = at.among, {**at.among, **_among(node.test, at)}
            self._block(node.body, true, at)
            at.among = outer
            self._block(node.orelse, false, at)
            return false if _leaves(node.body) else true if _leaves(node.orelse) else versions
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            self._function(node, versions, at)
        elif isinstance(node, ast.ClassDef):
            outer, self._class = self._class, node.name
            for base in node.bases:
                self._kind(base, versions, at)
            self._block(node.body, versions, at)
            self._class = outer
        elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            self._assign(node, versions, at)
        else:
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.expr):
                    self._kind(child, versions, at)
                elif isinstance(child, ast.withitem):
                    self._kind(child.context_expr, versions, at)
                elif isinstance(child, ast.ExceptHandler):
                    self._block(child.body, versions, at)
                elif isinstance(child, ast.stmt):
                    versions = self._statement(child, versions, at)
        return versions

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef, versions: frozenset[str], at: Function) -> None:
        names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        method = bool(self._class) and names[:1] == ["self"] and "staticmethod" not in map(ast.unparse, node.decorator_list)
        known, tests = ({k: v for k, v in d.items() if k not in names} for d in (at.known, at.tests))
        inner = Function(node.name, names, method, self._file, known, tests)
        inner.known.update({n: MODULE for n in names if n == "trt"})
        inner.known.update({n: ("object", "IBuilderConfig") for n in names if n == "config"})
        for decorator in node.decorator_list:
            self._kind(decorator, versions, at)
            if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "handles":  # the reference executor's
                kinds = [c for k in decorator.args if (c := self._layer_classes.get(str(getattr(k, "value", ""))))]
                if len(kinds) == 1 and names:
                    inner.known[names[0]] = ("layer", kinds[0])
                    versions = frozenset(v for v in versions if has(v, kinds[0]))
        self.functions[(node.name, "method" if method else self._file)] = inner
        self._block(node.body, versions, inner)

    def _assign(self, node: ast.Assign | ast.AnnAssign | ast.AugAssign, versions: frozenset[str], at: Function) -> None:
        if node.value is None:
            return
        pairs: list[tuple[ast.expr, ast.expr | None]] = []
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            if not isinstance(target, ast.Tuple):
                pairs.append((target, node.value))
            elif isinstance(node.value, ast.Tuple) and len(target.elts) == len(node.value.elts):
                pairs += zip(target.elts, node.value.elts)
            else:
                pairs += [(t, None) for t in target.elts]
                self._kind(node.value, versions, at)
        for target, value in pairs:
            kind = self._kind(value, versions, at) if value is not None else None
            if isinstance(target, ast.Name):
                at.known.pop(target.id, None)
                if kind:
                    at.known[target.id] = kind
                if value is not None:
                    if any(isinstance(n, ast.Name) and n.id == target.id for n in ast.walk(value)):
                        at.tests.pop(target.id, None)  # `fits = fits and ...`: what it was before is not known here
                    else:
                        at.tests[target.id] = value
            elif isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self":
                if kind:
                    self._attributes.setdefault(self._class, {})[target.attr] = kind
            else:
                self._kind(target, versions, at)

    # ---- conditions -------------------------------------------------------------------------------------------------

    def _split(self, test: ast.expr, versions: frozenset[str], at: Function) -> tuple[frozenset[str], frozenset[str]]:
        """The versions for which ``test`` can be true, and for which it can be false."""
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            true, false = self._split(test.operand, versions, at)
            return false, true
        if isinstance(test, ast.BoolOp):
            parts = [self._split(v, versions, at) for v in test.values]
            both = isinstance(test.op, ast.And)
            meet = frozenset.intersection(*(p[0 if both else 1] for p in parts))
            join = frozenset.union(*(p[1 if both else 0] for p in parts))
            return (meet, join) if both else (join, meet)
        if isinstance(test, ast.Name) and test.id in at.tests and not isinstance(at.tests[test.id], ast.Name):
            return self._split(at.tests[test.id], versions, at)
        if isinstance(test, ast.Attribute) and test.attr in FIELDS and "cap" in ast.unparse(test.value):
            true = frozenset(v for v in versions if getattr(CAPABILITIES[v], test.attr))
            return true, versions - true
        if isinstance(test, ast.Call) and ast.unparse(test.func) == "hasattr" and len(test.args) == 2:
            owner, name = self._kind(test.args[0], versions, at), test.args[1]
            if owner and isinstance(name, CONSTANT):
                true = frozenset(v for v in versions if _present(v, owner, str(name.value)))
                return true, versions - true
            if owner and isinstance(name, ast.Name):
                at.asked.add((owner[1], name.id))
        return versions, versions

    # ---- expressions ------------------------------------------------------------------------------------------------

    def _kind(self, node: ast.expr, versions: frozenset[str], at: Function) -> Kind | None:
        """Check an expression; what it holds, where that is TensorRT's."""
        if isinstance(node, ast.Name):
            if node.id == "trt" or (node.id == "module" and self._file.endswith("_trt.py")):
                return MODULE
            return at.known.get(node.id)
        if isinstance(node, ast.Attribute):
            return self._attribute(node, versions, at)
        if isinstance(node, ast.Call):
            return self._call(node, versions, at)
        if isinstance(node, ast.IfExp):
            self._kind(node.test, versions, at)
            true, false = self._split(node.test, versions, at)
            kinds = [self._kind(node.body, true, at), self._kind(node.orelse, false, at)]
            return kinds[0] or kinds[1]
        if isinstance(node, ast.BoolOp):
            for value in node.values:
                self._kind(value, versions, at)
                true, false = self._split(value, versions, at)
                versions = true if isinstance(node.op, ast.And) else false
            return None
        for child in ast.iter_child_nodes(node):
            for expression in _expressions(child):
                self._kind(expression, versions, at)
        return None

    def _attribute(self, node: ast.Attribute, versions: frozenset[str], at: Function) -> Kind | None:
        text = ast.unparse(node.value)
        if node.attr == "trt" or (node.attr == "_trt" and text == "self"):
            return MODULE
        if text == "self" and node.attr in self._attributes.get(self._class, {}):
            return self._attributes[self._class][node.attr]
        if text in ("session", "self.session") and node.attr in self._attributes["BuildSession"]:
            return self._attributes["BuildSession"][node.attr]
        if node.attr == "raw":
            self._kind(node.value, versions, at)
            if text in ("net", "self") or text.endswith(".network"):
                return ("object", "INetworkDefinition")
            return ("object", "ILayer" if text.startswith(("layer", "added")) else "ITensor")
        owner = self._kind(node.value, versions, at)
        if owner and owner[0] == "layer":
            return ("object", owner[1]) if node.attr == "api" else None
        return self._member(owner, node.attr, node.lineno, versions) if owner else None

    def _member(self, owner: Kind, name: str, line: int, versions: frozenset[str], anywhere: bool = False) -> Kind | None:
        sort, title = owner
        if sort == "method":
            return None
        full = f"{title}.{name}" if title else name
        missing = sorted(v for v in versions if not _present(v, owner, name))
        self.uses += 1
        if missing and (not anywhere or len(missing) == len(versions)):
            self.lacks.append(Lack(self._file, line, full, tuple(missing)))
        if sort == "module":
            return ("class", name)
        return ("method", full) if sort == "object" else None

    def _call(self, node: ast.Call, versions: frozenset[str], at: Function) -> Kind | None:
        name = ast.unparse(node.func)
        if name in ("getattr", "hasattr") and len(node.args) >= 2:
            return self._getattr(node, versions, at, tolerant=name == "hasattr" or len(node.args) > 2)
        self._calls.append((node, at, versions, at.among))
        called = self._kind(node.func, versions, at)
        first: Kind | None = None
        for i, argument in enumerate((*node.args, *(k.value for k in node.keywords))):
            kind = self._kind(argument, versions, at)
            first = kind if i == 0 else first
        if name in ("self.layer", "net.layer"):
            return first
        holder = self._kind(node.func.value, frozenset(), at) if isinstance(node.func, ast.Attribute) else None
        if holder and holder[0] == "layer" and node.args and isinstance(node.args[0], CONSTANT):
            method, attribute = node.func.attr, str(node.args[0].value)  # type: ignore[union-attr]
            if method in ("option", "weights", "dims"):
                self._member(("object", holder[1]), attribute, node.lineno, versions, anywhere=method == "dims")
        if called and called[0] == "class":
            return ("object", called[1])
        return _returned(called[1]) if called and called[0] == "method" else None

    def _getattr(self, node: ast.Call, versions: frozenset[str], at: Function, tolerant: bool) -> Kind | None:
        owner, name = self._kind(node.args[0], versions, at), node.args[1]
        if owner is None or owner[0] == "method":
            return None
        if isinstance(name, CONSTANT):
            return self._member(owner, str(name.value), node.lineno, versions, anywhere=tolerant)
        if tolerant or (isinstance(name, ast.Name) and (owner[1], name.id) in at.asked):
            return None
        self._named(name, owner[1], at, node.lineno, versions)
        return ("class", "") if owner == MODULE else None

    # ---- names that are passed to functions ---------------------------------------------------------------------------

    def _named(self, name: ast.expr, enum: str, at: Function, line: int, versions: frozenset[str]) -> None:
        """``name`` will be looked up in ``enum``."""
        if isinstance(name, CONSTANT):
            if isinstance(name.value, str):
                self._file = at.file
                self._member(("class", enum), name.value, line, versions)
        elif isinstance(name, ast.IfExp):
            true, false = self._split(name.test, versions, at)
            self._named(name.body, enum, at, line, true)
            self._named(name.orelse, enum, at, line, false)
        elif isinstance(name, ast.Name) and name.id in at.parameters and name.id not in at.tests:
            self.names.setdefault((at.name if at.is_method else f"{at.file}:{at.name}", name.id), set()).add(enum)
        else:  # from a table: every literal of the file that this enum has somewhere
            self._file = at.file
            for text in sorted(self._strings[at.file]):
                if text and any(has(v, enum, text) for v in VERSIONS):
                    self._member(("class", enum), text, line, versions)

    def finish(self) -> list[Lack]:
        """Follow the names through the calls; every lack, once, by place."""
        done: set[tuple[str, str, str]] = set()
        while todo := [(f, p, e) for (f, p), enums in self.names.items() for e in enums if (f, p, e) not in done]:
            for function, parameter, enum in todo:
                done.add((function, parameter, enum))
                for call, at, versions, among in self._calls:
                    value = self._argument(call, at, function, parameter)
                    chosen = among.get(value.id) if isinstance(value, ast.Name) else None
                    for one in chosen or ([] if value is None else [value]):
                        self._named(one, enum, at, call.lineno, versions)
        return sorted(set(self.lacks), key=lambda lack: (lack.file, lack.line, lack.name))

    def _argument(self, call: ast.Call, at: Function, function: str, parameter: str) -> ast.expr | None:
        """What ``call`` passes for ``parameter``, if it calls ``function``."""
        file, _, plain = function.rpartition(":")
        if file:
            if not (isinstance(call.func, ast.Name) and call.func.id == plain and at.file == file):
                return None
            names = self.functions[(plain, file)].parameters
        else:
            if not (isinstance(call.func, ast.Attribute) and call.func.attr == plain):
                return None
            names = self.functions[(plain, "method")].parameters[1:]
        given = {k.arg: k.value for k in call.keywords}
        index = names.index(parameter)
        return given.get(parameter, call.args[index] if index < len(call.args) else None)


def _present(version: str, owner: Kind, name: str) -> bool:
    return has(version, name) if owner == MODULE else has(version, owner[1], name)


def _returned(method: str) -> Kind | None:
    """The object that a method of TensorRT returns, by its signature."""
    owner, _, name = method.partition(".")
    for version in sorted(VERSIONS):
        entry = API[version].get(owner)
        signature = entry.get("members", {}).get(name, "") if isinstance(entry, dict) else ""
        found = re.search(r"->\s*(?:\w+\.)*(\w+)", str(signature))
        if found and any(has(v, found[1]) for v in VERSIONS):
            return ("object", found[1])
    return None


def _among(test: ast.expr, at: Function) -> dict[str, list[ast.expr]]:
    """``{"kind": [literals]}`` for the test ``kind in NAMES``."""
    if not (isinstance(test, ast.Compare) and isinstance(test.left, ast.Name) and isinstance(test.ops[0], ast.In)):
        return {}
    names = test.comparators[0]
    names = at.tests.get(names.id, names) if isinstance(names, ast.Name) else names
    literal = isinstance(names, (ast.Tuple, ast.List, ast.Set)) and all(isinstance(e, CONSTANT) for e in names.elts)
    return {test.left.id: names.elts} if literal else {}


def _leaves(block: list[ast.stmt]) -> bool:
    return bool(block) and isinstance(block[-1], (ast.Return, ast.Raise, ast.Continue, ast.Break))


def _expressions(node: ast.AST) -> Iterator[ast.expr]:
    """The outermost expressions in a child of an expression (comprehensions and keywords hold theirs inside)."""
    if isinstance(node, ast.expr):
        yield node
    elif not isinstance(node, (ast.operator, ast.expr_context)):
        for child in ast.iter_child_nodes(node):
            yield from _expressions(child)
