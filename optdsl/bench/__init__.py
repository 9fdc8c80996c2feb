"""`optdsl bench`: compiled rules beside what a user would take instead, in one run.

Contenders take turns, A B A B, in one process on shared parameters, gradients and states: where
buffers lie moves a result by 10 to 40 %. The limit is measured in the same run, by loops that read
and write what the rule's passes do. Figures are medians; what a run found stands in a JSON file
from which tables, the chart and docs/performance.md are made.

cases -> contests (who) -> clock, roofline (how long) -> records (what was found) -> report.
Relies on: loading, explain, the runtime's C builder. Does not do: say what is fast enough.
"""
