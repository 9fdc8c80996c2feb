"""States on the host: numbers of a group, kept beside its hyperparameters.

Input: a declaration, and the rule that came of it. Output: the state, errors. Relies on:
declarations. Does not do: keep anything (the runtime does, in `param_groups`).
"""

from __future__ import annotations

from optdsl.frontend.core import StateSlot
from optdsl.frontend.declarations import Declarations
from optdsl.frontend.shapes import is_settled
from optdsl.ir.nodes import Rule, StateDecl
from optdsl.syntax import ast
from optdsl.types import SCALAR, DType, Instances, Place, Storage, Type


class HostStates(Declarations):
    def _host_state(self, item: ast.StateItem) -> None:
        """A number of the group that the host keeps; it begins when the group is added."""
        if item.storage is not None or (item.shape is not None and item.shape.dims):
            self.fail("E318", "a state on the host is one number", item.span)
        if item.over == "all":
            self.fail("E501", "a state on the host is one for each group", item.span)
        initial = self.emit.const(0.0) if item.initial is None else self.value(item.initial)
        if not is_settled(initial) or initial.type.instances > Instances.GROUP:
            self.fail(
                "E408",
                f"the state `{item.name}` begins when a group is added, with what is known then",
                item.span,
                help="make its first value of hyperparameters alone",
            )
        type_ = Type(Instances.GROUP, SCALAR, Place.HOST, DType.REAL)
        self._fits(initial, type_, item.span, f"state `{item.name}`")
        name = self._unique(item.name)
        key = self._state_key(item, name)
        decl = StateDecl(name, key, type_, Storage.COMPUTE, initial, name, self.path, item.span)
        self.states[name] = self._distinct(decl)
        self.owners[name] = self.frame.rule.number
        self.store[("state", name)] = self.state_value(name)
        self.store[self.frame.local(item.name)] = StateSlot(name)

    def check_host_states(self, rule: Rule) -> None:
        """Report what the host could not keep: a value of a tensor or of one parameter, a key that
        the group's entry has a meaning for already."""
        names = {each.name for each in rule.hypers} | {each.name for each in rule.attributes}
        for state in rule.host_states:
            assert state.span is not None
            if state.key in names:
                what = f"a hyperparameter or attribute is called `{state.key}`"
                self.report("E406", what, state.span, help='write state x named "other" on host')
            new = rule.host_updates.get(state.name)
            if new is None:
                continue
            span = new.span or state.span
            if new.type.on_device:
                what = f"the state `{state.name}` is on the host and cannot take a tensor's value"
                self.report("E408", what, span)
            elif new.type.instances > Instances.GROUP:
                self.report(
                    "E408",
                    f"the state `{state.name}` is one for the group and cannot take a value that "
                    "each parameter has of its own",
                    span,
                    help="use `steps`, the number of the group's step",
                )
