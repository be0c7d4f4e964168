"""Module and ModuleList: networks written as a tree of named parts, after torch.nn."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Self, overload

from trtllm_ext.errors import GraphError
from trtllm_ext.graph.network import current_net
from trtllm_ext.graph.parameter import Parameter
from trtllm_ext.graph.tensor import Tensor


class Note(NamedTuple):
    """A tensor that a module has noted. point: under which name. meaning: what it is, where the module says so.

    token_group: the ranks of which each has some of the tokens, the first axis; None where the value is all of it.
    """

    value: Tensor
    point: str
    meaning: str | None
    token_group: list[int] | None = None


class Module:
    """A part of a network. Subclasses set parameters and modules as attributes and define `forward`.

    Calling a module calls its `forward`; the layers made there are named after the module's place in the module that
    was called first.
    """

    def __init__(self) -> None:
        object.__setattr__(self, "_modules", {})
        object.__setattr__(self, "_parameters", {})
        object.__setattr__(self, "_network_outputs", {})

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Add this module's layers to the network being defined; each subclass has its own."""
        raise GraphError(f"{type(self).__name__} defines no forward().")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        network = current_net()
        if network is None:
            return self.forward(*args, **kwargs)
        with network.modules.entered(self):
            return self.forward(*args, **kwargs)

    # --- attributes --------------------------------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        kinds = ("_modules", Module), ("_parameters", Parameter)
        for store, kind in kinds:
            if isinstance(value, kind):
                members = self.__dict__.get(store)
                if members is None:
                    raise GraphError(
                        f"{type(self).__name__}: call super().__init__() before setting the attribute {name!r}."
                    )
                self._forget(name)
                members[name] = value
                _name_parameters(name, value)
                return
        if value is None and name in self.__dict__.get("_parameters", {}):
            self._parameters[name] = None
        elif value is None and name in self.__dict__.get("_modules", {}):
            self._modules[name] = None
        else:
            self._forget(name)
            object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        for store in ("_parameters", "_modules"):
            members = self.__dict__.get(store, {})
            if name in members:
                return members[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __delattr__(self, name: str) -> None:
        if not self._forget(name):
            object.__delattr__(self, name)

    def __dir__(self) -> list[str]:
        return sorted({*object.__dir__(self), *self._parameters, *self._modules})

    def _forget(self, name: str) -> bool:
        found = False
        for store in ("_parameters", "_modules"):
            found |= self.__dict__.get(store, {}).pop(name, self) is not self
        return found

    # --- the tree ----------------------------------------------------------------------------------------------

    def named_modules(
        self, memo: set[int] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, "Module"]]:
        """(dotted name, module) of this module (named `prefix`) and all below it, each once."""
        for name, module, _ in self.named_modules_with_parent(memo, prefix, None, remove_duplicate):
            yield name, module

    def named_modules_with_parent(
        self,
        memo: set[int] | None = None,
        prefix: str = "",
        parent: "Module | None" = None,
        remove_duplicate: bool = True,
    ) -> Iterator[tuple[str, "Module", "Module | None"]]:
        """(dotted name, module, the module that holds it) of this module and all below it, each once."""
        memo = set() if memo is None else memo
        if id(self) in memo:
            return
        if remove_duplicate:
            memo.add(id(self))
        yield prefix, self, parent
        for name, module in self._modules.items():
            if module is not None:
                below = f"{prefix}.{name}" if prefix else name
                yield from module.named_modules_with_parent(memo, below, self, remove_duplicate)

    def named_children(self) -> Iterator[tuple[str, "Module"]]:
        """(name, module) of the modules directly below, each once."""
        seen: set[int] = set()
        for name, module in self._modules.items():
            if module is not None and id(module) not in seen:
                seen.add(id(module))
                yield name, module

    def children(self) -> Iterator["Module"]:
        """The modules directly below, each once."""
        for _, module in self.named_children():
            yield module

    def modules(self) -> Iterator["Module"]:
        """This module and all below it, each once."""
        for _, module in self.named_modules():
            yield module

    def named_parameters(self, recurse: bool = True) -> Iterator[tuple[str, Parameter]]:
        """(dotted name, parameter), each once under its first name. recurse: those of the modules below too."""
        seen: set[int] = set()
        for prefix, module in self.named_modules() if recurse else [("", self)]:
            for name, parameter in module._parameters.items():
                if parameter is not None and id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield f"{prefix}.{name}" if prefix else name, parameter

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """The parameters, each once."""
        for _, parameter in self.named_parameters(recurse):
            yield parameter

    def apply(self, fn: Callable[["Module"], Any]) -> Self:
        """Call `fn` on every module below, then on this one."""
        for module in self.children():
            module.apply(fn)
        fn(self)
        return self

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Set a parameter, or a place without one (None)."""
        if param is None:
            self._forget(name)
            self._parameters[name] = None
        else:
            setattr(self, name, param)

    def register_network_output(
        self, name: str, value: Tensor, meaning: str | None = None, token_group: list[int] | None = None
    ) -> None:
        """Note a tensor that may become an output of the network, for debugging.

        A name that is noted in this network already gets a number: a module that is used twice has `after` and
        `after_1`. What was noted in another network is forgotten.
        meaning: a sentence on what it is. token_group: the ranks of which each has some of the tokens, the first axis.
        """
        notes = self._network_outputs
        for key in [key for key, note in notes.items() if note.value.network is not value.network]:
            del notes[key]
        key, count = name, 0
        while key in notes:
            count += 1
            key = f"{name}_{count}"
        notes[key] = Note(value, name, meaning, token_group)

    def named_network_notes(self) -> Iterator[tuple[str, Note]]:
        """(dotted name, note) of all that was noted with `register_network_output` here and below."""
        for prefix, module in self.named_modules():
            for name, note in module._network_outputs.items():
                yield f"{prefix}.{name}" if prefix else name, note

    def named_network_outputs(self) -> Iterator[tuple[str, Tensor]]:
        """(dotted name, tensor) of all that was noted with `register_network_output` here and below."""
        for name, note in self.named_network_notes():
            yield name, note.value

    def update_parameters(self, torch_module: Any) -> None:
        """Take the values of a torch module's parameters and buffers, by name.

        Raises GraphError unless the names are the same on both sides.
        """
        theirs = dict(torch_module.named_parameters())
        theirs.update(torch_module.named_buffers())
        ours = dict(self.named_parameters())
        missing, unused = sorted(set(ours) - set(theirs)), sorted(set(theirs) - set(ours))
        if missing or unused:
            raise GraphError(
                f"the parameters do not match: missing there {missing or 'none'}, unknown here {unused or 'none'}."
            )
        for name, parameter in ours.items():
            parameter.value = theirs[name]


def _name_parameters(name: str, member: "Module | Parameter") -> None:
    """Give the parameters of a new member their path from here; whoever takes this module in puts its own before."""
    if isinstance(member, Parameter):
        member.name = member.name or name
        return
    for path, parameter in member.named_parameters():
        parameter.name = f"{name}.{path}"


class ModuleList(Module):
    """Modules in a row: index, slice, iterate, len. Their names are their indices."""

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        super().__init__()
        for i, module in enumerate(modules):
            if not isinstance(module, Module):
                raise GraphError(f"ModuleList takes Modules, item {i} is a {type(module).__name__}.")
            self._modules[str(i)] = module
            _name_parameters(str(i), module)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules.values())

    @overload
    def __getitem__(self, index: int) -> Module: ...

    @overload
    def __getitem__(self, index: slice) -> "ModuleList": ...

    def __getitem__(self, index: int | slice) -> "Module | ModuleList":
        modules = list(self._modules.values())
        return ModuleList(modules[index]) if isinstance(index, slice) else modules[index]

    def __setitem__(self, index: int, module: Module) -> None:
        keys = list(self._modules)
        self._modules[keys[index]] = module
