"""The rows of docs/contract.md: what every optimizer class must do, and the sentence that says it.

Input: none. Output: `ITEMS`, by name, in the order of the page. Relies on nothing. Does not do: the
tests (`@contract(name)` in cases.py ties a test to a row).
"""

from __future__ import annotations

import re

TEXT = """\
right direction: A few steps lower the loss of a small problem, with each set of options and
    each scheduler that torch pairs with its own optimizers.
zero gradients: Where the rule's formula rests on gradients of zero, so does the class.
closures: `step(closure)` evaluates once with gradients enabled and returns the loss.
maximize: `maximize=True` is a step on the negated gradient, bit for bit.
schedulers: Every scheduler of `torch.optim.lr_scheduler` sets the rate that the step takes.
groups: Options of a group hold for that group alone.
tensor lr: A learning rate that is a 0-d tensor, and changes in place, is as good as a number.
added groups: `add_param_group` in the middle of a run; a group that is refused leaves nothing
    behind.
missing gradients: A parameter without a gradient, or frozen, stays as it is, and its `t` stands
    still.
sparse gradients: A sparse gradient is an error that says so; nothing has changed.
mixed dtypes: float32, float64 and bfloat16 parameters in one group are stepped as in groups of
    their own.
zero_grad: `zero_grad` both ways; no gradient is kept beyond its step, and none is changed by
    it.
hooks: All eight kinds of hooks run, once, in torch's order.
signatures: The methods that torch has take torch's arguments by torch's names.
state_dict: Saved, loaded with `weights_only=True` and `map_location="cpu"`, a run goes on bit
    for bit; two equal runs have equal checkpoints.
copies: `deepcopy` and `pickle` in the middle of a run go on bit for bit, independently.
state dtypes: A loaded state keeps the dtype that it has here, not the parameter's.
names: A checkpoint with names loads into a model whose parameters come in another order and
    other groups.
bad checkpoints: A wrong shape, type or key, another rule's or a truncated checkpoint: an error
    that names parameter and key, and the optimizer as it was.
torch's checkpoints: A run of torch.optim's class continues here, and one from here there, as if
    it had not been interrupted.
half precision: bfloat16 and float16 parameters of 16 and more elements move in every element.
far elements: Elements beyond 2^31 are reached: indices are 64 bits wide.
evaluation: `eval()` and `train()` switch to the values that the rule evaluates with and back,
    bit for bit; for other rules they do nothing.
gradient release: `attach()` steps each parameter when its gradient is there and frees it; a
    rule that must see all gradients says which statement asks for them.
compiled training: A step inside a function under `torch.compile` is taken as outside of it.
gradient scaling: `torch.amp.GradScaler` scales, unscales and skips.
graph capture: `capturable=True`: everything that may change lies on the device.
complex parameters: Complex parameters are pairs of reals.
"""

ITEMS = {
    name: " ".join(sentence.split())
    for name, sentence in re.findall(r"^(\S.*?): (.*(?:\n .*)*)", TEXT, re.MULTILINE)
}
