"""The errors of fedfs as a page: read from the code, so that none can be missing or out of date.

Rules:
 * An error is a call of a class of :mod:`fedfs.errors`, or of click's for command lines, anywhere
   in the package. What a value fills in at run time is shown as an ellipsis.
 * A name stands for what the block before the error assigns to it; else for whatever its function
   assigns; an argument for what calls give to it: those of the module, or all, if no other function
   has its name. Each becomes a message.
 * An error that only passes the text of another on is left out: that one is listed.
"""

from __future__ import annotations

import ast
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import fedfs
from fedfs import errors

GAP = "…"
_CLASSES: dict[str, type[errors.FedfsError]] = {
    "UsageError": errors.UserError,  # of click
    "BadParameter": errors.UserError,
    "RefusedError": errors.StoreError,  # of the S3 store
} | {
    name: value
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, errors.FedfsError)
}
_SECTIONS: dict[type[errors.FedfsError], tuple[str, str]] = {
    errors.UserError: (
        "What was typed",
        "The person at the keyboard corrects the command line, its configuration or its file.",
    ),
    errors.SetupError: (
        "This host",
        "Whoever runs this host repairs it: nnU-Net's folders, the dataset, keys, software.",
    ),
    errors.StoreError: (
        "The store",
        "Whoever runs the share, the bucket or the line repairs it. A service tries again.",
    ),
    errors.RejectedError: (
        "What another party published",
        "The object is ignored: tell the party that wrote it. `fedfs status` lists them.",
    ),
    errors.StudyError: (
        "The study",
        "The coordinator decides: who takes part, with which keys, and whether to begin anew.",
    ),
    errors.TrainingError: (
        "Training",
        "The site looks into its log, repairs the cause and starts again: it goes on where it was.",
    ),
    errors.FedfsError: ("Others", "The text says what happened."),
}
_NOT_DONE = f"{GAP} cannot be read, written or listed"
_WORDLESS = {
    "fedfs/store/s3/errors.py": f"{_NOT_DONE}: {GAP}.",
    "fedfs/store/remote/dialect.py": f"{_NOT_DONE}: {GAP}.",
    "fedfs/store/remote/azure.py": f"{_NOT_DONE}: {GAP}.",
    "fedfs/store/remote/sftp.py": f"{_NOT_DONE}: {GAP}.",
    "fedfs/store/remote/smb.py": f"{_NOT_DONE}: {GAP}.",
    "fedfs/store/remote/webdav.py": f"{_NOT_DONE}: {GAP}.",
    "fedfs/cli/configuration.py": f"{GAP}, line {GAP}: {GAP}.",
    "fedfs/cli/spelling.py": f"{GAP}, line {GAP}: {GAP}.",
}
"""Module -> its messages whose words all come from elsewhere."""


@dataclass(frozen=True, order=True)
class Message:
    """An error that a person can meet.

    Attributes:
        text: its sentence.
        hint: what to do; "" if the error has none of its own.
        error: name of its class.
        place: file and line where it is raised.
    """

    text: str
    hint: str
    error: str
    place: str

    @property
    def section(self) -> type[errors.FedfsError]:
        """The branch of the tree of errors, which says who has to act."""
        return next(branch for branch in _SECTIONS if issubclass(_CLASSES[self.error], branch))


def messages() -> list[Message]:
    """Return all errors of the package, by their first words."""
    root = Path(fedfs.__file__).parent
    modules: list[_Module] = []
    for path in sorted(root.rglob("*.py")):
        modules.append(_Module(path, str(path.relative_to(root.parent)), modules))
    found = {message for module in modules for message in module.messages()}
    return sorted(found, key=lambda one: (one.text.strip(f"{GAP} '\"").lower(), one))


def page() -> str:
    """Return the tables of all errors, a section for each party that has to act."""
    lines = []
    found = messages()
    for branch, (title, advice) in _SECTIONS.items():
        lines += ["", f"## {title}", "", f"Exit code {branch.exit_code}. {advice}", ""]
        lines += ["| message | what to do |", "|---|---|"]
        rows = dict.fromkeys((m.text, m.hint) for m in found if m.section is branch)
        lines += [f"| {_cell(text)} | {_cell(hint)} |" for text, hint in rows]
    return "\n".join(lines)


def _cell(text: str) -> str:
    for sign in "&\\`*_{}[]<>|":
        text = text.replace(sign, f"&#{ord(sign)};")
    return " ".join(text.split())


class _Module:
    """A module of the package, and what its names stand for."""

    def __init__(self, path: Path, name: str, others: Sequence[_Module]) -> None:
        self._name = name
        self._others = others
        self.tree = ast.parse(path.read_text())
        self._scopes: dict[ast.AST, list[ast.AST]] = {}
        self._parents: dict[ast.AST, ast.AST] = {}
        self.calls: dict[str, list[ast.Call]] = {}
        self.functions: Counter[str] = Counter()
        self._followed: set[ast.AST] = set()
        self._note(self.tree, [self.tree])

    def _note(self, node: ast.AST, scopes: list[ast.AST]) -> None:
        """Note in which functions each node lies, the innermost first."""
        self._scopes[node] = scopes
        if isinstance(node, ast.Call):
            self.calls.setdefault(_called(node), []).append(node)
        if isinstance(node, ast.FunctionDef):
            self.functions[node.name] += 1
            scopes = [node, *scopes]
        for child in ast.iter_child_nodes(node):
            self._parents[child] = node
            self._note(child, scopes)

    def messages(self) -> Iterator[Message]:
        """Yield the errors of the module."""
        for call in ast.walk(self.tree):
            match call:
                case ast.Tuple(
                    elts=[ast.Name(id=name), ast.Constant(str(why)), ast.Constant(str(hint))]
                ):
                    if name in _CLASSES:  # what an error of the operating system means
                        text = f"{_NOT_DONE}: {why}."
                        yield Message(text, hint, name, f"{self._name}:{call.lineno}")
            name = _called(call)
            if not isinstance(call, ast.Call) or name not in _CLASSES or not call.args:
                continue
            given = {keyword.arg: keyword.value for keyword in call.keywords}
            place = f"{self._name}:{call.lineno}"
            hints = self.texts(given["hint"]) if "hint" in given else [""]
            abouts = self.texts(given["about"]) if "about" in given else [GAP]
            for text, hint in itertools.product(self.texts(call.args[0]), hints):
                if not text.strip(f"{GAP} ."):
                    continue  # that of another error
                if not any(map(str.isalpha, text)):
                    text = _WORDLESS.get(self._name, text)  # noqa: PLW2901
                if issubclass(_CLASSES[name], errors.RejectedError):
                    for about in abouts:
                        subject = about[:1].upper() + about[1:] or GAP
                        yield Message(f"{subject} {text}.", hint, name, place)
                else:
                    yield Message(text, hint.strip(GAP) and hint, name, place)

    def texts(self, node: ast.expr) -> list[str]:  # noqa: PLR0911  one for each kind of expression
        """Return all texts that an expression may have."""
        match node:
            case ast.Constant(value=str(text)):
                return [text]
            case ast.JoinedStr(values=parts):
                return self._joined(parts)
            case ast.FormattedValue(value=ast.Constant() | ast.IfExp() as value):
                return self.texts(value)
            case ast.FormattedValue(value=ast.Name() as value):  # a phrase, but not a name
                found = [text if " " in text else GAP for text in self.texts(value)]
                return list(dict.fromkeys(found))
            case ast.BinOp(op=ast.Add(), left=left, right=right):
                return self._joined([left, right])
            case ast.IfExp(body=body, orelse=other):
                return [*self.texts(body), *self.texts(other)]
            case ast.Name(id=name):
                if node in self._followed:  # a name that is made from itself
                    return [GAP]
                self._followed.add(node)
                found = self._of_name(name, node) or [GAP]
                self._followed.remove(node)
                return found
            case ast.Attribute(attr=name) if name.isupper():
                return self._of_constant(name) or [GAP]
            case ast.Call(func=ast.Attribute(ast.Name(id=name), "get"), args=[_, default]):
                return [*self._of_name(name, node), *self.texts(default)]
            case ast.Dict(values=values):
                return [text for value in values for text in self.texts(value)]
            case _:
                return [GAP]

    def _joined(self, parts: list[ast.expr]) -> list[str]:
        texts = ["".join(each) for each in itertools.product(*map(self.texts, parts))]
        return [text.replace(GAP + GAP, GAP) for text in texts]

    def _is_just_before(self, node: ast.stmt, at: ast.AST) -> bool:
        """Tell whether a statement stands before an expression, in the same block."""
        while not isinstance(at, ast.stmt):
            at = self._parents[at]
        blocks = [
            block for _, block in ast.iter_fields(self._parents[at]) if isinstance(block, list)
        ]
        return any(at in block and node in block[: block.index(at)] for block in blocks)

    def _of_constant(self, name: str) -> list[str]:
        """Return the text of a constant that a module of the package has, only one."""
        found = [
            module.texts(node.value)
            for module in self._others
            for node in module.tree.body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name
        ]
        return found[0] if len(found) == 1 else []

    def _of_name(self, name: str, at: ast.expr) -> list[str]:
        """Return what the innermost scope that has a name gives it."""
        for scope in self._scopes[at]:
            given = [
                node
                for node in ast.walk(scope)
                if isinstance(node, ast.Assign) and self._scopes[node][0] is scope
                if any(isinstance(to, ast.Name) and to.id == name for to in node.targets)
            ]
            before = [node for node in given if self._is_just_before(node, at)]
            found = [text for node in before[-1:] or given for text in self.texts(node.value)]
            if isinstance(scope, ast.FunctionDef):
                found += self._of_argument(name, scope)
            if found:
                return list(dict.fromkeys(found))
        return self._of_constant(name) if name.isupper() else []

    def _of_argument(self, name: str, function: ast.FunctionDef) -> list[str]:
        """Return what calls give to an argument."""
        names = [argument.arg for argument in function.args.args if argument.arg != "self"]
        known = names + [argument.arg for argument in function.args.kwonlyargs]
        if name not in known:
            return []
        is_only = sum(module.functions[function.name] for module in self._others) == 1
        found = []
        for module in self._others if is_only else [self]:
            for call in module.calls.get(function.name, ()):
                given = {keyword.arg: keyword.value for keyword in call.keywords}
                given |= dict(zip(names, call.args, strict=False))
                found += module.texts(given[name]) if name in given else []
        return found


def _called(node: ast.AST) -> str:
    """Return the name of the function that a call calls; "" if it has none."""
    match node:
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
            return name
        case _:
            return ""
